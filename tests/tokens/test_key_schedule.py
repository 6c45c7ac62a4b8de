"""The schedule of signing keys: what holds at every moment, whatever was made, revoked and rotated before."""

import itertools
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.tokens.key_schedule import (
    CLOCK_SKEW_SECONDS,
    FORGOTTEN_AFTER_SECONDS,
    PROPAGATION_SECONDS,
    PUBLISHED_STATES,
    KeyRow,
    KeyTimings,
    known_since,
    least_keep_for,
    plan,
    revoking,
    schedule,
    signs_from,
    successor,
    taking_over,
)
from tests.support.signing import DAY, HOUR, TIMINGS

NOW = 1_800_000_000
TOKEN_SECONDS = DAY
ROTATING = replace(TIMINGS, rotate_every_seconds=7 * DAY)
SKEW = 60


def row(kid: str = "a", *, made: int = 0, signs: int | None = None, revoked: int | None = None, **changes) -> KeyRow:
    """A key, its times counted from ``NOW``."""
    sign_from = NOW + (made if signs is None else signs)
    return replace(KeyRow(kid, "ES256", NOW + made, sign_from, None if revoked is None else NOW + revoked), **changes)


def states(rows: list[KeyRow], at: float, timings: KeyTimings = TIMINGS) -> dict[str, str]:
    return {one.row.kid: one.state for one in schedule(rows, NOW + at, timings).standings}


# ---------------------------------------------------------------- one case after the other


def test_a_key_goes_through_its_states_by_time_alone():
    rows = [row("old", made=-DAY), row("new", made=0, signs=DAY)]
    assert states(rows, 0) == {"old": "active", "new": "upcoming"}
    assert states(rows, DAY - 1) == {"old": "active", "new": "upcoming"}
    assert states(rows, DAY) == {"old": "retiring", "new": "active"}
    assert states(rows, DAY + 25 * HOUR - 1) == {"old": "retiring", "new": "active"}
    assert states(rows, DAY + 25 * HOUR) == {"old": "gone", "new": "active"}


def test_the_schedule_says_when_it_changes():
    rows = [row("old", made=-DAY), row("new", made=0, signs=DAY)]
    assert schedule(rows, NOW, TIMINGS).changes_at == NOW + DAY
    assert schedule(rows, NOW + DAY, TIMINGS).changes_at == NOW + DAY + 25 * HOUR
    assert schedule(rows, NOW + 3 * DAY, TIMINGS).changes_at == float("inf")


def test_each_algorithm_has_its_own_line():
    rows = [row("a"), row("b", made=10), row("r", made=5, algorithm="RS256")]
    assert states(rows, 20) == {"a": "retiring", "b": "active", "r": "active"}


def test_a_revoked_key_is_out_whatever_else_is_said_of_it():
    for signs in (-DAY, 0, DAY):
        assert states([row("a", signs=signs, revoked=5), row("b", made=-9)], 0) == {"a": "revoked", "b": "active"}


def test_without_any_key_that_is_due_the_first_to_come_signs():
    """A clock that is behind must not keep a gateway from signing with the only key that there is."""
    assert states([row("a", made=60)], 0) == {"a": "active"}
    assert states([row("b", made=60, signs=DAY), row("a", made=60)], 0) == {"a": "active", "b": "upcoming"}


def test_replicas_settle_two_keys_of_one_second_alike():
    rows = [row(kid) for kid in "dbca"]
    for order in itertools.permutations(rows):
        assert states(list(order), 0) == {"a": "active", "b": "retiring", "c": "retiring", "d": "retiring"}


def test_a_planned_key_waits_until_verifiers_know_it_where_it_was_seen_late():
    planned = row(signs=DAY)
    assert signs_from(planned, TIMINGS, NOW + 5) == NOW + DAY
    assert signs_from(planned, TIMINGS, NOW + DAY - 5) == NOW + DAY - 5 + 300 + PROPAGATION_SECONDS


