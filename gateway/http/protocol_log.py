"""Keeps out of the log what anybody can cause as often as they like."""

import logging
from collections.abc import Callable

from aiohttp.http_exceptions import HttpProcessingError

from gateway.http.admission import Limit

TOLD_EVERY_SECONDS = 60

_ADVICE = {
    "connections": "; limits.connections of the settings",
    "connections_per_address": "; limits.connections_per_address: a proxy in front belongs into trusted_proxies",
}

log = logging.getLogger("gateway.http")


def protocol_logger() -> logging.Logger:
    """The logger for aiohttp's server: everything but the protocol errors of peers, which come with a traceback."""
    logger = logging.getLogger("gateway.http.protocol")
    logger.addFilter(_is_ours)  # once, however often it is called
    return logger


def _is_ours(record: logging.LogRecord) -> bool:
    fault = record.exc_info[1] if record.exc_info else None
    return not isinstance(fault, HttpProcessingError)


class LimitLog:
    """Tells of connections that ended for a limit: of each limit one line, and how many more there were since."""

    def __init__(self, listener: str, now: Callable[[], float]) -> None:
        """``now`` tells seconds that never run back."""
        self._listener = listener
        self._now = now
        self._told_at: dict[Limit, float] = {}
        self._untold: dict[Limit, int] = {}

    def note(self, limit: Limit, peer: str) -> None:
        """Writes a line, unless there was one of this limit in the last minute."""
        now = self._now()
        count = self._untold.get(limit, 0) + 1
        if now < self._told_at.get(limit, -TOLD_EVERY_SECONDS) + TOLD_EVERY_SECONDS:
            self._untold[limit] = count
            return
        self._told_at[limit], self._untold[limit] = now, 0
        log.warning(
            "connections ended listener=%s limit=%s count=%d latest_peer=%s%s",
            self._listener, limit, count, peer, _ADVICE.get(limit, ""),
        )  # fmt: skip
