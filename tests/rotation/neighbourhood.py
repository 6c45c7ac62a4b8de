"""Everything around a rotation, in memory: the state, the gateway's view of it, the stores; and what happens to them.

``Neighbourhood.hook`` is called before and after each thing that a rotation does to the world outside. It may look,
raise ``Killed``, let time pass, or run a whole other rotation.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from gateway.identity.clients.stored_secrets import SecretRegister
from gateway.model import RegisteredSecret
from gateway.oauth.client_secret import new_client_secret, secret_digest
from gateway.rotation.base import ClientSecret, Contents, check_pending
from gateway.rotation.rotation import Order, Rotated, Rotation
from gateway.state.base import Changes
from gateway.state.memory import MemoryState
from tests.support.tokens import NOW

CLIENT = "nightly-backup"
HOUR, DAY = 3600, 86400
TARGETS = ("memory://one", "memory://two")
OVERLAP = 24 * HOUR

Hook = Callable[[str], Awaitable[None]]


class Killed(BaseException):
    """The process is gone: no handler of an ordinary error sees it."""


class MovingClock:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class CountedBytes:
    """Random bytes that are not, and never the same twice."""

    def __init__(self) -> None:
        self._drawn = 0

    def __call__(self, count: int) -> bytes:
        self._drawn += 1
        return self._drawn.to_bytes(count, "big")


class MemoryStore:
    """A ``SecretStore`` with history."""

    def __init__(self, url: str, hook: Hook) -> None:
        self._url = url
        self._hook = hook
        self.current: ClientSecret | None = None
        self.pending: ClientSecret | None = None
        self.history: list[ClientSecret] = []

    async def read(self) -> Contents:
        await self._hook(f"before reading {self._url}")
        return Contents(self.current, self.pending)

    async def stage(self, secret: ClientSecret) -> None:
        await self._hook(f"before staging in {self._url}")
        self.pending = secret
        await self._hook(f"after staging in {self._url}")

    async def promote(self, secret: ClientSecret) -> None:
        await self._hook(f"before promoting in {self._url}")
        if check_pending(Contents(self.current, self.pending), secret, self._url):
            if self.current is not None:
                self.history.append(self.current)
            self.current, self.pending = secret, None
        await self._hook(f"after promoting in {self._url}")

    async def close(self) -> None:
        pass


class HookedRecords:
    """``SharedRecords`` of one process."""

    def __init__(self, state: MemoryState, hook: Hook) -> None:
        self._state = state
        self._hook = hook

    async def put(self, kind: str, key: str, value: bytes | None, **conditions: Any) -> bool:
        await self._hook(f"before writing {kind}")
        done = await self._state.put(kind, key, value, **conditions)
        await self._hook(f"after writing {kind}")
        return done

    async def changes(self, since: int) -> Changes:
        return await self._state.changes(since)


async def nothing(_: str) -> None:
    pass


@dataclass
class Neighbourhood:
    """One client that reads its secret from two stores."""

    clock: MovingClock = field(default_factory=MovingClock)
    random_bytes: CountedBytes = field(default_factory=CountedBytes)
    hook: Hook = nothing
    gateway_knows: bool = True
    """Whether the gateway hears of new secrets."""
    reports: list[str] = field(default_factory=list)
    effects: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = MemoryState(self.clock)
        self.register = SecretRegister(self.state, self.clock)
        self.stores = {url: MemoryStore(url, self._hooked) for url in TARGETS}
        self.broken: set[str] = set()

    async def settle(self) -> str:
        """Gives the client a first secret, registered without an end and current in every store."""
        secret = new_client_secret(self.random_bytes)
        await self.register.add(CLIENT, RegisteredSecret("first", secret_digest(secret), self.clock()))
        for store in self.stores.values():
            store.current = ClientSecret(CLIENT, secret)
        self.clock.now += 90 * DAY
        return secret

    def rotation(self, **overrides: Any) -> Rotation:
        order = Order(
            CLIENT,
            overrides.pop("targets", TARGETS),
            overrides.pop("overlap_seconds", OVERLAP),
            overrides.pop("lifetime_seconds", None),
        )
        records = HookedRecords(self.state, self._hooked)
        parts: dict[str, Any] = {
            "open_store": self.stores.__getitem__,
            "secrets": SecretRegister(records, self.clock),
            "records": records,
            "authenticates": self.asked,
            "clock": self.clock,
            "random_bytes": self.random_bytes,
            "sleep": self.clock.sleep,
            "report": self.reports.append,
        }
        return Rotation(order, **(parts | overrides))

    async def rotate(self, **overrides: Any) -> Rotated:
        return await self.rotation(**overrides).run()

    async def asked(self, client_id: str, secret: str) -> bool:
        await self._hooked("before asking the gateway")
        return self.gateway_knows and await self.authenticates(client_id, secret)

    async def authenticates(self, client_id: str, secret: str) -> bool:
        """What the gateway says of a secret right now."""
        return any(
            one.digest == secret_digest(secret) and (one.expires_at is None or self.clock() < one.expires_at)
            for one in await self.register.of(client_id)
        )

    async def check_that_clients_work(self) -> None:
        """The promise at every moment: what a store has as current authenticates."""
        for url, store in self.stores.items():
            if store.current is not None:
                assert await self.authenticates(CLIENT, store.current.secret), f"{url} holds a dead secret"

    async def check_that_all_is_well(self) -> None:
        """The promise in the end: one secret, current everywhere, is alone without an end; the others end in time."""
        await self.check_that_clients_work()
        registered = await self.register.of(CLIENT)
        (current,) = {store.current.digest for store in self.stores.values() if store.current is not None}
        endless = [one for one in registered if one.expires_at is None]
        assert [one.digest for one in endless] == [current]
        assert all(one.expires_at <= self.clock() + OVERLAP for one in registered if one.expires_at is not None)
        assert all(store.pending is None or store.pending.digest != current for store in self.stores.values())

    async def _hooked(self, effect: str) -> None:
        await self.hook(effect)
