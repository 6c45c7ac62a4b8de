"""Quotas at the token endpoint: who is refused, what is told, and who does not notice. RFC 6585 §4."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.model import Clock
from gateway.oauth.client_secret import secret_digest
from tests.support.parts import eventually
from tests.support.redis_server import RedisServer
from tests.support.running import RunningGateway, running, settings
from tests.support.time import HandClock

POLICIES = f"""
kind: Resource
name: ledger-api
identifier: https://ledger.example.com
scopes: {{ledger:read: Read}}
---
kind: ServiceAccount
name: limited
access: [{{resource: ledger-api, scopes: [ledger:read]}}]
rate_limit: 3/minute
credentials: {{secrets: [{{id: s1, digest: "{secret_digest("s3cret")}"}}]}}
---
kind: ServiceAccount
name: other
access: [{{resource: ledger-api, scopes: [ledger:read]}}]
credentials: {{secrets: [{{id: s1, digest: "{secret_digest("s3cret")}"}}]}}
"""


@asynccontextmanager
async def gateway_in(folder: Path, clock: Clock | None = None, **overrides: Any) -> AsyncIterator[RunningGateway]:
    folder.mkdir(exist_ok=True)
    (folder / "policies").mkdir()
    (folder / "policies" / "policies.yaml").write_text(POLICIES)
    async with running(settings(folder, **overrides), clock=clock) as gateway:
        yield gateway


def basic(client_id: str, secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()}


async def ask(gateway: RunningGateway, client_id: str = "limited", secret: str = "s3cret") -> tuple[int, Any, Any]:
    return await gateway.post({"grant_type": "client_credentials"}, headers=basic(client_id, secret))


async def statuses(gateway: RunningGateway, count: int, *who: str) -> list[int]:
    return [(await ask(gateway, *who))[0] for _ in range(count)]


async def test_beyond_the_rate_limit_of_its_service_account_a_client_gets_429_and_the_time_to_wait(tmp_path: Path):
    clock = HandClock()
    async with gateway_in(tmp_path / "a", clock) as gateway:
        assert await statuses(gateway, 3) == [200] * 3
        status, body, headers = await ask(gateway)
        assert (status, body["error"], body["reason"]) == (429, "temporarily_unavailable", "quota_exceeded")
        wait = int(headers["Retry-After"])
        assert 1 <= wait <= 61
        assert await statuses(gateway, 3, "other") == [200] * 3
        clock.now += wait
        assert (await ask(gateway))[0] == 200
        text = await gateway.get(f"{gateway.admin_url}/metrics")
        assert 'gateway_quota_exceeded_total{quota="service_account"} 1.0' in text


async def test_a_flood_of_one_client_is_written_down_about_once_a_minute(tmp_path: Path):
    clock = HandClock()
    async with gateway_in(tmp_path / "a", clock) as gateway:
        for _ in range(10):  # three minutes and a bit, without a pause of one
            await statuses(gateway, 20)
            clock.now += 20
    lines = [json.loads(line) for line in (tmp_path / "a" / "audit.jsonl").read_text().splitlines()]
    told = [line["client_id"] for line in lines if line["reason"] == "quota_exceeded"]
    assert set(told) == {"limited"}
    assert 4 <= len(told) <= 8, "each minute once for each of its quotas, of two hundred requests"


async def test_without_its_secret_nobody_spends_a_clients_quota(tmp_path: Path):
    async with gateway_in(tmp_path / "a") as gateway:
        assert await statuses(gateway, 10, "limited", "not-it") == [401] * 10
        assert (await ask(gateway))[0] == 200


async def test_a_refused_request_spends_nothing(tmp_path: Path):
    async with gateway_in(tmp_path / "a") as gateway:
        for _ in range(10):
            form = {"grant_type": "client_credentials", "scope": "admin"}
            assert (await gateway.post(form, headers=basic("limited", "s3cret")))[0] == 400
        assert (await ask(gateway))[0] == 200


async def test_a_source_that_failed_too_often_is_refused_before_anything_is_read(tmp_path: Path):
    quotas = {"failures_per_source": "5/minute"}
    async with gateway_in(tmp_path / "a", quotas=quotas) as gateway:
        assert await statuses(gateway, 5, "limited", "not-it") == [401, 401, 401, 401, 401]  # one is forgiven
        before = (tmp_path / "a" / "audit.jsonl").stat().st_size
        answers = {(await ask(gateway, "other", f"guess-{n}"))[0] for n in range(20)}
        assert 429 in answers
        assert (await ask(gateway, "other"))[0] == 429, "the right secret, too: it comes from the same source"
        connector = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
        async with aiohttp.ClientSession(connector=connector) as elsewhere:
            assert (await ask(RunningGateway(gateway.gateway, elsewhere), "other"))[0] == 200
        refused = (tmp_path / "a" / "audit.jsonl").read_bytes()[before:].count(b"quota_exceeded")
        assert refused == 0, "counted and not written down"


async def test_gos_repetition_with_its_other_style_is_not_punished_twice(tmp_path: Path):
    async with gateway_in(tmp_path / "a", quotas={"failures_per_source": "10/minute"}) as gateway:
        for number in range(9):
            secret = f"wrong-{number}"
            assert (await ask(gateway, "limited", secret))[0] == 401
            form = {"grant_type": "client_credentials", "client_id": "limited", "client_secret": secret}
            assert (await gateway.post(form))[0] == 400
        assert await statuses(gateway, 2, "limited", "wrong") == [401, 429], "ten failures, not nineteen"


async def test_replicas_count_together_where_they_share_a_redis(tmp_path: Path, redis_server: RedisServer):
    async with (
        gateway_in(tmp_path / "a", state=redis_server.url) as first,
        gateway_in(tmp_path / "b", state=redis_server.url) as second,
    ):
        assert await statuses(first, 2) == [200, 200]
        assert await statuses(second, 2) == [200, 429]
        assert (await ask(first))[0] == 429


async def test_while_redis_is_away_each_counts_alone_and_afterwards_together_again(
    tmp_path: Path, redis_server: RedisServer
):
    async with (
        gateway_in(tmp_path / "a", state=redis_server.url) as first,
        gateway_in(tmp_path / "b", state=redis_server.url) as second,
    ):
        await redis_server.kill()
        assert await statuses(first, 4) == [200, 200, 200, 429]
        assert await statuses(second, 4) == [200, 200, 200, 429]
        await redis_server.start()

        async def together() -> bool:
            return not (first.gateway.quotas.degraded or second.gateway.quotas.degraded)

        async def asked() -> bool:
            await ask(first, "other")
            await ask(second, "other")
            return await together()

        await eventually(asked)


@pytest.mark.parametrize(("without_state", "expected"), [("refuse", 503), ("allow", 200)])
async def test_what_happens_while_redis_is_away_is_a_setting(
    tmp_path: Path, redis_server: RedisServer, without_state: str, expected: int
):
    quotas = {"without_state": without_state}
    async with gateway_in(tmp_path / "a", state=redis_server.url, quotas=quotas) as gateway:
        await redis_server.kill()
        assert await statuses(gateway, 5) == [expected] * 5
