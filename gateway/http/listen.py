"""Opens a listener: the limits of its connections, and how its socket is closed in order."""

import ssl
from dataclasses import dataclass

from aiohttp import web

from gateway.http.connection import Listener
from gateway.http.protocol_log import protocol_logger

BACKLOG = 1024
KEEP_ALIVE_SECONDS = 75
MAX_LINE_BYTES = 8190
OVERSTAY_SECONDS = 1
"""What requests get that overstayed their grace."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A listener that takes requests. ``address`` is the one that it got, as ``host:port``."""

    address: str
    runners: tuple[web.BaseRunner, ...]
    """To be cleaned up in this order."""


async def open_listener(application: web.Application, address: str, tls: ssl.SSLContext | None) -> Opened:
    """Opens one listener at ``host:port``; port 0 takes a free one. Raises ``OSError``."""
    host, _, port = address.rpartition(":")
    inner = web.AppRunner(application, handle_signals=False)
    await inner.setup()
    assert inner.server is not None
    listener = Listener(
        inner.server,
        access_log=None,
        keepalive_timeout=KEEP_ALIVE_SECONDS,
        max_line_size=MAX_LINE_BYTES,
        max_field_size=MAX_LINE_BYTES,
        lingering_time=1,
        auto_decompress=False,
        logger=protocol_logger(),
    )
    runner = web.ServerRunner(listener, handle_signals=False, shutdown_timeout=OVERSTAY_SECONDS)
    await runner.setup()
    site = web.TCPSite(runner, host.strip("[]"), int(port), ssl_context=tls, backlog=BACKLOG)
    try:
        await site.start()
    except OSError:
        await runner.cleanup()
        await inner.cleanup()
        raise
    bound = runner.addresses[0]
    got = f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"
    return Opened(got, (runner, inner))
