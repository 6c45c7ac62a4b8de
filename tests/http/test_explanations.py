"""Explanations of recent decisions: who may ask, what they are told, and that nothing grows or stays."""

import asyncio
import gc
import hashlib
import json
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp.test_utils import make_mocked_request

from gateway.clock import SteadyClock
from gateway.explanations import MAX_SETTLING_SECONDS, Explanations, Proven, _explained
from gateway.http.operators import is_from_this_machine
from gateway.model import Client, GrantType, TokenRequest
from gateway.policy.decision import decide, decide_client
from gateway.policy.generation import Generation
from gateway.standin.issuer import StandInIssuer, StandInServer
from gateway.standin.platforms import GITHUB_ACTIONS, KUBERNETES
from tests.support.policies import generation_of, workload
from tests.support.running import ISSUER, RunningGateway, running, settings

POLICIES = """
kind: Issuer
name: cluster
preset: kubernetes
url: https://kubernetes.default.svc.cluster.local
keys: {{discovery_url: {cluster}, private_network: true}}
---
kind: Issuer
name: github
preset: github-actions
keys: {{discovery_url: {github}, private_network: true}}
---
kind: Resource
name: gateway-admin
identifier: https://sts.example.com/admin
scopes: {{admin:read: Look, admin:write: Change}}
---
kind: Resource
name: deploy-api
identifier: https://deploy.example.com
scopes: {{deploy:write: Deploy}}
---
kind: ServiceAccount
name: operator
access: [{{resource: gateway-admin, scopes: [admin:read, admin:write]}}]
trust:
  - {{name: reads, issuer: cluster, match: {{sub: "system:serviceaccount:ops:operator"}}}}
---
kind: ServiceAccount
name: web-deployer
access: [{{resource: deploy-api, scopes: [deploy:write]}}]
trust:
  - {{name: production, issuer: github, match: {{repository_id: "300400", environment: production}}}}
credentials:
  secrets: [{{id: s1, digest: "sha256:{digest}"}}]
"""
SECRET = "a-secret-of-thirty-two-characters-or-so"


@dataclass(frozen=True)
class Place:
    """A running gateway and the issuers around it."""

    gateway: RunningGateway
    cluster: StandInIssuer
    github: StandInIssuer
    folder: Path

    async def operator_token(self, **asked: str) -> str:
        token = self.cluster.token(ISSUER, namespace="ops", service_account="operator")
        status, body = await self.gateway.exchange(token, **asked)
        assert status == 200, body
        return str(body["access_token"])

    async def explained(self, request_id: str, **headers: str) -> tuple[int, dict[str, Any]]:
        url = f"{self.gateway.admin_url}/api/explanations/{request_id}"
        async with self.gateway.session.get(url, headers=headers) as answer:
            return answer.status, await answer.json()

    async def denied(self, **claims: Any) -> dict[str, Any]:
        status, body = await self.gateway.exchange(self.github.token(ISSUER, **claims))
        assert status == 400
        return body


