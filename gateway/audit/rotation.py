"""Files of an audit log that were set aside: when, under which name, which of them go, and where their chain ended."""

import gzip
import os
import re
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from gateway.audit.base import SinkError
from gateway.audit.chain import Position, parse_link, position_of

KEYS_SUFFIX = ".keys.json"
"""Of the file beside a log that holds the public halves of its audit keys."""
MAX_TORN_BYTES = 64 * 1024

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SET_ASIDE = re.compile(r"\.\d{8}T\d{6}Z-\d{12,}(?:\.gz)?")
_MOVED = r"[.-]\d[\dTZ.-]*(\.gz)?"
_MOVED_BEFORE = r"-\d{8}[\d-]*"
"""With logrotate's ``extension``: the date before the suffix, as in ``audit-20261125.jsonl``."""
_FIRST_TIME = re.compile(rb'\n*\{"time":"([0-9TZ:.-]{20,32})"')
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 20
_MAX_NEIGHBOURS = 8


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a file is full (bytes) or old (seconds), and how many are kept beside it. None: never, and all."""

    max_bytes: int | None = None
    max_age_seconds: float | None = None
    keep: int | None = None

    def is_due(self, size: int, age_seconds: float) -> bool:
        """Whether a file of this size and age is to be set aside. An empty one never is."""
        is_full = self.max_bytes is not None and size >= self.max_bytes
        is_old = self.max_age_seconds is not None and age_seconds >= self.max_age_seconds
        return size > 0 and (is_full or is_old)

    def surplus(self, path: Path) -> list[Path]:
        """The oldest of the files set aside beside the log, as many as are too many. Raises ``OSError``."""
        if self.keep is None:
            return []
        beside = (one for one in path.parent.iterdir() if one.name.startswith(path.name))
        aside = sorted(one for one in beside if _SET_ASIDE.fullmatch(one.name[len(path.name) :]))
        return aside[: max(0, len(aside) - self.keep)]


def name_aside(path: Path, now: float, sequence: int) -> Path:
    """What the file of a log is called once it is set aside: by when, and by the sequence number of its last line."""
    return path.with_name(f"{path.name}.{datetime.fromtimestamp(now, UTC).strftime('%Y%m%dT%H%M%SZ')}-{sequence:012d}")


class Tail(NamedTuple):
    """How a file ends: where its chain stands, whether with a checkpoint, and what follows the last line end."""

    position: Position | None
    is_signed: bool
    torn: bytes


def read_tail(descriptor: int, size: int) -> Tail:
    """The end of a file of so many bytes. Raises ``SinkError`` for one that is no audit log."""
    start = max(0, size - MAX_TORN_BYTES)
    window = os.pread(descriptor, MAX_TORN_BYTES, start)
    whole, line_feed, torn = window.rpartition(b"\n")
    if os.pread(descriptor, 1, 0) not in {b"{", b"\n", b""} or len(torn) == MAX_TORN_BYTES:
        raise SinkError("is not an audit log, or its end is damaged; move it away")
    if not line_feed:
        return Tail(None, is_signed=False, torn=torn)
    lines = whole.split(b"\n")
    return _last_link(lines if start == 0 else lines[1:], torn)


def time_of_first_line(descriptor: int) -> float | None:
    """When the first line of a file was written, in seconds since the epoch; None if it does not say."""
    found = _FIRST_TIME.match(os.pread(descriptor, 128, 0))
    try:
        return datetime.fromisoformat(found[1].decode()).timestamp() if found else None
    except (ValueError, OverflowError):
        return None


def predecessor(path: Path) -> Tail | None:
    """Where the chain stands in the file that was moved away last from this path, by us or by logrotate.

    None where there is none. Raises ``OSError``.
    """
    for file in list(_neighbours(path))[:_MAX_NEIGHBOURS]:
        tail = tail_of(file)
        if tail is not None and tail.position is not None:
            return tail
    return None


def tail_of(path: Path) -> Tail | None:
    """How a file ends, plain or compressed with gzip; None for what is no audit log. Raises ``OSError``."""
    descriptor = os.open(path, _READ)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        if file.peek(2)[:2] == _GZIP_MAGIC:
            return _tail_of_archive(gzip.GzipFile(fileobj=file))
        try:
            return read_tail(descriptor, status.st_size)
        except SinkError:
            return None


def _neighbours(path: Path) -> Iterator[Path]:
    """Files beside the log that we or logrotate have given a name after its own, the latest first."""
    names = re.compile(
        rf"{re.escape(path.name)}{_MOVED}|{re.escape(path.stem)}{_MOVED_BEFORE}{re.escape(path.suffix)}(\.gz)?"
    )
    with os.scandir(path.parent) as entries:
        ours = [one for one in entries if names.fullmatch(one.name) and one.is_file(follow_symlinks=False)]
    for entry in sorted(ours, key=lambda one: (one.stat(follow_symlinks=False).st_mtime_ns, one.name), reverse=True):
        yield path.parent / entry.name


def _tail_of_archive(archive: gzip.GzipFile) -> Tail | None:
    window = b""
    try:
        while chunk := archive.read(_CHUNK_BYTES):
            window = (window + chunk)[-MAX_TORN_BYTES:]
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return None
    whole, _, torn = window.rpartition(b"\n")
    return _last_link(whole.split(b"\n"), torn)


def _last_link(lines: list[bytes], torn: bytes) -> Tail:
    for line in reversed(lines):
        link = parse_link(line)
        if link is not None:
            return Tail(position_of(line, link), link.signature is not None, torn)
    return Tail(None, is_signed=False, torn=torn)
