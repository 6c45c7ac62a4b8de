"""Every kind of state, so that one contract can be run over all of them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.state.base import State
from gateway.state.memory import MemoryState
from gateway.state.redis import RedisAddress, RedisState
from gateway.state.sqlite import SqliteState
from tests.support.redis_server import RedisServer
from tests.support.time import HandClock

LONG_AGO = 1_700_000_000.0
"""Behind the clock of any server: of two clocks Redis believes the slower one, so that a test can move the time."""


@dataclass
class Backend:
    """One place where state is kept."""

    kind: str
    clock: HandClock
    open: Callable[[], State]
    """One more user of the state: as another process has it."""
    lose_everything: Callable[[], Awaitable[None]]
    """As if the backend had been replaced by an empty one."""


@pytest.fixture
def clock() -> HandClock:
    return HandClock(LONG_AGO)


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path, clock: HandClock) -> AsyncIterator[Backend]:
    opened: list[State] = []

    def keeping(state: State) -> State:
        opened.append(state)
        return state

    async def nothing_to_lose() -> None:
        pytest.skip("memory is lost with its process")

    async with AsyncExitStack() as stack:
        match request.param:
            case "memory":
                state = MemoryState(clock)
                backend = Backend("memory", clock, lambda: state, nothing_to_lose)
            case "sqlite":
                file = tmp_path / "state.db"

                async def remove() -> None:
                    file.unlink()

                backend = Backend("sqlite", clock, lambda: keeping(sqlite(file, clock)), remove)
            case _:
                server = RedisServer(tmp_path)
                await server.start()
                stack.push_async_callback(server.kill)

                async def flush() -> None:
                    await server.command("FLUSHALL")

                backend = Backend("redis", clock, lambda: keeping(redis(server.url, clock)), flush)
        yield backend
        for state in opened:
            await state.close()


@pytest.fixture
def state(backend: Backend) -> State:
    return backend.open()


@pytest.fixture
def other(backend: Backend) -> State:
    """Another user of the same state."""
    return backend.open()


def sqlite(file: Path, clock: HandClock) -> SqliteState:
    """A state that waits long enough for a busy machine."""
    return SqliteState(file, clock, wait_seconds=30, busy_seconds=20, max_waiting=5000)


def redis(url: str, clock: HandClock) -> RedisState:
    """A state that waits long enough for a busy machine."""
    return RedisState(RedisAddress.of(url), clock, connect_seconds=20, command_seconds=20)
