"""The sink that gates: one file of JSON lines, each synced to disk before its decision takes effect.

A file holds one chain, also where several processes append to it: each takes the lock on it for a group, and goes on
where the file ends. So does the next process after a restart. A file that was moved away, by us when it is full or old,
or by logrotate, leaves its chain to the file that takes its place.
"""

import errno
import fcntl
import logging
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gateway.audit.base import SinkError
from gateway.audit.chain import ChainWriter
from gateway.audit.group_commit import MAX_WAITING_LINES, WAIT_SECONDS, GroupCommit, write_all
from gateway.audit.keys import publish
from gateway.audit.parts import SinkParts
from gateway.audit.rotation import (
    KEYS_SUFFIX,
    Rotation,
    Tail,
    name_aside,
    predecessor,
    read_tail,
    tail_of,
    time_of_first_line,
)
from gateway.audit.stdout import told_of
from gateway.model import Clock

log = logging.getLogger("gateway.audit")

_OPEN = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAX_TOLD_BYTES = 1024
_ROTATE_AGAIN_SECONDS = 60.0
_FDATASYNC: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)  # not on every system


class FileSink:
    """``file:///path`` (``Sink``): safe means that ``fdatasync`` said so.

    ``torn_bytes`` counts what was cut from the end of the file: part of a line whose write a crash ended early, and
    which was therefore never acknowledged. The chain tells of it.
    """

    def __init__(
        self,
        path: Path,
        chain: ChainWriter,
        clock: Clock,
        *,
        rotation: Rotation | None = None,
        max_waiting_lines: int = MAX_WAITING_LINES,
        wait_seconds: float = WAIT_SECONDS,
        fdatasync: Callable[[int], None] = _FDATASYNC,
    ) -> None:
        """Opens the file, and makes it with mode 0600 where it is not there. Raises ``SinkError``."""
        self.torn_bytes = 0
        self._path = path
        self._chain = chain
        self._clock = clock
        self._rotation = rotation or Rotation()
        self._fdatasync = fdatasync
        self._reopen = False
        self._descriptor: int | None = None
        self._size: int | None = None
        """Of the file, when this process last looked; None when it has not looked since it opened it."""
        self._born: float | None = None
        """When the first line of the file was written, as far as that was asked for."""
        self._rotate_not_before = 0.0
        self._surplus: list[Path] = []
        """Files that go once the chain has told of it."""
        self._commits = GroupCommit(self, str(path), max_waiting_lines=max_waiting_lines, wait_seconds=wait_seconds)
        try:
            self._look_at_once()
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

    def commit(self, lines: list[bytes]) -> None:
        """See ``Committer``."""
        self._write(lines, last=False)

    def finish(self) -> None:
        """See ``Committer``: a checkpoint of all that has none yet."""
        if self._chain.due_in_seconds() is not None:
            self._write([], last=True)

    def due_in_seconds(self) -> float | None:
        """See ``Committer``: when a checkpoint is due."""
        return self._chain.due_in_seconds()

    # ------------------------------------------------------------ one group

    def _write(self, lines: list[bytes], *, last: bool) -> None:
        try:
            descriptor = self._hold()
            group = self._chain.compose(lines, last=last)
            self._append(descriptor, group.data)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        except BaseException:
            # A second sync on the same descriptor may claim success (the kernel drops failed pages): opened anew.
            self._let_go()
            self._chain.put_off()
            raise
        self._chain.accept(group)
        self._remove_surplus()

    def _append(self, descriptor: int, data: bytes) -> None:
        """All of it is on disk, or the file ends where it did."""
        if not data:
            return
        end = os.fstat(descriptor).st_size
        try:
            _, error = write_all(descriptor, data)
            if error is not None:
                raise error
            self._fdatasync(descriptor)
        except BaseException:
            # None of these lines was acknowledged. Where they cannot be taken back, they stand in the chain without
            # an effect: the file is read again before the next line.
            with suppress(OSError):
                os.ftruncate(descriptor, end)
            raise
        self._size = end + len(data)

    def _hold(self) -> int:
        """The file that the path names now, locked, with the chain where that file ends."""
        while True:
            descriptor = self._descriptor if self._descriptor is not None else self._open()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._catch_up(descriptor)
            if self._is_moved(descriptor) or self._set_aside(descriptor):
                self._move_on(descriptor)
            else:
                return descriptor

    def _catch_up(self, descriptor: int) -> None:
        """Takes the chain from where the file ends, if that is not where this process has left it."""
        size = os.fstat(descriptor).st_size
        if size == self._size:
            return
        if self._size is not None and size < self._size:
            self._tell_of_shortening(self._size, size)
        if size > 0:
            tail = self._read_tail(descriptor, size)
            if tail.torn:
                size -= len(tail.torn)
                self._cut(descriptor, size, tail.torn)
            self._take_over(tail)
        if size == 0 and self._chain.position is None:
            self._take_over_from_before()
        self._size = size

    def _take_over_from_before(self) -> None:
        before = predecessor(self._path)
        if before is not None:
            self._take_over(before)
            if before.torn:
                self._chain.note("torn_line", **told_of(before.torn))

    def _take_over(self, tail: Tail) -> None:
        ours = self._chain.position
        if tail.position is None:
            return
        if ours is None:
            self._chain.resume(tail.position, is_signed=tail.is_signed)
        elif tail.position.chain == ours.chain and tail.position.sequence > ours.sequence:
            self._chain.follow(tail.position, is_signed=tail.is_signed)

    def _cut(self, descriptor: int, size: int, torn: bytes) -> None:
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
        self.torn_bytes += len(torn)
        log.warning("cut %d bytes of an unfinished line from the end of %s", len(torn), self._path)
        self._chain.note("torn_line", **told_of(torn), text=torn[:_MAX_TOLD_BYTES].decode("utf-8", "replace"))

    def _tell_of_shortening(self, before: int, now: int) -> None:
        log.error(
            "%s was cut from %d to %d bytes by somebody else, and records may be lost. If this was logrotate's "
            "copytruncate: have it move the file and send SIGHUP, or set audit.rotate_size",
            self._path, before, now,
        )  # fmt: skip
        self._chain.note("shortened", bytes_before=before, bytes_now=now)

    # ------------------------------------------------------------ which file

    def _is_moved(self, descriptor: int) -> bool:
        """Whether the path names another file, or, when told to look, none."""
        told, self._reopen = self._reopen, False
        try:
            named = self._path.stat(follow_symlinks=False)
        except OSError:
            return told
        ours = os.fstat(descriptor)
        return (named.st_dev, named.st_ino) != (ours.st_dev, ours.st_ino)

    def _move_on(self, old: int) -> None:
        """Opens what the path names now. Whoever waits for the old file finds the new one in its place."""
        self._descriptor = None
        try:
            self._open()
        finally:
            os.close(old)

    def _set_aside(self, descriptor: int) -> bool:
        """Gives a file that is full or old another name. Where that fails it goes on, and is told."""
        now, size = self._clock(), self._size or 0
        if self._rotation.max_age_seconds is not None and self._born is None:
            self._born = time_of_first_line(descriptor) or now
        age_seconds = now - self._born if self._born is not None else 0.0
        if not self._rotation.is_due(size, age_seconds) or now < self._rotate_not_before:
            return False
        group = self._chain.compose([], last=True)
        self._append(descriptor, group.data)
        self._chain.accept(group)
        aside = name_aside(self._path, now, group.end.sequence)
        try:
            if os.path.lexists(aside):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(aside))
            self._path.rename(aside)
        except OSError as error:
            self._rotate_not_before = now + _ROTATE_AGAIN_SECONDS
            log.warning("%s cannot be set aside as %s: %s", self._path, aside.name, error.strerror)
            return False
        self._tell_of_surplus()
        return True

    def _tell_of_surplus(self) -> None:
        try:
            for file in self._rotation.surplus(self._path):
                tail = tail_of(file)
                end = tail.position if tail is not None else None
                of_chain = {"discarded_chain": end.chain, "discarded_sequence": end.sequence} if end else {}
                self._chain.note("discarded", file=file.name, **of_chain)
                self._surplus.append(file)
        except OSError as error:
            log.warning("old files of %s are not removed: %s", self._path, error.strerror)

    def _remove_surplus(self) -> None:
        while self._surplus:
            file = self._surplus.pop()
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                log.warning("%s could not be removed: %s", file, error.strerror)

    def _let_go(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _open(self) -> int:
        if self._path.is_symlink():
            raise SinkError(f"{self._path} is a symbolic link; name the file itself")
        descriptor = os.open(self._path, _OPEN, 0o600)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise SinkError(f"{self._path} is not a plain file")
            if status.st_size == 0:
                _sync_folder(self._path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor, self._size, self._born = descriptor, None, None
        return descriptor

    def _look_at_once(self) -> None:
        """So that what is wrong with the file stops the start. While another process writes, it waits for a group."""
        descriptor = self._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        try:
            self._catch_up(descriptor)
        except BaseException:
            self._let_go()
            raise
        fcntl.flock(descriptor, fcntl.LOCK_UN)

    def _read_tail(self, descriptor: int, size: int) -> Tail:
        try:
            return read_tail(descriptor, size)
        except SinkError as error:
            raise SinkError(f"{self._path} {error}") from None


def open_file_sink(path: Path, parts: SinkParts) -> FileSink:
    """The sink, and beside the file the public halves of its audit keys. Raises ``SinkError``."""
    sink = FileSink(path, parts.chain, parts.clock, rotation=parts.rotation)
    if parts.key is not None:
        try:
            publish(parts.key, path.with_name(path.name + KEYS_SUFFIX))
        except OSError as error:
            log.warning("the public key of the audit log is not beside %s: %s", path, error.strerror)
    return sink


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
