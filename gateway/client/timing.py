"""What the client takes from the machine that it runs on: clock, sleep and chance. A test hands in its own."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from secrets import SystemRandom

from gateway.model import Clock


@dataclass(frozen=True, slots=True)
class Timing:
    """Time and chance, as four functions."""

    clock: Clock
    """Seconds since the epoch: says when a token expires."""
    monotonic: Callable[[], float]
    """Seconds since some moment: says how long something takes."""
    sleep: Callable[[float], None]
    random: Callable[[], float]
    """At least 0, less than 1."""


REAL = Timing(clock=time.time, monotonic=time.monotonic, sleep=time.sleep, random=SystemRandom().random)
