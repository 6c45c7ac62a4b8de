"""Rotation in running gateways: on real stores, with a clock that is moved by hand, and a store that goes away."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.model import SigningAlgorithm
from gateway.oauth.errors import Refusal
from gateway.state.mirror import Mirror
from gateway.state.redis import RedisAddress, RedisState
from gateway.tokens.key_rotation import LONGEST_PAUSE_SECONDS, KeyRotation
from gateway.tokens.key_schedule import FORGOTTEN_AFTER_SECONDS, KeyTimings, revoking, taking_over
from gateway.tokens.signing_key import SigningKey
from gateway.tokens.signing_keys import SigningKeys
from gateway.tokens.stores.base import KeyStore, KeyStoreError
from gateway.tokens.stores.file import FileKeyStore
from gateway.tokens.stores.memory import MemoryKeyStore
from gateway.tokens.stores.state import KIND, StateKeyStore
from tests.support.parts import eventually
from tests.support.redis_server import RedisServer
from tests.support.signing import DAY, HOUR, TIMINGS, row_of
from tests.support.time import HandClock

NOW = 1_800_000_000.0
ROTATING = replace(TIMINGS, rotate_every_seconds=7 * DAY)


class Replica:
    """One gateway's keys and their rotation."""

    def __init__(
        self, store: KeyStore, clock: HandClock, timings: KeyTimings, algorithms: set[SigningAlgorithm]
    ) -> None:
        self.store = store
        self.clock = clock
        self.keys = SigningKeys(clock, timings, "ES256")
        self.rotation = KeyRotation(
            store, self.keys, clock=clock, sleep=clock.sleep, timings=timings, algorithms=lambda: algorithms
        )

    @property
    def signer(self) -> str:
        return self.keys.current().kid

    @property
    def published(self) -> list[str]:
        return [key.kid for key in self.keys.published()]

    def states(self) -> list[str]:
        return [one.state for one in self.keys.schedule().standings]

    async def pass_time(self, seconds: float) -> None:
        """Lets the clock go on, and all work that is due be done; the store is looked at in steps."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            step = min(end, max(self.rotation.next_step_at(), self.clock.now + 1)) - self.clock.now
            await self.clock.advance(step)

    async def look(self) -> None:
        """Has it look now, and waits for that."""
        slept = len(self.clock.slept)
        self.rotation.look_soon()

        async def asleep_again() -> bool:
            return len(self.clock.slept) > slept

        await eventually(asleep_again)


@asynccontextmanager
async def replica(
    store: KeyStore,
    clock: HandClock | None = None,
    timings: KeyTimings = ROTATING,
    algorithms: set[SigningAlgorithm] | None = None,
) -> AsyncIterator[Replica]:
    found = Replica(store, clock or HandClock(NOW), timings, algorithms if algorithms is not None else {"ES256"})
    await found.rotation.start()
    try:
        await found.clock.until_sleeping()
        yield found
    finally:
        await found.rotation.close()


@pytest.fixture(params=["file", "memory"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], KeyStore]:
    """One more user of one store."""
    memory = MemoryKeyStore()
    return {"file": lambda: FileKeyStore(tmp_path / "keys"), "memory": lambda: memory}[request.param]


# ---------------------------------------------------------------- one gateway


async def test_the_first_start_makes_a_key_and_the_next_one_keeps_it(open_store):
    async with replica(open_store()) as first:
        assert first.states() == ["active"]
    async with replica(open_store(), HandClock(NOW + 1000)) as second:
        assert second.published == first.published


async def test_a_year_of_rotation(open_store):
    """Each key is published a day before it signs, and until the last token that it signed has expired."""
    signers, published_at = [], {}
    async with replica(open_store()) as gateway:
        for _ in range(365 * 2):
            for kid in gateway.published:
                published_at.setdefault(kid, gateway.clock.now)
            if signers[-1:] != [gateway.signer]:
                signers.append(gateway.signer)
                assert len(signers) == 1 or gateway.clock.now - published_at[gateway.signer] >= DAY
            assert len(gateway.published) <= 3
            await gateway.pass_time(DAY / 2)
        assert len(gateway.keys.rows) <= 3
        assert gateway.rotation.failures == 0
    assert len(signers) == len(set(signers)) == 53


async def test_a_key_that_is_gone_is_forgotten(open_store):
    async with replica(open_store()) as gateway:
        first = gateway.signer
        await gateway.pass_time(7 * DAY + 25 * HOUR)
        assert first not in gateway.published
        assert gateway.states() == ["active", "gone"]
        await gateway.pass_time(FORGOTTEN_AFTER_SECONDS)
        assert first not in {one.row.kid for one in await gateway.store.load()}


async def test_without_rotation_the_one_key_signs_for_ever(open_store):
    async with replica(open_store(), timings=TIMINGS) as gateway:
        first = gateway.signer
        await gateway.pass_time(1000 * DAY)
        assert (gateway.signer, gateway.states()) == (first, ["active"])


async def test_an_algorithm_that_a_resource_newly_asks_for_gets_its_key(open_store):
    wanted: set[SigningAlgorithm] = {"ES256"}
    async with replica(open_store(), algorithms=wanted) as gateway:
        with pytest.raises(Refusal):
            gateway.keys.current("RS256")
        wanted.add("RS256")
        await gateway.look()
        assert gateway.keys.current("RS256").algorithm == "RS256"
        await gateway.pass_time(6 * DAY)
        assert sorted(gateway.states()) == ["active", "active", "upcoming", "upcoming"]


async def test_where_the_only_key_was_revoked_a_new_one_signs_at_once(open_store):
    async with replica(open_store()) as gateway:
        (row,) = gateway.keys.rows
        assert await gateway.store.replace([row], revoking([row], row.kid, NOW, "leak"))
        await gateway.look()
        assert gateway.signer != row.kid
        assert row.kid not in gateway.published
        assert sorted(gateway.states()) == ["active", "revoked"]


# ---------------------------------------------------------------- the store's troubles


class Sick(MemoryKeyStore):
    """A store that can be away, and that forgets everything when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False

    async def load(self):
        if self.away:
            raise KeyStoreError("the disk is gone")
        return await super().load()

    def forget_everything(self) -> None:
        self._rows, self._keys = {}, {}


