"""Which key signs, and which keys are published: a pure function of the keys' rows, the time and the timings.

Nobody has to be told that a key takes over. Its row says so long before, every replica has the row, and each of them
looks at its own clock:

    upcoming    published, so that every cache comes to know it; signs nothing yet
    active      signs, one for each algorithm
    retiring    signs no more, published until the last token that it signed has expired
    gone        not published any more
    revoked     out of use at once, whatever the schedule said
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from gateway.model import SigningAlgorithm

KeyState = Literal["upcoming", "active", "retiring", "gone", "revoked"]
KEY_STATES: tuple[KeyState, ...] = ("upcoming", "active", "retiring", "gone", "revoked")
PUBLISHED_STATES: frozenset[KeyState] = frozenset({"upcoming", "active", "retiring"})

PROPAGATION_SECONDS = 90
"""How long a new row takes to reach every replica, with what small differences of clocks add."""
CLOCK_SKEW_SECONDS = 300
"""How far the clocks of replicas may lie apart, and how late a verifier may still take an expired token."""
FORGOTTEN_AFTER_SECONDS = 3600
"""How long the row of a key that is gone stays: until it is gone by every replica's clock."""
MAX_KEYS_AT_ONCE = 24
"""How many retiring keys of one algorithm automatic rotation may leave published: verifiers bound their key sets."""


@dataclass(frozen=True, slots=True)
class KeyTimings:
    """How long the states last, in seconds."""

    cache_for_seconds: int
    """How long verifiers may keep the key set."""
    publish_ahead_seconds: int
    """How long a key is published before it signs."""
    keep_for_seconds: int
    """How long a key is published after it stopped signing."""
    rotate_every_seconds: int | None = None
    """After how long the next key takes over; None where nothing is automatic."""

    @property
    def known_after_seconds(self) -> int:
        """How long a key has to be published until every verifier that honours ``cache_for_seconds`` knows it."""
        return self.cache_for_seconds + PROPAGATION_SECONDS


def least_keep_for(cache_for_seconds: int, longest_token_seconds: int) -> int:
    """The least ``keep_for_seconds``. Beside the life of a token it covers a replica that takes a new key up late,
    because it saw it late, and the differences of clocks, once among replicas and once between them and verifiers.
    """
    return longest_token_seconds + cache_for_seconds + PROPAGATION_SECONDS + 2 * CLOCK_SKEW_SECONDS


@dataclass(frozen=True, slots=True)
class KeyRow:
    """What the store says of a key beside the key itself. Times are in seconds since the epoch."""

    kid: str
    algorithm: SigningAlgorithm
    created_at: int
    """When it was put into the store: published from then on."""
    sign_from: int
    revoked_at: int | None = None
    note: str = ""
    """Who put it there or changed it last, and why: for logs and lists."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One key at one moment."""

    row: KeyRow
    state: KeyState
    until: float | None
    """When the state ends by time alone; None where nothing is planned. A revoked key is forgotten then."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """All keys at one moment."""

    standings: tuple[Standing, ...]
    """The newest first, by ``sign_from``."""
    changes_at: float
    """When the first of them changes by time alone."""

    def rows_in(self, states: Collection[KeyState]) -> tuple[KeyRow, ...]:
        """The rows of the keys in these states."""
        return tuple(standing.row for standing in self.standings if standing.state in states)

    def signers(self) -> dict[SigningAlgorithm, KeyRow]:
        """For each algorithm the key that signs."""
        return {row.algorithm: row for row in self.rows_in({"active"})}


def known_since(row: KeyRow, now: float, looked_before: float | None) -> float:
    """Since when a replica that finds this row at ``now`` counts it as published, ``looked_before`` being the moment
    of its look before that.

    What took over a while ago is in force: who starts late, or was cut off, follows. But a row that claims to be older
    than a look which did not find it was written by a clock that is behind; and of a key that takes over just now
    somebody whose own clock is ahead cannot say for how long it has been there. Both are counted from now.
    """
    took_over = row.sign_from + CLOCK_SKEW_SECONDS <= now
    was_not_there = looked_before is not None and row.created_at + CLOCK_SKEW_SECONDS < looked_before
    return row.created_at if took_over and not was_not_there else now


def signs_from(row: KeyRow, timings: KeyTimings, known: float | None) -> float:
    """When a replica signs with a key that it has known since ``known`` (None: as long as its row says).

    A planned key waits until verifiers know it even where the replica saw it late. One that signs earlier after its
    creation than they can know it was declared to: it is the first of its algorithm, or there was an emergency.
    """
    declared = row.sign_from - row.created_at < timings.known_after_seconds
    if declared or known is None:
        return row.sign_from
    return max(row.sign_from, known + timings.known_after_seconds)


def schedule(
    rows: Iterable[KeyRow], now: float, timings: KeyTimings, known: Mapping[str, float] | None = None
) -> Schedule:
    """The states of all keys at ``now``.

    ``known`` says since when this replica knows each key, by ``kid``; without it every key counts as known for as long
    as its row says.
    """
    known = known or {}
    rows = tuple(rows)
    standings = [Standing(row, "revoked", _revoked_until(row, timings)) for row in rows if row.revoked_at is not None]
    for algorithm in {row.algorithm for row in rows}:
        standings += _standings(_line(rows, algorithm), now, timings, known)
    standings.sort(key=lambda standing: _newest_first(standing.row))
    ends = (one.until for one in standings if one.until is not None and one.state != "revoked")
    return Schedule(tuple(standings), min(ends, default=math.inf))


def _standings(line: list[KeyRow], now: float, timings: KeyTimings, known: Mapping[str, float]) -> list[Standing]:
    """Of all keys of one algorithm that are not revoked, the newest first.

    Where no key is due, the one that will be first signs already: a clock that is behind must not keep a gateway from
    signing with the only key that there is.
    """
    starts = [signs_from(row, timings, known.get(row.kid)) for row in line]
    active = next((place for place, start in enumerate(starts) if start <= now), len(line) - 1)
    found = []
    for place, row in enumerate(line):
        if place < active:
            found.append(Standing(row, "upcoming", starts[place]))
        elif place == active:
            # Where it was taken up before its time, nothing changes when that comes.
            found.append(Standing(row, "active", min(starts[:active], default=None)))
        else:
            until = _takes_over(line[place - 1], timings, known) + timings.keep_for_seconds
            found.append(Standing(row, "retiring", until) if now < until else Standing(row, "gone", None))
    return found


def _takes_over(row: KeyRow, timings: KeyTimings, known: Mapping[str, float]) -> float:
    """When the key before this one has signed its last: not before this replica knew that there is another, whatever a
    row says that was written by a clock far behind.
    """
    since = known.get(row.kid)
    return max(signs_from(row, timings, since), since if since is not None else 0)


def _line(rows: Iterable[KeyRow], algorithm: SigningAlgorithm) -> list[KeyRow]:
    """The keys of an algorithm that are not revoked, the newest first; every replica has them in the same order."""
    return sorted((row for row in rows if row.algorithm == algorithm and row.revoked_at is None), key=_newest_first)


def _newest_first(row: KeyRow) -> tuple[int, int, str]:
    return -row.sign_from, -row.created_at, row.kid


def _revoked_until(row: KeyRow, timings: KeyTimings) -> int:
    assert row.revoked_at is not None
    return row.revoked_at + timings.keep_for_seconds + FORGOTTEN_AFTER_SECONDS


# ---------------------------------------------------------------- what is to be done


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be changed in the store now, and when there is something the next time."""

    create: tuple[tuple[SigningAlgorithm, int], ...]
    """Keys to be made: the algorithm, and ``sign_from``."""
    forget: frozenset[str]
    """The ``kid`` of rows that nobody needs any more."""
    due_since: float | None
    """When the first of this was due; None where there is nothing to do."""
    next_at: float
    """When there is something the next time, by time alone."""


