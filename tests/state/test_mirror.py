"""The mirror: what another replica puts is seen within one poll, and an outage is survived, told and aged."""

import asyncio
import logging
from contextlib import asynccontextmanager

import pytest

from gateway.state.base import Changes, StateUnavailableError
from gateway.state.memory import MemoryState
from gateway.state.mirror import SWEEP_SECONDS, Mirror
from gateway.state.redis import RedisAddress, RedisState
from tests.state.conftest import LONG_AGO

EVERY = 0.25


class Faulty:
    """Shared records that can be away, or full of mistakes."""

    def __init__(self, backend) -> None:
        self.backend = backend
        self.error: Exception | None = None
        self.asked: list[int] = []

    async def put(self, *arguments, **options):
        return await self.backend.put(*arguments, **options)

    async def changes(self, since: int) -> Changes:
        self.asked.append(since)
        if self.error is not None:
            raise self.error
        return await self.backend.changes(since)


def values(mirror, kind="secret"):
    return {key: record.value for key, record in mirror.of(kind).items()}


@asynccontextmanager
async def following(records, clock, **options):
    mirror = Mirror(records, clock, clock.sleep, EVERY, **options)
    await mirror.start()
    try:
        yield mirror
    finally:
        await mirror.close()


@pytest.fixture
def faulty(clock) -> Faulty:
    return Faulty(MemoryState(clock))


async def poll(clock):
    """One turn of the mirror's following, to its end."""
    await clock.until_sleeping()
    await clock.advance(EVERY)


async def test_what_another_puts_changes_or_removes_is_seen_within_one_poll(state, other, clock):
    await other.put("secret", "early", b"0")
    async with following(state, clock) as mirror:
        assert values(mirror) == {"early": b"0"}
        await other.put("secret", "s1", b"1")
        await other.put("used", "s1", b"x")
        await poll(clock)
        assert values(mirror) == {"early": b"0", "s1": b"1"}
        assert values(mirror, "used") == {"s1": b"x"}
        await other.put("secret", "s1", b"2")
        await other.put("secret", "early", None)
        await poll(clock)
        assert values(mirror) == {"s1": b"2"}


async def test_what_the_mirror_puts_is_there_at_once_in_it_and_for_others(state, other, clock):
    async with following(state, clock) as mirror, following(other, clock) as elsewhere:
        assert await mirror.put("secret", "s1", b"1", until=LONG_AGO + 60, if_version=0)
        record = mirror.of("secret")["s1"]
        assert (record.value, record.until) == (b"1", LONG_AGO + 60)
        assert await mirror.put("secret", "s1", b"2", if_version=record.version)
        await elsewhere.refresh()
        assert values(elsewhere) == {"s1": b"2"}
        assert not await elsewhere.put("secret", "s1", b"x", if_version=record.version)
        assert await elsewhere.put("secret", "s1", None)
        assert values(elsewhere) == {}


async def test_a_put_that_lost_shows_what_it_lost_to(state, other, clock):
    async with following(state, clock) as mirror:
        await other.put("secret", "s1", b"theirs")
        assert not await mirror.put("secret", "s1", b"mine", if_version=0)
        assert values(mirror) == {"s1": b"theirs"}


async def test_a_backend_that_lost_everything_is_followed_anew(backend, state, other, clock):
    async with following(state, clock) as mirror:
        heard = []
        mirror.subscribe("secret", heard.append)
        await mirror.put("secret", "s1", b"1")
        await mirror.put("secret", "s2", b"1")
        await backend.lose_everything()
        clock.now += 1
        await other.put("secret", "s2", b"2")
        await poll(clock)
        assert values(mirror) == {"s2": b"2"}
        assert [(one.key, one.value) for one in heard[2:]] == [("s1", None), ("s2", b"2")]


async def test_where_nothing_has_changed_nothing_is_read_anew(faulty, clock):
    async with following(faulty, clock) as mirror:
        await mirror.put("secret", "s1", b"1")
        record = mirror.of("secret")["s1"]
        await poll(clock)
        await poll(clock)
        assert mirror.of("secret")["s1"] is record
        assert faulty.asked[-2:] == [1, 1]