async def test_while_the_store_is_away_a_key_takes_over_by_its_time(caplog):
    store = Sick()
    async with replica(store) as gateway:
        await gateway.pass_time(6 * DAY)
        following = gateway.published[0]
        store.away = True
        await gateway.look()
        for _ in range(2 * 24 * 60):
            await gateway.clock.advance(60)
        assert gateway.signer == following
        assert gateway.rotation.last_error == "the disk is gone"
        assert gateway.rotation.failures > 100
        told = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert len(told) == 1, "an outage is told once"
        assert max(gateway.clock.slept[-100:]) == LONGEST_PAUSE_SECONDS
        store.away = False
        await gateway.clock.advance(60)
        assert gateway.rotation.last_error is None


async def test_a_rotation_that_is_overdue_shows(caplog):
    store = Sick()
    async with replica(store) as gateway:
        assert gateway.rotation.next_step_at() == NOW + 6 * DAY
        store.away = True
        await gateway.clock.advance(6 * DAY)
        for _ in range(60):
            await gateway.clock.advance(60)
        assert gateway.rotation.next_step_at() - gateway.clock.now == -HOUR


async def test_a_store_that_lost_everything_gets_its_keys_back(caplog):
    store = Sick()
    async with replica(store) as gateway:
        await gateway.pass_time(6 * DAY)
        before = gateway.published
        store.forget_everything()
        await gateway.look()
        assert gateway.published == before
        assert {one.row.kid for one in await store.load()} == set(before)
        assert "has lost its keys" in caplog.text


async def test_a_store_that_must_not_be_used_stops_the_start(tmp_path):
    (tmp_path / "keys").mkdir(mode=0o755)
    (tmp_path / "keys").chmod(0o755)
    with pytest.raises(KeyStoreError, match="chmod 700"):
        async with replica(FileKeyStore(tmp_path / "keys")):
            pass


