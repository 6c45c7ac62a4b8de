"""The way out: keep-alive connections are told to end, and requests that were taken on are waited for."""

import asyncio
import contextlib

from aiohttp import web


class Drain:
    """Once ``draining`` is set, every answer closes its connection, so that no client is cut off between two."""

    def __init__(self) -> None:
        self.draining = False
        self._in_work = 0
        self._idle = asyncio.Event()

    def begin(self) -> None:
        """Counts a request, from its head on."""
        self._in_work += 1

    def end(self) -> None:
        """Counts it off again."""
        self._in_work -= 1
        if self.draining and not self._in_work:
            self._idle.set()

    def apply(self, response: web.StreamResponse) -> None:
        """Marks one answer."""
        if self.draining:
            response.force_close()

    async def until_idle(self, seconds: float) -> None:
        """Returns when the requests in work are answered, those included whose bodies are still on their way: the
        server itself would read no more of them once it closes. Waits so many seconds and no longer.
        """
        if self._in_work:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._idle.wait()
