"""Keeps the keys of a running gateway in step with their store, and makes the next one in time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence

from gateway.model import Clock, SigningAlgorithm
from gateway.tokens.key_schedule import KeyRow, KeyTimings, Plan, plan
from gateway.tokens.signing_key import SigningKey
from gateway.tokens.signing_keys import SigningKeys
from gateway.tokens.stores.base import KeyStore, KeyStoreError, KeyStoreUnavailableError

log = logging.getLogger("gateway.keys")

Sleep = Callable[[float], Awaitable[None]]

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
NOTE = "made by the gateway"
_ATTEMPTS = 16
_LONGEST_SLEEP_SECONDS = 3600.0
"""The clock may be set meanwhile."""


class KeyRotation:
    """Follows the store from ``start`` to ``close``. While the store is away, the keys read last serve on, and those
    that are to take over do so by their time.
    """

    def __init__(
        self,
        store: KeyStore,
        keys: SigningKeys,
        *,
        clock: Clock,
        sleep: Sleep,
        timings: KeyTimings,
        algorithms: Callable[[], Collection[SigningAlgorithm]],
    ) -> None:
        """``algorithms`` says what is signed with; each of these has a key, and with rotation a next one in time."""
        self.failures = 0
        """How often the store could not be read or changed."""
        self.last_error: str | None = None
        """Why not the latest time; None when it could."""
        self._store = store
        self._keys = keys
        self._clock = clock
        self._sleep = sleep
        self._timings = timings
        self._algorithms = algorithms
        self._in_a_row = 0
        self._woken = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Reads the keys, makes those that are missing, and follows from then on.

        A store that cannot be reached is logged: until it comes, nothing can be signed. Raises ``KeyStoreError`` for
        one that must not be used.
        """
        try:
            await self._look()
        except KeyStoreUnavailableError as error:
            self._report(error)
        self._store.on_change(self.look_soon)
        self._following = asyncio.create_task(self._follow(), name="rotation of the signing keys")

    async def close(self) -> None:
        """Ends the following. The keys stay in force."""
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    def look_soon(self) -> None:
        """Has the store looked at now: somebody has reason to think that it, or what is signed with, has changed."""
        self._woken.set()

    def next_step_at(self) -> float:
        """When something is to happen the next time, or should have happened; infinite where nothing is planned."""
        wanted = self._plan()
        step = min(wanted.next_at, self._keys.schedule().changes_at)
        return step if wanted.due_since is None else wanted.due_since

    # ------------------------------------------------------------ following

    async def _follow(self) -> None:
        while True:
            await self._until_due()
            self._woken.clear()
            try:
                await self._look()
            except KeyStoreError as error:
                self._report(error)
            except Exception as error:
                log.exception("unexpected error while looking after the signing keys")
                self._report(error)
            else:
                if self._in_a_row:
                    log.warning("the key store is in order again, after %d failures", self._in_a_row)
                self._in_a_row, self.last_error = 0, None

    async def _until_due(self) -> None:
        waits = [asyncio.ensure_future(self._sleep(self._pause_seconds())), asyncio.ensure_future(self._woken.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _pause_seconds(self) -> float:
        if self._in_a_row:
            return min(FIRST_PAUSE_SECONDS * 2.0 ** min(self._in_a_row - 1, 10), LONGEST_PAUSE_SECONDS)
        return max(
            0.0, min(self._store.look_every_seconds, self._plan().next_at - self._clock(), _LONGEST_SLEEP_SECONDS)
        )

    def _report(self, error: Exception) -> None:
        self.failures += 1
        self._in_a_row += 1
        self.last_error = str(error) if isinstance(error, KeyStoreError) else type(error).__name__
        if self._in_a_row == 1:
            log.error("the signing keys cannot be looked after, the last good ones serve on: %s", self.last_error)

    # ------------------------------------------------------------ one look

    async def _look(self) -> None:
        """Takes over what is in the store, and changes what is due there. Raises ``KeyStoreError``."""
        async with self._one_at_a_time:
            for _ in range(_ATTEMPTS):
                stored = await self._store.load()
                before = [one.row for one in stored]
                if not before and self._keys.rows:
                    await self._put_back()
                    continue
                self._keys.take(stored)
                wanted = self._plan()
                made = [await self._made(algorithm) for algorithm, _ in wanted.create]
                after = self._rows_after(wanted, made)
                if set(after) == set(before):
                    return
                if await self._store.replace(before, after, made):
                    log.info("signing keys changed: made %s, forgot %s", made, sorted(wanted.forget))
            raise KeyStoreError("the key store does not keep the key that was put in")

    def _plan(self) -> Plan:
        return plan(self._keys.rows, self._clock(), self._timings, self._algorithms(), self._keys.known_since)

    async def _made(self, algorithm: SigningAlgorithm) -> SigningKey:
        return await asyncio.to_thread(SigningKey.generate, algorithm, self._clock())

    def _rows_after(self, wanted: Plan, made: Sequence[SigningKey]) -> list[KeyRow]:
        kept = [row for row in self._keys.rows if row.kid not in wanted.forget]
        new = [
            KeyRow(key.kid, algorithm, key.created_at, sign_from, note=NOTE)
            for key, (algorithm, sign_from) in zip(made, wanted.create, strict=True)
        ]
        return kept + new

    async def _put_back(self) -> None:
        """A store that held keys and holds none has lost them, for nothing but loss takes out the last one."""
        held = self._keys.held()
        log.warning("the key store has lost its keys: %d are put back", len(held))
        await self._store.replace((), [one.row for one in held], [one.key for one in held if one.key is not None])
