"""Audit logs read back: decisions, one after the other, from files as rotation leaves them.

An audit file may have been torn by a crash, written by an older gateway or touched by somebody: what is no record is
counted and skipped, and nothing that stands in a file can take more memory than its line.
"""

import gzip
import io
import json
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self, cast

import orjson

from gateway.audit.record import MAX_LINE_BYTES, MAX_TEXT_BYTES
from gateway.model import ClaimPath, RecordedDecision

STDIN = "-"
MAX_READ_LINE_BYTES = 2 * MAX_LINE_BYTES
"""Twice what is written: a collector may have put blanks between the fields, or fields of its own behind them."""
MAX_CLAIM_DEPTH = 16

Skipped = Literal["too_long", "not_json", "repeated_name", "not_a_record", "torn", "damaged_archive"]
"""Why a line is no record. ``torn``: the last of a file, cut off. ``damaged_archive``: what was behind it, too."""

_CHUNK_BYTES = 1 << 20
_BLANKS = b" \t\r\n"
_TOLD_EVERY_LINES = 512
_GZIP_MAGIC = b"\x1f\x8b"
_SCALARS = frozenset({str, int, bool, type(None)})
_OWN_ISSUER = "self"
"""What a record calls the gateway as the issuer of a token of its own."""
_CUT = "[cut: "


class RecordReader(Iterator[RecordedDecision]):
    """The decisions of some files, in the order of files and lines. ``skipped`` counts lines by why they are none.

    ``others`` counts the records of introspection and revocation, which nobody decided by policy, and lines about the
    log itself.
    """

    def __init__(self, files: Sequence[str | Path], on_bytes: Callable[[int], None] | None = None) -> None:
        self.read = 0
        self.others = 0
        self.skipped: Counter[Skipped] = Counter()
        self._on_bytes = on_bytes
        self._records = self._read(files)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> RecordedDecision:
        return next(self._records)

    def _read(self, files: Sequence[str | Path]) -> Iterator[RecordedDecision]:
        for file in files:
            with ExitStack() as closing:
                if str(file) == STDIN:
                    raw = cast("BinaryIO", sys.stdin.buffer)
                else:
                    raw = closing.enter_context(Path(file).open("rb", buffering=_CHUNK_BYTES))
                yield from self._decisions(raw)

    def _decisions(self, raw: BinaryIO) -> Iterator[RecordedDecision]:
        counted = _Counted(raw)
        stream: BinaryIO = io.BufferedReader(counted, _CHUNK_BYTES)
        if cast("io.BufferedReader", stream).peek(2)[:2] == _GZIP_MAGIC:
            stream = io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=stream)), _CHUNK_BYTES)
        try:
            for number, line in enumerate(self._lines(stream), 1):
                if number % _TOLD_EVERY_LINES == 0:
                    self._tell(counted)
                record = self._record(line)
                if record is not None:
                    self.read += 1
                    yield record
        except (gzip.BadGzipFile, EOFError, zlib.error):
            self.skipped["damaged_archive"] += 1
        self._tell(counted)

    def _tell(self, counted: "_Counted") -> None:
        if self._on_bytes is not None:
            self._on_bytes(counted.taken())

    def _lines(self, stream: BinaryIO) -> Iterator[bytes]:
        while line := stream.readline(MAX_READ_LINE_BYTES + 1):
            if len(line) <= MAX_READ_LINE_BYTES:
                yield line
                continue
            self.skipped["too_long"] += 1
            while not line.endswith(b"\n") and (line := stream.readline(_CHUNK_BYTES)):
                pass

    def _record(self, line: bytes) -> RecordedDecision | None:
        """The decision of a line; None where it tells of none, which is counted."""
        text = line.strip(_BLANKS)
        if not text:
            return None
        try:
            document = _parsed(text)
            if document.get("endpoint", "token") != "token":
                self.others += 1
                return None
            return _decision(document)
        except _NoRecord as why:
            is_torn = why.why == "not_json" and not line.endswith(b"\n")
            self.skipped["torn" if is_torn else why.why] += 1
            return None


def read_records(files: Sequence[str | Path], on_bytes: Callable[[int], None] | None = None) -> RecordReader:
    """The decisions in audit files, plain or compressed with gzip; ``-`` is standard input.

    ``on_bytes`` is told now and then how many more bytes of the files were read. Raises ``OSError``, when it comes to
    a file that cannot be read.
    """
    return RecordReader(files, on_bytes)


def bytes_of(files: Sequence[str | Path]) -> int | None:
    """The size of the files as they lie there, for a progress bar; None where it is not known beforehand.

    Raises ``OSError`` for a file that is not there.
    """
    if any(str(file) == STDIN or not Path(file).is_file() for file in files):
        for file in files:
            if str(file) != STDIN:
                Path(file).stat()
        return None
    return sum(Path(file).stat().st_size for file in files)


class _Counted(io.RawIOBase):
    """A stream that counts what is taken from it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        size = cast("io.BufferedReader", self._stream).readinto1(buffer)
        self._bytes += size
        return size

    def taken(self) -> int:
        """The bytes read since it was last asked."""
        taken, self._bytes = self._bytes, 0
        return taken


class _NoRecord(Exception):
    """A line that tells of no decision."""

    def __init__(self, why: Skipped) -> None:
        super().__init__(why)
        self.why = why


# ---------------------------------------------------------------- from a line to a decision


def _parsed(text: bytes) -> dict[str, Any]:
    """One JSON object without a name that stands in it twice, of which parsers would take the first or the last."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise _NoRecord("not_json") from None
    if type(document) is not dict:
        raise _NoRecord("not_a_record")
    if orjson.dumps(document) != text:  # as the gateway wrote it, it is the same to the byte, and nothing was dropped
        _check_names(text)
    return document


