"""The hash chain: each line names the one before it, so that none can be changed, taken out or put in unseen.

A line of a chain ends in three fields of its own: ``chain`` (its name), ``sequence`` (1, 2, 3, ...) and ``previous``,
the SHA-256 in hex of the exact bytes of the line before without its line feed; null in the first one. Beside records
there are lines about the log itself, with ``"endpoint":"audit"`` and what happened in ``event``.

A checkpoint is such a line with one more field at its end, ``signature``: Ed25519 (RFC 8032) in hex over
``SIGNED_PREFIX`` and the line as it was before that field. Since it names the line before it, all lines up to it stand
under that signature.
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import orjson

from gateway.model import Clock

SIGNED_PREFIX = b"workload-identity-gateway audit checkpoint 1\n"
EVENT_FIELD = b'"endpoint":"audit"'
"""Stands in every line about the log itself, and in hardly any other."""
MAX_LINK_BYTES = 512
"""The most that chain fields and signature add to a line."""

EVENTS: Mapping[str, frozenset[str]] = {
    "checkpoint": frozenset({"key_id", "next_within_lines"}),
    "torn_line": frozenset({"bytes", "sha256", "text"}),
    "shortened": frozenset({"bytes_before", "bytes_now"}),
    "discarded": frozenset({"file", "discarded_chain", "discarded_sequence"}),
}
"""What lines about the log itself tell of, and what they may say of it."""

_LINK = re.compile(
    rb',"chain":"([A-Za-z0-9._-]{1,120})","sequence":([1-9][0-9]{0,15}),"previous":(?:null|"([0-9a-f]{64})")'
    rb'(?:,"signature":"([0-9a-f]{128})")?\}'
)
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_RETRY_SECONDS = 1.0


class Position(NamedTuple):
    """Where a chain stands: its name, the sequence number of its last line, and the SHA-256 in hex of that line.

    Before the first line these are 0 and None.
    """

    chain: str
    sequence: int = 0
    digest: str | None = None


class Link(NamedTuple):
    """What a line says of its place in a chain. ``unsigned`` is the line without its signature, where it has one."""

    chain: str
    sequence: int
    previous: str | None
    signature: bytes | None
    unsigned: bytes


class Signer(Protocol):
    """The key of checkpoints."""

    @property
    def kid(self) -> str:
        """Its name: the RFC 7638 thumbprint of its public half."""

    def sign(self, data: bytes) -> bytes:
        """An Ed25519 signature."""


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Who signs checkpoints, and how often: after so many lines, or so long after the first line behind the last one.

    ``max_lines_at_once`` is how many more may come in one group.
    """

    signer: Signer
    every_lines: int
    every_seconds: float
    max_lines_at_once: int


class Group(NamedTuple):
    """Lines with their places in the chain, ready to be written: where the chain will stand, how much is unsigned."""

    data: bytes
    end: Position
    unsigned_lines: int
    notices: int


