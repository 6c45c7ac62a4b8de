"""State in the memory of one process, for one replica: lost at exit, shared with nobody."""

from cachetools import TLRUCache

from gateway.model import Clock
from gateway.state.base import StateUnavailableError, mark_of


class MemoryReplayMarks:
    """Replay marks in a bounded table (``ReplayMarks``). A live mark is never forgotten to make room."""

    def __init__(self, clock: Clock, *, capacity: int = 1_000_000) -> None:
        self._marks: TLRUCache[bytes, float] = TLRUCache(capacity, ttu=_until, timer=clock)

    async def claim_once(self, issuer: str, token_key: str, until: float) -> bool:
        """See ``ReplayMarks``. Nothing is awaited between look and mark, so that two claims cannot both win."""
        mark, marks = mark_of(issuer, token_key), self._marks
        if mark in marks:
            return False
        if marks.currsize >= marks.maxsize:
            marks.expire()
            if marks.currsize >= marks.maxsize:
                raise StateUnavailableError(f"all {marks.maxsize} replay marks are in use")
        marks[mark] = until
        return True


def _until(_mark: bytes, until: float, _now: float) -> float:
    return until
