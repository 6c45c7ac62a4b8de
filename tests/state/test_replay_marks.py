"""The contract of ``ReplayMarks``, run over every kind of backend."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.state.base import mark_of
from tests.state.conftest import LONG_AGO

SOON = LONG_AGO + 300


async def test_the_first_claim_wins_and_every_later_one_loses(state, other):
    assert await state.claim_once("github", "jti-1", SOON) is True
    assert await state.claim_once("github", "jti-1", SOON) is False
    assert await other.claim_once("github", "jti-1", SOON + 600) is False


async def test_of_a_thousand_claims_at_once_exactly_one_wins(state, other):
    claims = (one.claim_once("github", "jti-1", SOON) for _ in range(500) for one in (state, other))
    answers = await asyncio.gather(*claims)
    assert sorted(answers) == [False] * 999 + [True]


async def test_a_thousand_tokens_at_once_are_all_new(state, other):
    claims = (one.claim_once("github", f"jti-{n}", SOON) for n in range(500) for one in (state, other))
    answers = await asyncio.gather(*claims)
    assert sorted(answers) == [False] * 500 + [True] * 500


async def test_one_issuer_cannot_burn_the_token_of_another(state):
    assert await state.claim_once("hostile", "jti-1", SOON)
    assert await state.claim_once("github", "jti-1", SOON)
    assert await state.claim_once("git", "hubjti-1", SOON)


async def test_a_mark_holds_until_its_end(state, other, clock):
    assert await state.claim_once("github", "jti-1", SOON)
    clock.now = SOON - 0.001
    assert not await state.claim_once("github", "jti-1", SOON)
    assert not await other.claim_once("github", "jti-1", SOON)


async def test_a_lost_claim_does_not_shorten_the_mark(state, clock):
    assert await state.claim_once("github", "jti-1", SOON)
    assert not await state.claim_once("github", "jti-1", LONG_AGO + 1)
    clock.now = SOON - 1
    assert not await state.claim_once("github", "jti-1", SOON)


async def test_a_mark_that_is_never_cleared_away_does_not_outlive_its_end_for_good(state, clock, backend):
    if backend.kind == "redis":
        pytest.skip("Redis clears away by its own clock")
    assert await state.claim_once("github", "jti-1", SOON)
    clock.now = SOON
    assert await state.claim_once("github", "jti-1", SOON + 300)
    assert not await state.claim_once("github", "jti-1", SOON + 300)


@pytest.mark.parametrize("key", ["", "\x00", "a" * 1_000_000, "\ud800", "ключ", "1|2", "a:b:c", "*", "🔑\r\n\r\n"])
async def test_any_text_can_be_marked(state, key):
    assert await state.claim_once("github", key, SOON)
    assert not await state.claim_once("github", key, SOON)
    assert await state.claim_once(key, "github", SOON)


@pytest.mark.parametrize("until", [0.0, -1.0, LONG_AGO - 1, 1e15, float("inf")])
async def test_no_end_is_so_odd_that_two_claims_at_once_win(state, other, until):
    answers = await asyncio.gather(*(one.claim_once("github", "jti-1", until) for one in (state, other)))
    assert True in answers
    if until > LONG_AGO:
        assert sorted(answers) == [False, True]


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_two_tokens_share_a_mark_only_if_they_are_the_same(one, other):
    assert (mark_of(*one) == mark_of(*other)) == (one == other)


def test_a_separator_inside_a_name_changes_nothing():
    assert len({mark_of("a", "bc"), mark_of("ab", "c"), mark_of("", "abc"), mark_of("abc", "")}) == 4
