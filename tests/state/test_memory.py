"""What the memory of one process alone promises: it is bounded, and makes no room by forgetting."""

import pytest

from gateway.state.base import StateUnavailableError
from gateway.state.memory import MemoryState
from tests.state.conftest import LONG_AGO


async def test_a_full_table_of_marks_refuses_rather_than_forgets(clock):
    state = MemoryState(clock, capacity=3)
    for n in range(3):
        assert await state.claim_once("github", f"jti-{n}", LONG_AGO + 300)
    with pytest.raises(StateUnavailableError, match="all 3 replay marks"):
        await state.claim_once("github", "jti-3", LONG_AGO + 300)
    assert [await state.claim_once("github", f"jti-{n}", LONG_AGO + 300) for n in range(3)] == [False] * 3


async def test_marks_that_ended_make_room(clock):
    state = MemoryState(clock, capacity=2)
    assert await state.claim_once("github", "short", LONG_AGO + 10)
    assert await state.claim_once("github", "long", LONG_AGO + 300)
    clock.now += 11
    assert await state.claim_once("github", "new", LONG_AGO + 300)
    assert not await state.claim_once("github", "long", LONG_AGO + 300)


async def test_a_full_table_of_records_takes_nothing_new_until_one_ends(clock):
    state = MemoryState(clock, max_records=2)
    await state.put("secret", "s1", b"1", until=LONG_AGO + 10)
    await state.put("secret", "s2", b"1")
    with pytest.raises(StateUnavailableError, match="all 2 shared records"):
        await state.put("secret", "s3", b"1")
    assert await state.put("secret", "s2", b"2")
    clock.now += 10
    assert await state.put("secret", "s3", b"1")


async def test_a_record_put_again_and_again_takes_the_room_of_one(clock):
    state = MemoryState(clock)
    for n in range(5000):
        await state.put("used", "s1", b"%d" % n, until=LONG_AGO + 1e6 + n)
    assert len(state._ends) < 100
    clock.now += 1e6 + 4999
    await state.put("used", "s2", b"1")
    assert [one.key for one in (await state.changes(0)).records] == ["s2"]
