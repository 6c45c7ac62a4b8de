"""The keys of one issuer over time: when to ask for them, how long to trust them, and when not to ask again.

A known key never waits for the network. An outage of the issuer is its own callers' trouble alone, and for those only
once its last good keys have grown too old. However many strange tokens arrive, the issuer is asked a few times.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from cachetools import TTLCache

from gateway.identity.fetcher import FetchError
from gateway.identity.key_sources import KeyLoader, Loaded
from gateway.jose.jwks import KeySet
from gateway.model import Clock, TrustedIssuer

log = logging.getLogger(__name__)

Sleep = Callable[[float], Awaitable[None]]
Jitter = Callable[[], float]
"""Random numbers from 0 up to 1."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often an issuer may be asked."""

    cooldown_seconds: float = 10.0
    """Between two fetches, of which the later one is for a token with an unknown key or a bad signature."""
    budget: int = 2
    """How many fetches for the sake of such tokens there are within ``budget_seconds``."""
    budget_seconds: float = 30.0
    in_vain_seconds: float = 30.0
    """How long nothing is fetched for a key id that a fetch has just been made for."""
    in_vain_key_ids: int = 1024
    wait_seconds: float = 1.5
    """How long one request waits for a fetch."""
    most_waiting: int = 64
    """How many requests wait at once: an issuer that hangs must not hold every place there is for requests."""
    shortest_refresh_seconds: float = 60.0
    """The least that an issuer's ``Cache-Control`` can make the refresh interval."""
    file_seconds: float = 5.0
    """How often a key set file is looked at."""
    first_retry_seconds: float = 1.0
    longest_retry_seconds: float = 60.0


