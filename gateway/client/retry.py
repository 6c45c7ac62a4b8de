"""Tries again what may pass: exponential back-off with full jitter, bounded altogether, never against a refusal."""

import logging
from collections.abc import Callable
from typing import TypeVar

from gateway.client.errors import Unavailable
from gateway.client.timing import Timing

log = logging.getLogger("gateway.client")

ATTEMPT_SECONDS = 10.0
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 20.0

Result = TypeVar("Result")


def retry(attempt: Callable[[float], Result], *, until: float, timing: Timing) -> Result:
    """What ``attempt`` answers, which is called with the seconds that it may take.

    ``until`` is a moment of ``timing.monotonic``. Every ``Unavailable`` is followed by another attempt as long as the
    pause before it ends in time; then the last one is raised. Anything else is raised at once.
    """
    failures = 0
    while True:
        allowed = min(ATTEMPT_SECONDS, until - timing.monotonic())
        try:
            return attempt(max(allowed, 0.001))
        except Unavailable as fault:
            pause = pause_seconds(failures, fault.retry_after_seconds, timing.random)
            left = until - timing.monotonic()
            if pause >= left:
                raise
            if failures == 0:
                log.warning("%s; trying again for up to %.0f seconds", str(fault).rstrip("."), left)
        timing.sleep(pause)
        failures += 1


def pause_seconds(failures: int, retry_after_seconds: float | None, random: Callable[[], float]) -> float:
    """How long to wait after so many failures before this one.

    Anything between nothing and the doubled pause, so that callers that failed together do not return together;
    ``Retry-After`` is waited out in full before that.
    """
    longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(failures, 16))
    return (retry_after_seconds or 0.0) + random() * longest
