"""Whether audit files hold what was written: every line, unchanged, in order, and under whose signature.

Files are read once, each on its own, and only the ends of what hangs together are kept: a **run** is lines of one chain
that follow each other in one file. Afterwards the runs of a chain are put in order, and whatever does not join, or
joins where it should not, is a problem. So files may come in any order, and their size does not matter.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson

from gateway.audit.chain import EVENT_FIELD, Link, Position, expected_end, parse_link, position_of
from gateway.audit.keys import PublicKeys
from gateway.audit.lines import DAMAGED_ARCHIVE, MAX_LINE_BYTES, lines_of

MAX_TOLD = 1000
"""Problems, and notes, that are told one by one; beyond it they are counted."""
MAX_RUNS = 100_000
MAX_CHECKPOINT_FILE_BYTES = 1 << 20

_MAX_UNEXPLAINED = 1000

What = Literal[
    "changed", "missing", "repeated", "out_of_order", "not_of_a_chain", "bad_signature", "unknown_key",
    "checkpoints_stopped", "never_signed", "start_missing", "checkpoint_missing", "checkpoint_differs", "cut_off",
    "damaged_archive", "too_many_breaks",
]  # fmt: skip
"""What is wrong."""

NoteKind = Literal["torn_line", "shortened", "discarded", "unsigned_end", "starts_late", "torn_end"]
"""What is worth knowing, and does not keep a log from being proven."""


class Place(NamedTuple):
    """A line of a file, counted from 1; line 0 is the file as a whole."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class Problem(NamedTuple):
    """Something that keeps a log from being proven: where, of which chain, in words."""

    what: What
    place: Place | None
    chain: str | None
    sequence: int | None
    message: str


class Note(NamedTuple):
    """Something worth knowing."""

    kind: NoteKind
    place: Place | None
    chain: str | None
    message: str


class Checkpoint(NamedTuple):
    """Where a chain stood: kept elsewhere, it shows later that nothing up to it is gone or was changed.

    ``time`` is when it was signed, RFC 3339; None of the end of a log without signatures.
    """

    position: Position
    time: str | None


