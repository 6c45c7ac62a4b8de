"""``policies_shadow``: other policies that decide every request as well, without effect, over real HTTP."""

import asyncio
import itertools
import json
import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.oauth.client_secret import secret_digest
from gateway.policy.decision import decide
from gateway.shadow import LINES_PER_WINDOW, WINDOW_SECONDS
from tests.faults.neighbourhood import Neighbourhood, neighbours
from tests.faults.observed import metric
from tests.faults.serving import real_neighbours, serving
from tests.support.parts import eventually
from tests.support.running import ACCESS_TOKEN, TOKEN_EXCHANGE, RunningGateway, running, settings
from tests.support.time import HandClock

CLASSIC = f"""
---
kind: ServiceAccount
name: batch
access: [{{resource: ledger-api, scopes: [ledger:read, ledger:write]}}]
credentials: {{secrets: [{{id: s1, digest: "{secret_digest("s3cret")}"}}]}}
"""


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def around(clock: HandClock) -> AsyncIterator[Neighbourhood]:
    async with neighbours(clock) as found:
        yield found


@asynccontextmanager
async def shadowed(
    folder: Path, around: Neighbourhood, clock: HandClock, change: tuple[str, str] = ("", "")
) -> AsyncIterator[RunningGateway]:
    """A gateway with a shadow whose policies differ from those in force in one text."""
    for name, text in (("policies", policies(around)), ("shadow", policies(around).replace(*change))):
        (folder / name).mkdir()
        (folder / name / "policies.yaml").write_text(text)
    assert change == ("", "") or policies(around).replace(*change) != policies(around)
    configured = settings(folder, policies_shadow=folder / "shadow", quotas={"enabled": False})
    async with running(configured, clock=clock) as gateway:
        yield gateway


def policies(around: Neighbourhood) -> str:
    return around.policies() + CLASSIC


async def summary(gateway: RunningGateway) -> dict[str, Any]:
    """What ``/readyz`` says of the shadow, which never makes the gateway unready."""
    body = json.loads(await gateway.get(f"{gateway.admin_url}/readyz"))
    assert body["ready"] is True
    told: dict[str, Any] = body["policies_shadow"]
    return told


async def metrics(gateway: RunningGateway) -> dict[str, float]:
    """The samples of the shadow, by name and labels as they are written."""
    lines = (await gateway.get(f"{gateway.admin_url}/metrics")).splitlines()
    samples = [line.rpartition(" ") for line in lines if line.startswith("gateway_shadow_") and "_created" not in line]
    return {name.removeprefix("gateway_shadow_"): float(value) for name, _, value in samples}


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "gateway.shadow"]


async def test_a_shadow_that_says_the_same_is_counted_and_not_told(tmp_path, around, clock, caplog):
    async with shadowed(tmp_path, around, clock) as gateway:
        assert (await gateway.exchange(around.pod_token()))[0] == 200
        assert (await gateway.exchange(around.job_token(environment="staging")))[1]["reason"] == "no_matching_trust"
        assert (await gateway.post(CLIENT_CREDENTIALS))[0] == 200
        report = await summary(gateway)
        assert (report["generation"], report["compared"], report["failed"], report["disagreements"]) == (1, 3, 0, [])
        counted = await metrics(gateway)
        assert counted['decisions_total{outcome="agreed"}'] == 3
        assert counted['decisions_total{outcome="disagreed"}'] == 0
        assert (counted["generation"], counted["age_seconds"], counted["reload_failures_total"]) == (1, 0, 0)
    assert told(caplog) == []


CLIENT_CREDENTIALS = {
    "grant_type": "client_credentials", "client_id": "batch", "client_secret": "s3cret", "resource": "ledger-api",
}  # fmt: skip
POD = "system:serviceaccount:billing:invoicer"
CHANGES = [
    ("reason", "no_matching_trust", (f'sub: "{POD}"', 'sub: "system:serviceaccount:billing:other"')),
    ("rule", "granted", ("- {issuer: prod-cluster", "- {name: pods, issuer: prod-cluster")),
    ("scopes", "granted", ("[ledger:read, ledger:write]}]\ntrust", "[ledger:read]}]\ntrust")),
    ("lifetime", "granted", ("token_lifetime: 15m", "token_lifetime: 5m")),
    ("token_claims", "granted", ("name: invoicer\n", "name: invoicer\ntoken_claims: {team: '\"billing\"'}\n")),
    ("sender_constraint", "granted", ("token_lifetime: 15m", "token_lifetime: 15m\nsender_constraint: dpop")),
    ("signing_algorithm", "granted", ("token_lifetime: 15m", "token_lifetime: 15m\nsigning_algorithm: RS256")),
    ("service_account", "granted", ("name: invoicer\n", "name: biller\n")),
    ("resource", "granted", ("identifier: https://ledger.example.com", "identifier: https://new-ledger.example.com")),
]  # fmt: skip


