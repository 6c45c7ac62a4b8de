"""How records are named, and what a breaker lets through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.state.breaker import Breaker
from gateway.state.table import kind_and_key, must_tell_all, name_of

ANY_TEXT = st.text(alphabet=st.characters())
"""Lone surrogates as well."""


@given(ANY_TEXT, ANY_TEXT)
def test_a_name_tells_the_kind_and_the_key_that_it_was_made_of(kind, key):
    assert kind_and_key(name_of(kind, key, None)) == (kind, key)


@given(st.tuples(ANY_TEXT, ANY_TEXT), st.tuples(ANY_TEXT, ANY_TEXT))
def test_two_records_share_a_name_only_if_they_are_the_same(one, other):
    assert (name_of(*one, None) == name_of(*other, None)) == (one == other)


@given(st.text(), st.text(), st.text())
def test_what_moves_from_key_to_kind_makes_another_name(first, moved, last):
    names = {name_of(first + moved, last, None), name_of(first, moved + last, None)}
    assert len(names) == (2 if moved else 1)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_name_or_a_value_error(name):
    try:
        kind, key = kind_and_key(name)
    except ValueError:
        return
    assert name_of(kind, key, None) == name


@pytest.mark.parametrize(
    ("since", "version", "floor", "whole"),
    [(0, 0, 0, True), (5, 5, 4, False), (4, 5, 4, False), (3, 5, 4, True), (6, 5, 4, True), (-1, 5, 0, True)],
)
def test_the_whole_table_answers_only_where_changes_cannot(since, version, floor, whole):
    assert must_tell_all(since, version, floor) is whole


class TestBreaker:
    def test_it_opens_after_failures_in_a_row_and_closes_with_the_first_success(self):
        now = 0.0
        breaker = Breaker(lambda: now, failures=3, pause_seconds=1)
        for _ in range(2):
            breaker.failed()
        breaker.succeeded()
        for _ in range(3):
            assert breaker.may_try()
            breaker.failed()
        assert not breaker.may_try()
        now = 0.999
        assert not breaker.may_try()
        now = 1.0
        assert [breaker.may_try() for _ in range(3)] == [True, False, False]
        breaker.failed()
        now = 1.5
        assert not breaker.may_try()
        now = 2.0
        assert breaker.may_try()
        breaker.succeeded()
        assert all(breaker.may_try() for _ in range(3))

    def test_a_try_that_never_ends_holds_up_the_next_for_one_pause_only(self):
        now = 0.0
        breaker = Breaker(lambda: now, failures=1, pause_seconds=1)
        breaker.failed()
        now = 1.0
        assert breaker.may_try()
        now = 2.0
        assert breaker.may_try()
