"""Gives a client a new secret in every store that it reads from, while the one before goes on working.

Six steps, in an order that a crash may end anywhere: note the new secret's digest and register it at the gateway for a
short while; put it into the stores as pending; prove that the gateway gives a token for it; register it for good and
make it current in the stores; let the ones before end after the overlap; note that it is done. Every step may be done
again. What the stores have as current always works: it is registered for longer before it is promoted.

A secret that was lost in a crash (it is nowhere in clear but in the stores) is ended at once and another made. One that
nobody comes back for ends by itself, because it was registered for a short while only.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from gateway.model import Clock, RegisteredSecret
from gateway.oauth.client_secret import new_client_secret
from gateway.rotation.base import ClientSecret, Contents, SecretStore
from gateway.rotation.progress import Lease, Progress, RotationError, Step
from gateway.state.base import SharedRecords, StateUnavailableError

PROVISIONAL_SECONDS = 3600
"""How long a new secret works that is not proven yet."""
SETTLE_SECONDS = 5
"""How long after its registration a secret is promoted at the earliest: other replicas hear of it within a second."""
PROVE_SECONDS = 60
"""How long the gateway may take to know the new secret."""

_LEAST_LIFE_SECONDS = 120
"""With less life left than this a secret is not promoted: a replica might hear too late that it was prolonged."""


class GatewayUnavailableError(Exception):
    """The gateway did not say whether a secret is good."""


class ClientSecrets(Protocol):
    """What a rotation asks of the gateway's register of client secrets. All raise ``StateUnavailableError``."""

    async def of(self, client_id: str) -> Sequence[RegisteredSecret]:
        """Those that the shared state has now, ended ones included."""

    async def add(self, client_id: str, secret: RegisteredSecret) -> bool:
        """Registers a secret; False if there is one of that id."""

    async def prolong(self, client_id: str, secret_id: str, *, ends_at: float, until: float | None) -> bool:
        """Lets a secret that ends at ``ends_at`` end at ``until`` (None: never); True if it ends then already.

        False, and nothing is changed, if it is gone or ends at any other time: somebody else has decided.
        """

    async def end(self, client_id: str, secret_id: str, at: float) -> bool:
        """Lets a secret end at this time, never later than it did; False if there is none of that id."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for: a new secret for a client, in all of these stores."""

    client_id: str
    targets: tuple[str, ...]
    overlap_seconds: int
    lifetime_seconds: int | None = None
    """How long the new secret works; None: until it is rotated in its turn."""


@dataclass(frozen=True, slots=True)
class Rotated:
    """What came of it."""

    client_id: str
    secret_id: str
    targets: tuple[str, ...]
    expires_at: float | None
    others_end_at: float
    ending: tuple[str, ...]
    """The ids of older secrets in the shared state that end then, and did not before."""