def _check_names(text: bytes) -> None:
    try:
        json.loads(text, object_pairs_hook=_distinct)
    except (ValueError, RecursionError):
        raise _NoRecord("not_json") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _NoRecord("repeated_name")
    return members


def _decision(document: Mapping[str, Any]) -> RecordedDecision:
    found = document.get
    decision, reason = found("decision"), found("reason")
    if decision not in ("granted", "denied") or (decision == "granted") != (reason == "granted"):
        raise _NoRecord("not_a_record")
    authentication = _text(found("authentication"))
    client_id, asked_client_id = _text(found("client_id")), _text(found("client_id_asked"))
    resource, asked_resource = _text(found("resource")), _text(found("resource_asked"))
    lifetime = _seconds(found("lifetime_given_seconds"))
    is_granted = decision == "granted"
    if is_granted and lifetime is None:  # of an older form: what was given stands for what was asked
        asked_client_id, asked_resource = client_id, resource
    issuer = _text(found("issuer"))
    written = found("claims", {})
    is_verified = found("verified") is True
    if type(written) is not dict or (written and (not is_verified or issuer is None)):
        raise _NoRecord("not_a_record")
    is_complete = found("claims_complete") is True
    claims, known = _all_claims(written) if is_complete else _some_claims(document, written)
    is_own = issuer == _OWN_ISSUER and not written
    return RecordedDecision(
        time=_time(found("time")),
        request_id=_needed(found("request_id")),
        grant=_needed(found("grant")),
        reason=_needed(reason),
        stage=_needed(found("stage")),
        service_account=client_id,
        authentication=authentication,
        issuer=issuer if is_verified and not is_own else None,
        subject=_text(found("subject")) if is_verified else None,
        rule=_text(found("rule")),
        claims=claims,
        claims_are_complete=is_complete,
        known_claims=known,
        client_id_asked=asked_client_id,
        resource_asked=asked_resource,
        scopes_asked=_texts(found("scopes_asked")),
        lifetime_asked_seconds=_seconds(found("lifetime_asked_seconds")),
        resource=resource if is_granted else None,
        scopes_given=_texts(found("scopes_given")) if is_granted else None,
        lifetime_given_seconds=lifetime if is_granted else None,
        delegated=is_own or found("actor_token_sha256") is not None,
    )


def _needed(value: Any) -> str:
    if type(value) is not str or not value or len(value) > MAX_TEXT_BYTES:
        raise _NoRecord("not_a_record")
    return value


def _text(value: Any) -> str | None:
    return None if value is None else _needed(value)


def _texts(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if type(value) is not list:  # a record that was cut hard has a text in place of a list, too
        raise _NoRecord("not_a_record")
    return tuple(map(_needed, value))


def _seconds(value: Any) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= 2**40:
        raise _NoRecord("not_a_record")
    return value


def _time(value: Any) -> float:
    """RFC 3339 as seconds since the epoch."""
    try:
        moment = datetime.fromisoformat(value)
        seconds = moment.timestamp()
    except (TypeError, ValueError, OverflowError):
        raise _NoRecord("not_a_record") from None
    if moment.tzinfo is None or seconds < 0:
        raise _NoRecord("not_a_record")
    return seconds


# ---------------------------------------------------------------- the claims


def _all_claims(written: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[ClaimPath]]:
    names = _top_level_names(tuple(written))
    if names is None or not _are_claims(written.values(), MAX_CLAIM_DEPTH):
        raise _NoRecord("not_a_record")
    return dict(zip(names, written.values(), strict=True)), frozenset()


def _some_claims(
    document: Mapping[str, Any], written: Mapping[str, Any]
) -> tuple[dict[str, Any], frozenset[ClaimPath]]:
    """What is known of the claims, and which. Values that were cut are not."""
    if not written or "claims_left_out" in document:
        return {}, frozenset()
    if not _are_claims(written.values(), MAX_CLAIM_DEPTH):
        raise _NoRecord("not_a_record")
    claims: dict[str, Any] = {}
    known = set()
    whole = [(_path(pointer), value) for pointer, value in written.items() if not _is_cut(value)]
    for path, value in sorted(whole, key=lambda one: one[0]):  # an object before what is in it
        holder: Any = claims
        for name in path[:-1]:
            holder = holder.setdefault(name, {}) if type(holder) is dict else None
        if type(holder) is dict:
            holder.setdefault(path[-1], value)
        known.add(path)
    return claims, frozenset(known)


def _are_claims(members: Any, deeper: int) -> bool:
    """Whether these are values that a token can hold: no fractions, nothing nested endlessly."""
    for member in members:
        kind = type(member)
        if kind in _SCALARS:
            continue
        if deeper == 0 or kind is float or not _are_claims(member.values() if kind is dict else member, deeper - 1):
            return False
    return True


def _is_cut(value: Any) -> bool:
    if type(value) is dict:
        return any(_is_cut(name) or _is_cut(member) for name, member in value.items())
    if type(value) is list:
        return any(map(_is_cut, value))
    return type(value) is str and _CUT in value[-64:]


@lru_cache(maxsize=256)
def _top_level_names(pointers: tuple[str, ...]) -> tuple[str, ...] | None:
    """The names that these pointers stand for; None if one of them leads further down, or two to the same."""
    paths = list(map(_path, pointers))
    is_flat = all(len(path) == 1 for path in paths) and len(set(paths)) == len(paths)
    return tuple(path[0] for path in paths) if is_flat else None


def _path(pointer: str) -> ClaimPath:
    """RFC 6901 §4."""
    if not pointer.startswith("/"):
        raise _NoRecord("not_a_record")
    return tuple(name.replace("~1", "/").replace("~0", "~") for name in pointer[1:].split("/"))
