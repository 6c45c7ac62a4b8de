"""The sink that gates: one file of JSON lines, each synced to disk before its decision takes effect.

Several processes may append to one file. Each holds a shared lock on it; who finds itself alone when it opens the file
heals what a crash left at the end.
"""

import fcntl
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path

from gateway.audit.base import SinkError
from gateway.audit.group_commit import MAX_WAITING_LINES, WAIT_SECONDS, GroupCommit, write_all

log = logging.getLogger("gateway.audit")

_OPEN = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAX_TORN_BYTES = 64 * 1024
_FDATASYNC: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)  # not on every system


class FileSink:
    """``file:///path`` (``Sink``): safe means that ``fdatasync`` said so.

    ``torn_bytes`` counts what was cut from the end of the file: part of a line whose write a crash or a full disk
    ended early, and which was therefore never acknowledged.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_waiting_lines: int = MAX_WAITING_LINES,
        wait_seconds: float = WAIT_SECONDS,
        fdatasync: Callable[[int], None] = _FDATASYNC,
    ) -> None:
        """Opens the file, and makes it with mode 0600 where it is not there. Raises ``SinkError``."""
        self.torn_bytes = 0
        self._path = path
        self._fdatasync = fdatasync
        self._reopen = False
        self._lead = b""
        self._commits = GroupCommit(
            self._commit, str(path), max_waiting_lines=max_waiting_lines, wait_seconds=wait_seconds
        )
        try:
            self._descriptor: int | None = self._open()
        except OSError as error:
            raise SinkError(f"{path}: {error.strerror}") from error

    async def append(self, line: bytes) -> None:
        """See ``Sink``."""
        await self._commits.append(line)

    def reopen(self) -> None:
        """See ``Sink``. The old file is let go before the next line is written."""
        self._reopen = True

    async def close(self) -> None:
        """See ``Sink``."""
        await self._commits.close()
        self._let_go()

    def _commit(self, lines: list[bytes]) -> None:
        if self._reopen:
            self._reopen = False
            self._let_go()
        if self._descriptor is None:
            self._descriptor = self._open()
        try:
            write_all(self._descriptor, self._lead + b"".join(lines))
        except OSError:
            self._let_go()
            raise
        try:
            self._fdatasync(self._descriptor)
        except OSError:
            # What the disk now has of this batch is unknown, and a second sync on the same descriptor may claim
            # success (the kernel drops failed pages). The next batch opens anew and starts on a line of its own.
            self._lead = b"\n"
            self._let_go()
            raise
        self._lead = b""

    def _let_go(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _open(self) -> int:
        if self._path.is_symlink():
            raise SinkError(f"{self._path} is a symbolic link; name the file itself")
        descriptor = os.open(self._path, _OPEN, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise SinkError(f"{self._path} is not a plain file")
            alone = _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not alone:
                _lock(descriptor, fcntl.LOCK_SH)
            self._heal(descriptor, alone=alone)
            _lock(descriptor, fcntl.LOCK_SH)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _heal(self, descriptor: int, *, alone: bool) -> None:
        size = os.fstat(descriptor).st_size
        if size == 0:
            _sync_folder(self._path.parent)
            return
        torn = self._torn_bytes(descriptor, size)
        if torn and not alone:
            self._lead = b"\n"  # not ours to cut: another process may be writing behind it
        elif torn:
            os.ftruncate(descriptor, size - torn)
            os.fsync(descriptor)
            self.torn_bytes += torn
            log.warning("cut %d bytes of an unfinished line from the end of %s", torn, self._path)

    def _torn_bytes(self, descriptor: int, size: int) -> int:
        """How many bytes stand behind the last line end. Raises ``SinkError`` for a file that is no audit log."""
        tail = os.pread(descriptor, _MAX_TORN_BYTES, max(0, size - _MAX_TORN_BYTES))
        torn = len(tail) - (tail.rfind(b"\n") + 1)
        if os.pread(descriptor, 1, 0) not in {b"{", b"\n"} or torn == _MAX_TORN_BYTES:
            raise SinkError(f"{self._path} is not an audit log, or its end is damaged; move it away")
        return torn


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind)
    except BlockingIOError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