class Rotation:
    """Carries one order through, or goes on with what an earlier run left unfinished.

    ``open_store`` makes a store from its URL. ``authenticates`` asks the gateway whether it takes a secret, and raises
    ``GatewayUnavailableError``. ``known`` are the client's secrets that are registered elsewhere (in policy files): a
    store that holds one of them is the client's own. ``report`` is told of each step in words.
    """

    def __init__(
        self,
        order: Order,
        *,
        open_store: Callable[[str], SecretStore],
        secrets: ClientSecrets,
        records: SharedRecords,
        authenticates: Callable[[str, str], Awaitable[bool]],
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        known: Collection[RegisteredSecret] = (),
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._order = order
        self._client_id = order.client_id
        self._open_store = open_store
        self._secrets = secrets
        self._authenticates = authenticates
        self._clock = clock
        self._random_bytes = random_bytes
        self._sleep = sleep
        self._known = known
        self._report = report
        self._lease = Lease(records, order.client_id, random_bytes(16).hex(), clock)

    async def run(self) -> Rotated:
        """Rotates. Whatever it raises, it can be run again.

        Raises ``RotationError`` for what keeps it from going on, ``RotationBusyError`` while another process is at it,
        ``SecretStoreError`` for a store and ``StateUnavailableError`` for the shared state.
        """
        await self._lease.acquire()
        try:
            return await self._resume_or_begin()
        finally:
            # Also where it failed: the next try need not wait. A process that dies here leaves a lease that lapses.
            with suppress(RotationError, StateUnavailableError):
                await self._lease.release()

    # ------------------------------------------------------------ where to begin

    async def _resume_or_begin(self) -> Rotated:
        left = self._lease.progress
        if left is not None and left.step is not Step.DONE:
            if await self._can_go_on(left):
                self._report(f"going on with the rotation begun {_when(left.began_at)} ({left.step})")
                rotated = await self._resume(left)
                if rotated is not None and left.targets == self._order.targets:
                    return rotated
            else:
                await self._give_up(left)
        return await self._begin()

    async def _can_go_on(self, left: Progress) -> bool:
        """Whether the secret of an unfinished rotation is still wanted, and will live."""
        if left.targets != self._order.targets and not left.reached(Step.PROVEN):
            return False
        return await self._will_live(left)

    async def _will_live(self, progress: Progress) -> bool:
        """Whether the new secret is registered, and long enough for every replica to hear that it was prolonged."""
        for secret in await self._secrets.of(self._client_id):
            if secret.id == progress.secret_id and secret.digest == progress.digest:
                return secret.expires_at is None or secret.expires_at > self._clock() + _LEAST_LIFE_SECONDS
        return False

    async def _resume(self, left: Progress) -> Rotated | None:
        """Carries an unfinished rotation through; None if its secret was lost, and was ended."""
        async with AsyncExitStack() as stack:
            stores = await self._opened(left.targets, stack)
            if left.reached(Step.PROMOTED):
                return await self._end_others(left)
            secret = await self._recovered(left, stores)
            if secret is None:
                await self._give_up(left)
                return None
            return await self._carry_through(left, secret, stores)

    async def _recovered(self, left: Progress, stores: Sequence[SecretStore]) -> ClientSecret | None:
        """The new secret in clear, from a store that it had reached already."""
        found = None
        for contents in [await store.read() for store in stores]:
            for secret in (contents.pending, contents.current):
                if secret is not None and secret.digest == left.digest:
                    found = ClientSecret(self._client_id, secret.secret)
        return found

    async def _give_up(self, left: Progress) -> None:
        self._report(f"giving up the secret {left.secret_id} of an unfinished rotation: it is ended, another is made")
        await self._lease.renew()
        await self._secrets.end(self._client_id, left.secret_id, self._clock())

    async def _begin(self) -> Rotated:
        order = self._order
        async with AsyncExitStack() as stack:
            stores = await self._opened(order.targets, stack)
            for url, store in zip(order.targets, stores, strict=True):
                await self._check_own(url, await store.read())
            now = self._clock()
            secret = ClientSecret(order.client_id, new_client_secret(self._random_bytes))
            expires_at = None if order.lifetime_seconds is None else now + order.lifetime_seconds
            progress = Progress(
                step=Step.MAKING,
                secret_id=new_secret_id(now, self._random_bytes),
                digest=secret.digest,
                targets=order.targets,
                began_at=now,
                provisional_until=min(now + PROVISIONAL_SECONDS, expires_at or now + PROVISIONAL_SECONDS),
                expires_at=expires_at,
                overlap_seconds=order.overlap_seconds,
            )
            await self._lease.save(progress)
            registered = RegisteredSecret(progress.secret_id, secret.digest, now, progress.provisional_until)
            if not await self._secrets.add(order.client_id, registered):
                raise RotationError(f"there is a secret {progress.secret_id} already: run this again")
            self._report(f"1/6 registered the new secret {progress.secret_id}")
            return await self._carry_through(progress, secret, stores)

    async def _check_own(self, url: str, contents: Contents) -> None:
        """Refuses a store that holds somebody else's secret: it would be lost."""
        current = contents.current
        if current is None or current.client_id == self._client_id:
            return
        registered = [*self._known, *await self._secrets.of(self._client_id)]
        if current.client_id is not None or current.digest not in {one.digest for one in registered}:
            whose = current.client_id or "nobody that this gateway knows"
            raise RotationError(
                f"{url} holds a secret of {whose}, not of {self._client_id}: empty it, or name another place"
            )

    # ------------------------------------------------------------ the steps

    async def _carry_through(self, progress: Progress, secret: ClientSecret, stores: Sequence[SecretStore]) -> Rotated:
        if not progress.reached(Step.STAGED):
            await self._stage(progress, secret, stores)
            progress = await self._save(progress, Step.STAGED)
        if not progress.reached(Step.PROVEN):
            await self._prove(secret)
            progress = await self._save(progress, Step.PROVEN)
        if not progress.reached(Step.PROMOTED):
            await self._promote(progress, secret, stores)
            progress = await self._save(progress, Step.PROMOTED)
        return await self._end_others(progress)

    async def _stage(self, progress: Progress, secret: ClientSecret, stores: Sequence[SecretStore]) -> None:
        for url, store in zip(progress.targets, stores, strict=True):
            contents = await store.read()
            if progress.digest in {one.digest for one in (contents.current, contents.pending) if one is not None}:
                continue
            await self._check_own(url, contents)
            await self._lease.renew()
            await store.stage(secret)
            self._report(f"2/6 pending in {url}")

    async def _prove(self, secret: ClientSecret) -> None:
        """Asks until the gateway takes the secret; it has to hear of it first. Raises ``RotationError``."""
        await self._sleep(SETTLE_SECONDS)
        pause, until, why = 1.0, self._clock() + PROVE_SECONDS, ""
        while True:
            await self._lease.renew()
            try:
                if await self._authenticates(self._client_id, secret.secret):
                    self._report("3/6 proven: the gateway gives a token for it")
                    return
                why = "it refuses the new secret; does it use the same shared state?"
            except GatewayUnavailableError as error:
                why = str(error)
            if self._clock() + pause > until:
                raise RotationError(f"the gateway gives no token for the new secret: {why} Nothing was promoted.")
            await self._sleep(pause)
            pause *= 2

    async def _promote(self, progress: Progress, secret: ClientSecret, stores: Sequence[SecretStore]) -> None:
        await self._lease.renew()
        if not await self._will_live(progress) or not await self._secrets.prolong(
            self._client_id, progress.secret_id, ends_at=progress.provisional_until, until=progress.expires_at
        ):
            raise RotationError(f"the new secret {progress.secret_id} was ended, or took too long: run this again")
        for url, store in zip(progress.targets, stores, strict=True):
            await self._lease.renew()
            await store.promote(secret)
            self._report(f"4/6 current in {url}")

    async def _end_others(self, progress: Progress) -> Rotated:
        """Lets every older secret end after the overlap, however much later this runs."""
        assert progress.promoted_at is not None
        at = progress.promoted_at + progress.overlap_seconds
        registered = await self._secrets.of(self._client_id)
        new = next((secret for secret in registered if secret.id == progress.secret_id), None)
        ending = [secret.id for secret in registered if new is not None and ends_with(new, secret, at)]
        for secret_id in ending:
            await self._lease.renew()
            await self._secrets.end(self._client_id, secret_id, at)
            self._report(f"5/6 {secret_id} ends {_when(at)}")
        if progress.step is not Step.DONE:
            await self._save(progress, Step.DONE)
            self._report("6/6 done")
        return Rotated(self._client_id, progress.secret_id, progress.targets, progress.expires_at, at, tuple(ending))

    async def _save(self, progress: Progress, step: Step) -> Progress:
        now = self._clock()
        if step is Step.PROMOTED:
            progress = replace(progress, promoted_at=now)
        if step is Step.DONE:
            progress = replace(progress, finished_at=now)
        progress = replace(progress, step=step)
        await self._lease.save(progress)
        return progress

    async def _opened(self, urls: Sequence[str], stack: AsyncExitStack) -> list[SecretStore]:
        stores = []
        for url in urls:
            store = self._open_store(url)
            stack.push_async_callback(store.close)
            stores.append(store)
        return stores


def new_secret_id(now: float, random_bytes: Callable[[int], bytes]) -> str:
    """A name for a secret that says when it was made: ``2026-11-25-5e0f9a61``."""
    return f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d}-{random_bytes(4).hex()}"


def ends_with(new: RegisteredSecret, secret: RegisteredSecret, at: float) -> bool:
    """Whether a secret gives way to the new one: it is older, and would otherwise live longer than until ``at``."""
    if secret.id == new.id or (secret.created_at or 0) > (new.created_at or 0):
        return False
    return secret.expires_at is None or secret.expires_at > at


def _when(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
