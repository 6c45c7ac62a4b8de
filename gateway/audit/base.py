"""The port of an audit sink: a place where a line is safe."""

from typing import Protocol


class SinkError(Exception):
    """A line was not accepted, or it is not known whether it was. Whatever it records must not take effect."""


class Sink(Protocol):
    """Takes lines of JSON, each ending in a line feed."""

    async def append(self, line: bytes) -> None:
        """Returns once the line is as safe as this kind of sink makes it. Raises ``SinkError``.

        A caller that is cancelled while it waits leaves its line behind: the line is written all the same.
        """

    def reopen(self) -> None:
        """Lines from now on go to whatever the sink's name stands for then, as after logrotate moved a file."""

    async def close(self) -> None:
        """Writes what is waiting and lets go. Every later ``append`` raises ``SinkError``. Raises ``SinkError``."""