@pytest.mark.parametrize(("difference", "reason", "change"), CHANGES, ids=[name for name, _, _ in CHANGES])
async def test_a_shadow_that_disagrees_changes_nothing_and_says_in_what(
    tmp_path, around, clock, caplog, difference, reason, change
):
    async with shadowed(tmp_path, around, clock, change) as gateway:
        status, body = await gateway.exchange(around.pod_token())
        assert (status, body["scope"], body["expires_in"]) == (200, "ledger:read ledger:write", 900)
        (seen,) = (await summary(gateway))["disagreements"]
        assert (seen["difference"], seen["live"], seen["shadow"], seen["count"]) == (difference, "granted", reason, 1)
        kind = f'disagreements_total{{difference="{difference}",live="granted",shadow="{reason}"}}'
        assert (await metrics(gateway))[kind] == 1
        (line,) = told(caplog)
        record = json.loads((tmp_path / "audit.jsonl").read_text())
        assert record["rule"] == "rule-1"
        assert f'request_id={record["request_id"]} issuer=prod-cluster subject="{POD}"' in line
        assert "rule=invoicer/rule-1" in line
        assert f"request_id={seen['last_request_id']}" in line
        assert f"on={difference}" in line


async def test_the_log_says_what_the_shadow_wanted_in_words(tmp_path, around, clock, caplog):
    async with shadowed(tmp_path, around, clock, ("environment: production", "environment: prod")) as gateway:
        await gateway.exchange(around.job_token(environment="production"), resource="deploy-api")
        await gateway.exchange(around.job_token(environment="prod"), resource="deploy-api")
    lost, gained = told(caplog)
    assert "live=granted shadow=no_matching_trust" in lost
    assert "in force grants web-deploy/production: deploy:write at https://deploy.example.com for 15m" in lost
    assert (
        "in the shadow denies: no_matching_trust: web-deploy/production wants environment prod; seen: production"
        in lost
    )
    assert "live=no_matching_trust shadow=granted" in gained


async def test_a_classic_client_and_a_token_of_our_own_are_decided_in_the_shadow_as_well(
    tmp_path, around, clock, caplog
):
    change = ("scopes: [ledger:read, ledger:write]}]\ncredentials", "scopes: [ledger:read]}]\ncredentials")
    async with shadowed(tmp_path, around, clock, change) as gateway:
        status, body, _ = await gateway.post(CLIENT_CREDENTIALS)
        assert status == 200
        narrowing = {
            "grant_type": TOKEN_EXCHANGE,
            "subject_token": body["access_token"],
            "subject_token_type": ACCESS_TOKEN,
            "scope": "ledger:write",
        }
        assert (await gateway.post(narrowing))[0] == 200
        kinds = [(one["difference"], one["shadow"]) for one in (await summary(gateway))["disagreements"]]
        assert kinds == [("scopes", "granted"), ("reason", "scope_not_granted")]
    assert all('issuer=self subject="batch"' in line for line in told(caplog))


async def test_an_issuer_that_the_shadow_does_not_have_is_a_disagreement(tmp_path, around, clock, caplog):
    async with shadowed(tmp_path, around, clock) as gateway:
        file = tmp_path / "shadow" / "policies.yaml"
        file.write_text(file.read_text().replace("prod-cluster", "new-cluster"))
        await gateway.gateway.reload_shadow()
        assert (await gateway.exchange(around.pod_token()))[0] == 200
        (seen,) = (await summary(gateway))["disagreements"]
        assert (seen["live"], seen["shadow"]) == ("granted", "unknown_issuer")


BROKEN = [("kind: Nonsense\n", "Nonsense"), ("", "no policy documents"), ("a: [", "not YAML")]


