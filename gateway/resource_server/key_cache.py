"""The gateway's keys over time, for threads and for asyncio: when to ask for them, and how long to trust them.

A known key waits for the network only once its set has gone stale. While the gateway is away the last good keys serve,
up to an age. However many strange tokens arrive, the gateway is asked a few times.

No thread lives on between fetches: requests set them off. So nothing has to be started or stopped, and a server may
fork its workers at any time.
"""

import asyncio
import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field

from gateway.jose.jwks import KeySet
from gateway.model import Clock
from gateway.resource_server.fetch import FetchError
from gateway.resource_server.key_set import Loaded

log = logging.getLogger("gateway.resource_server")

Background = Callable[[Callable[[], None]], None]
"""Runs work beside the caller."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the gateway may be asked for its keys, and how long they are good."""

    fresh_seconds: float = 300.0
    """How long a key set is fresh whose answer does not say (``Cache-Control: max-age``)."""
    shortest_fresh_seconds: float = 60.0
    longest_fresh_seconds: float = 600.0
    """Within these bounds the answer may say."""
    max_age_seconds: float = 86400.0
    """How long the last good keys serve while the gateway cannot be reached."""
    cooldown_seconds: float = 10.0
    """Between two fetches, of which the later one is for a token with an unknown key."""
    budget: int = 2
    """How many fetches for the sake of such tokens there are within ``budget_seconds``."""
    budget_seconds: float = 30.0
    first_retry_seconds: float = 1.0
    longest_retry_seconds: float = 30.0
    wait_seconds: float = 5.0
    """How long one request waits for a fetch."""
    most_waiting: int = 64
    """How many requests wait at once."""
    lost_seconds: float = 60.0
    """A fetch that is under way for longer than it can take: its thread was left behind by a fork."""


DEFAULT_PACE = Pace()


def in_thread(work: Callable[[], None]) -> None:
    """``Background`` in a thread of its own, which does not keep the program from ending."""
    threading.Thread(target=work, name="gateway-key-set", daemon=True).start()


@dataclass(frozen=True, slots=True, eq=False)
class KeyFetch:
    """A fetch that is under way, or was."""

    begun_at: float
    ended: Future[None] = field(default_factory=Future)


