"""The sink for whoever collects a container's output: accepted once the pipe or terminal has taken it."""

import hashlib

from gateway.audit.chain import ChainWriter, Group
from gateway.audit.group_commit import MAX_WAITING_LINES, WAIT_SECONDS, GroupCommit, write_all

STDOUT = 1


class StreamSink:
    """``stdout`` (``Sink``): lines go to an open descriptor, unbuffered, and are not synced.

    What is out cannot be taken back: whole lines of a group that failed keep their places in the chain, and part of a
    line is told of by the next one.
    """

    def __init__(
        self,
        chain: ChainWriter,
        descriptor: int = STDOUT,
        *,
        max_waiting_lines: int = MAX_WAITING_LINES,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._chain = chain
        self._descriptor = descriptor
        self._line_is_open = False
        """Part of a line is out, and the next one must not run into it."""
        self._commits = GroupCommit(self, "stdout", max_waiting_lines=max_waiting_lines, wait_seconds=wait_seconds)

    async def append(self, line: bytes) -> None:
        """See ``Sink``."""
        await self._commits.append(line)

    def reopen(self) -> None:
        """See ``Sink``. An open descriptor has no name, so that nothing changes."""

    async def close(self) -> None:
        """See ``Sink``. The descriptor stays open: it is not ours."""
        await self._commits.close()

    def commit(self, lines: list[bytes]) -> None:
        """See ``Committer``."""
        self._write(lines, last=False)

    def finish(self) -> None:
        """See ``Committer``: a checkpoint of all that has none yet."""
        self._write([], last=True)

    def due_in_seconds(self) -> float | None:
        """See ``Committer``: when a checkpoint is due."""
        return self._chain.due_in_seconds()

    def _write(self, lines: list[bytes], *, last: bool) -> None:
        lead = b"\n" if self._line_is_open else b""
        group = self._chain.compose(lines, last=last)
        written, error = write_all(self._descriptor, lead + group.data if group.data else b"")
        if error is not None:
            if written >= len(lead):
                self._take_part(group, written - len(lead))
            self._chain.put_off()
            raise error
        self._line_is_open = False
        self._chain.accept(group)

    def _take_part(self, group: Group, written: int) -> None:
        torn = self._chain.accept_part(group, written)
        self._line_is_open = bool(torn)
        if torn:
            self._chain.note("torn_line", **told_of(torn))


def told_of(torn: bytes) -> dict[str, object]:
    """What is told of part of a line: how many bytes it had, and their SHA-256."""
    return {"bytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest()}
