"""The contract of ``ReplayMarks``, run over every kind of backend."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.state.base import StateUnavailableError, mark_of
from gateway.state.memory import MemoryReplayMarks

NOW = 1_800_000_000.0


class Hand:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Hand()


@pytest.fixture(params=["memory"])
def marks(request, clock):
    return {"memory": MemoryReplayMarks}[request.param](clock)


async def test_the_first_claim_wins_and_every_later_one_loses(marks):
    assert await marks.claim_once("github", "jti-1", NOW + 300) is True
    assert await marks.claim_once("github", "jti-1", NOW + 300) is False
    assert await marks.claim_once("github", "jti-1", NOW + 900) is False


async def test_of_many_claims_at_once_exactly_one_wins(marks):
    answers = await asyncio.gather(*(marks.claim_once("github", "jti-1", NOW + 300) for _ in range(200)))
    assert sorted(answers) == [False] * 199 + [True]


async def test_one_issuer_cannot_burn_the_token_of_another(marks):
    assert await marks.claim_once("hostile", "jti-1", NOW + 300)
    assert await marks.claim_once("github", "jti-1", NOW + 300)


async def test_a_mark_holds_until_its_end_and_no_longer(marks, clock):
    assert await marks.claim_once("github", "jti-1", NOW + 300)
    clock.now = NOW + 299.999
    assert not await marks.claim_once("github", "jti-1", NOW + 300)
    clock.now = NOW + 300
    assert await marks.claim_once("github", "jti-1", NOW + 600)


async def test_a_lost_claim_does_not_prolong_or_shorten_the_mark(marks, clock):
    assert await marks.claim_once("github", "jti-1", NOW + 300)
    assert not await marks.claim_once("github", "jti-1", NOW + 1)
    assert not await marks.claim_once("github", "jti-1", NOW + 9000)
    clock.now = NOW + 299
    assert not await marks.claim_once("github", "jti-1", NOW + 300)
    clock.now = NOW + 301
    assert await marks.claim_once("github", "jti-1", NOW + 600)


async def test_any_text_can_be_marked(marks):
    for key in ("", "\x00", "a" * 100_000, "\ud800", "ключ", "1|2"):
        assert await marks.claim_once("github", key, NOW + 300)
        assert not await marks.claim_once("github", key, NOW + 300)


class TestMemory:
    async def test_a_full_table_refuses_rather_than_forgets(self, clock):
        marks = MemoryReplayMarks(clock, capacity=3)
        for n in range(3):
            assert await marks.claim_once("github", f"jti-{n}", NOW + 300)
        with pytest.raises(StateUnavailableError, match="all 3 replay marks"):
            await marks.claim_once("github", "jti-3", NOW + 300)
        assert [await marks.claim_once("github", f"jti-{n}", NOW + 300) for n in range(3)] == [False] * 3

    async def test_marks_that_ended_make_room(self, clock):
        marks = MemoryReplayMarks(clock, capacity=2)
        assert await marks.claim_once("github", "short", NOW + 10)
        assert await marks.claim_once("github", "long", NOW + 300)
        clock.now = NOW + 11
        assert await marks.claim_once("github", "new", NOW + 300)
        assert not await marks.claim_once("github", "long", NOW + 300)


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_two_tokens_share_a_mark_only_if_they_are_the_same(one, other):
    assert (mark_of(*one) == mark_of(*other)) == (one == other)


def test_a_separator_inside_a_name_changes_nothing():
    assert len({mark_of("a", "bc"), mark_of("ab", "c"), mark_of("", "abc"), mark_of("abc", "")}) == 4
