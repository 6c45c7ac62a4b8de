"""Answers a flood late. Whoever is refused for want of quota and asks again at once would keep the server turning for
nothing else: a client that waits for its answer meanwhile sends nothing, and costs the others nothing.
"""

from collections.abc import Awaitable, Callable

from gateway.oauth.errors import Refusal

HELD_SECONDS = 0.25
"""Less than ``Retry-After`` ever says, so that no client that keeps to it waits the longer."""
MAX_HELD = 2000
"""Answers held at once; beyond it, one costs its memory and goes out at once."""

Sleep = Callable[[float], Awaitable[None]]


class Hold:
    """Holds refusals back for a moment, so many of them at once."""

    def __init__(self, sleep: Sleep, is_draining: Callable[[], bool]) -> None:
        self._sleep = sleep
        self._is_draining = is_draining
        self._held = 0

    async def back(self, refusal: Refusal) -> None:
        """Returns when the refusal may be answered: at once, unless a quota was spent."""
        if refusal.reason.stage != "quota" or self._held >= MAX_HELD or self._is_draining():
            return
        self._held += 1
        try:
            await self._sleep(HELD_SECONDS)
        finally:
            self._held -= 1
