"""Keeps a file fresh: writes each token whole and for its owner only, and fetches the next one before it expires."""

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from gateway.client.errors import ClientError, Unavailable
from gateway.client.retry import pause_seconds
from gateway.client.timing import REAL, Timing
from gateway.client.token import Token, refresh_at

SHORTEST_PAUSE_SECONDS = 1.0
LONGEST_SLEEP_SECONDS = 60.0
"""A machine that was suspended sleeps on by its own count; the clock is looked at this often."""


def write_private(path: Path, text: str) -> None:
    """Puts the text into the file at once: whoever reads sees the old content or the new, never a part.

    The file belongs to its owner alone (0600) from its first byte on. Raises ``OSError``.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:  # from here on: a signal may end this program at any line, and a file that nobody knows of must not stay
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        beside.replace(path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


def keep_fresh(
    token: Token,
    fetch: Callable[[], Token],
    deliver: Callable[[Token], None],
    report: Callable[[ClientError], None],
    *,
    timing: Timing = REAL,
) -> NoReturn:
    """Fetches and delivers the successors of ``token`` for ever, each at about 80 % of its predecessor's life.

    What fails is reported and tried again; the token delivered last stays in place meanwhile.
    """
    fetched_at = timing.clock()
    while True:
        _sleep_until(refresh_at(token, fetched_at, timing.random), timing)
        token, fetched_at = _next_token(fetch, report, timing)
        deliver(token)


def _sleep_until(due: float, timing: Timing) -> None:
    timing.sleep(SHORTEST_PAUSE_SECONDS)
    while (remaining := due - timing.clock()) > 0:
        timing.sleep(min(remaining, LONGEST_SLEEP_SECONDS))


def _next_token(
    fetch: Callable[[], Token], report: Callable[[ClientError], None], timing: Timing
) -> tuple[Token, float]:
    failures = 0
    while True:
        asked_at = timing.clock()
        try:
            return fetch(), asked_at
        except ClientError as fault:
            report(fault)
            asked_to_wait = fault.retry_after_seconds if isinstance(fault, Unavailable) else None
            timing.sleep(SHORTEST_PAUSE_SECONDS + pause_seconds(failures, asked_to_wait, timing.random))
            failures += 1
