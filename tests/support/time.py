"""Time that a test moves by hand: a clock to read and a sleep that ends when the clock gets there."""

import asyncio

from tests.support.tokens import NOW


class HandClock:
    """``clock()`` tells the time, ``clock.sleep`` waits for it, ``await clock.advance(...)`` moves it."""

    def __init__(self, now: float = NOW) -> None:
        self.now = float(now)
        self.slept: list[float] = []
        """Every duration that somebody has asked to sleep for."""
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []
        self._somebody_sleeps = asyncio.Condition()

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.slept.append(seconds)
        self._sleepers.append((self.now + seconds, future))
        async with self._somebody_sleeps:
            self._somebody_sleeps.notify_all()
        await future

    async def until_sleeping(self, sleepers: int = 1) -> None:
        """Returns when so many are asleep: the background work of an issuer has nothing to do but to wait."""
        async with asyncio.timeout(10), self._somebody_sleeps:
            await self._somebody_sleeps.wait_for(lambda: self._count() >= sleepers)

    async def advance(self, seconds: float) -> None:
        """Moves the time, wakes whoever is due, and waits until as many are asleep again."""
        sleepers = self._count()
        self.now += seconds
        due = [future for at, future in self._sleepers if at <= self.now and not future.done()]
        self._sleepers = [(at, future) for at, future in self._sleepers if at > self.now and not future.done()]
        for future in due:
            future.set_result(None)
        await self.until_sleeping(sleepers)

    def _count(self) -> int:
        return sum(not future.done() for _, future in self._sleepers)
