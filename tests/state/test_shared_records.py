"""The contract of ``SharedRecords``, run over every kind of backend."""

import asyncio

import pytest

from gateway.state.base import StateUnavailableError
from gateway.state.table import MAX_RECORD_BYTES, PURGE_STEP, TOMBSTONE_SECONDS
from tests.state.conftest import LONG_AGO

HOSTILE = [
    "",
    ":",
    "a:b",
    "\x00",
    "\x00\x00",
    "\ud800",
    "\udc00\ud800",
    "ключ",
    "🔑",
    "k" * 60_000,
    "*",
    "1:2:1:",
    "\r\n",
]


async def all_of(state):
    """What the table holds, as (kind, key): value."""
    found = await state.changes(0)
    assert found.whole
    return {(one.kind, one.key): one.value for one in found.records}


async def version_of(state, kind, key):
    found = await state.changes(0)
    return next((one.version for one in found.records if (one.kind, one.key) == (kind, key)), 0)


async def test_a_new_table_is_empty(state):
    found = await state.changes(0)
    assert (found.version, list(found.records), found.whole) == (0, [], True)


async def test_what_one_puts_the_other_reads(state, other):
    assert await state.put("secret", "s1", b"\x00\xff:1:", until=LONG_AGO + 60.25) is True
    found = await other.changes(0)
    (record,) = found.records
    assert (record.kind, record.key, record.value) == ("secret", "s1", b"\x00\xff:1:")
    assert record.until == LONG_AGO + 60.25
    assert record.version == found.version > 0


async def test_an_empty_value_is_a_value(state):
    assert await state.put("secret", "s1", b"")
    assert await all_of(state) == {("secret", "s1"): b""}


async def test_nothing_is_told_where_nothing_has_changed(state, other):
    await state.put("secret", "s1", b"1")
    version = (await other.changes(0)).version
    found = await other.changes(version)
    assert (found.version, list(found.records), found.whole) == (version, [], False)


async def test_only_what_was_put_since_is_told_in_the_order_of_versions(state, other):
    for n in range(5):
        await state.put("secret", f"s{n}", b"1")
    since = (await other.changes(0)).version
    await state.put("secret", "s4", b"2")
    await other.put("secret", "new", b"3")
    await state.put("secret", "s0", b"4")
    found = await other.changes(since)
    assert [(one.key, one.value) for one in found.records] == [("s4", b"2"), ("new", b"3"), ("s0", b"4")]
    versions = [one.version for one in found.records]
    assert since < versions[0] < versions[1] < versions[2] == found.version
    assert not found.whole


async def test_a_record_put_twice_is_told_once_as_it_is_now(state):
    await state.put("secret", "s1", b"0")
    since = (await state.changes(0)).version
    await state.put("secret", "s1", b"1")
    await state.put("secret", "s1", b"2")
    assert [one.value for one in (await state.changes(since)).records] == [b"2"]


async def test_a_removal_is_told(state, other):
    await state.put("secret", "s1", b"1", until=LONG_AGO + 60)
    since = (await other.changes(0)).version
    assert await state.put("secret", "s1", None)
    (record,) = (await other.changes(since)).records
    assert (record.kind, record.key, record.value, record.until) == ("secret", "s1", None, None)
    assert await all_of(other) == {}


async def test_to_remove_what_is_not_there_changes_nothing(state):
    await state.put("secret", "s1", b"1")
    since = (await state.changes(0)).version
    assert await state.put("secret", "s2", None)
    assert (await state.changes(since)).version == since


async def test_a_record_that_was_removed_can_be_put_again(state):
    await state.put("secret", "s1", b"1")
    await state.put("secret", "s1", None)
    since = (await state.changes(0)).version
    assert await state.put("secret", "s1", b"2", if_version=0)
    assert [one.value for one in (await state.changes(since)).records] == [b"2"]


async def test_a_put_with_a_version_holds_only_for_that_version(state, other):
    assert await state.put("secret", "s1", b"1", if_version=1) is False
    assert await state.put("secret", "s1", b"1", if_version=0) is True
    assert await other.put("secret", "s1", b"x", if_version=0) is False
    first = await version_of(state, "secret", "s1")
    assert await other.put("secret", "s1", b"2", if_version=first) is True
    assert await state.put("secret", "s1", b"x", if_version=first) is False
    assert await state.put("secret", "s1", None, if_version=first) is False
    second = await version_of(state, "secret", "s1")
    assert await state.put("secret", "s1", None, if_version=second) is True
    assert await state.put("secret", "s1", b"x", if_version=second) is False
    assert await all_of(state) == {}


