"""What a running gateway writes down of its decisions is what they can be decided again from, and nothing unproven."""

import json
from collections import Counter
from pathlib import Path

import jwt
import pytest
from typer.testing import CliRunner

from gateway.audit.reading import read_records
from gateway.cli.main import app
from gateway.model import RecordedDecision
from gateway.policy.replay import Answer, Replay, Undecided
from tests.support.house import House
from tests.support.ledger import BATCH, Ledger, ledger
from tests.support.policies import load
from tests.support.running import ACCESS_TOKEN, JWT, TOKEN_EXCHANGE


def recorded(folder: Path) -> list[RecordedDecision]:
    reader = read_records([folder / "audit.jsonl"])
    found = list(reader)
    assert not reader.skipped
    return found


async def passed_on(house: Ledger, **form: str) -> int:
    asked = {"grant_type": TOKEN_EXCHANGE, "subject_token": await house.token(), "subject_token_type": ACCESS_TOKEN}
    status, _, _ = await house.gateway.post({**asked, **form})
    return status


async def test_a_grant_tells_the_whole_token_what_was_asked_and_what_was_given(house: House) -> None:
    token = house.pod_token()
    await house.gateway.exchange(token, scope="ledger:read", requested_expires_in="120", client_id="invoicer")
    (record,) = recorded(house.folder)
    assert record.claims_are_complete
    assert record.claims == jwt.decode(token, options={"verify_signature": False})
    assert (record.client_id_asked, record.resource_asked) == ("invoicer", None)
    assert (record.scopes_asked, record.scopes_given) == (("ledger:read",), ("ledger:read",))
    assert (record.lifetime_asked_seconds, record.lifetime_given_seconds) == (120, 120)
    assert (record.issuer, record.rule, record.resource) == ("prod-cluster", "rule-1", "https://ledger.example.com")


async def test_a_denial_by_policy_tells_the_token_as_well(house: House) -> None:
    await house.gateway.exchange(house.job_token(event_name="schedule"), resource="deploy-api", client_id="web-deploy")
    await house.gateway.exchange(house.pod_token(), scope="deploy:write")
    first, second = recorded(house.folder)
    assert (first.reason, first.client_id_asked, first.resource_asked) == (
        "no_matching_trust",
        "web-deploy",
        "deploy-api",
    )
    assert first.claims["event_name"] == "schedule"
    assert (second.reason, second.scopes_asked) == ("scope_not_granted", ("deploy:write",))
    assert first.claims_are_complete
    assert second.claims_are_complete


async def test_nothing_of_a_token_that_was_not_accepted_stands_in_its_record(house: House) -> None:
    forged = house.pod_token()[:-6] + "AAAAAA"
    for token in (forged, house.pod_token(exp=1), house.pod_token(aud="https://elsewhere.example.com"), "a.b.c"):
        status, _ = await house.gateway.exchange(token)
        assert status == 400
    for record in recorded(house.folder):
        assert record.claims == {}
        assert not record.claims_are_complete
    assert "invoicer-6c9d7c5b8d" not in (house.folder / "audit.jsonl").read_text()


async def test_looked_at_keeps_all_else_of_the_token_out_of_the_record(tmp_path: Path) -> None:
    sinks = [f"file://{tmp_path}/audit.jsonl"]
    async with ledger(tmp_path, audit={"sinks": sinks, "claims": "looked_at"}) as house:
        await house.token()
        await house.gateway.exchange(house.pod_token("other"), client_id="shop")
    granted, denied = house.audit()
    assert granted["claims"] == {"/sub": "system:serviceaccount:shop:web"}
    assert "claims" not in denied
    assert "claims_complete" not in granted


@pytest.fixture
async def day(tmp_path: Path) -> Ledger:
    """A gateway that was asked for one of everything."""
    async with ledger(tmp_path) as house:
        await house.token()
        await house.token(scope="ledger:read")
        await house.client_token()
        await house.gateway.exchange(house.pod_token("other"), resource="ledger-api")
        await house.gateway.exchange(house.pod_token(), resource="vault-api")  # wants a proof of a key
        form = {"grant_type": "client_credentials", "resource": "ledger-api", "scope": "ledger:write"}
        await house.gateway.post(form, headers=BATCH)
        await house.gateway.exchange("not.a.token")
        actor = {"actor_token": house.pod_token("ledger", "api"), "actor_token_type": JWT, "resource": "deploy-api"}
        await passed_on(house, **actor)
        await passed_on(house, scope="ledger:read")
        await house.introspect("nonsense")
    return house


async def test_the_log_of_a_day_under_the_same_policies_changes_nothing(day: Ledger) -> None:
    replay = Replay(load(day.folder / "policies", insecure_http=True))
    for record in recorded(day.folder):
        replay.take(record)
    assert replay.changes == 0
    assert replay.answers == {Answer.UNCHANGED: 8}
    assert replay.undecided == Counter({Undecided.OWN_TOKEN: 2, Undecided.BEFORE_POLICY: 1})


async def test_under_other_policies_what_changes_is_told(day: Ledger) -> None:
    file = day.folder / "policies" / "policies.yaml"
    narrower = file.read_text().replace(
        "scopes: [ledger:read]}, {resource: deploy-api", "scopes: [ledger:write]}, {resource: deploy-api"
    )
    file.write_text(narrower.replace("system:serviceaccount:shop:web", "system:serviceaccount:other:web"))
    done = CliRunner().invoke(
        app,
        ["policy", "replay", str(day.folder / "audit.jsonl"), "-p", str(file.parent), "--insecure-http", "-o", "json"],
    )
    assert done.exit_code == 1, done.output
    told = json.loads(done.stdout)
    summary = {(one["answer"], one["service_account"], one["rule"]): one["count"] for one in told["groups"]}
    assert summary == {
        ("denied", "shop", "web"): 5,
        ("granted", "shop", "web"): 1,
        ("granted", "batch", None): 1,
        ("different", "batch", None): 1,
    }


async def test_from_a_running_gateway_to_a_tighter_policy_that_grants_the_same(house: House) -> None:
    for _ in range(20):
        status, _ = await house.gateway.exchange(house.job_token(), resource="deploy-api")
        assert status == 200
    policies, log = house.folder / "policies", house.folder / "audit.jsonl"
    options = ["-p", str(policies), "--insecure-http"]
    done = CliRunner().invoke(app, ["policy", "suggest", "--audit", str(log), "--write", *options])
    assert done.exit_code == 0, done.output
    account = load(policies, insecure_http=True).service_accounts["web-deploy"]
    assert account.access == {"deploy-api": ("deploy:write",)}
    assert {one.path[0]: one.wanted for one in account.rules[0].match} == {
        "repository_id": ("300400",),
        "environment": ("production",),
        "event_name": ("push",),
        "repository_owner_id": ("100200",),
    }
    assert CliRunner().invoke(app, ["policy", "replay", str(log), *options]).exit_code == 0
    assert (await house.gateway.gateway.reload()).result == "loaded"
    assert (await house.gateway.exchange(house.job_token()))[0] == 200
    status, body = await house.gateway.exchange(house.job_token(repository_owner_id="666"))
    assert (status, body["reason"]) == (400, "no_matching_trust")