@pytest.fixture
async def place(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    clock = SteadyClock()
    cluster, github = StandInIssuer(KUBERNETES, clock=clock), StandInIssuer(GITHUB_ACTIONS, clock=clock)
    async with StandInServer(cluster, github):
        (tmp_path / "policies").mkdir()
        _write_policies(tmp_path, cluster, github)
        admin = {"listen": "127.0.0.1:0", "allow_loopback": True, **getattr(request, "param", {})}
        async with running(settings(tmp_path, admin=admin)) as gateway:
            yield Place(gateway, cluster, github, tmp_path)


def _write_policies(folder: Path, cluster: StandInIssuer, github: StandInIssuer, **changed: str) -> None:
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    text = POLICIES.format(cluster=cluster.discovery_url, github=github.discovery_url, digest=digest)
    for old, new in changed.items():
        text = text.replace(old, new)
    (folder / "policies" / "policies.yaml").write_text(text)


needs_token = pytest.mark.parametrize("place", [{"allow_loopback": False}], indirect=True)

# ---------------------------------------------------------------- what is told


async def test_a_denial_is_explained_with_every_check_and_the_line_of_it(place: Place):
    body = await place.denied(environment="Production")
    status, told = await place.explained(body["request_id"])
    assert status == 200
    assert (told["granted"], told["reason"], told["issuer"]) == (False, "no_matching_trust", "github")
    assert (told["request_id"], told["in_force"], told["generation"]) == (body["request_id"], True, 1)
    (rule,) = told["rules"]
    assert [(check["path"], check["passed"]) for check in rule["checks"]] == [
        ([], True),
        (["repository_id"], True),
        (["environment"], False),
    ]
    (hint,) = told["hints"]
    file = place.folder / "policies" / "policies.yaml"
    assert (hint["id"], hint["file"]) == ("differs-in-case", str(file))
    assert file.read_text().split("\n")[hint["line"] - 1] == hint["change"]["now"]


async def test_the_caller_is_told_nothing_of_it(place: Place):
    body = await place.denied(environment="Production")
    assert set(body) == {"error", "error_description", "reason", "request_id"}
    assert "production" not in body["error_description"].replace("environment:Production", "")


async def test_a_grant_is_explained_as_well(place: Place):
    status, _, headers = await place.gateway.post(
        {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "subject_token": place.github.token(ISSUER),
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "client_id": "web-deployer",
            "requested_expires_in": "120",
        }
    )
    assert status == 200
    _, told = await place.explained(headers["X-Request-Id"])
    assert (told["granted"], told["result"]["rule"], told["result"]["lifetime_seconds"]) == (True, "production", 120)
    assert told["asked"] == {
        "client_id": "web-deployer", "resource": None, "scopes": None, "lifetime_seconds": 120,
    }  # fmt: skip


async def test_a_client_with_a_secret_is_explained(place: Place):
    form = {"grant_type": "client_credentials", "client_id": "web-deployer", "client_secret": SECRET}
    status, body, _ = await place.gateway.post({**form, "scope": "deploy:wrte"})
    assert status == 400
    _, told = await place.explained(body["request_id"])
    assert (told["reason"], told["issuer"], told["rules"]) == ("scope_not_granted", None, [])
    assert (told["hints"][0]["id"], told["hints"][0]["ask_for"]) == ("unknown-scope", {"scope": "deploy:write"})
    status, _, headers = await place.gateway.post(form)
    _, told = await place.explained(headers["X-Request-Id"])
    assert told["granted"] is True


async def test_a_token_for_another_audience_is_explained_too(place: Place):
    status, body = await place.gateway.exchange(place.github.token(ISSUER + "/"))
    assert status == 400
    _, told = await place.explained(body["request_id"])
    assert (told["granted"], told["reason"], told["decision"]) == (False, "wrong_audience", "granted")
    assert (told["hints"][0]["id"], told["hints"][0]["ask_for"]) == ("differs-in-trailing-slash", {"aud": ISSUER})
    assert told["identity"][0]["passed"] is False


async def test_no_token_and_no_secret_is_in_it(place: Place):
    token = place.github.token(ISSUER, environment="dev")
    _, body = await place.gateway.exchange(token)
    _, told = await place.explained(body["request_id"])
    assert not any(part in json.dumps(told) for part in token.split("."))
    form = {"grant_type": "client_credentials", "client_id": "web-deployer", "client_secret": SECRET}
    _, _, headers = await place.gateway.post(form)
    _, told = await place.explained(headers["X-Request-Id"])
    assert SECRET not in json.dumps(told)


async def test_what_proved_nothing_is_not_kept(place: Place):
    _, body = await place.gateway.exchange(place.github.token(ISSUER)[:-6] + "AAAAAA")
    status, told = await place.explained(body["request_id"])
    assert (status, told["error"]) == (404, "not_found")


async def test_a_token_of_our_own_is_not_kept(place: Place):
    _, body = await place.gateway.exchange(place.github.token(ISSUER))
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": body["access_token"],
        "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
    }
    status, _, headers = await place.gateway.post(form)
    assert status == 200
    assert (await place.explained(headers["X-Request-Id"]))[0] == 404


@pytest.mark.parametrize("request_id", ["x", "a" * 65, "a%0ab", "é"])
async def test_a_request_that_there_never_was_is_not_found(place: Place, request_id: str):
    assert (await place.explained(request_id))[0] == 404


# ---------------------------------------------------------------- who may ask


@needs_token
async def test_an_operator_needs_a_token_for_the_admin_resource(place: Place):
    request_id = (await place.denied(environment="dev"))["request_id"]
    token = await place.operator_token()
    assert (await place.explained(request_id, Authorization=f"Bearer {token}"))[0] == 200
    status, told = await place.explained(request_id)
    assert (status, told["reason"]) == (401, "access_token_missing")


