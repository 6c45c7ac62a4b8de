"""When a running gateway takes over changed policies: as soon as their files change."""

import asyncio
import contextlib
import logging

from watchfiles import awatch

from gateway.app import Gateway

log = logging.getLogger("gateway")

LOOK_EVERY_SECONDS = 10
"""How often policy files are looked at where the system tells of no changes."""


async def watch(gateway: Gateway, stop: asyncio.Event) -> None:
    """Reloads policies when their files change, and looks once in a while where the system tells of no changes."""
    while not stop.is_set():
        try:
            async for _ in awatch(
                gateway.settings.policies,
                watch_filter=None,
                stop_event=stop,
                debounce=200,
                rust_timeout=LOOK_EVERY_SECONDS * 1000,
                yield_on_timeout=True,
            ):
                await reload_quietly(gateway)
        except (OSError, RuntimeError) as error:  # no folder, no inotify instance left
            log.warning("policies are not watched (%s); looking every %d seconds", error, LOOK_EVERY_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_SECONDS):
                    await stop.wait()
            await reload_quietly(gateway)


async def reload_quietly(gateway: Gateway) -> None:
    """Reloads; an error that nobody foresaw is told in the log, and the next look tries again."""
    try:
        await gateway.reload()
    except Exception:
        log.exception("unexpected error while reloading the policies")