def plan(
    rows: Iterable[KeyRow],
    now: float,
    timings: KeyTimings,
    algorithms: Iterable[SigningAlgorithm],
    known: Mapping[str, float] | None = None,
) -> Plan:
    """What rotation asks for at ``now``. ``algorithms`` are those that are signed with, ``known`` is as in
    ``schedule``: a row of a clock that is far behind must not have the key forgotten that still signs here.
    """
    rows, known = tuple(rows), known or {}
    create: list[tuple[SigningAlgorithm, int]] = []
    times: list[float] = []
    for algorithm in sorted(set(algorithms)):
        line = _line(rows, algorithm)
        if not line:
            create.append((algorithm, math.floor(now)))
            times.append(now)
        elif timings.rotate_every_seconds is not None:
            takes_over = line[0].sign_from + timings.rotate_every_seconds
            times.append(takes_over - timings.publish_ahead_seconds)
            if times[-1] <= now:
                create.append((algorithm, max(takes_over, math.ceil(now) + timings.publish_ahead_seconds)))
    ends = {row.kid: _forgotten_at(row, rows, timings, known) for row in rows}
    times += ends.values()
    due = [time for time in times if time <= now]
    return Plan(
        tuple(create),
        frozenset(kid for kid, end in ends.items() if end <= now),
        min(due, default=None),
        min((time for time in times if time > now), default=math.inf),
    )


def _forgotten_at(row: KeyRow, rows: Iterable[KeyRow], timings: KeyTimings, known: Mapping[str, float]) -> float:
    if row.revoked_at is not None:
        return _revoked_until(row, timings)
    line = _line(rows, row.algorithm)
    place = line.index(row)
    if place == 0:
        return math.inf
    return _takes_over(line[place - 1], timings, known) + timings.keep_for_seconds + FORGOTTEN_AFTER_SECONDS


# ---------------------------------------------------------------- what an operator changes


def taking_over(rows: Iterable[KeyRow], kid: str, now: float, note: str) -> tuple[KeyRow, ...]:
    """The rows with this key signing from now on."""
    rows = tuple(rows)
    (chosen,) = (row for row in rows if row.kid == kid)
    begun = (row.sign_from for row in _line(rows, chosen.algorithm) if row.sign_from <= now and row is not chosen)
    sign_from = max(math.floor(now), 1 + max(begun, default=0))  # behind the one that signs so far
    return tuple(replace(row, sign_from=sign_from, note=note) if row is chosen else row for row in rows)


def revoking(rows: Iterable[KeyRow], kid: str, now: float, note: str) -> tuple[KeyRow, ...]:
    """The rows with this key out of use."""
    return tuple(replace(row, revoked_at=math.floor(now), note=note) if row.kid == kid else row for row in rows)


def successor(rows: Iterable[KeyRow], kid: str, now: float) -> KeyRow | None:
    """The upcoming key that is next to sign after this one."""
    rows = tuple(rows)
    algorithm = next(row.algorithm for row in rows if row.kid == kid)
    waiting = [row for row in _line(rows, algorithm) if row.kid != kid and row.sign_from > now]
    return waiting[-1] if waiting else None