@needs_token
async def test_a_token_for_another_resource_opens_nothing(place: Place):
    request_id = (await place.denied(environment="dev"))["request_id"]
    _, body = await place.gateway.exchange(place.github.token(ISSUER))
    status, told = await place.explained(request_id, Authorization=f"Bearer {body['access_token']}")
    assert (status, told["reason"]) == (401, "wrong_audience")


@needs_token
async def test_a_token_without_the_scope_opens_nothing(place: Place):
    token = await place.operator_token(scope="admin:write")
    status, told = await place.explained("x", Authorization=f"Bearer {token}")
    assert (status, told["reason"]) == (403, "insufficient_scope")


@needs_token
async def test_a_revoked_token_opens_nothing(place: Place):
    token = await place.operator_token()
    async with place.gateway.session.post(f"{place.gateway.url}/revoke", data={"token": token}) as answer:
        assert answer.status == 200
    status, told = await place.explained("x", Authorization=f"Bearer {token}")
    assert (status, told["reason"]) == (401, "token_revoked")


@needs_token
@pytest.mark.parametrize("authorization", ["Bearer x", "Bearer", "Basic eDp5", "DPoP x", "bearer a.b.c", ""])
async def test_what_is_no_token_opens_nothing(place: Place, authorization: str):
    status, told = await place.explained("x", Authorization=authorization)
    assert status == 401
    assert told["error"] in {"invalid_token", "invalid_dpop_proof"}


@needs_token
async def test_the_workloads_own_token_opens_nothing(place: Place):
    status, _ = await place.explained("x", Authorization=f"Bearer {place.cluster.token(ISSUER)}")
    assert status == 401


@needs_token
async def test_without_the_resource_in_the_policies_nobody_is_an_operator(place: Place):
    token = await place.operator_token()
    _write_policies(place.folder, place.cluster, place.github, **{"gateway-admin": "other-admin"})
    assert (await place.gateway.gateway.reload()).result == "loaded"
    status, told = await place.explained("x", Authorization=f"Bearer {token}")
    assert (status, told["reason"]) == (401, "unknown_resource")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example.com"},
        {"Host": "127.0.0.1.evil.example.com:8081"},
        {"Host": "localhost.:8081"},
        {"Host": ""},
        {"Origin": "http://127.0.0.1:8081"},
        {"Origin": "null"},
        {"X-Forwarded-For": "203.0.113.9"},
        {"Forwarded": "for=203.0.113.9"},
        {"Via": "1.1 proxy"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Authorization": "Bearer x"},
    ],
)
async def test_loopback_is_no_licence_for_pages_and_proxies(place: Place, headers: dict[str, str]):
    assert (await place.explained("x", **headers))[0] == 401


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8081", "[::1]:1", "LOCALHOST:8081"])
async def test_a_program_on_this_machine_needs_no_token_where_the_settings_say_so(place: Place, host: str):
    assert (await place.explained("x", Host=host))[0] == 404


@pytest.mark.parametrize(
    ("remote", "is_here"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.5", False),
        ("", False),
    ],
)
def test_this_machine_is_what_its_address_says(remote: str, is_here: bool):
    request = make_mocked_request("GET", "/api/explanations/x", headers={"Host": "localhost:8081"}).clone(remote=remote)
    assert is_from_this_machine(request) is is_here


async def test_nothing_of_it_may_be_stored(place: Place):
    url = f"{place.gateway.admin_url}/api/explanations/x"
    async with place.gateway.session.get(url) as answer:
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


# ---------------------------------------------------------------- reload


async def test_what_old_policies_decided_is_explained_by_them_after_a_reload(place: Place):
    request_id = (await place.denied(environment="staging"))["request_id"]
    old = weakref.ref(place.gateway.gateway.policies.generation)
    _write_policies(
        place.folder,
        place.cluster,
        place.github,
        **{"environment: production": 'environment: staging, run_attempt: "1"'},
    )
    assert (await place.gateway.gateway.reload()).result == "loaded"
    _, told = await place.explained(request_id)
    assert (told["reason"], told["in_force"], told["generation"]) == ("no_matching_trust", False, 1)
    (rule,) = told["rules"]
    assert [check["wanted"] for check in rule["checks"]] == ["github", "300400", "production"]
    gc.collect()
    assert old() is None
    assert (await place.gateway.exchange(place.github.token(ISSUER, environment="staging")))[0] == 200


