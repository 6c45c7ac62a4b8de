"""The counters behind the quotas: in this process, and shared by replicas through Redis.

Both are the sliding window counter of the ``limits`` library: the requests of the current window, plus those of the
window before it by the share of it that still lies within reach. Chosen over the other two strategies of the library
because a counter is two numbers whatever its limit (a moving window keeps a time stamp per request), because a window's
edge lets no burst through (a fixed window grants twice its limit within a moment there), and because Redis counts by
its own clock (a moving window counts by that of each caller).

The bound: in any stretch of ``t`` seconds, at most ``limit + limit * t / period + 1`` requests pass, as of a token
bucket that holds ``limit``; within one window never more than ``limit``.

The library's own storage for one process is not used, only its port (``SlidingWindowCounterSupport``). It reads the
wall clock, keeps any number of counters, and starts a thread every ten milliseconds that walks them all: with a
million of them, requests were held up for 100 ms.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import floor
from typing import Any, Literal, NamedTuple

from limits.aio.storage.redis import RedisStorage
from limits.aio.storage.redis.redispy import RedispyBridge
from limits.storage.base import SlidingWindowCounterSupport
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from gateway.model import Clock
from gateway.state.base import StateUnavailableError
from gateway.state.breaker import Breaker
from gateway.state.redis import PREFIX, RedisAddress, connection_pool

log = logging.getLogger("gateway.state.quotas")

QuotaName = Literal["global", "service_account", "workload", "source_failures"]

_ANSWER_WITHIN_SECONDS = 0.15
_CONNECTIONS = 32
_REMEMBERED_WAITS = 10_000


class Counter(NamedTuple):
    """One thing that is counted: the name of its counter, and how many requests it has in a period."""

    quota: QuotaName
    key: str
    limit: int
    period_seconds: int


class Spent(NamedTuple):
    """The counter that has no more to give, and in how many seconds it will."""

    counter: Counter
    wait_seconds: float


class _Window:
    """The counts of one key. A new window begins with the first request, and where the last one ended."""

    __slots__ = ("current", "previous", "start", "until")

    def __init__(self, start: float, period: int) -> None:
        self.start = start
        self.until = start + 2 * period
        """When nothing in it counts any more."""
        self.previous = 0
        self.current = 0


class LocalCounters(SlidingWindowCounterSupport):
    """Counters of one process, by the clock that is handed in. Awaits nothing and starts no thread.

    At most ``capacity`` are kept, some 250 bytes each; beyond it the one that was longest unused is forgotten, which
    grants its owner a fresh start: rather that than a table which strangers can fill to lock everybody out.
    """

    def __init__(self, clock: Clock, *, capacity: int) -> None:
        self._clock = clock
        self._capacity = capacity
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows)

    def spend(self, counters: Sequence[Counter]) -> Spent | None:
        """Takes one request from each counter, or none from any: then tells of the one that takes longest."""
        for position, (_, key, limit, period) in enumerate(counters):
            if not self.acquire_sliding_window_entry(key, limit, period):
                for counter in counters[:position]:
                    self.give_back(counter)
                return max(map(self._state, counters), key=_wait)
        return None

    def peek(self, counter: Counter) -> Spent | None:
        """As ``spend`` of one, without taking."""
        if counter.key not in self._windows:
            return None
        state = self._state(counter)
        return state if state.wait_seconds else None

    def give_back(self, counter: Counter) -> None:
        """Undoes one ``spend`` of a moment ago."""
        window = self._windows.get(counter.key)
        if window is not None and window.current > 0:
            window.current -= 1

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Whether so many more fit into the window; they are counted then."""
        now = self._clock()
        window = self._window(key, expiry, now)
        if window is None:
            if amount > limit:
                return False
            window = self._open(key, expiry, now)
        else:
            before = floor(window.previous * (window.start + expiry - now) / expiry) if window.previous else 0
            if before + window.current + amount > limit:
                return False
        window.current += amount
        return True

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """As the library has it: the count of the previous window and how long it weighs, and those of the current."""
        now = self._clock()
        window = self._window(key, expiry, now)
        if window is None:
            return 0, 0.0, 0, 0.0
        remaining = window.start + expiry - now
        return window.previous, remaining, window.current, remaining + expiry

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forgets what was counted."""
        self._windows.pop(key, None)

    def _state(self, counter: Counter) -> Spent:
        return Spent(counter, _wait_seconds(counter, *self.get_sliding_window(counter.key, counter.period_seconds)))

    def _window(self, key: str, period: int, now: float) -> _Window | None:
        """The window in force now, if anything in it still counts."""
        window = self._windows.get(key)
        if window is None:
            return None
        if now >= window.until:
            del self._windows[key]
            return None
        self._windows.move_to_end(key)
        if now >= window.start + period:
            window.start += period
            window.until += period
            window.previous, window.current = window.current, 0
        return window

    def _open(self, key: str, period: int, now: float) -> _Window:
        """A new counter, in the place of old ones that count nothing any more or were longest unused."""
        windows = self._windows
        for _ in range(2):  # more leave than come, so that a flood's counters are gone when the flood is
            if windows and (len(windows) >= self._capacity or next(iter(windows.values())).until <= now):
                windows.popitem(last=False)
        window = windows[key] = _Window(now, period)
        return window


class RedisCounters(RedisStorage):
    """Counters that all replicas share: the Redis storage of the library, with one round trip for several counters.

    Who is told to wait is remembered here for that long, so that one client's flood is not Redis's as well. While
    Redis does not answer, one request a second is held up to see whether it does again, for 150 ms at most.
    """

    def __init__(self, address: RedisAddress, clock: Clock, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Connects to nothing yet. Raises ``OSError`` for a file of CAs that cannot be read."""
        self._clock = clock
        self._breaker = Breaker(monotonic)
        self._spent_until: OrderedDict[tuple[str, int], float] = OrderedDict()
        self.away = False
        """Whether Redis did not answer when it was last asked."""
        self._pool = connection_pool(
            address,
            connect_seconds=_ANSWER_WITHIN_SECONDS,
            command_seconds=_ANSWER_WITHIN_SECONDS,
            max_connections=_CONNECTIONS,
        )
        self._client = Redis(connection_pool=self._pool)
        options: dict[str, Any] = {"connection_pool": self._pool}
        super().__init__("redis://", implementation="redispy", key_prefix=f"{PREFIX}quota", **options)
        assert isinstance(self.bridge, RedispyBridge)
        self._acquire_script = self.bridge.lua_acquire_sliding_window

    async def spend(self, counters: Sequence[Counter]) -> Spent | None:
        """Takes one request from each counter, or none from any: then tells of the one that takes longest.

        Raises ``StateUnavailableError`` after 150 ms at the latest.
        """
        spent = self._remembered(counters)
        if spent is not None:
            return spent
        if not self._breaker.may_try():
            raise StateUnavailableError("the Redis of the quotas does not answer; it is asked again once a second")
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_SECONDS):
                spent = await self._spend(counters)
        except (RedisError, OSError, EOFError, ValueError) as error:
            self._breaker.failed()
            self._tell(away=True)
            raise StateUnavailableError(f"the Redis of the quotas: {type(error).__name__}") from None
        self._breaker.succeeded()
        self._tell(away=False)
        if spent is not None:
            self._remember(spent)
        return spent

    async def give_back(self, counters: Sequence[Counter]) -> None:
        """Undoes one ``spend`` of a moment ago. Where Redis does not answer, it stays spent."""
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_SECONDS):
                for counter in counters:
                    await self._give_back(counter)
                    self._spent_until.pop((counter.key, counter.limit), None)  # somebody was told to wait for this
        except (RedisError, OSError, EOFError, ValueError):
            self._breaker.failed()

    async def close(self) -> None:
        """Lets go of the connections."""
        await self._client.aclose()
        await self._pool.aclose()

    async def _spend(self, counters: Sequence[Counter]) -> Spent | None:
        try:
            taken = await self._acquire(counters)
        except NoScriptError:  # a new server, or a flushed one
            await self._client.script_load(self._acquire_script.script)
            taken = await self._acquire(counters)
        if all(taken):
            return None
        waits = []
        for counter, was_taken in zip(counters, taken, strict=True):
            if was_taken:
                await self._give_back(counter)
            else:
                window = await self.get_sliding_window(counter.key, counter.period_seconds)
                waits.append(Spent(counter, _wait_seconds(counter, *window)))
        return max(waits, key=_wait)

    async def _give_back(self, counter: Counter) -> None:
        await self.incr(self._current_window_key(counter.key), 2 * counter.period_seconds, -1)

    async def _acquire(self, counters: Sequence[Counter]) -> list[bool]:
        pipeline = self._client.pipeline(transaction=False)
        for _, key, limit, period in counters:
            previous = self.bridge.prefixed_key(self._previous_window_key(key))
            current = self.bridge.prefixed_key(self._current_window_key(key))
            pipeline.evalsha(self._acquire_script.sha, 2, previous, current, limit, period, 1)
        return [bool(answer) for answer in await pipeline.execute()]

    def _remembered(self, counters: Sequence[Counter]) -> Spent | None:
        if not self._spent_until:
            return None
        now = self._clock()
        for counter in counters:
            name = (counter.key, counter.limit)
            until = self._spent_until.get(name)
            if until is None:
                continue
            if now < until:
                return Spent(counter, until - now)
            del self._spent_until[name]
        return None

    def _remember(self, spent: Spent) -> None:
        if len(self._spent_until) >= _REMEMBERED_WAITS:
            self._spent_until.popitem(last=False)
        self._spent_until[spent.counter.key, spent.counter.limit] = self._clock() + spent.wait_seconds

    def _tell(self, *, away: bool) -> None:
        if away != self.away:
            self.away = away
            log.log(logging.WARNING if away else logging.INFO, "quotas: Redis is %s", "away" if away else "back")


def _wait_seconds(
    counter: Counter, previous: int, previous_seconds: float, current: int, current_seconds: float
) -> float:
    """In how many seconds a counter has one request to give, from what the library tells of a window; 0 for now.

    Until the window ends, the previous one weighs less and less. After that, the current one does in its turn.
    """
    limit, period = counter.limit, counter.period_seconds
    if floor(previous * previous_seconds / period) + current < limit:
        return 0.0
    if current < limit:
        return previous_seconds - (limit - current) * period / previous
    return max(current_seconds - period, 0.0) + period - limit * period / current


def _wait(spent: Spent) -> float:
    return spent.wait_seconds