class TestTime:
    async def test_a_record_is_hidden_as_soon_as_its_end_comes(self, faulty, clock):
        async with following(faulty, clock) as mirror:
            await mirror.put("secret", "short", b"1", until=LONG_AGO + 10)
            await mirror.put("secret", "long", b"1")
            secrets = mirror.of("secret")
            clock.now = LONG_AGO + 9.99
            assert set(secrets) == {"short", "long"}
            clock.now = LONG_AGO + 10
            assert set(secrets) == {"long"}
            assert len(secrets) == 1
            assert "short" not in secrets
            assert secrets.get("short") is None

    async def test_ended_records_are_forgotten_after_a_while(self, faulty, clock):
        async with following(faulty, clock) as mirror:
            await mirror.put("secret", "short", b"1", until=LONG_AGO + 10)
            clock.now += SWEEP_SECONDS
            await poll(clock)
            assert mirror._kinds == {"secret": {}}

    async def test_the_age_is_that_of_the_last_good_read(self, faulty, clock):
        faulty.error = StateUnavailableError("away")
        async with following(faulty, clock) as mirror:
            assert mirror.age_seconds(clock()) is None
            faulty.error = None
            await poll(clock)
            assert mirror.age_seconds(clock()) == 0
            faulty.error = StateUnavailableError("away")
            for _ in range(4):
                await poll(clock)
            assert mirror.age_seconds(clock()) == pytest.approx(4 * EVERY)


class TestOutages:
    async def test_a_backend_that_is_away_keeps_nobody_from_starting_and_is_told_once(self, faulty, clock, caplog):
        caplog.set_level(logging.INFO)
        faulty.error = StateUnavailableError("redis://r.example: Connection refused")
        async with following(faulty, clock) as mirror:
            for _ in range(5):
                await poll(clock)
            assert values(mirror) == {}
            assert mirror.failures == 6
            (told,) = [one.getMessage() for one in caplog.records]
            assert told == (
                "the shared records cannot be read, none were ever read: redis://r.example: Connection refused"
            )
            faulty.error = None
            await faulty.backend.put("secret", "s1", b"1")
            await poll(clock)
            assert values(mirror) == {"s1": b"1"}
            assert (mirror.failures, mirror.last_error) == (0, None)
            assert [one.getMessage() for one in caplog.records][1:] == [
                "the shared records are read again, after 6 failures"
            ]

    async def test_what_was_read_serves_on(self, faulty, clock, caplog):
        async with following(faulty, clock) as mirror:
            await mirror.put("secret", "s1", b"1")
            faulty.error = StateUnavailableError("away")
            await poll(clock)
            assert values(mirror) == {"s1": b"1"}
            assert "the ones read before serve on: away" in caplog.text
            with pytest.raises(StateUnavailableError):
                await mirror.refresh()

    async def test_a_mistake_of_ours_is_an_outage_and_not_the_end(self, faulty, clock, caplog):
        async with following(faulty, clock) as mirror:
            faulty.error = KeyError("a bug")
            for _ in range(3):
                await poll(clock)
            assert caplog.text.count("a bug") == 1
            faulty.error = None
            await faulty.backend.put("secret", "s1", b"1")
            await poll(clock)
            assert values(mirror) == {"s1": b"1"}

    async def test_what_was_put_and_could_not_be_read_back_counts_at_once(self, faulty, clock):
        async with following(faulty, clock) as mirror:
            await mirror.put("revoked", "old", b"1")
            faulty.error = StateUnavailableError("away")
            assert await mirror.put("revoked", "jti-1", b"1")
            assert await mirror.put("revoked", "old", None)
            assert values(mirror, "revoked") == {"jti-1": b"1"}
            faulty.error = None
            await faulty.backend.put("revoked", "jti-1", b"2")
            await poll(clock)
            assert values(mirror, "revoked") == {"jti-1": b"2"}

    async def test_a_put_that_the_backend_did_not_take_changes_nothing_here(self, clock):
        state = RedisState(RedisAddress.of("redis://127.0.0.1:1/0"), clock)
        mirror = Mirror(state, clock, clock.sleep)
        with pytest.raises(StateUnavailableError):
            await mirror.put("revoked", "jti-1", b"1")
        assert values(mirror, "revoked") == {}
        await state.close()

    async def test_redis_killed_and_started_empty_is_followed_again_by_the_same_mirror(self, redis_server, clock):
        monotonic = 100.0
        state = RedisState(RedisAddress.of(redis_server.url), clock, monotonic=lambda: monotonic)
        async with following(state, clock) as mirror:
            await mirror.put("secret", "s1", b"1")
            await redis_server.kill()
            for _ in range(8):
                await poll(clock)
            assert values(mirror) == {"s1": b"1"}
            assert mirror.age_seconds(clock()) == pytest.approx(8 * EVERY)
            await redis_server.start()
            monotonic += 2
            await poll(clock)
            assert values(mirror) == {}, "what is gone from the backend is gone here"
            assert mirror.age_seconds(clock()) == 0
        await state.close()


