"""Clocks differ, and clocks jump: a little is forgiven, and nothing expired comes back to life."""

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.clock import SteadyClock
from tests.faults.neighbourhood import Neighbourhood, hand_driven, neighbours
from tests.faults.observed import claims_of, metric
from tests.support.parts import eventually
from tests.support.running import RunningGateway, running, settings
from tests.support.time import HandClock

LEEWAY_SECONDS = 30
JOB_LIFE_SECONDS = 300
HOUR = 3600


class OffClock:
    """A clock that is ahead of another one by so many seconds."""

    def __init__(self, right: HandClock) -> None:
        self.right = right
        self.ahead_seconds = 0.0

    def __call__(self) -> float:
        return self.right() + self.ahead_seconds


@pytest.fixture
def issuers_clock(clock: HandClock) -> OffClock:
    return OffClock(clock)


@pytest.fixture
async def around(issuers_clock: OffClock) -> AsyncIterator[Neighbourhood]:
    async with neighbours(issuers_clock) as found:
        yield found


async def answer_to(gateway: RunningGateway, token: str) -> str:
    _, body = await gateway.exchange(token, resource="ledger-api")
    return str(body.get("reason", "granted"))


# ---------------------------------------------------------------- the issuer's clock


@pytest.mark.parametrize(
    ("ahead_seconds", "answer"),
    [
        (LEEWAY_SECONDS, "granted"),
        (LEEWAY_SECONDS + 1, "token_not_yet_valid"),
        (HOUR, "token_not_yet_valid"),
        (-(JOB_LIFE_SECONDS + LEEWAY_SECONDS - 1), "granted"),
        (-(JOB_LIFE_SECONDS + LEEWAY_SECONDS), "token_expired"),
        (-HOUR, "token_expired"),
    ],
)
async def test_an_issuers_clock_may_differ_by_the_leeway_and_no_more(
    around: Neighbourhood, clock: HandClock, issuers_clock: OffClock, tmp_path: Path, ahead_seconds: int, answer: str
):
    async with hand_driven(tmp_path, around.policies(), clock) as gateway:
        await clock.until_sleeping(2)
        issuers_clock.ahead_seconds = ahead_seconds
        assert await answer_to(gateway, around.job_token()) == answer


async def test_a_token_from_the_future_is_told_apart_from_a_bad_one(
    around: Neighbourhood, clock: HandClock, issuers_clock: OffClock, tmp_path: Path
):
    """The caller reads which clock to look at, and is served once that clock is right."""
    async with hand_driven(tmp_path, around.policies(), clock) as gateway:
        await clock.until_sleeping(2)
        issuers_clock.ahead_seconds = 90
        early = around.pod_token()
        _, body = await gateway.exchange(early)
        assert "90 seconds in the future" in body["error_description"]
        clock.now += 60
        assert await answer_to(gateway, early) == "granted"


async def test_what_is_minted_carries_the_gateways_own_time(
    around: Neighbourhood, clock: HandClock, issuers_clock: OffClock, tmp_path: Path
):
    async with hand_driven(tmp_path, around.policies(), clock) as gateway:
        await clock.until_sleeping(2)
        issuers_clock.ahead_seconds = LEEWAY_SECONDS
        _, body = await gateway.exchange(around.pod_token())
        claims = claims_of(body["access_token"])
        assert claims["nbf"] <= claims["iat"] == int(clock())


async def test_a_remembered_token_expires_when_it_expires(around: Neighbourhood, clock: HandClock, tmp_path: Path):
    """What was verified once is not verified again, but its times are looked at each time."""
    async with hand_driven(tmp_path, around.policies(), clock) as gateway:
        await clock.until_sleeping(2)
        token = around.job_token()
        for _ in range(4):
            assert await answer_to(gateway, token) == "granted"
        clock.now += JOB_LIFE_SECONDS + LEEWAY_SECONDS - 1
        assert await answer_to(gateway, token) == "granted"
        clock.now += 1
        assert await answer_to(gateway, token) == "token_expired"


# ---------------------------------------------------------------- the gateway's own clock


