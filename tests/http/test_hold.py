"""A flood is answered late, within bounds, and nobody else is."""

import asyncio

import pytest

from gateway.http.hold import HELD_SECONDS, MAX_HELD, Hold
from gateway.oauth.errors import Refusal
from gateway.oauth.reasons import REASONS

TOO_MANY = Refusal("quota_exceeded")


class Sleeps:
    """A sleep that notes how long, and ends when the test says so."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.over = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        await self.over.wait()


async def test_a_quota_that_was_spent_is_told_a_moment_later():
    sleeps = Sleeps()
    held = asyncio.create_task(Hold(sleeps, lambda: False).back(TOO_MANY))
    await asyncio.sleep(0)
    assert (sleeps.asked, held.done()) == ([HELD_SECONDS], False)
    sleeps.over.set()
    await held


@pytest.mark.parametrize("code", [code for code, reason in REASONS.items() if reason.stage != "quota"])
async def test_every_other_refusal_is_told_at_once(code: str):
    sleeps = Sleeps()
    await Hold(sleeps, lambda: False).back(Refusal(code))
    assert sleeps.asked == []


async def test_so_many_are_held_and_no_more():
    sleeps = Sleeps()
    hold = Hold(sleeps, lambda: False)
    held = [asyncio.create_task(hold.back(TOO_MANY)) for _ in range(MAX_HELD)]
    await asyncio.sleep(0)
    await hold.back(TOO_MANY)
    assert len(sleeps.asked) == MAX_HELD
    sleeps.over.set()
    await asyncio.gather(*held)
    task = asyncio.create_task(hold.back(TOO_MANY))
    await task
    assert len(sleeps.asked) == MAX_HELD + 1


async def test_whoever_hangs_up_gives_the_place_free():
    sleeps = Sleeps()
    hold = Hold(sleeps, lambda: False)
    held = [asyncio.create_task(hold.back(TOO_MANY)) for _ in range(MAX_HELD)]
    await asyncio.sleep(0)
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    sleeps.over.set()
    await hold.back(TOO_MANY)
    assert len(sleeps.asked) == MAX_HELD + 1


async def test_nothing_is_held_while_the_server_stops():
    sleeps = Sleeps()
    await Hold(sleeps, lambda: True).back(TOO_MANY)
    assert sleeps.asked == []