async def test_of_many_puts_over_one_version_exactly_one_holds(state, other):
    await state.put("secret", "s1", b"first")
    version = await version_of(state, "secret", "s1")
    puts = [one.put("secret", "s1", b"%d" % n, if_version=version) for n in range(50) for one in (state, other)]
    answers = await asyncio.gather(*puts)
    assert sorted(answers) == [False] * 99 + [True]
    assert await all_of(state) == {("secret", "s1"): b"%d" % (answers.index(True) // 2)}


async def test_no_two_puts_at_once_share_a_version(state, other):
    await asyncio.gather(*(one.put("secret", f"s{n}", b"1") for n in range(100) for one in (state, other)))
    assert len({one.version for one in (await state.changes(0)).records}) == 100


async def test_any_text_can_name_a_record(state, other):
    names = {(kind, key) for kind in HOSTILE for key in HOSTILE if len(kind) + len(key) < MAX_RECORD_BYTES}
    for kind, key in names:
        assert await state.put(kind, key, b"1", if_version=0), ascii((kind[:9], key[:9]))
    assert (await all_of(other)).keys() == names


async def test_a_record_that_is_too_large_is_no_record(state):
    assert await state.put("k", "e", bytes(MAX_RECORD_BYTES - 2))
    with pytest.raises(ValueError, match="larger than"):
        await state.put("k", "e", bytes(MAX_RECORD_BYTES - 1))


async def test_a_record_whose_end_has_come_is_as_good_as_none(state, clock):
    await state.put("secret", "s1", b"1", until=LONG_AGO + 60)
    version = await version_of(state, "secret", "s1")
    clock.now = LONG_AGO + 60
    assert await all_of(state) == {}
    assert await state.put("secret", "s1", b"2", if_version=version) is False
    assert await state.put("secret", "s1", b"2", if_version=0) is True


async def test_a_record_is_there_until_its_end(state, clock):
    await state.put("secret", "s1", b"1", until=LONG_AGO + 60)
    clock.now = LONG_AGO + 59.99
    await state.put("secret", "s2", b"2")
    assert await all_of(state) == {("secret", "s1"): b"1", ("secret", "s2"): b"2"}


async def test_an_end_that_was_put_off_is_the_later_one(state, clock):
    await state.put("secret", "s1", b"1", until=LONG_AGO + 60)
    await state.put("secret", "s2", b"1", until=LONG_AGO + 60)
    await state.put("secret", "s1", b"1", until=LONG_AGO + 600)
    await state.put("secret", "s2", b"1")
    clock.now = LONG_AGO + 500
    await state.put("secret", "s3", b"1")
    assert set(await all_of(state)) == {("secret", "s1"), ("secret", "s2"), ("secret", "s3")}


async def test_a_removal_is_told_long_enough_and_then_the_whole_table_is(backend, state, clock):
    await state.put("secret", "s1", b"1")
    await state.put("secret", "s2", b"1")
    since = (await state.changes(0)).version
    await state.put("secret", "s1", None)
    clock.now += TOMBSTONE_SECONDS - 1
    await state.put("secret", "s3", b"1")
    assert not (await state.changes(since)).whole
    if backend.kind == "redis":
        return  # counts from the later of two clocks, its own
    clock.now += 2
    await state.put("secret", "s4", b"1")
    found = await state.changes(since)
    assert found.whole
    assert {one.key for one in found.records} == {"s2", "s3", "s4"}
    assert not (await state.changes(found.version)).whole


async def test_ended_records_are_cleared_away_in_small_steps(state, clock):
    for n in range(PURGE_STEP + 10):
        await state.put("secret", f"s{n}", b"1", until=LONG_AGO + 60)
    since = (await state.changes(0)).version
    clock.now = LONG_AGO + 61
    await state.put("secret", "new", b"1")
    found = await state.changes(since)
    assert [one.key for one in found.records] == ["new"]
    assert not found.whole, "who has seen them all needs not read all"
    await state.put("secret", "newer", b"1")
    assert await all_of(state) == {("secret", "new"): b"1", ("secret", "newer"): b"1"}


async def test_who_missed_what_was_cleared_away_is_told_the_whole_table(state, clock):
    await state.put("secret", "long", b"1", until=LONG_AGO + 6000)
    since = (await state.changes(0)).version
    await state.put("secret", "long", b"1", until=LONG_AGO + 60)
    clock.now = LONG_AGO + 61
    await state.put("secret", "new", b"1")
    found = await state.changes(since)
    assert found.whole
    assert [one.key for one in found.records] == ["new"]


async def test_a_version_from_nowhere_is_told_the_whole_table(state):
    await state.put("secret", "s1", b"1")
    latest = (await state.changes(0)).version
    for since in (-1, 0, latest + 1, 2**52):
        assert (await state.changes(since)).whole


async def test_a_backend_that_lost_everything_tells_the_whole_table(backend, state, other, clock):
    await state.put("secret", "s1", b"1")
    since = (await other.changes(0)).version
    await backend.lose_everything()
    clock.now += 1
    found = await other.changes(since)
    assert (found.whole, list(found.records)) == (True, [])
    for n in range(3):
        await state.put("secret", f"t{n}", b"1")
    found = await other.changes(since)
    assert found.whole
    assert [one.key for one in found.records] == ["t0", "t1", "t2"]
    assert found.version > since


async def test_after_it_is_closed_nothing_is_answered(backend):
    if backend.kind == "memory":
        pytest.skip("memory is never away")
    state = backend.open()
    await state.put("secret", "s1", b"1")
    await state.close()
    await state.close()
    for call in (state.put("k", "e", b"1"), state.changes(0), state.claim_once("i", "t", LONG_AGO + 1)):
        with pytest.raises(StateUnavailableError, match="closed"):
            await call