@pytest.fixture
async def stepped(
    clock: HandClock, around: Neighbourhood, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RunningGateway]:
    """A gateway on the machine's clock, which is ``clock``. Its GitHub tokens work once."""
    monkeypatch.setattr("gateway.clock.time", SimpleNamespace(time=clock, monotonic=lambda: 0.0))
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "policies.yaml").write_text(around.policies(github="replay: reject"))
    async with running(settings(tmp_path), clock=SteadyClock()) as gateway:

        async def keys_are_there() -> bool:
            return await metric(gateway, "gateway_issuer_keys") >= 2

        await eventually(keys_are_there)
        yield gateway


async def test_a_clock_that_is_set_back_brings_no_token_back_to_life(
    stepped: RunningGateway, around: Neighbourhood, clock: HandClock
):
    expired = [around.pod_token(lifetime_seconds=600) for _ in range(2)]
    for _ in range(4):
        assert await answer_to(stepped, expired[0]) == "granted"
    clock.now += HOUR
    assert await answer_to(stepped, expired[0]) == "token_expired"
    clock.now -= HOUR
    for token in expired:
        assert await answer_to(stepped, token) == "token_expired"


async def test_a_clock_that_is_set_back_forgets_no_used_token(
    stepped: RunningGateway, around: Neighbourhood, clock: HandClock
):
    used = around.job_token()
    assert await answer_to(stepped, used) == "granted"
    clock.now += 60
    assert await answer_to(stepped, used) == "token_replayed"
    clock.now -= HOUR
    assert await answer_to(stepped, used) == "token_replayed"


async def test_each_step_back_is_counted_and_told(stepped: RunningGateway, clock: HandClock):
    for steps in (1, 2):
        clock.now -= HOUR
        for _ in range(3):  # however often the time is asked for
            assert await metric(stepped, "gateway_clock_steps_back_total") == steps
        clock.now += HOUR + 1
        assert await metric(stepped, "gateway_clock_steps_back_total") == steps


async def test_a_small_correction_is_no_step(stepped: RunningGateway, around: Neighbourhood, clock: HandClock):
    assert await answer_to(stepped, around.pod_token()) == "granted"
    clock.now -= 4
    assert await answer_to(stepped, around.pod_token()) == "granted"
    assert await metric(stepped, "gateway_clock_steps_back_total") == 0


async def test_once_the_clock_has_caught_up_everything_is_as_before(
    stepped: RunningGateway, around: Neighbourhood, clock: HandClock
):
    assert await answer_to(stepped, around.job_token()) == "granted"
    clock.now -= HOUR
    assert await metric(stepped, "gateway_clock_steps_back_total") == 1
    clock.now += HOUR + 60
    _, body = await stepped.exchange(around.pod_token())
    assert claims_of(body["access_token"])["iat"] == int(clock())
    assert await answer_to(stepped, around.job_token()) == "granted"


async def test_a_key_set_does_not_grow_young_when_the_clock_is_set_back(
    clock: HandClock, around: Neighbourhood, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """An outage that began before the step still ends the trust in the last good keys."""
    monkeypatch.setattr("gateway.clock.time", SimpleNamespace(time=clock, monotonic=lambda: 0.0))
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "policies.yaml").write_text(around.policies(cluster_keys="max_age: 1h"))
    async with running(settings(tmp_path), clock=SteadyClock()) as gateway:

        async def keys_are_there() -> bool:
            return await metric(gateway, "gateway_issuer_keys") >= 2

        await eventually(keys_are_there)
        await around.cluster_server.close()
        clock.now += HOUR + 10
        assert await answer_to(gateway, around.pod_token()) == "issuer_unavailable"
        clock.now -= HOUR
        assert await answer_to(gateway, around.pod_token()) == "issuer_unavailable"


def test_time_goes_on_while_the_wall_clock_is_behind(monkeypatch: pytest.MonkeyPatch):
    wall, monotonic = [10_000.0], [0.0]
    machine = SimpleNamespace(time=lambda: wall[0], monotonic=lambda: monotonic[0])
    monkeypatch.setattr("gateway.clock.time", machine)
    clock = SteadyClock(allowed_step_back_seconds=5)
    assert clock() == 10_000
    wall[0] -= 3600
    assert clock() == 9_995
    monotonic[0] += 60
    wall[0] += 60
    assert clock() == 10_055, "what expires meanwhile has expired"
    wall[0] += 3600
    assert clock() == 10_060
    assert clock.steps_back == 1