class ChainWriter:
    """Gives lines their places, group by group. A group that was not accepted took no place: there is no hole.

    For one thread. ``position`` is None until ``resume`` or the first group.
    """

    def __init__(self, new_name: Callable[[], str], clock: Clock, checkpoints: Checkpoints | None = None) -> None:
        self._new_name = new_name
        self._clock = clock
        self._checkpoints = checkpoints
        self._notices: list[bytes] = []
        self._unsigned_lines = 0
        self._sign_at: float | None = None
        self.position: Position | None = None

    def resume(self, position: Position, *, is_signed: bool) -> None:
        """Goes on behind a line that this process did not write. Unless it is a checkpoint, the next group gets one."""
        self.position = position
        if not is_signed and self._checkpoints is not None:
            self._take_unsigned(self._checkpoints.every_lines)

    def follow(self, position: Position, *, is_signed: bool) -> None:
        """Goes on behind what another process has written to the same chain meanwhile."""
        before = self.position.sequence if self.position is not None else 0
        self.position = position
        self._take_unsigned(0 if is_signed else self._unsigned_lines + position.sequence - before)

    def note(self, event: str, **fields: Any) -> None:
        """Has the next group begin with a line about the log itself."""
        self._notices.append(event_line(self._clock(), event, **fields))

    def compose(self, lines: Sequence[bytes], *, last: bool = False) -> Group:
        """The group of these lines, each of them a JSON object with its line feed, behind what is to be noted.

        A checkpoint follows them where one is due, or something was noted; with ``last`` wherever a line has none yet.
        May be empty.
        """
        position = self.position or Position(self._new_name())
        noted = len(self._notices)
        parts: list[bytes] = []
        for line in (*self._notices, *lines) if noted else lines:
            linked = _linked(line, position)
            position = Position(position.chain, position.sequence + 1, _digest(linked))
            parts.append(linked)
        unsigned_lines = self._unsigned_lines + len(parts)
        checkpoints = self._checkpoints
        if checkpoints is not None and self._is_due(checkpoints, unsigned_lines, at_once=last or noted > 0):
            signed = self._signed(checkpoints, position)
            position = Position(position.chain, position.sequence + 1, _digest(signed))
            parts.append(signed)
            unsigned_lines = 0
        data = b"\n".join(parts) + b"\n" if parts else b""
        return Group(data, position, unsigned_lines, noted)

    def accept(self, group: Group) -> None:
        """The group is safe: what comes next stands behind it."""
        self.position = group.end
        del self._notices[: group.notices]
        self._take_unsigned(group.unsigned_lines)

    def accept_part(self, group: Group, written_bytes: int) -> bytes:
        """So much of a group is out for good: its whole lines have their places. Returns what stands behind them."""
        whole, line_feed, torn = group.data[:written_bytes].rpartition(b"\n")
        last = whole.rpartition(b"\n")[2]
        link = parse_link(last)
        if link is not None:
            self.follow(position_of(last, link), is_signed=link.signature is not None)
        del self._notices[: min(group.notices, whole.count(b"\n") + len(line_feed))]
        return torn

    def due_in_seconds(self) -> float | None:
        """When the next checkpoint is due though no line comes; None where none is."""
        return None if self._sign_at is None else max(0.0, self._sign_at - time.monotonic())

    def put_off(self) -> None:
        """A checkpoint that was due could not be written: it is due again a little later."""
        if self._sign_at is not None:
            self._sign_at = max(self._sign_at, time.monotonic() + _RETRY_SECONDS)

    def _take_unsigned(self, lines: int) -> None:
        self._unsigned_lines = lines
        if self._checkpoints is None or lines == 0:
            self._sign_at = None
        elif self._sign_at is None:
            self._sign_at = time.monotonic() + self._checkpoints.every_seconds

    def _is_due(self, checkpoints: Checkpoints, unsigned_lines: int, *, at_once: bool) -> bool:
        if unsigned_lines == 0:
            return False
        is_late = self._sign_at is not None and time.monotonic() >= self._sign_at
        return at_once or is_late or unsigned_lines >= checkpoints.every_lines

    def _signed(self, checkpoints: Checkpoints, position: Position) -> bytes:
        signer = checkpoints.signer
        line = event_line(
            self._clock(),
            "checkpoint",
            key_id=signer.kid,
            next_within_lines=checkpoints.every_lines + checkpoints.max_lines_at_once,
        )
        unsigned = _linked(line, position)
        return b'%b,"signature":"%b"}' % (unsigned[:-1], signer.sign(SIGNED_PREFIX + unsigned).hex().encode())


def event_line(now: float, event: str, **fields: Any) -> bytes:
    """A line about the log itself, with its line feed and without a place. ``now`` in seconds since the epoch."""
    assert fields.keys() <= EVENTS[event]
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return orjson.dumps({"time": moment, "endpoint": "audit", "event": event, **fields}) + b"\n"


def parse_link(line: bytes) -> Link | None:
    """The place of a line (without its line feed); None for one that has none."""
    start = line.rfind(b',"chain":"', -MAX_LINK_BYTES)
    found = _LINK.fullmatch(line, start) if start > 0 else None
    if found is None:
        return None
    chain, sequence, previous, signature = found.groups()
    if (sequence == b"1") != (previous is None):
        return None
    unsigned = line if signature is None else line[: found.start(4) - len(b',"signature":"')] + b"}"
    return Link(
        chain.decode(),
        int(sequence),
        None if previous is None else previous.decode(),
        None if signature is None else bytes.fromhex(signature.decode()),
        unsigned,
    )


def position_of(line: bytes, link: Link) -> Position:
    """Where the chain stands behind a line (without its line feed)."""
    return Position(link.chain, link.sequence, _digest(line))


def expected_end(position: Position) -> bytes:
    """How the next line of a chain ends, unless it is a checkpoint."""
    return _linked(b"{}\n", position)[1:]


def chain_name(host: str, now: float, random_part: str) -> str:
    """A name for a new chain that no other has: where and when it began, and some randomness."""
    place = _NOT_IN_NAMES.sub("-", host)[:63] or "gateway"
    return f"{place}-{datetime.fromtimestamp(now, UTC).strftime('%Y%m%dT%H%M%SZ')}-{random_part}"


def _linked(line: bytes, position: Position) -> bytes:
    """A line of JSON at the next place of the chain, without its line feed."""
    chain, sequence, digest = position
    previous = b"null" if digest is None else b'"%b"' % digest.encode()
    return b'%b,"chain":"%b","sequence":%d,"previous":%b}' % (line[:-2], chain.encode(), sequence + 1, previous)


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
