"""Spares callers the wait for a backend that has stopped answering."""

from collections.abc import Callable


class Breaker:
    """After ``failures`` in a row, one try in every ``pause_seconds``; after the first that succeeds, all of them."""

    def __init__(self, monotonic: Callable[[], float], *, failures: int = 5, pause_seconds: float = 1.0) -> None:
        self._monotonic = monotonic
        self._most_failures = failures
        self._pause_seconds = pause_seconds
        self._failures = 0
        self._try_at = 0.0

    def may_try(self) -> bool:
        """Whether to try now. The one try of a pause is used up by asking, so that a try which never ends, or is
        given up, leads to another one pause later.
        """
        if self._failures < self._most_failures:
            return True
        now = self._monotonic()
        if now < self._try_at:
            return False
        self._try_at = now + self._pause_seconds
        return True

    def succeeded(self) -> None:
        """A try was answered."""
        self._failures = 0

    def failed(self) -> None:
        """A try was not answered."""
        self._failures += 1
        self._try_at = self._monotonic() + self._pause_seconds
