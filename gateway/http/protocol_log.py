"""Keeps out of the log what anybody can cause: bytes that are no HTTP, as many as they like, each with a traceback."""

import logging

from aiohttp.http_exceptions import HttpProcessingError


def protocol_logger() -> logging.Logger:
    """The logger for aiohttp's server: everything but the protocol errors of peers."""
    logger = logging.getLogger("gateway.http.protocol")
    logger.addFilter(_is_ours)  # once, however often it is called
    return logger


def _is_ours(record: logging.LogRecord) -> bool:
    fault = record.exc_info[1] if record.exc_info else None
    return not isinstance(fault, HttpProcessingError)
