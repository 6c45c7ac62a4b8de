"""When a rotation is due."""

from dataclasses import replace

import pytest

from gateway.model import RegisteredSecret
from gateway.rotation.progress import Progress, Step
from gateway.rotation.schedule import DAY_SECONDS, Schedule, why_due

NOW = 1_800_000_000.0
DIGEST = "sha256:" + "a" * 64
SCHEDULE = Schedule(90 * DAY_SECONDS, DAY_SECONDS, ("vault://kv/a",))
DONE = Progress(
    step=Step.DONE,
    secret_id="s1",
    digest=DIGEST,
    targets=("vault://kv/a",),
    began_at=NOW - 10 * DAY_SECONDS,
    provisional_until=NOW - 10 * DAY_SECONDS + 3600,
    expires_at=None,
    overlap_seconds=DAY_SECONDS,
    promoted_at=NOW - 10 * DAY_SECONDS,
    finished_at=NOW - 10 * DAY_SECONDS,
)
SECRET = RegisteredSecret("s1", DIGEST, NOW - 10 * DAY_SECONDS)


def began(days_ago: float) -> Progress:
    return replace(DONE, began_at=NOW - days_ago * DAY_SECONDS)


def test_nothing_is_due_between_rotations():
    assert why_due(SCHEDULE, DONE, [SECRET], NOW) is None


def test_the_first_rotation_is_due():
    assert why_due(SCHEDULE, None, [], NOW) == "it was never rotated"


@pytest.mark.parametrize("step", [step for step in Step if step is not Step.DONE])
def test_an_unfinished_rotation_is_due(step: Step):
    assert "unfinished" in (why_due(SCHEDULE, replace(DONE, step=step), [SECRET], NOW) or "")


def test_a_store_that_is_new_in_the_policy_is_due():
    schedule = replace(SCHEDULE, targets=("vault://kv/a", "vault://kv/b"))
    assert why_due(schedule, DONE, [SECRET], NOW) == "vault://kv/b has no secret yet"


def test_a_store_that_left_the_policy_is_not_due():
    assert why_due(SCHEDULE, replace(DONE, targets=("vault://kv/a", "vault://kv/b")), [SECRET], NOW) is None


def test_a_secret_that_was_ended_or_forgotten_is_due():
    assert "has ended" in (why_due(SCHEDULE, DONE, [], NOW) or "")
    assert "has ended" in (why_due(SCHEDULE, DONE, [replace(SECRET, expires_at=NOW)], NOW) or "")


def test_a_secret_is_replaced_while_there_is_time_for_the_overlap_and_for_another_run():
    assert "ends soon" in (why_due(SCHEDULE, DONE, [replace(SECRET, expires_at=NOW + 1.9 * DAY_SECONDS)], NOW) or "")
    assert why_due(SCHEDULE, DONE, [replace(SECRET, expires_at=NOW + 2.1 * DAY_SECONDS)], NOW) is None


def test_a_rotation_is_due_after_its_interval():
    assert why_due(SCHEDULE, began(89.9), [SECRET], NOW) is None
    assert "90 days old" in (why_due(SCHEDULE, began(90), [SECRET], NOW) or "")


def test_a_daily_run_that_comes_a_minute_early_loses_no_day():
    daily = replace(SCHEDULE, every_seconds=DAY_SECONDS, overlap_seconds=3600)
    assert why_due(daily, began(1 - 60 / DAY_SECONDS), [SECRET], NOW) is not None
    assert why_due(daily, began(0.9), [SECRET], NOW) is None