def test_a_key_that_was_declared_to_sign_at_once_waits_for_nobody():
    assert signs_from(row(), TIMINGS, NOW + 5) == NOW
    (old, promoted) = taking_over([row("a", made=-DAY), row("b", signs=DAY)], "b", NOW + 60, "leak")
    assert signs_from(promoted, TIMINGS, NOW + 59) == promoted.sign_from == NOW + 60
    assert old == row("a", made=-DAY)


def test_what_is_in_force_is_followed_by_who_starts_late_or_was_cut_off():
    in_force = row(made=-2 * DAY, signs=-DAY)
    assert known_since(in_force, NOW, None) == in_force.created_at
    assert known_since(in_force, NOW, NOW - 3 * DAY) == in_force.created_at


def test_a_row_that_was_not_there_at_the_last_look_is_as_old_as_that():
    """Its maker's clock was behind."""
    pretends = row(made=-2 * DAY, signs=-DAY)
    assert known_since(pretends, NOW, NOW - 10) == NOW


def test_who_starts_just_after_a_takeover_joins_in_a_little_later():
    """Whether it is after the takeover at all only its own clock says."""
    assert known_since(row(made=-DAY, signs=-CLOCK_SKEW_SECONDS + 1), NOW, None) == NOW


# ---------------------------------------------------------------- what rotation asks for


def test_an_empty_store_gets_a_key_that_signs_at_once():
    wanted = plan([], NOW + 0.5, TIMINGS, ["ES256"])
    assert wanted.create == (("ES256", NOW),)
    assert wanted.due_since == NOW + 0.5


def test_a_newly_needed_algorithm_gets_its_first_key_at_once():
    assert plan([row()], NOW, ROTATING, ["ES256", "RS256"]).create == (("RS256", NOW),)


def test_where_every_key_is_revoked_a_new_one_signs_at_once():
    assert plan([row(revoked=0)], NOW + 9, TIMINGS, ["ES256"]).create == (("ES256", NOW + 9),)


def test_the_next_key_is_made_so_long_ahead_and_only_once():
    rows = [row()]
    assert plan(rows, NOW + 6 * DAY - 1, ROTATING, ["ES256"]).create == ()
    assert plan(rows, NOW, ROTATING, ["ES256"]).next_at == NOW + 6 * DAY
    wanted = plan(rows, NOW + 6 * DAY, ROTATING, ["ES256"])
    assert wanted.create == (("ES256", NOW + 7 * DAY),)
    rows.append(row("b", made=6 * DAY, signs=7 * DAY))
    assert plan(rows, NOW + 6 * DAY, ROTATING, ["ES256"]).create == ()
    assert plan(rows, NOW + 6 * DAY, ROTATING, ["ES256"]).next_at == NOW + 7 * DAY + 25 * HOUR + FORGOTTEN_AFTER_SECONDS


def test_a_rotation_that_is_overdue_still_publishes_ahead():
    wanted = plan([row()], NOW + 30 * DAY, ROTATING, ["ES256"])
    assert wanted.create == (("ES256", NOW + 31 * DAY),)
    assert wanted.due_since == NOW + 6 * DAY


def test_without_rotation_nothing_is_made():
    assert plan([row()], NOW + 1000 * DAY, TIMINGS, ["ES256"]).create == ()


def test_an_algorithm_that_nobody_asks_for_is_not_rotated():
    assert plan([row(), row("r", algorithm="RS256")], NOW + 30 * DAY, ROTATING, ["RS256"]).create == (
        ("RS256", NOW + 31 * DAY),
    )


def test_rows_are_forgotten_once_they_are_gone_by_every_clock():
    rows = [row("a", made=-DAY), row("b"), row("r", made=-9, revoked=0)]
    end = 25 * HOUR + FORGOTTEN_AFTER_SECONDS
    assert plan(rows, NOW + end - 1, TIMINGS, ["ES256"]).forget == frozenset()
    assert plan(rows, NOW + end, TIMINGS, ["ES256"]).forget == {"a", "r"}


# ---------------------------------------------------------------- what operators change


def test_whoever_takes_over_does_so_behind_the_one_that_signs():
    rows = [row("a"), row("b", made=-99, signs=DAY)]
    changed = taking_over(rows, "b", NOW + 0.9, "leak")
    assert states(list(changed), 1) == {"a": "retiring", "b": "active"}