async def test_the_change_of_a_hint_is_left_out_once_the_file_says_something_else(place: Place):
    request_id = (await place.denied(environment="Production"))["request_id"]
    assert (await place.explained(request_id))[1]["hints"][0]["change"] is not None
    _write_policies(place.folder, place.cluster, place.github, **{"environment: production": "environment: Production"})
    assert (await place.gateway.gateway.reload()).result == "loaded"
    (hint,) = (await place.explained(request_id))[1]["hints"]
    assert (hint["id"], hint["change"]) == ("differs-in-case", None)


# ---------------------------------------------------------------- bounds, without a server

POLICY = """
kind: ServiceAccount
name: app
access: [{resource: ledger-api, scopes: [ledger:read]}]
trust: [{issuer: cluster, match: {sub: x}}]
"""
REQUEST = TokenRequest(GrantType.TOKEN_EXCHANGE, token="a-token", client_id="app")


class Policies:
    """Holds the generation that a test puts in force."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation


class Desk:
    """Decisions of one generation, kept."""

    def __init__(self, **bounds: Any) -> None:
        self.now = 1000.0
        self.policies = Policies(generation_of(POLICY))
        self.explanations = Explanations(self.policies, lambda: self.now, **{"capacity": 10, **bounds})

    def keep(self, request_id: str, generation: Generation | None = None, **claims: Any) -> None:
        generation = generation or self.policies.generation
        decision = decide(generation, workload(generation, "cluster", claims), REQUEST)
        self.explanations.keep(
            request_id, REQUEST, Proven("cluster", claims), decision, decision.reason, decision.wanted
        )

    async def reason(self, request_id: str) -> str | None:
        found = await self.explanations.of(request_id)
        return None if found is None else str(found["reason"])


async def test_the_latest_so_many_are_kept():
    desk = Desk(capacity=3)
    for number in range(10):
        desk.keep(f"r{number}", sub="x")
    assert [await desk.reason(f"r{number}") for number in range(10)] == [None] * 7 + ["granted"] * 3


async def test_so_many_bytes_are_kept_at_most():
    desk = Desk(capacity=1000, max_bytes=50_000)
    for number in range(100):
        desk.keep(f"r{number}", sub="y", long="z" * 9000)
    assert len(desk.explanations) == 4
    assert await desk.reason("r99") == "no_matching_trust"


async def test_what_was_asked_for_counts_as_well():
    desk = Desk(capacity=1000, max_bytes=50_000)
    client = Client("app", "client_secret_basic", "secret:s1")
    request = replace(REQUEST, resource="r" * 2000, scopes=tuple(f"scope-{number}" for number in range(64)))
    decision = decide_client(desk.policies.generation, client, request)
    for number in range(100):
        desk.explanations.keep(f"r{number}", request, Proven(client=client), decision, decision.reason, "")
    assert len(desk.explanations) == 6


async def test_explanations_made_at_a_reload_count_as_well():
    desk = Desk(capacity=1000, max_bytes=30_000)
    for number in range(20):
        desk.keep(f"r{number}", sub="y", long="z" * 200)
    old, desk.policies.generation = desk.policies.generation, generation_of(POLICY, number=2)
    await desk.explanations.settle(old)
    assert 0 < len(desk.explanations) < 20
    assert await desk.reason("r19") == "no_matching_trust"


async def test_however_much_was_decided_the_next_policies_do_not_wait_for_its_explanation(monkeypatch):
    desk = Desk(capacity=100)
    for number in range(100):
        desk.keep(f"r{number}", sub="y")
    old, desk.policies.generation = desk.policies.generation, generation_of(POLICY, number=2)
    explained = []

    def slowly(kept, generation, *, in_brief=False):
        desk.now += 1
        explained.append(kept)
        return _explained(kept, generation, in_brief=in_brief)

    monkeypatch.setattr("gateway.explanations._explained", slowly)
    await desk.explanations.settle(old)
    assert len(explained) == MAX_SETTLING_SECONDS + 1
    latest, earliest = await desk.explanations.of("r99"), await desk.explanations.of("r0")
    assert latest is not None
    assert earliest is not None
    assert (latest["reason"], len(latest["rules"])) == ("no_matching_trust", 1)
    assert (earliest["reason"], earliest["wanted"], earliest["rules"]) == (
        "no_matching_trust",
        "app/rule-1 wants sub x; seen: y",
        [],
    )


async def test_a_decision_that_comes_in_while_its_policies_are_looked_into_is_not_lost():
    desk = Desk()
    desk.keep("early", sub="y")
    old, desk.policies.generation = desk.policies.generation, generation_of(POLICY, number=2)
    settling = asyncio.create_task(desk.explanations.settle(old))
    await asyncio.sleep(0)
    desk.keep("late", old, sub="y")
    await settling
    told = await desk.explanations.of("late")
    assert told is not None
    assert told["rules"][0]["checks"][0]["wanted"] == "x"


async def test_what_is_forgotten_while_old_policies_are_explained_takes_no_room():
    desk = Desk(capacity=3, max_bytes=3600)
    for number in range(3):
        desk.keep(f"old{number}", sub="y")
    old, desk.policies.generation = desk.policies.generation, generation_of(POLICY, number=2)
    settling = asyncio.create_task(desk.explanations.settle(old))
    await asyncio.sleep(0)  # the latest is being explained now
    for number in range(3):
        desk.keep(f"new{number}", sub="y")
    await settling
    desk.keep("last", sub="y")
    assert len(desk.explanations) == 3


async def test_none_is_older_than_a_day():
    desk = Desk()
    desk.keep("r1", sub="x")
    desk.now += 24 * 3600 - 1
    assert await desk.reason("r1") == "granted"
    desk.now += 2
    assert await desk.reason("r1") is None
    desk.keep("r2", sub="x")
    assert len(desk.explanations) == 1


async def test_with_no_capacity_nothing_is_kept():
    desk = Desk(capacity=0)
    desk.keep("r1", sub="x")
    assert len(desk.explanations) == 0


async def test_a_decision_that_comes_in_after_its_policies_went_says_what_it_noted_itself():
    desk = Desk()
    old, desk.policies.generation = desk.policies.generation, generation_of(POLICY, number=2)
    await desk.explanations.settle(old)
    desk.keep("late", old, sub="y")
    told = await desk.explanations.of("late")
    assert told is not None
    assert (told["reason"], told["wanted"], told["in_force"]) == (
        "no_matching_trust",
        "app/rule-1 wants sub x; seen: y",
        False,
    )
    assert told["rules"][0]["checks"][0]["wanted"] == "x"


async def test_claims_that_no_reader_of_json_takes_are_kept_all_the_same():
    desk = Desk()
    desk.keep("r1", sub="y", huge=10**19, more=2**70)
    assert orjson.dumps(await desk.explanations.of("r1"))


async def test_what_came_of_the_request_is_the_reason_and_the_policies_say_theirs():
    desk = Desk()
    generation, claims = desk.policies.generation, {"sub": "x"}
    decision = decide(generation, workload(generation, "cluster", claims), REQUEST)
    desk.explanations.keep("r1", REQUEST, Proven("cluster", claims), decision, "quota_exceeded", "quota workload")
    told = await desk.explanations.of("r1")
    assert told is not None
    assert (told["granted"], told["reason"], told["decision"]) == (False, "quota_exceeded", "granted")
    assert "quota workload" in told["identity"][0]["note"]


async def test_a_client_is_asked_about_under_the_policies_that_decided():
    desk = Desk()
    client = Client("app", "client_secret_basic", "secret:s1")
    decision = decide_client(desk.policies.generation, client, REQUEST)
    desk.explanations.keep("r1", REQUEST, Proven(client=client), decision, decision.reason, "")
    old, desk.policies.generation = desk.policies.generation, generation_of(number=2)
    await desk.explanations.settle(old)
    assert await desk.reason("r1") == "granted"


async def test_requests_go_on_while_old_policies_are_explained():
    desk = Desk(capacity=200)
    for number in range(100):
        desk.keep(f"r{number}", sub="y")
    old, desk.policies.generation = desk.policies.generation, generation_of(POLICY, number=2)
    settling = asyncio.create_task(desk.explanations.settle(old))
    turns = 0
    while not settling.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 100
    assert await desk.reason("r0") == "no_matching_trust"