class Proven(NamedTuple):
    """Lines without a break up to a checkpoint. ``signed_by`` is None where signatures were not checked."""

    first: int
    last: int
    checkpoint: Place
    time: str | None
    signed_by: str | None


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What there is of one chain. ``checkpoint`` is the last one, else the end of the chain: to be kept elsewhere."""

    name: str
    first: int
    last: int
    lines: int
    proven: tuple[Proven, ...]
    unsigned_lines: int
    """Behind the last checkpoint."""
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class Report:
    """What became of it. ``ok``: no problem was found; with keys, every chain stands under a signature of theirs."""

    ok: bool
    signatures_checked: bool
    lines: int
    chains: tuple[ChainReport, ...]
    problems: tuple[Problem, ...]
    problem_counts: Counter[What]
    notes: tuple[Note, ...]
    note_counts: Counter[NoteKind]


@dataclass(slots=True)
class _Signed:
    """The last checkpoint of a run."""

    position: Position
    place: Place
    time: str | None
    key_id: str | None
    within: int


@dataclass(slots=True)
class _Run:
    chain: str
    first: int
    first_previous: str | None
    start: Place
    file: int
    broken_off: bool
    """Another run of the chain stands before it in the same file."""
    end: Position
    end_line: int
    signed: _Signed | None = None
    unsigned_before: int = 0
    """Lines before the first checkpoint."""
    unsigned_after: int = 0
    """Lines behind the last one."""
    told_of_stop: bool = False

    @property
    def end_place(self) -> Place:
        return Place(self.start.file, self.end_line)


@dataclass(slots=True)
class _Stretch:
    """Runs that join, and their last checkpoint."""

    first: int
    last: int
    signed: _Signed | None
    unsigned_after: int


@dataclass(slots=True)
class _Known:
    """A checkpoint kept elsewhere, and whether its line was seen."""

    checkpoint: Checkpoint
    seen: bool = False


@dataclass(slots=True)
class _File:
    name: str
    runs: dict[str, _Run] = field(default_factory=dict)
    unexplained: dict[str, Place] = field(default_factory=dict)
    """Lines of no chain by their SHA-256: part of a line may be told of later."""
    last_run: _Run | None = None
    torn_end: tuple[Place, str] | None = None
    """Part of a line behind the last line end, and its SHA-256."""


def verify(
    files: Iterable[str | Path],
    *,
    keys: PublicKeys | None = None,
    since: Sequence[Checkpoint] = (),
    allow_missing_start: bool = False,
    on_bytes: Callable[[int], None] | None = None,
) -> Report:
    """What audit files prove. Without ``keys``: only whether they fit together.

    ``since`` are checkpoints that were kept elsewhere: they have to be in the files, or directly before their first
    line. A chain has to be there from its first line on, unless a checkpoint or the log itself accounts for what is
    missing, or ``allow_missing_start``. Raises ``OSError``.
    """
    verifier = _Verifier(keys, since, allow_missing_start=allow_missing_start)
    for file in files:
        verifier.read(str(file), lines_of(file, on_bytes))
    return verifier.report()


def parse_checkpoints(data: bytes) -> list[Checkpoint]:
    """Checkpoints as they were kept: one to a line, as ``verify`` tells them or as they stand in a log.

    Raises ``ValueError``.
    """
    found = [_parse_checkpoint(line) for line in data.splitlines() if line.strip()]
    if not found:
        raise ValueError("holds no checkpoint")
    return found


def checkpoint_as_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """A checkpoint as it is kept elsewhere."""
    chain, sequence, digest = checkpoint.position
    return {"chain": chain, "sequence": sequence, "sha256": digest, "time": checkpoint.time}


def _parse_checkpoint(line: bytes) -> Checkpoint:
    link = parse_link(line)
    if link is not None:
        return Checkpoint(position_of(line, link), _event(line).get("time"))
    found = orjson.loads(line)
    told = found if isinstance(found, dict) else {}
    chain, sequence, digest = (told.get(name) for name in ("chain", "sequence", "sha256"))
    if not isinstance(chain, str) or type(sequence) is not int or not isinstance(digest, str):
        raise ValueError("is no checkpoint: chain, sequence and sha256, or a line of a log")
    time = told.get("time")
    return Checkpoint(Position(chain, sequence, digest), time if isinstance(time, str) else None)


class _Verifier:
    def __init__(self, keys: PublicKeys | None, since: Sequence[Checkpoint], *, allow_missing_start: bool) -> None:
        self._keys = keys
        self._allow_missing_start = allow_missing_start
        self._known: dict[str, dict[int, _Known]] = {}
        for checkpoint in since:
            of_chain = self._known.setdefault(checkpoint.position.chain, {})
            of_chain[checkpoint.position.sequence] = _Known(checkpoint)
        self._lines = 0
        self._files: list[_File] = []
        self._runs: dict[str, list[_Run]] = {}
        self._run_count = 0
        self._discarded: dict[tuple[str, int], tuple[_Run, int]] = {}
        """Ends of files that the gateway removed, and which line tells of it."""
        self._torn: set[str] = set()
        """The SHA-256 of every part of a line that the log tells of."""
        self._problems: list[Problem] = []
        self._problem_counts: Counter[What] = Counter()
        self._notes: list[Note] = []
        self._note_counts: Counter[NoteKind] = Counter()

    # ------------------------------------------------------------ reading

    def read(self, name: str, lines: Iterator[bytes]) -> None:
        """Takes in one file."""
        if self._run_count > MAX_RUNS:
            return
        file = _File(name)
        self._files.append(file)
        try:
            self._read(file, lines)
        except DAMAGED_ARCHIVE:
            self._tell("damaged_archive", Place(name, 0), None, None, "the compressed file is damaged or cut off")
        for place in file.unexplained.values():
            self._tell_of_stranger(place)

    def _read(self, file: _File, lines: Iterator[bytes]) -> None:
        run: _Run | None = None
        expected = b"\n\n"  # which ends no line
        known: dict[int, _Known] = {}
        sha256 = hashlib.sha256
        for number, line in enumerate(lines, 1):
            self._lines += 1
            if run is not None and line.endswith(expected):  # hot: nearly every line
                body = line[:-1]
                position = Position(run.chain, run.end.sequence + 1, sha256(body).hexdigest())
                self._go_on(run, position, number)
                if EVENT_FIELD in body:
                    self._take_event(file, run, body)
            else:
                run = self._take_other(file, Place(file.name, number), line) or run
                if run is None:
                    continue
                if self._run_count > MAX_RUNS:
                    message = "the lines do not hang together; what follows was not read"
                    self._tell("too_many_breaks", Place(file.name, number), run.chain, None, message)
                    return
                known = self._known.get(run.chain, {})
            expected = expected_end(run.end) + b"\n"
            if known and run.end.sequence in known:
                self._compare(run, known[run.end.sequence])

    def _take_other(self, file: _File, place: Place, line: bytes) -> _Run | None:
        """A line that is not simply the next one: of another chain, a checkpoint, out of place, or none of ours.

        Returns the run that it belongs to, or None.
        """
        body = line[:-1]
        link = parse_link(body) if line.endswith(b"\n") and len(line) <= MAX_LINE_BYTES else None
        if link is None:
            self._take_stranger(file, place, line)
            return None
        run = file.runs.get(link.chain)
        position = position_of(body, link)
        if run is not None and (link.sequence, link.previous) == (run.end.sequence + 1, run.end.digest):
            self._go_on(run, position, place.line)
        else:
            run = _Run(
                chain=link.chain,
                first=link.sequence,
                first_previous=link.previous,
                start=place,
                file=len(self._files) - 1,
                broken_off=run is not None,
                end=position,
                end_line=place.line,
                unsigned_after=1,
            )
            file.runs[link.chain] = run
            self._runs.setdefault(link.chain, []).append(run)
            self._run_count += 1
        file.last_run = run
        if link.signature is not None:
            self._take_checkpoint(run, link, body)
        elif EVENT_FIELD in body:
            self._take_event(file, run, body)
        return run

    def _go_on(self, run: _Run, position: Position, line: int) -> None:
        run.end, run.end_line = position, line
        run.unsigned_after += 1
        if run.signed is not None and run.unsigned_after > run.signed.within:
            self._tell_of_stop(run)

    def _take_stranger(self, file: _File, place: Place, line: bytes) -> None:
        digest = hashlib.sha256(line.removesuffix(b"\n")).hexdigest()
        if not line.endswith(b"\n") and len(line) <= MAX_LINE_BYTES:
            file.torn_end = place, digest
        elif len(file.unexplained) < _MAX_UNEXPLAINED and digest not in file.unexplained:
            file.unexplained[digest] = place
        else:
            self._tell_of_stranger(place)

    def _take_checkpoint(self, run: _Run, link: Link, body: bytes) -> None:
        """A checkpoint counts once its signature was checked; without keys, any does."""
        told = _event(body)
        key_id, within, time = told.get("key_id"), told.get("next_within_lines"), told.get("time")
        place = run.end_place
        if told.get("event") != "checkpoint" or not isinstance(key_id, str) or type(within) is not int:
            self._tell("bad_signature", place, run.chain, link.sequence, "is signed, and no checkpoint")
            return
        if self._keys is not None:
            good = self._keys.have_signed(key_id, link.unsigned, link.signature or b"")
            if good is None:
                message = f"was signed with the key {key_id}, which is not among those given"
                self._tell("unknown_key", place, run.chain, link.sequence, message)
                return
            if not good:
                message = "the signature of the checkpoint is wrong: it was changed, or made by somebody else"
                self._tell("bad_signature", place, run.chain, link.sequence, message)
                return
        if run.signed is None:
            run.unsigned_before = run.unsigned_after - 1
        signed_by = key_id if self._keys is not None else None
        run.signed = _Signed(run.end, place, time if isinstance(time, str) else None, signed_by, max(1, within))
        run.unsigned_after = 0

    def _take_event(self, file: _File, run: _Run, body: bytes) -> None:
        told = _event(body)
        event = told.get("event") if told.get("endpoint") == "audit" else None
        place = run.end_place
        if event == "torn_line":
            digest = str(told.get("sha256"))
            explained = file.unexplained.pop(digest, None)
            if len(self._torn) < MAX_RUNS:
                self._torn.add(digest)
            message = f"a crash or a full disk cut a line off after {told.get('bytes')} bytes; nothing was minted by it"
            self._note("torn_line", explained or place, run.chain, message)
        elif event == "shortened":
            message = f"the file was cut from {told.get('bytes_before')} to {told.get('bytes_now')} bytes by somebody"
            self._note("shortened", place, run.chain, message)
        elif event == "discarded":
            chain, sequence = told.get("discarded_chain"), told.get("discarded_sequence")
            if isinstance(chain, str) and type(sequence) is int:
                self._discarded.setdefault((chain, sequence), (run, run.end.sequence))
            message = f"the gateway removed {told.get('file')}, as it was set to: it ended with line {sequence}"
            self._note("discarded", place, run.chain, message)

    def _compare(self, run: _Run, known: _Known) -> None:
        known.seen = True
        if known.checkpoint.position != run.end:
            message = "differs from the checkpoint that was kept: it, or something before it, was changed"
            self._tell("checkpoint_differs", run.end_place, run.chain, run.end.sequence, message)

    # ------------------------------------------------------------ putting together

    def report(self) -> Report:
        """What all files together prove."""
        chains = tuple(self._join(name, self._runs[name]) for name in sorted(self._runs))
        for name, known in self._known.items():
            if name not in self._runs:
                sequence = max(known)
                message = "a checkpoint of this chain was kept, and no line of it is here"
                self._tell("checkpoint_missing", None, name, sequence, message)
        self._judge_torn_ends({chain.name: chain.last for chain in chains})
        return Report(
            ok=not self._problem_counts,
            signatures_checked=self._keys is not None,
            lines=self._lines,
            chains=chains,
            problems=tuple(self._problems),
            problem_counts=self._problem_counts,
            notes=tuple(self._notes),
            note_counts=self._note_counts,
        )

    def _join(self, name: str, runs: list[_Run]) -> ChainReport:
        runs = sorted(runs, key=lambda run: (run.first, -run.end.sequence, run.file, run.start.line))
        before = self._problem_counts.total()
        self._check_start(runs[0])
        stretch = _Stretch(runs[0].first, runs[0].end.sequence, runs[0].signed, runs[0].unsigned_after)
        stretches = [stretch]
        latest = runs[0]
        for run in runs[1:]:
            if self._joins(latest, run):
                self._extend(stretch, latest, run)
            elif run.end.sequence > latest.end.sequence:
                stretch = _Stretch(run.first, run.end.sequence, run.signed, run.unsigned_after)
                stretches.append(stretch)
            if run.end.sequence > latest.end.sequence:
                latest = run
        if before == self._problem_counts.total() and any(run.broken_off for run in runs):
            odd = next(run for run in runs if run.broken_off)
            self._tell("out_of_order", odd.start, name, odd.first, "does not stand where it was written")
        self._check_known(name, latest)
        signed = [one for one in stretches if one.signed is not None]
        if self._keys is not None and not signed:
            message = "no checkpoint of this chain is signed with a key that was given: nothing of it is proven"
            self._tell("never_signed", latest.end_place, name, None, message)
        unsigned = stretch.unsigned_after
        if signed and unsigned:
            message = f"{unsigned:,} lines at the end have no checkpoint yet"
            self._note("unsigned_end", latest.end_place, name, message)
        last = signed[-1].signed if signed else None
        end = Checkpoint(latest.end, None) if last is None else Checkpoint(last.position, last.time)
        return ChainReport(
            name=name,
            first=runs[0].first,
            last=latest.end.sequence,
            lines=sum(run.end.sequence - run.first + 1 for run in runs),
            proven=tuple(
                Proven(one.first, one.signed.position.sequence, one.signed.place, one.signed.time, one.signed.key_id)
                for one in signed
                if one.signed is not None
            ),
            unsigned_lines=unsigned,
            checkpoint=end,
        )

    def _extend(self, stretch: _Stretch, before: _Run, run: _Run) -> None:
        stretch.last = run.end.sequence
        unsigned = stretch.unsigned_after + (run.unsigned_before if run.signed is not None else run.unsigned_after)
        if stretch.signed is not None and unsigned > stretch.signed.within and not before.told_of_stop:
            self._tell_of_stop(run)
        if run.signed is not None:
            stretch.signed, stretch.unsigned_after = run.signed, run.unsigned_after
        else:
            stretch.unsigned_after = unsigned

    def _joins(self, before: _Run, run: _Run) -> bool:
        """Whether a run follows the one before it, as it should. Tells what is wrong where it does not."""
        next_sequence = before.end.sequence + 1
        if run.first > next_sequence:
            count = run.first - next_sequence
            lines = f"line {next_sequence}" if count == 1 else f"lines {next_sequence} to {run.first - 1}"
            message = f"{lines} of the chain {'is' if count == 1 else 'are'} missing after {before.end_place}"
            self._tell("missing", run.start, run.chain, next_sequence, message)
            return False
        if run.first < next_sequence:
            message = f"line {run.first} of the chain stands here once more; see {_where(before, run.first)}"
            self._tell("repeated", run.start, run.chain, run.first, message)
            return False
        if run.first_previous != before.end.digest:
            message = (
                f"is not the line that {run.start} was written after: it was changed, or one of them is not genuine"
            )
            self._tell("changed", before.end_place, run.chain, before.end.sequence, message)
            return False
        if run.broken_off and (run.file != before.file or run.start.line < before.end_line):
            message = f"line {run.first} of the chain stands here, and belongs behind {before.end_place}"
            self._tell("out_of_order", run.start, run.chain, run.first, message)
        return True

    def _check_start(self, run: _Run) -> None:
        if run.first == 1:
            return
        if self._is_discarded(run.chain, run.first - 1):
            return
        known = self._known.get(run.chain, {})
        before = known.get(run.first - 1)
        if before is not None:
            before.seen = True
            if before.checkpoint.position.digest != run.first_previous:
                message = "does not follow the checkpoint that was kept: something was changed"
                self._tell("checkpoint_differs", run.start, run.chain, run.first, message)
            return
        message = f"the chain begins with line {run.first}: what was before it is not here"
        if self._allow_missing_start or any(one.seen for one in known.values()):
            self._note("starts_late", run.start, run.chain, message)
        else:
            self._tell("start_missing", run.start, run.chain, run.first, message)

    def _is_discarded(self, chain: str, sequence: int) -> bool:
        """Whether the log accounts for what is missing up to this line, with keys: under a signature."""
        if (chain, sequence) not in self._discarded:
            return False
        run, line = self._discarded[chain, sequence]
        return self._keys is None or (run.signed is not None and run.signed.position.sequence > line)

    def _check_known(self, name: str, latest: _Run) -> None:
        for sequence, known in sorted(self._known.get(name, {}).items()):
            if known.seen:
                continue
            if sequence > latest.end.sequence:
                message = f"the end is cut off: a checkpoint of line {sequence} was kept, and line "
                message += f"{latest.end.sequence} is the last"
                self._tell("cut_off", latest.end_place, name, sequence, message)
            else:
                message = f"a checkpoint of line {sequence} was kept, and that line is not here"
                self._tell("checkpoint_missing", None, name, sequence, message)

    def _judge_torn_ends(self, last_of: dict[str, int]) -> None:
        """Part of a line at the end of a log is what a kill leaves. Where the chain went on, it tells of that."""
        for file in self._files:
            if file.torn_end is None:
                continue
            place, digest = file.torn_end
            went_on = any(run.end.sequence < last_of[chain] for chain, run in file.runs.items())
            if went_on and digest not in self._torn:
                self._tell_of_stranger(place)
            elif not went_on:
                message = "the last line is cut off, as a kill leaves it; the gateway puts it right when it starts"
                self._note("torn_end", place, None, message)

    # ------------------------------------------------------------ telling

    def _tell(self, what: What, place: Place | None, chain: str | None, sequence: int | None, message: str) -> None:
        self._problem_counts[what] += 1
        if len(self._problems) < MAX_TOLD:
            self._problems.append(Problem(what, place, chain, sequence, message))

    def _tell_of_stranger(self, place: Place) -> None:
        self._tell("not_of_a_chain", place, None, None, "is no line of a chain: it was changed or put in")

    def _tell_of_stop(self, run: _Run) -> None:
        if not run.told_of_stop:
            run.told_of_stop = True
            message = "there should have been a checkpoint by now: the log goes on without signatures"
            self._tell("checkpoints_stopped", run.end_place, run.chain, run.end.sequence, message)

    def _note(self, kind: NoteKind, place: Place | None, chain: str | None, message: str) -> None:
        self._note_counts[kind] += 1
        if len(self._notes) < MAX_TOLD:
            self._notes.append(Note(kind, place, chain, message))


def _event(body: bytes) -> dict[str, Any]:
    """The members of a line; empty for one that is no JSON object."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _where(run: _Run, sequence: int) -> str:
    if sequence < run.first:
        return f"what stands before {run.start}"
    return f"{run.start} to {run.end_place}"