@pytest.mark.parametrize(("text", "told_of"), BROKEN)
async def test_a_shadow_that_does_not_load_harms_nothing(tmp_path, around, clock, text, told_of):
    async with shadowed(tmp_path, around, clock) as gateway:
        (tmp_path / "shadow" / "policies.yaml").write_text(text)
        await gateway.gateway.reload_shadow()
        assert (await gateway.exchange(around.pod_token()))[0] == 200
        report = await summary(gateway)
        assert (report["generation"], report["failed_reloads"], report["compared"]) == (1, 1, 1)
        assert told_of in report["problems"][0]
        assert (await metrics(gateway))["reload_failures_total"] == 1


async def test_a_shadow_that_never_loaded_keeps_nobody_from_starting(tmp_path, around, clock, caplog):
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "policies.yaml").write_text(policies(around))
    configured = settings(tmp_path, policies_shadow=tmp_path / "shadow")
    async with running(configured, clock=clock) as gateway:
        assert (await gateway.exchange(around.pod_token()))[0] == 200
        report = await summary(gateway)
        assert (report["generation"], report["age_seconds"], report["compared"]) == (None, None, 0)
        assert "no such folder" in report["problems"][0]
        assert "generation" not in await metrics(gateway)
        shutil.copytree(tmp_path / "policies", tmp_path / "shadow")
        await gateway.gateway.reload_shadow()
        assert (await gateway.exchange(around.pod_token()))[0] == 200
        assert (await summary(gateway))["compared"] == 1
    assert any("policies for the shadow refused" in record.getMessage() for record in caplog.records)


async def test_a_reload_of_either_begins_a_new_summary(tmp_path, around, clock):
    async with shadowed(tmp_path, around, clock, ("token_lifetime: 15m", "token_lifetime: 5m")) as gateway:
        for name, reload in (("shadow", gateway.gateway.reload_shadow), ("policies", gateway.gateway.reload)):
            await gateway.exchange(around.pod_token())
            assert (await summary(gateway))["disagreements"][0]["count"] == 1
            with (tmp_path / name / "policies.yaml").open("a") as file:
                file.write("# changed\n")
            await reload()
            report = await summary(gateway)
            assert (report["compared"], report["disagreements"]) == (0, [])
        assert (await metrics(gateway))['decisions_total{outcome="disagreed"}'] == 2


async def test_an_exception_in_the_shadow_is_counted_and_reaches_nobody(tmp_path, around, clock, caplog, monkeypatch):
    async with shadowed(tmp_path, around, clock) as gateway:
        shadow = gateway.gateway.shadow
        assert shadow is not None

        def failing(generation: Any, *arguments: Any) -> Any:
            if generation is shadow.policies.generation:
                raise RecursionError("nobody foresaw this")
            return decide(generation, *arguments)

        monkeypatch.setattr("gateway.exchange.decide", failing)
        for _ in range(3):
            assert (await gateway.exchange(around.pod_token()))[0] == 200
        report = await summary(gateway)
        assert (report["failed"], report["compared"]) == (3, 0)
        assert (await metrics(gateway))['decisions_total{outcome="failed"}'] == 3
    assert len([line for line in told(caplog) if "failed" in line]) == 1


async def test_the_answer_does_not_wait_for_the_shadow(tmp_path, around, clock, monkeypatch):
    """It is asked when the event loop is free, after the decision in force has gone its way."""
    async with shadowed(tmp_path, around, clock) as gateway:
        order = []

        def noting(generation: Any, *arguments: Any) -> Any:
            order.append("shadow" if generation is gateway.gateway.shadow.policies.generation else "live")
            return decide(generation, *arguments)

        monkeypatch.setattr("gateway.exchange.decide", noting)
        write = gateway.gateway.audit.write

        async def writing(record: Any) -> None:
            order.append("record")
            await write(record)

        monkeypatch.setattr(gateway.gateway.audit, "write", writing)
        assert (await gateway.exchange(around.pod_token()))[0] == 200
        assert (await gateway.exchange(around.job_token(event_name="none")))[0] == 400
        assert order == ["live", "record", "shadow", "live", "record", "shadow"]


async def test_a_flood_of_disagreements_does_not_fill_the_log(tmp_path, around, clock, caplog):
    async with shadowed(tmp_path, around, clock, ("token_lifetime: 15m", "token_lifetime: 5m")) as gateway:
        for _ in range(20):
            await gateway.exchange(around.pod_token())
        assert len(told(caplog)) == 1  # of one workload, once
        assert (await summary(gateway))["disagreements"][0]["count"] == 20
        clock.now += WINDOW_SECONDS
        await gateway.exchange(around.pod_token())
        first, second = told(caplog)
        assert "untold=0" in first
        assert "untold=19" in second


