"""State in the memory of one process, for one replica: lost at exit, shared with nobody."""

import heapq

from cachetools import TLRUCache

from gateway.model import Clock
from gateway.state.base import Changes, Record, StateUnavailableError, mark_of
from gateway.state.table import MAX_RECORDS, PURGE_STEP, end_of, is_live, must_tell_all, name_of

_Ends = list[tuple[float, int, bytes]]


class MemoryState:
    """``memory://`` (``State``), bounded: neither a live mark nor a live record is forgotten to make room.

    Nothing is awaited between look and change, so that two claims, or two puts, cannot both win.
    """

    def __init__(self, clock: Clock, *, capacity: int = 1_000_000, max_records: int = MAX_RECORDS) -> None:
        """``capacity`` is how many replay marks there may be."""
        self._clock = clock
        self._marks: TLRUCache[bytes, float] = TLRUCache(capacity, ttu=_until, timer=clock)
        self._records: dict[bytes, Record] = {}
        """In the order of their versions."""
        self._max_records = max_records
        self._version = 0
        self._floor = 0
        self._ends: _Ends = []
        """A heap of (when, version, name); entries of versions that were overtaken are passed over."""

    async def claim_once(self, issuer: str, token_key: str, until: float) -> bool:
        """See ``ReplayMarks``."""
        mark, marks = mark_of(issuer, token_key), self._marks
        if mark in marks:
            return False
        if marks.currsize >= marks.maxsize:
            marks.expire()
            if marks.currsize >= marks.maxsize:
                raise StateUnavailableError(f"all {marks.maxsize} replay marks are in use")
        marks[mark] = until
        return True

    async def put(
        self, kind: str, key: str, value: bytes | None, *, until: float | None = None, if_version: int | None = None
    ) -> bool:
        """See ``SharedRecords``."""
        name, now = name_of(kind, key, value), self._clock()
        self._purge(now)
        found = self._records.get(name)
        there = found.version if found is not None and is_live(found, now) else 0
        if if_version is not None and if_version != there:
            return False
        if value is None and not there:
            return True
        if found is None and len(self._records) >= self._max_records:
            raise StateUnavailableError(f"all {self._max_records} shared records are in use")
        self._records.pop(name, None)
        self._version += 1
        self._records[name] = Record(kind, key, value, self._version, until if value is not None else None)
        end = end_of(value, until, now)
        if end is not None:
            heapq.heappush(self._ends, (end, self._version, name))
        return True

    async def changes(self, since: int) -> Changes:
        """See ``SharedRecords``."""
        if must_tell_all(since, self._version, self._floor):
            now = self._clock()
            live = tuple(record for record in self._records.values() if is_live(record, now))
            return Changes(self._version, live, whole=True)
        changed = []
        for record in reversed(self._records.values()):
            if record.version <= since:
                break
            changed.append(record)
        return Changes(self._version, changed[::-1])

    async def close(self) -> None:
        """See ``State``. There is nothing to let go of."""

    def _purge(self, now: float) -> None:
        for _ in range(PURGE_STEP):
            if not self._ends or self._ends[0][0] > now:
                break
            _, version, name = heapq.heappop(self._ends)
            found = self._records.get(name)
            if found is not None and found.version == version:
                del self._records[name]
                self._floor = max(self._floor, version)
        if len(self._ends) > 2 * len(self._records) + PURGE_STEP:
            self._drop_overtaken()

    def _drop_overtaken(self) -> None:
        """Keeps the heap in proportion where the same records are put again and again."""
        self._ends = [
            entry for entry in self._ends if (found := self._records.get(entry[2])) and found.version == entry[1]
        ]
        heapq.heapify(self._ends)


def _until(_mark: bytes, until: float, _now: float) -> float:
    return until