class IssuerKeys:
    """The key set of one issuer, kept fresh in the background from ``start`` to ``close``."""

    def __init__(
        self,
        issuer: TrustedIssuer,
        loader: KeyLoader,
        *,
        clock: Clock,
        sleep: Sleep,
        jitter: Jitter,
        pace: Pace,
    ) -> None:
        self.name = issuer.name
        self.keys: KeySet | None = None
        """The last good keys, whatever their age."""
        self.fetched_at: float | None = None
        self.fetches: dict[str, int] = {}
        """How often a fetch ended how: ``gateway.identity.fetcher.FETCH_OUTCOMES``."""
        self.consecutive_failures = 0
        self.last_error: str | None = None
        """Why the latest fetch failed; None when it did not."""
        self._source = issuer.keys
        self._max_age_seconds = math.inf if issuer.keys.jwks is not None else float(issuer.keys.max_age_seconds)
        self._loader = loader
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._pace = pace
        self._fresh_for_seconds: int | None = None
        self._attempted_at = -math.inf
        self._asked_at: deque[float] = deque(maxlen=pace.budget)
        self._in_vain: TTLCache[str | None, bool] = TTLCache(pace.in_vain_key_ids, pace.in_vain_seconds, timer=clock)
        self._in_flight: asyncio.Task[None] | None = None
        self._waiting = 0
        self._background: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to keep the keys fresh. Waits for a file or an inline set, never for the network."""
        if self._source.jwks is not None or self._source.jwks_file is not None:
            await asyncio.wait({self._flight()})
        if self._source.jwks is None and self._background is None:
            self._background = asyncio.create_task(self._keep_fresh(), name=f"keys of {self.name}")

    async def close(self) -> None:
        """Ends the background work; a fetch under way is given up."""
        tasks = [task for task in (self._background, self._in_flight) if task is not None]
        self._background = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------ for verification

    def usable(self, now: float) -> KeySet | None:
        """The keys to verify with at ``now``: the last good ones, unless they are too old. Never waits."""
        if self.fetched_at is None or now - self.fetched_at > self._max_age_seconds:
            return None
        return self.keys

    async def renew(self, key_id: str | None) -> bool:
        """Asks for newer keys, because a token's ``key_id`` is unknown or its signature is bad under the known key.

        Joins the fetch that is under way, or begins one where the pace allows it. True when the keys at hand are the
        issuer's own current ones, as far as it may be asked; False when it did not answer, or not in time.
        """
        flight = self._in_flight
        if flight is None:
            now = self._clock()
            if key_id in self._in_vain or not self._may_ask(now):
                return self.is_healthy
            self._asked_at.append(now)
            flight = self._flight()
        if self._waiting >= self._pace.most_waiting:
            return False
        self._waiting += 1
        try:
            done, _ = await asyncio.wait({flight}, timeout=self._pace.wait_seconds)
        finally:
            self._waiting -= 1
        if not done:
            return False
        if self.is_healthy:
            self._in_vain[key_id] = True
        return self.is_healthy

    # ------------------------------------------------------------ for metrics and health

    @property
    def is_healthy(self) -> bool:
        """Whether the latest fetch brought keys."""
        return self.fetched_at is not None and self.consecutive_failures == 0

    def usable_keys(self, now: float) -> int:
        """How many keys can verify: none once they are too old."""
        keys = self.usable(now)
        return len(keys.keys) if keys is not None else 0

    @property
    def ignored_keys(self) -> int:
        """How many keys of the set are not used."""
        return len(self.keys.ignored) if self.keys is not None else 0

    def age_seconds(self, now: float) -> float | None:
        """How long ago the issuer, or the file, last confirmed the keys."""
        return now - self.fetched_at if self.fetched_at is not None else None

    def health(self, now: float) -> dict[str, Any]:
        """What operators are told: ``state`` is ``ok``, ``stale`` (last good keys serve), ``waiting`` or ``down``."""
        age = self.age_seconds(now)
        if self.usable(now) is not None:
            state = "ok" if self.is_healthy else "stale"
        else:
            state = "waiting" if not self.fetches else "down"
        return {
            "state": state,
            "keys": self.usable_keys(now),
            "age_seconds": round(age) if age is not None else None,
            "ignored_keys": [f"{key_id}: {why}" for key_id, why in self.keys.ignored] if self.keys else [],
            "last_error": self.last_error,
        }

    # ------------------------------------------------------------ asking

    async def _keep_fresh(self) -> None:
        if self._source.jwks_file is not None:
            await self._sleep(self._delay_seconds())  # start has just read it
        while True:
            await asyncio.wait({self._flight()})
            await self._sleep(self._delay_seconds())

    def _delay_seconds(self) -> float:
        """Until the next fetch: before the keys go stale, and after failures soon, then ever more rarely.

        The jitter keeps replicas from asking at the same moment.
        """
        pace = self._pace
        if self.consecutive_failures:
            ceiling = pace.first_retry_seconds * 2.0 ** min(self.consecutive_failures - 1, 30)
            return max(0.25, min(ceiling, pace.longest_retry_seconds) * self._jitter())
        if self._source.jwks_file is not None:
            return pace.file_seconds
        interval = float(self._source.refresh_every_seconds)
        if self._fresh_for_seconds is not None:
            interval = min(max(self._fresh_for_seconds, pace.shortest_refresh_seconds), 2 * interval)
        return interval * (0.8 + 0.2 * self._jitter())

    def _may_ask(self, now: float) -> bool:
        """Whether a token may cause a fetch. Every attempt counts, the failed ones and the background's too."""
        if now - self._attempted_at < self._pace.cooldown_seconds:
            return False
        spent = len(self._asked_at) == self._pace.budget and now - self._asked_at[0] < self._pace.budget_seconds
        return not spent

    def _flight(self) -> asyncio.Task[None]:
        """The one fetch under way; begun if there is none."""
        if self._in_flight is None:
            self._attempted_at = self._clock()
            self._in_flight = asyncio.create_task(self._fetch(), name=f"key set of {self.name}")
        return self._in_flight

    async def _fetch(self) -> None:
        try:
            loaded = await self._loader.load()
        except FetchError as error:
            self._take_failure(error)
        except Exception as error:
            log.exception("issuer %s: a mistake of ours while fetching its keys", self.name)
            self._take_failure(FetchError("internal", type(error).__name__))
        else:
            self._take(loaded)
        finally:
            self._in_flight = None

    def _take(self, loaded: Loaded) -> None:
        if self.consecutive_failures:
            log.warning("issuer %s: keys fetched again after %d failures", self.name, self.consecutive_failures)
        if loaded.changed:
            self._report_change(loaded.keys)
        self.keys = loaded.keys
        self.fetched_at = self._clock()
        self._fresh_for_seconds = loaded.max_age_seconds
        self.consecutive_failures = 0
        self.last_error = None
        self._count("ok" if loaded.changed else "not_modified")

    def _take_failure(self, error: FetchError) -> None:
        """The last good keys stay: an issuer's outage is not ours."""
        self.consecutive_failures += 1
        self.last_error = ascii(str(error))[1:-1][:300]
        self._count(error.outcome)
        if self.consecutive_failures == 1:
            log.warning("issuer %s: keys could not be fetched: %s", self.name, self.last_error)

    def _count(self, outcome: str) -> None:
        self.fetches[outcome] = self.fetches.get(outcome, 0) + 1

    def _report_change(self, keys: KeySet) -> None:
        if keys.leaks_private_key:
            log.error("issuer %s: its key set holds a private or symmetric key, which anybody can read", self.name)
        if self.keys is None:
            return
        removed = sorted(self.keys.by_key_id.keys() - keys.by_key_id.keys())
        if removed:
            log.warning("issuer %s: keys removed, refused from now on: %s", self.name, ascii(removed))
