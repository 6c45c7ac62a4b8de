"""Which DPoP proofs were seen: each works once (RFC 9449 §11.1), as far as this process knows."""

import hashlib
import heapq
import threading

from gateway.oauth.errors import Refusal


class SeenProofs:
    """The proofs that could still be replayed, in a bounded table. One of them is never forgotten to make room."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._marks: set[bytes] = set()
        self._by_end: list[tuple[float, bytes]] = []
        self._lock = threading.Lock()

    def claim_once(self, jkt: str, jti: str, until: float, now: float) -> bool:
        """Whether the proof is seen for the first time; from then on, and up to ``until``, it is not.

        Raises ``Refusal`` ``overloaded`` when the table is full.
        """
        mark = hashlib.sha256(f"{jkt} {jti}".encode()).digest()
        with self._lock:
            while self._by_end and self._by_end[0][0] <= now:
                self._marks.discard(heapq.heappop(self._by_end)[1])
            if mark in self._marks:
                return False
            if len(self._marks) >= self._capacity:
                raise Refusal("overloaded")
            self._marks.add(mark)
            heapq.heappush(self._by_end, (until, mark))
            return True
