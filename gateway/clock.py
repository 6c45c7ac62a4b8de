"""The one place where the gateway reads the wall clock; everywhere else a ``Clock`` is handed in."""

import time


class SteadyClock:
    """Wall time that never runs back by more than a few seconds.

    A clock that is set back would bring expired tokens back to life. So the latest time ever seen, less a little for
    ordinary corrections, is a floor, and from there time goes on at its own pace until the wall clock has caught up.
    ``steps_back`` counts how often that was needed.
    """

    def __init__(self, *, allowed_step_back_seconds: float = 5.0) -> None:
        self._allowed = allowed_step_back_seconds
        self._latest = 0.0
        self._latest_monotonic = 0.0
        self._held = False
        self.steps_back = 0

    def __call__(self) -> float:
        """Seconds since the epoch."""
        now = time.time()
        if now >= self._latest:
            self._latest, self._latest_monotonic, self._held = now, time.monotonic(), False
            return now
        floor = self._latest - self._allowed + (time.monotonic() - self._latest_monotonic)
        if now >= floor:
            return now
        if not self._held:
            self._held = True
            self.steps_back += 1
        return floor
