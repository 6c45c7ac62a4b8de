"""Lines of audit files, one after the other: plain or compressed with gzip, and none takes more than its room."""

import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

STDIN = "-"
MAX_LINE_BYTES = 64 * 1024
"""A longer line is no line of ours: of it there is the beginning, one byte more than this."""

DAMAGED_ARCHIVE = (EOFError, gzip.BadGzipFile, zlib.error)
"""What is raised where a compressed file breaks off or does not fit its checksum."""

_CHUNK_BYTES = 1 << 20
_TOLD_EVERY_LINES = 1024
_GZIP_MAGIC = b"\x1f\x8b"


def lines_of(file: str | Path, on_bytes: Callable[[int], None] | None = None) -> Iterator[bytes]:
    """Each line with its line feed, the last one as it is; ``-`` is standard input.

    ``on_bytes`` is told now and then how many more bytes of the file, as it lies there, were read. Raises ``OSError``,
    and ``DAMAGED_ARCHIVE`` behind the last line that could be read.
    """
    if str(file) == STDIN:
        yield from _lines(cast("io.BufferedReader", sys.stdin.buffer), on_bytes)
        return
    with Path(file).open("rb", buffering=_CHUNK_BYTES) as stream:
        yield from _lines(cast("io.BufferedReader", stream), on_bytes)


def _lines(stream: io.BufferedReader, on_bytes: Callable[[int], None] | None) -> Iterator[bytes]:
    source: BinaryIO = stream
    if stream.peek(2)[:2] == _GZIP_MAGIC:
        source = io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=stream)), _CHUNK_BYTES)
    told = 0

    def tell() -> None:
        nonlocal told
        if on_bytes is not None and stream.raw.seekable():
            told, before = stream.raw.tell(), told
            on_bytes(told - before)

    limit = MAX_LINE_BYTES + 1
    readline = source.readline
    countdown = _TOLD_EVERY_LINES
    while line := readline(limit):
        yield line
        if len(line) == limit:
            while not line.endswith(b"\n") and (line := readline(_CHUNK_BYTES)):
                pass
        countdown -= 1
        if countdown == 0:
            countdown = _TOLD_EVERY_LINES
            tell()
    tell()