async def test_a_store_that_keeps_nothing_stops_the_start():
    class Forgetful(MemoryKeyStore):
        async def load(self):
            return []

    with pytest.raises(KeyStoreError, match="does not keep"):
        async with replica(Forgetful()):
            pass


async def test_what_nobody_foresaw_ends_nothing(caplog):
    class Faulty(Sick):
        async def load(self):
            if self.away:
                raise RuntimeError("secret detail")
            return await super().load()

    store = Faulty()
    async with replica(store) as gateway:
        store.away = True
        await gateway.look()
        assert gateway.rotation.last_error == "RuntimeError"
        store.away = False
        await gateway.clock.advance(1)
        assert gateway.rotation.last_error is None


# ---------------------------------------------------------------- several gateways


@pytest.fixture
async def redis_stores(redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Callable[..., KeyStore]]:
    """Users of one Redis, each with a mirror that follows it as a gateway does."""
    key_file = tmp_path / "encryption.key"
    key_file.write_text("A" * 43 + "\n")
    key_file.chmod(0o600)
    async with AsyncExitStack() as stack:

        async def opened(clock: HandClock) -> StateKeyStore:
            state = RedisState(RedisAddress.of(redis_server.url), clock, connect_seconds=20, command_seconds=20)
            stack.push_async_callback(state.close)
            mirror = Mirror(state, clock, asyncio.sleep, every_seconds=0.02)
            await mirror.start()
            stack.push_async_callback(mirror.close)
            return StateKeyStore(mirror, key_file)

        yield opened


async def agree(states: list[str], *replicas: Replica) -> None:
    """Waits until all of them have the same keys, in these states."""

    async def same() -> bool:
        schedules = {one.keys.schedule() for one in replicas}
        return len(schedules) == 1 and replicas[0].states() == states

    await eventually(same)


async def test_gateways_that_start_at_once_on_one_redis_agree(redis_stores):
    async with AsyncExitStack() as stack:
        stores = [await redis_stores(HandClock(NOW)) for _ in range(4)]
        entered = await asyncio.gather(*(stack.enter_async_context(replica(store)) for store in stores))
        await agree(["active"], *entered)


async def test_gateways_on_one_redis_rotate_together_though_their_clocks_differ(redis_stores):
    clocks = [HandClock(NOW - 60), HandClock(NOW), HandClock(NOW + 60)]
    async with AsyncExitStack() as stack:
        entered = [await stack.enter_async_context(replica(await redis_stores(clock), clock)) for clock in clocks]
        first = entered[0].signer
        for _ in range(3 * 7 * 24):
            for one in entered:
                await one.clock.advance(HOUR)
            await agree_on_what_is_published(entered)
        assert entered[0].signer != first
        assert [one.states().count("active") for one in entered] == [1, 1, 1]
        assert sum(one.rotation.failures for one in entered) == 0


async def agree_on_what_is_published(replicas: list[Replica]) -> None:
    async def published() -> bool:
        return all(one.signer in other.published for one in replicas for other in replicas)

    await eventually(published)


async def test_who_starts_late_signs_with_what_the_others_sign_with(redis_stores):
    clock = HandClock(NOW)
    async with replica(await redis_stores(clock), clock) as first:
        await first.pass_time(6 * DAY)
        late_clock = HandClock(clock.now)
        async with replica(await redis_stores(late_clock), late_clock) as late:
            assert (late.signer, late.published) == (first.signer, first.published)
            assert late.states() == ["upcoming", "active"]


async def test_who_starts_late_with_a_clock_ahead_does_not_sign_early(redis_stores):
    """By its clock the upcoming key is due; the other gateway has published it for less than caches live."""
    short = replace(ROTATING, publish_ahead_seconds=390)
    clock, ahead = HandClock(NOW), HandClock(NOW + 60)
    async with replica(await redis_stores(clock), clock, short) as first:
        before = first.signer
        await first.pass_time(7 * DAY - 390)
        assert first.states() == ["upcoming", "active"]
        await first.clock.advance(340)
        ahead.now = clock.now + 60
        async with replica(await redis_stores(ahead), ahead, short) as late:
            assert late.signer == before
            await late.pass_time(389)
            assert late.signer == before
            await late.pass_time(2)
            assert late.signer != before


