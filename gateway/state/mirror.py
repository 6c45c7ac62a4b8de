"""All shared records in the memory of this process, a fraction of a second behind the backend.

A request looks into it without waiting, and goes on while the backend is away. Whoever relies on it looks at its age.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping

from gateway.model import Clock
from gateway.state.base import Changes, Record, SharedRecords, StateUnavailableError
from gateway.state.table import MAX_RECORDS, is_live

log = logging.getLogger("gateway.state")

Sleep = Callable[[float], Awaitable[None]]
Subscriber = Callable[[Record], None]
"""Is called in the event loop, must not wait; what it raises is logged."""

SWEEP_SECONDS = 60.0
"""How often the records are forgotten whose end has come."""


class Mirror:
    """Follows ``SharedRecords`` from ``start`` to ``close``. Bounded by ``max_records``.

    While the backend is away, or holds more than that, what was read last stays, and its age grows.
    """

    def __init__(
        self,
        records: SharedRecords,
        clock: Clock,
        sleep: Sleep,
        every_seconds: float = 0.25,
        *,
        max_records: int = MAX_RECORDS,
    ) -> None:
        self.failures = 0
        """Reads in a row that failed."""
        self.last_error: str | None = None
        """Why the latest read failed; None when it did not."""
        self._backend = records
        self._clock = clock
        self._sleep = sleep
        self._every_seconds = every_seconds
        self._max_records = max_records
        self._kinds: dict[str, dict[str, Record]] = {}
        self._version = 0
        self._read_at: float | None = None
        self._swept_at = clock()
        self._subscribers: dict[str, list[Subscriber]] = {}
        self._one_at_a_time = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Reads everything, and follows from then on. A backend that is away is logged, no error: until it comes
        the mirror is empty, and ``age_seconds`` says None.
        """
        await self._try_refresh()
        if self._following is None:
            self._following = asyncio.create_task(self._follow(), name="mirror of the shared records")

    async def close(self) -> None:
        """Ends the following. What was read stays."""
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def refresh(self) -> None:
        """Reads what has changed, now. Raises ``StateUnavailableError``."""
        async with self._one_at_a_time:
            changes = await self._backend.changes(self._version)
            now = self._clock()
            if now - self._swept_at >= SWEEP_SECONDS:
                self._sweep(now)
            self._take(changes, now)

    async def put(
        self, kind: str, key: str, value: bytes | None, *, until: float | None = None, if_version: int | None = None
    ) -> bool:
        """Puts a record into the backend (see ``SharedRecords.put``); afterwards ``of`` shows it, or, where the answer
        is False, the one that stood in its way. Raises ``StateUnavailableError``.
        """
        done = await self._backend.put(kind, key, value, until=until, if_version=if_version)
        try:
            await self.refresh()
        except StateUnavailableError:
            if done:  # until it can be read, it stands here with a version that the real one overtakes
                self._apply(Record(kind, key, value, self._version, until))
        return done

    def of(self, kind: str) -> Mapping[str, Record]:
        """The live records of a kind by their keys: a view that changes with them, and hides those that have ended."""
        return _Live(self._kinds.setdefault(kind, {}), self._clock)

    def age_seconds(self, now: float) -> float | None:
        """How long ago the backend was last read; None while it never was."""
        return now - self._read_at if self._read_at is not None else None

    def subscribe(self, kind: str, callback: Subscriber) -> None:
        """Has ``callback`` called with every record of a kind that is new, changed or removed (``value`` None) from
        now on; not with one whose end comes.
        """
        self._subscribers.setdefault(kind, []).append(callback)

    # ------------------------------------------------------------ following

    async def _follow(self) -> None:
        while True:
            await self._sleep(self._every_seconds)
            await self._try_refresh()

    async def _try_refresh(self) -> None:
        try:
            await self.refresh()
        except StateUnavailableError as error:
            self._report_failure(str(error))
        except Exception as error:
            if self.failures == 0:
                log.exception("unexpected error while reading the shared records")
            self._report_failure(type(error).__name__)
        else:
            if self.failures:
                log.warning("the shared records are read again, after %d failures", self.failures)
            self.failures, self.last_error = 0, None

    def _report_failure(self, why: str) -> None:
        self.failures += 1
        self.last_error = why
        if self.failures == 1:
            state = "the ones read before serve on" if self._read_at is not None else "none were ever read"
            log.warning("the shared records cannot be read, %s: %s", state, why)

    # ------------------------------------------------------------ taking over

    def _take(self, changes: Changes, now: float) -> None:
        changed = self._whole(changes) if changes.whole else changes.records
        self._refuse_too_many(changes, now)
        self._version = changes.version
        self._read_at = now
        for record in changed:
            self._apply(record)

    def _whole(self, changes: Changes) -> list[Record]:
        """What the whole table changes here: all that differs, and the removal of what it does not have."""
        there = {(record.kind, record.key): record for record in changes.records}
        here = {(kind, key): record for kind, records in self._kinds.items() for key, record in records.items()}
        gone = [Record(kind, key, None, changes.version) for kind, key in here.keys() - there.keys()]
        return gone + [record for name, record in there.items() if here.get(name) != record]

    def _refuse_too_many(self, changes: Changes, now: float) -> None:
        """Raises ``StateUnavailableError`` before anything is taken over."""
        here = 0 if changes.whole else sum(map(len, self._kinds.values()))
        if here + len(changes.records) > self._max_records:
            self._sweep(now)
            new = [one for one in changes.records if changes.whole or one.key not in self._kinds.get(one.kind, {})]
            here = 0 if changes.whole else sum(map(len, self._kinds.values()))
            if here + len(new) > self._max_records:
                raise StateUnavailableError(f"there are more than {self._max_records} shared records")

    def _apply(self, record: Record) -> None:
        records = self._kinds.setdefault(record.kind, {})
        known = records.pop(record.key, None)
        if record.value is not None:
            records[record.key] = record
        if known is None and record.value is None:
            return
        for callback in self._subscribers.get(record.kind, ()):
            try:
                callback(record)
            except Exception:
                log.exception("unexpected error in a subscriber to shared records of the kind %s", ascii(record.kind))

    def _sweep(self, now: float) -> None:
        self._swept_at = now
        for records in self._kinds.values():
            for key in [key for key, record in records.items() if not is_live(record, now)]:
                del records[key]


class _Live(Mapping[str, Record]):
    """The records of a kind that are live at the time of looking."""

    def __init__(self, records: Mapping[str, Record], clock: Clock) -> None:
        self._records = records
        self._clock = clock

    def __getitem__(self, key: str) -> Record:
        record = self._records[key]
        if not is_live(record, self._clock()):
            raise KeyError(key)
        return record

    def __iter__(self) -> Iterator[str]:
        now = self._clock()
        return iter([key for key, record in self._records.items() if is_live(record, now)])

    def __len__(self) -> int:
        return sum(1 for _ in self)
