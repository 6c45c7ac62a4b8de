"""The one place where the gateway reads the wall clock; everywhere else a ``Clock`` is handed in."""

import time


class SteadyClock:
    """Wall time that never runs back by more than a few seconds.

    A clock that is set back would bring expired tokens back to life. So the latest time ever seen, less a little for
    ordinary corrections, is a floor. ``steps_back`` counts how often it held.
    """

    def __init__(self, *, allowed_step_back_seconds: float = 5.0) -> None:
        self._latest = 0.0
        self._allowed = allowed_step_back_seconds
        self._held = False
        self.steps_back = 0

    def __call__(self) -> float:
        """Seconds since the epoch."""
        now = time.time()
        if now >= self._latest:
            self._latest = now
            self._held = False
        elif now < self._latest - self._allowed:
            if not self._held:
                self._held = True
                self.steps_back += 1
            return self._latest - self._allowed
        return now
