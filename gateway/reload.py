"""When a running gateway takes over changed policies and certificates: as soon as their files change."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from watchfiles import awatch

from gateway.app import Gateway

log = logging.getLogger("gateway")

LOOK_EVERY_SECONDS = 10
"""How often files are looked at where the system tells of no changes."""

Reload = Callable[[], Awaitable[object]]


async def watch(gateway: Gateway, stop: asyncio.Event) -> None:
    """Reloads policies and TLS when their files change, and looks once in a while where the system tells of no changes.

    Those in force and those in the shadow are watched apart: what is wrong with one folder says nothing of the other.
    Of TLS it is the folders that the files are in: they are put in place by the swap of a file, or of a link beside it.
    """
    async with asyncio.TaskGroup() as watchers:
        watchers.create_task(_watch([gateway.settings.policies], gateway.reload, stop))
        if gateway.settings.policies_shadow is not None:
            watchers.create_task(_watch([gateway.settings.policies_shadow], gateway.reload_shadow, stop))
        if gateway.tls is not None:
            folders = sorted({file.parent for file in gateway.tls.files.present()})
            watchers.create_task(_watch(folders, gateway.reload_tls, stop, recursive=False))


async def reload_quietly(gateway: Gateway) -> None:
    """Reloads; an error that nobody foresaw is told in the log, and the next look tries again."""
    await _quietly(gateway.reload)
    await _quietly(gateway.reload_shadow)
    await _quietly(gateway.reload_tls)


async def _watch(folders: Sequence[Path], reload: Reload, stop: asyncio.Event, *, recursive: bool = True) -> None:
    while not stop.is_set():
        try:
            async for _ in awatch(
                *folders,
                watch_filter=None,
                stop_event=stop,
                debounce=200,
                rust_timeout=LOOK_EVERY_SECONDS * 1000,
                yield_on_timeout=True,
                recursive=recursive,
            ):
                await _quietly(reload)
        except (OSError, RuntimeError) as error:  # no folder, no inotify instance left
            names = ", ".join(map(str, folders))
            log.warning("%s is not watched (%s); looking every %d seconds", names, error, LOOK_EVERY_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_SECONDS):
                    await stop.wait()
            await _quietly(reload)


async def _quietly(reload: Reload) -> None:
    try:
        await reload()
    except Exception:
        log.exception("unexpected error while reloading")