class KeyCache:
    """The key set, kept fresh by the requests that need it."""

    def __init__(
        self,
        load: Callable[[], Loaded],
        *,
        clock: Clock,
        jitter: Callable[[], float],
        background: Background,
        pace: Pace,
    ) -> None:
        """``load`` reads the set and may block; ``jitter`` gives random numbers from 0 up to 1."""
        self._load = load
        self._clock = clock
        self._jitter = jitter
        self._background = background
        self._pace = pace
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(pace.most_waiting)
        self._keys: KeySet | None = None
        self._fetched_at = -math.inf
        self._refresh_at = -math.inf
        self._stale_at = -math.inf
        self._retry_at = -math.inf
        self._attempted_at = -math.inf
        self._failures = 0
        self._asked_at: deque[float] = deque(maxlen=pace.budget)
        self._under_way: KeyFetch | None = None

    def usable(self) -> KeySet | None:
        """The keys to verify with: the last good ones, unless they are too old. Never waits."""
        with self._lock:
            return self._usable(self._clock())

    def fetch_for(self, key_id: str) -> KeyFetch | None:
        """The fetch to wait for before a token with this ``kid`` can be judged; None where the keys at hand will do, or
        where the gateway may not be asked again yet. Begins what is due. Never waits.
        """
        now = self._clock()
        begun = None
        with self._lock:
            if self._under_way is not None and now - self._under_way.begun_at > self._pace.lost_seconds:
                self._under_way = None
            may_begin, worth_waiting = self._plan(key_id, now)
            if self._under_way is None and may_begin:
                self._under_way = begun = KeyFetch(now)
                self._attempted_at = now
            fetch = self._under_way
        if begun is not None:
            self._begin(begun)
        return fetch if worth_waiting else None

    def wait(self, fetch: KeyFetch) -> None:
        """Returns when the fetch has ended, the time is up, or too many wait already."""
        if self._places.acquire(blocking=False):
            try:
                wait((fetch.ended,), self._pace.wait_seconds)
            finally:
                self._places.release()

    async def wait_async(self, fetch: KeyFetch) -> None:
        """As ``wait``, for a task; the event loop goes on."""
        if self._places.acquire(blocking=False):
            try:
                # Waiting cancels nothing: a task that gives up leaves the fetch to the others.
                await asyncio.wait((asyncio.wrap_future(fetch.ended),), timeout=self._pace.wait_seconds)
            finally:
                self._places.release()

    def is_current(self, fetch: KeyFetch | None) -> bool:
        """Whether the keys at hand are the gateway's own current ones, as far as it may be asked: it has answered, and
        ``fetch``, which somebody waited for, has ended.
        """
        with self._lock:
            return self._keys is not None and self._failures == 0 and (fetch is None or fetch.ended.done())

    # ------------------------------------------------------------ what is due

    def _plan(self, key_id: str, now: float) -> tuple[bool, bool]:
        """Whether a fetch may begin, and whether it is worth waiting for."""
        keys, may_retry = self._usable(now), now >= self._retry_at
        if keys is None:
            return may_retry, True
        if now >= self._stale_at:
            # In an outage the first callers wait in vain, and the rest go on with the last good keys at once.
            return may_retry, self._failures == 0
        if key_id in keys.by_key_id:
            return may_retry and now >= self._refresh_at, False
        return self._may_ask(now), True

    def _usable(self, now: float) -> KeySet | None:
        return self._keys if now - self._fetched_at <= self._pace.max_age_seconds else None

    def _may_ask(self, now: float) -> bool:
        """Whether a token with an unknown key may cause a fetch. Every attempt counts, the failed ones too."""
        pace = self._pace
        spent = len(self._asked_at) == pace.budget and now - self._asked_at[0] < pace.budget_seconds
        if self._under_way is not None or spent or now - self._attempted_at < pace.cooldown_seconds:
            return False
        self._asked_at.append(now)
        return True

    # ------------------------------------------------------------ asking

    def _begin(self, fetch: KeyFetch) -> None:
        try:
            self._background(lambda: self._fetch(fetch))
        except RuntimeError as error:  # no thread can be had
            self._end(fetch, FetchError(str(error)))

    def _fetch(self, fetch: KeyFetch) -> None:
        outcome: Loaded | FetchError
        try:
            outcome = self._load()
        except FetchError as error:
            outcome = error
        except Exception as error:
            log.exception("a mistake of ours while fetching the gateway's keys")
            outcome = FetchError(type(error).__name__)
        self._end(fetch, outcome)

    def _end(self, fetch: KeyFetch, outcome: Loaded | FetchError) -> None:
        with self._lock:
            if isinstance(outcome, Loaded):
                self._take(outcome, self._clock())
            else:
                self._take_failure(outcome, self._clock())
            if self._under_way is fetch:
                self._under_way = None
        fetch.ended.set_result(None)

    def _take(self, loaded: Loaded, now: float) -> None:
        pace = self._pace
        if self._failures:
            log.warning("the gateway's keys were fetched again after %d failures", self._failures)
        said = pace.fresh_seconds if loaded.max_age_seconds is None else loaded.max_age_seconds
        fresh = min(max(said, pace.shortest_fresh_seconds), pace.longest_fresh_seconds)
        self._keys, self._failures, self._fetched_at, self._retry_at = loaded.keys, 0, now, -math.inf
        self._stale_at = now + fresh
        self._refresh_at = now + fresh * (0.7 + 0.2 * self._jitter())  # not all replicas at the same moment

    def _take_failure(self, error: FetchError, now: float) -> None:
        """The last good keys stay: an outage of the gateway is not one of the API."""
        self._failures += 1
        ceiling = self._pace.first_retry_seconds * 2.0 ** min(self._failures - 1, 30)
        self._retry_at = now + min(ceiling, self._pace.longest_retry_seconds) * (0.5 + 0.5 * self._jitter())
        if self._failures == 1:
            log.warning("the gateway's keys could not be fetched: %s", ascii(str(error))[1:-1][:300])