def test_the_successor_is_the_next_to_sign_of_its_algorithm():
    rows = [row("a"), row("c", signs=2 * DAY), row("b", signs=DAY), row("r", signs=9, algorithm="RS256")]
    found = successor(rows, "a", NOW)
    assert found is not None
    assert found.kid == "b"
    assert successor(rows[:2], "c", NOW) is None


# ---------------------------------------------------------------- at every moment


@dataclass(frozen=True)
class Event:
    after: int
    """Seconds since the event before."""
    what: str
    which: int


EVENTS = st.lists(
    st.builds(
        Event,
        after=st.integers(1, 2 * DAY),
        what=st.sampled_from(["look", "look", "outage", "revoke", "rotate", "rotate now", "new algorithm"]),
        which=st.integers(0, 20),
    ),
    max_size=12,
)


@st.composite
def any_timings(draw: st.DrawFn) -> KeyTimings:
    """Timings that the settings take."""
    cache_for = draw(st.integers(30, 3600))
    ahead = cache_for + PROPAGATION_SECONDS + draw(st.just(0) | st.integers(0, 2 * DAY))
    kept = least_keep_for(cache_for, TOKEN_SECONDS) + draw(st.just(0) | st.integers(0, 2 * DAY))
    every = draw(st.none() | st.integers(0, 7 * DAY))
    return KeyTimings(cache_for, ahead, kept, None if every is None else max(ahead, DAY // 2) + every)


class History:
    """A store, one gateway that looks after it, and an operator. Remembers all versions of the rows."""

    def __init__(self, timings: KeyTimings) -> None:
        self.timings = timings
        self.now = NOW
        self.rows: list[KeyRow] = []
        self.algorithms = {"ES256"}
        self.emergencies: set[str] = set()
        self._made = itertools.count()
        self.versions: list[tuple[int, list[KeyRow]]] = []

    def make(self, algorithm: str, sign_from: int) -> KeyRow:
        made = KeyRow(f"k{next(self._made)}", algorithm, self.now, sign_from)
        if not any(one.algorithm == algorithm and one.revoked_at is None for one in self.rows):
            self.emergencies.add(made.kid)
        self.rows = [*self.rows, made]
        return made

    def look(self) -> None:
        wanted = plan(self.rows, self.now, self.timings, self.algorithms)
        self.rows = [one for one in self.rows if one.kid not in wanted.forget]
        for algorithm, sign_from in wanted.create:
            self.make(algorithm, sign_from)
        self.versions.append((self.now, self.rows))

    def pass_until(self, until: int) -> None:
        """Time goes on, and the gateway looks whenever something is due."""
        while (due := plan(self.rows, self.now, self.timings, self.algorithms).next_at) < until:
            self.now = int(-(-due // 1))
            self.look()
        self.now = until

    def happen(self, event: Event) -> None:
        if event.what == "outage":  # of the store
            self.now += event.after
        else:
            self.pass_until(self.now + event.after)
        alive = [one for one in self.rows if one.revoked_at is None]
        match event.what:
            case "revoke":
                chosen = alive[event.which % len(alive)]
                next_one = successor(self.rows, chosen.kid, self.now)
                if next_one is not None and chosen.sign_from <= self.now:
                    self.rows = list(taking_over(self.rows, next_one.kid, self.now, ""))
                    self.emergencies.add(next_one.kid)
                self.rows = list(revoking(self.rows, chosen.kid, self.now, ""))
            case "rotate":
                self.make("ES256", self.now + self.timings.publish_ahead_seconds)
            case "rotate now":
                made = self.make("ES256", self.now)
                self.emergencies.add(made.kid)
                self.rows = list(taking_over(self.rows, made.kid, self.now, ""))
            case "new algorithm":
                self.algorithms |= {"RS256"}
        self.look()


def lived(timings: KeyTimings, events: list[Event]) -> History:
    history = History(timings)
    history.look()
    for event in events:
        history.happen(event)
    history.pass_until(history.now + DAY)
    history.look()
    return history


@settings(max_examples=80, deadline=None)
@given(any_timings(), EVENTS)
def test_at_every_moment_exactly_one_key_signs_for_each_algorithm(timings, events):
    for now, rows in lived(timings, events).versions:
        for at in (now, now + 1, now + HOUR, now + DAY):
            seen = schedule(rows, at, timings)
            signing = [one.row for one in seen.standings if one.state == "active"]
            wanted = {one.algorithm for one in rows if one.revoked_at is None}
            assert sorted(one.algorithm for one in signing) == sorted(wanted)


@settings(max_examples=80, deadline=None)
@given(any_timings(), EVENTS)
def test_no_token_outlives_the_publication_of_its_key(timings, events):
    """Whatever signs by a clock 60 seconds off is published by every right clock until the token's end."""
    versions = lived(timings, events).versions
    for (now, rows), skew in itertools.product(versions, (-SKEW, 0, SKEW)):
        for signer in schedule(rows, now + skew, timings).signers().values():
            end = now + skew + TOKEN_SECONDS
            for later, then in versions:
                if not now <= later <= end:
                    continue
                found = {one.kid: one for one in then}.get(signer.kid)
                assert found is not None, "forgotten before its last token has expired"
                if found.revoked_at is None:
                    state = next(one.state for one in schedule(then, later, timings).standings if one.row is found)
                    assert state in PUBLISHED_STATES


@settings(max_examples=80, deadline=None)
@given(any_timings(), EVENTS)
def test_no_key_signs_before_it_was_published_as_long_as_wanted_but_in_an_emergency(timings, events):
    history = lived(timings, events)
    for now, rows in history.versions:
        for signer in schedule(rows, now, timings).signers().values():
            alone = len([one for one in rows if one.algorithm == signer.algorithm and one.revoked_at is None]) == 1
            if signer.kid not in history.emergencies and not alone:
                assert now - signer.created_at >= timings.publish_ahead_seconds


@settings(max_examples=80, deadline=None)
@given(any_timings(), EVENTS)
def test_whatever_one_replica_signs_with_the_others_publish(timings, events):
    for now, rows in lived(timings, events).versions:
        for at in (now, now + HOUR):
            published = [
                {one.row.kid for one in schedule(rows, at + skew, timings).standings if one.state in PUBLISHED_STATES}
                for skew in (-SKEW, 0, SKEW)
            ]
            for skew in (-SKEW, 0, SKEW):
                signing = {one.kid for one in schedule(rows, at + skew, timings).signers().values()}
                assert all(signing <= one for one in published)


@settings(max_examples=80, deadline=None)
@given(any_timings(), EVENTS, st.integers(-SKEW, SKEW), st.integers(-SKEW, SKEW))
def test_a_replica_that_starts_late_signs_with_what_verifiers_know(timings, events, skew, around):
    """Its clock may be off, and it may start around a takeover: a planned key has been there for long enough."""
    history = lived(timings, events)
    for now, rows in history.versions:
        for started in {now} | {one.sign_from + around for one in rows if one.sign_from + around >= now}:
            known = {one.kid: known_since(one, started + skew, None) for one in rows}
            for signer in schedule(rows, started + skew, timings, known).signers().values():
                alone = len([one for one in rows if one.algorithm == signer.algorithm and one.revoked_at is None]) == 1
                if signer.kid not in history.emergencies and not alone:
                    assert started - signer.created_at >= timings.known_after_seconds


def test_keep_for_covers_a_replica_that_takes_a_key_up_late():
    timings = KeyTimings(300, 390, least_keep_for(300, TOKEN_SECONDS))
    rows = [row("a", made=-DAY), row("b", signs=390)]
    seen_late = NOW + 390 + CLOCK_SKEW_SECONDS - 1
    known = {"a": 0.0, "b": known_since(rows[1], seen_late, None)}
    last = known["b"] + timings.known_after_seconds - 1
    assert schedule(rows, last, timings, known).signers()["ES256"].kid == "a"
    assert states(rows, last + TOKEN_SECONDS - NOW, timings)["a"] == "retiring"


@pytest.mark.parametrize("seconds", [0, 1, 10**9])
def test_an_unknown_past_is_no_error(seconds):
    assert schedule([], seconds, TIMINGS).standings == ()
