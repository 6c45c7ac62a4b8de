"""Real programs that tests run against: where they are, and what happens where they are not."""

import asyncio
import os
import shutil
import socket
from collections.abc import Awaitable, Callable

import pytest


def program(name: str, package: str) -> str:
    """The path of an installed program. Skips the test where it is missing, except under CI=true: there it fails."""
    found = shutil.which(name)
    if found is not None:
        return found
    message = f"{name} is not installed: sudo apt-get install {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def free_port() -> int:
    """A port of loopback that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def eventually(holds: Callable[[], Awaitable[bool]], *, within_seconds: float = 20, what: str = "") -> None:
    """Asks again and again until the answer is yes; fails when time is up."""
    async with asyncio.timeout(within_seconds):
        while not await holds():
            await asyncio.sleep(0.02)
    del what
