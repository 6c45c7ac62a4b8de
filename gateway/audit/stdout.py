"""The sink for whoever collects a container's output: accepted once the pipe or terminal has taken it."""

from gateway.audit.group_commit import MAX_WAITING_LINES, WAIT_SECONDS, GroupCommit, write_all

STDOUT = 1


class StreamSink:
    """``stdout`` (``Sink``): lines go to an open descriptor, unbuffered, and are not synced."""

    def __init__(
        self,
        descriptor: int = STDOUT,
        *,
        max_waiting_lines: int = MAX_WAITING_LINES,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._descriptor = descriptor
        self._lead = b""
        self._commits = GroupCommit(
            self._commit, "stdout", max_waiting_lines=max_waiting_lines, wait_seconds=wait_seconds
        )

    async def append(self, line: bytes) -> None:
        """See ``Sink``."""
        await self._commits.append(line)

    def reopen(self) -> None:
        """See ``Sink``. An open descriptor has no name, so that nothing changes."""

    async def close(self) -> None:
        """See ``Sink``. The descriptor stays open: it is not ours."""
        await self._commits.close()

    def _commit(self, lines: list[bytes]) -> None:
        try:
            write_all(self._descriptor, self._lead + b"".join(lines))
        except OSError:
            self._lead = b"\n"  # part of a line may be out: the next one must not run into it
            raise
        self._lead = b""
