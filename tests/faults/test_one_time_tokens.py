"""A token that works once works once, however many present it and whatever fails meanwhile."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.load import many_connections
from tests.faults.neighbourhood import Neighbourhood, hand_driven
from tests.faults.observed import recorded_token_ids, records, token_ids
from tests.support.running import RunningGateway
from tests.support.time import HandClock


@pytest.fixture
async def gateway(around: Neighbourhood, clock: HandClock, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """Its GitHub tokens work once, its cluster tokens again and again."""
    policies = around.policies(github="replay: reject")
    async with hand_driven(tmp_path, policies, clock) as started, many_connections(started) as found:
        await clock.until_sleeping(2)
        yield found


@contextmanager
def failing_audit(gateway: RunningGateway, folder: Path) -> Iterator[None]:
    """While this lasts, no record can be written: the log's place is taken by a folder."""
    file, aside = folder / "audit.jsonl", folder / "audit.aside"
    file.rename(aside)
    file.mkdir()
    gateway.gateway.audit.reopen()
    try:
        yield
    finally:
        file.rmdir()
        aside.rename(file)
        gateway.gateway.audit.reopen()


async def present(gateway: RunningGateway, token: str, **parameters: str) -> str:
    """What the gateway says to the token: ``granted`` or a reason."""
    _, body = await gateway.exchange(token, **({"resource": "ledger-api"} | parameters))
    return str(body.get("reason", "granted"))


async def test_of_a_hundred_at_once_one_wins(
    gateway: RunningGateway, around: Neighbourhood, tmp_path: Path, full_faults: bool
):
    for _ in range(50 if full_faults else 3):
        token = around.job_token()
        by_exchange = [gateway.exchange(token, resource="ledger-api") for _ in range(50)]
        by_assertion = [gateway.assertion(token, resource="deploy-api") for _ in range(50)]
        answers = await asyncio.gather(*by_exchange, *by_assertion)
        told = Counter((status, body.get("reason")) for status, body in answers)
        assert told == {(200, None): 1, (400, "token_replayed"): 99}
        [granted] = [body["access_token"] for status, body in answers if status == 200]
        [jti] = token_ids([token])
        of_this_token = [one for one in records(tmp_path / "audit.jsonl") if one.get("subject_token_id") == jti]
        assert recorded_token_ids(of_this_token) == token_ids([granted])
        assert len(of_this_token) == 100


async def test_tokens_of_an_issuer_that_allows_it_work_again_and_again(gateway: RunningGateway, around: Neighbourhood):
    token = around.pod_token()
    assert await asyncio.gather(*(present(gateway, token) for _ in range(20))) == ["granted"] * 20


async def test_a_refused_request_burns_no_token(gateway: RunningGateway, around: Neighbourhood):
    token = around.job_token()
    assert await present(gateway, token, scope="ledger:write") == "scope_not_granted"
    assert await present(gateway, token, resource="https://unheard-of.example.com") == "unknown_resource"
    assert await present(gateway, token, client_id="invoicer") == "no_matching_trust"
    assert await present(gateway, token, requested_expires_in="0") == "invalid_parameter"
    assert await present(gateway, token[:-9] + "AAAAAAAAA") == "bad_signature"
    assert await present(gateway, token) == "granted"
    assert await present(gateway, token) == "token_replayed"


async def test_the_mark_outlives_the_token(gateway: RunningGateway, around: Neighbourhood, clock: HandClock):
    """Up to the last moment of its leeway, a used token is a used token; then it is an expired one."""
    token = around.job_token()
    assert await present(gateway, token) == "granted"
    clock.now += 300 + 29
    assert await present(gateway, token) == "token_replayed"
    clock.now += 1
    assert await present(gateway, token) == "token_expired"


async def test_one_issuer_cannot_burn_the_tokens_of_another(around: Neighbourhood, clock: HandClock, tmp_path: Path):
    policies = around.policies(cluster="replay: reject", github="replay: reject")
    async with hand_driven(tmp_path, policies, clock) as gateway:
        await clock.until_sleeping(2)
        pod, job = around.pod_token(jti="the-same"), around.job_token(jti="the-same")
        assert await present(gateway, pod) == "granted"
        assert await present(gateway, job) == "granted"
        assert await present(gateway, around.pod_token(jti="the-same")) == "token_replayed"


async def test_without_its_record_a_token_is_not_worth_two(
    gateway: RunningGateway, around: Neighbourhood, tmp_path: Path
):
    """Those who lose the race and those whose record fails get nothing, before, during and after the trouble."""
    token = around.job_token()
    assert await present(gateway, around.pod_token()) == "granted"
    with failing_audit(gateway, tmp_path):
        told = await asyncio.gather(*(present(gateway, token) for _ in range(20)))
        assert set(told) == {"audit_unavailable"}
    told = await asyncio.gather(*(present(gateway, token) for _ in range(20)))
    assert told.count("granted") <= 1
    assert set(told) <= {"granted", "token_replayed"}
    assert await present(gateway, token) == "token_replayed"
    assert await present(gateway, around.job_token()) == "granted"


async def test_a_denial_that_cannot_be_written_burns_no_token(
    gateway: RunningGateway, around: Neighbourhood, tmp_path: Path
):
    token = around.job_token()
    assert await present(gateway, around.pod_token()) == "granted"
    with failing_audit(gateway, tmp_path):
        assert await present(gateway, token, scope="ledger:write") == "audit_unavailable"
    assert await present(gateway, token) == "granted"