async def test_of_many_workloads_so_many_lines_a_minute_are_told(tmp_path, around, clock, caplog):
    async with shadowed(tmp_path, around, clock, ("event_name: push", "event_name: none")) as gateway:
        for number in range(LINES_PER_WINDOW + 5):
            token = around.job_token(sub=f"repo:acme/web:number:{number}")
            assert (await gateway.exchange(token, resource="deploy-api"))[0] == 200
        assert len(told(caplog)) == LINES_PER_WINDOW


async def test_what_a_token_says_cannot_forge_a_line_of_the_log(tmp_path, around, clock, caplog):
    change = ("match: {repository_id", "match: {actor: octocat, repository_id")
    async with shadowed(tmp_path, around, clock, change) as gateway:
        token = around.job_token(actor="x\u202e\u2028ERROR", sub='a"b')
        assert (await gateway.exchange(token, resource="deploy-api"))[0] == 200
    (line,) = told(caplog)
    assert line.isprintable()
    assert r'subject="a\"b" on=reason' in line
    assert r"\u202e" in line


async def test_a_file_that_changes_in_the_shadow_is_not_one_of_those_in_force(tmp_path, around, clock, caplog):
    caplog.set_level(logging.INFO)
    async with shadowed(tmp_path, around, clock) as gateway:
        running_gateway: Gateway = gateway.gateway
        (tmp_path / "shadow" / "policies.yaml").write_text(policies(around) + "# changed\n")
        assert (await running_gateway.reload()).result == "unchanged"
        await running_gateway.reload_shadow()
        assert running_gateway.policies.generation.number == 1
        assert running_gateway.shadow is not None
        assert running_gateway.shadow.policies.generation.number == 2
    assert any("policies for the shadow taken over: generation 2" in record.getMessage() for record in caplog.records)


async def test_without_the_setting_there_is_no_shadow(house):
    body = json.loads(await house.gateway.get(f"{house.gateway.admin_url}/readyz"))
    assert body["policies_shadow"] is None
    await house.gateway.exchange(house.pod_token())
    assert await metrics(house.gateway) == {}


async def shadow_is_in_force(gateway: RunningGateway, generation: int) -> bool:
    return await metric(gateway, "gateway_shadow_generation") >= generation


async def until_seen(folder: Path, text: str, seen: Callable[[], Awaitable[bool]]) -> None:
    """Changes the policies until the change is seen: sooner than the next look, which is ten seconds away. The server
    may have begun to serve a moment before it began to watch.
    """
    changes = itertools.count()

    async def changed() -> bool:
        (folder / "policies.yaml").write_text(f"{text}# {next(changes)}\n")
        await asyncio.sleep(0.5)
        return await seen()

    await eventually(changed, within_seconds=8)


async def test_a_server_takes_over_what_changes_in_the_shadow(tmp_path: Path):
    async with real_neighbours() as around:
        good = policies(around)
        (tmp_path / "shadow").mkdir()
        (tmp_path / "shadow" / "policies.yaml").write_text(good)
        async with serving(tmp_path, good, policies_shadow=str(tmp_path / "shadow")) as gateway:
            changed = good.replace("lifetime: 15m", "lifetime: 5m")
            await until_seen(tmp_path / "shadow", changed, lambda: shadow_is_in_force(gateway, 2))
            status, body = await gateway.exchange(around.pod_token())
            assert (status, body["expires_in"]) == (200, 900)
            assert (await summary(gateway))["disagreements"][0]["difference"] == "lifetime"
            assert "the shadow disagrees" in gateway.log_file.read_text()


async def test_a_shadow_that_is_not_there_keeps_no_change_of_the_policies_from_being_seen_at_once(tmp_path: Path):
    async with real_neighbours() as around:
        good = policies(around)
        async with serving(tmp_path, good, policies_shadow=str(tmp_path / "shadow")) as gateway:

            async def is_in_force() -> bool:
                return await metric(gateway, "gateway_policy_generation") >= 2

            await until_seen(tmp_path / "policies", good, is_in_force)
            (tmp_path / "shadow").mkdir()
            (tmp_path / "shadow" / "policies.yaml").write_text(good)
            gateway.hang_up()
            await eventually(lambda: shadow_is_in_force(gateway, 1), within_seconds=5)