async def test_a_revocation_is_known_in_every_gateway_within_a_second(redis_stores):
    clock, operator_clock = HandClock(NOW), HandClock(NOW)
    async with (
        replica(await redis_stores(clock), clock) as one,
        replica(await redis_stores(clock), clock) as other,
    ):
        await one.pass_time(6 * DAY)
        await agree(["upcoming", "active"], one, other)
        bad, following = one.signer, one.published[0]
        operator = await redis_stores(operator_clock)
        rows = [stored.row for stored in await operator.load()]
        async with asyncio.timeout(1):
            assert await operator.replace(
                rows, revoking(taking_over(rows, following, clock.now, ""), bad, clock.now, "")
            )

            async def out() -> bool:
                return all(bad not in gateway.published and gateway.signer == following for gateway in (one, other))

            await eventually(out)


async def test_a_redis_that_starts_again_empty_gets_the_keys_back(redis_stores, redis_server):
    clock = HandClock(NOW)
    async with replica(await redis_stores(clock), clock) as one, replica(await redis_stores(clock), clock) as other:
        await agree(["active"], one, other)
        before = one.published
        await redis_server.kill()
        await redis_server.start()

        async def back() -> bool:
            one.rotation.look_soon()
            late = await redis_stores(clock)
            try:
                return [stored.row.kid for stored in await late.load()] == before
            except KeyStoreError:
                return False

        await eventually(back)
        assert one.published == other.published == before


async def test_without_redis_a_gateway_starts_and_has_a_key_once_it_comes(redis_stores, redis_server):
    await redis_server.kill()
    clock = HandClock(NOW)
    async with replica(await redis_stores(clock), clock) as gateway:
        with pytest.raises(Refusal, match="signing_unavailable"):
            gateway.keys.current()
        await redis_server.start()

        async def signs() -> bool:
            await clock.advance(LONGEST_PAUSE_SECONDS)
            return bool(gateway.published)

        await eventually(signs)
        assert gateway.states() == ["active"]


async def test_what_others_change_in_the_folder_is_followed(tmp_path):
    store, operator = FileKeyStore(tmp_path / "keys"), FileKeyStore(tmp_path / "keys")
    async with replica(store, timings=TIMINGS) as gateway:
        before = [one.row for one in await operator.load()]
        key = SigningKey.generate("ES256", NOW)
        assert await operator.replace(before, [*before, row_of(key, sign_from=int(NOW) + DAY)], [key])
        await gateway.clock.advance(store.look_every_seconds)
        assert gateway.states() == ["upcoming", "active"]


@pytest.mark.parametrize("signs_in", [DAY, 0], ids=["rotate", "rotate --now"])
async def test_a_row_of_a_clock_that_is_days_behind_takes_no_key_from_tokens_that_are_alive(tmp_path, signs_in):
    store, operator = FileKeyStore(tmp_path / "keys"), FileKeyStore(tmp_path / "keys")
    async with replica(store, timings=TIMINGS) as gateway:
        await gateway.pass_time(10 * DAY)
        signed = gateway.signer
        before = [one.row for one in await operator.load()]
        key = SigningKey.generate("ES256", gateway.clock.now - 4 * DAY)
        late = row_of(key, sign_from=key.created_at + signs_in)
        assert await operator.replace(before, [*before, late], [key])
        await gateway.clock.advance(store.look_every_seconds)
        assert signed in gateway.published
        assert signed in {one.row.kid for one in await operator.load()}
        await gateway.pass_time(DAY)
        assert signed in gateway.published


def test_the_record_has_a_kind_of_its_own():
    assert KIND == "signing keys", "another name would lose every key at an update"