class TestBounds:
    async def test_more_records_than_there_may_be_are_not_taken_over(self, faulty, clock, caplog):
        async with following(faulty, clock, max_records=2) as mirror:
            await mirror.put("secret", "s1", b"1", until=LONG_AGO + 5)
            await mirror.put("used", "s1", b"1")
            await mirror.put("used", "s1", b"2")
            await faulty.backend.put("secret", "s2", b"1")
            await poll(clock)
            assert values(mirror) == {"s1": b"1"}
            assert "more than 2 shared records" in caplog.text
            clock.now = LONG_AGO + 5
            await poll(clock)
            assert values(mirror) == {"s2": b"1"}, "one has ended"
            assert values(mirror, "used") == {"s1": b"2"}

    async def test_a_whole_table_that_is_too_large_is_not_taken_over(self, faulty, clock):
        for n in range(3):
            await faulty.backend.put("secret", f"s{n}", b"1")
        async with following(faulty, clock, max_records=2) as mirror:
            assert values(mirror) == {}
            assert mirror.age_seconds(clock()) is None


class TestSubscribers:
    async def test_they_hear_of_their_kind_alone_what_is_new_changed_or_removed(self, faulty, clock):
        async with following(faulty, clock) as mirror:
            heard = []
            mirror.subscribe("secret", heard.append)
            await mirror.put("secret", "s1", b"1")
            await mirror.put("used", "s1", b"x")
            await faulty.backend.put("secret", "s1", b"2")
            await poll(clock)
            await mirror.put("secret", "s1", None)
            await poll(clock)
            assert [(one.key, one.value) for one in heard] == [("s1", b"1"), ("s1", b"2"), ("s1", None)]

    async def test_they_hear_nothing_of_what_came_and_went_between_two_reads(self, faulty, clock):
        async with following(faulty, clock) as mirror:
            heard = []
            mirror.subscribe("secret", heard.append)
            await mirror.put("used", "s1", b"x")
            await faulty.backend.put("secret", "s1", b"1")
            await faulty.backend.put("secret", "s1", None)
            await poll(clock)
            assert heard == []

    async def test_one_that_fails_keeps_nothing_from_the_others(self, faulty, clock, caplog):
        def fail(_):
            raise RuntimeError("a subscriber's bug")

        async with following(faulty, clock) as mirror:
            heard = []
            mirror.subscribe("secret", fail)
            mirror.subscribe("secret", heard.append)
            await mirror.put("secret", "s1", b"1")
            await mirror.put("secret", "s2", b"1")
            assert [one.key for one in heard] == ["s1", "s2"]
            assert values(mirror) == {"s1": b"1", "s2": b"1"}
            assert "a subscriber's bug" in caplog.text


async def test_many_puts_at_once_leave_mirror_and_backend_alike(state, other, clock):
    async with following(state, clock) as mirror, following(other, clock) as elsewhere:
        puts = [one.put("secret", f"s{n % 10}", b"%d" % n) for n in range(50) for one in (mirror, elsewhere)]
        await asyncio.gather(*puts)
        await mirror.refresh()
        await elsewhere.refresh()
        there = {record.key: record for record in (await state.changes(0)).records}
        assert dict(mirror.of("secret")) == there == dict(elsewhere.of("secret"))


async def test_closed_it_asks_no_more(faulty, clock):
    async with following(faulty, clock) as mirror:
        await clock.until_sleeping()
    assert mirror._following is None
    asked = len(faulty.asked)
    await mirror.close()
    assert len(faulty.asked) == asked
