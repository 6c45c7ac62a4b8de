"""A template service account over real HTTP: from the exchange to what an API and a quota see of it."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import jwt
import pytest

from gateway.clock import SteadyClock
from gateway.standin.issuer import StandInIssuer, StandInServer
from gateway.standin.platforms import KUBERNETES
from tests.support.running import ACCESS_TOKEN, ISSUER, TOKEN_EXCHANGE, RunningGateway, running, settings

POLICIES = """
kind: Issuer
name: cluster
preset: kubernetes
url: https://kubernetes.default.svc.cluster.local
keys: {{discovery_url: {cluster}, private_network: true}}
---
kind: Resource
name: metrics
identifier: https://metrics.example.com
scopes: {{metrics:write: Write, metrics:read: Read}}
---
kind: ServiceAccount
name: "k8s.{{namespace}}.{{service_account}}"
for_each:
  namespace: claims["kubernetes.io"].namespace
  service_account: claims["kubernetes.io"].serviceaccount.name
access: [{{resource: metrics, scopes: [metrics:write, metrics:read]}}]
rate_limit: 3/hour
trust: [{{issuer: cluster, when: 'has(claims["kubernetes.io"].pod)'}}]
"""


class Cluster:
    def __init__(self, gateway: RunningGateway, issuer: StandInIssuer, folder: Path) -> None:
        self.gateway = gateway
        self.issuer = issuer
        self.folder = folder

    async def exchange(self, namespace: str, account: str, **parameters: str) -> tuple[int, dict]:
        token = self.issuer.token(ISSUER, namespace=namespace, service_account=account)
        return await self.gateway.exchange(token, **parameters)

    async def verify(self, token: str) -> tuple[int, str | None]:
        url = f"{self.gateway.url}/verify?resource=metrics"
        async with self.gateway.session.get(url, headers={"Authorization": f"Bearer {token}"}) as answer:
            return answer.status, answer.headers.get("X-Client-Id")

    def records(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder / "audit.jsonl").read_text().splitlines()]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    issuer = StandInIssuer(KUBERNETES, clock=SteadyClock())
    async with StandInServer(issuer):
        (tmp_path / "policies").mkdir()
        (tmp_path / "policies" / "all.yaml").write_text(POLICIES.format(cluster=issuer.discovery_url))
        async with running(settings(tmp_path)) as gateway:
            yield Cluster(gateway, issuer, tmp_path)


async def test_each_workload_gets_a_token_in_its_own_name_and_the_record_says_so(cluster: Cluster):
    for namespace, account in (("shop", "web"), ("kube-system", "node-agent")):
        status, body = await cluster.exchange(namespace, account)
        assert status == 200, body
        claims = jwt.decode(body["access_token"], options={"verify_signature": False})
        assert claims["sub"] == claims["client_id"] == f"k8s.{namespace}.{account}"
        record = cluster.records()[-1]
        assert (record["client_id"], record["rule"]) == (claims["sub"], "rule-1")
        assert await cluster.verify(body["access_token"]) == (200, claims["sub"])


async def test_a_workload_cannot_ask_for_the_name_of_another_nor_for_that_of_the_template(cluster: Cluster):
    status, body = await cluster.exchange("shop", "web", client_id="k8s.billing.invoicer")
    assert (status, body["reason"]) == (400, "no_matching_trust")
    status, body = await cluster.exchange("shop", "web", client_id="k8s.{namespace}.{service_account}")
    assert (status, body["reason"]) == (400, "unknown_service_account")
    status, body = await cluster.exchange("shop", "w" * 64)
    assert (status, body["reason"]) == (400, "unnameable_service_account")
    assert "for_each" not in body["error_description"]


async def test_a_token_of_a_template_is_narrowed_as_any_other(cluster: Cluster):
    _, body = await cluster.exchange("shop", "web")
    form = {
        "grant_type": TOKEN_EXCHANGE,
        "subject_token": body["access_token"],
        "subject_token_type": ACCESS_TOKEN,
        "scope": "metrics:read",
    }
    status, narrowed, _ = await cluster.gateway.post(form)
    assert (status, narrowed["scope"]) == (200, "metrics:read")


async def test_each_workload_of_a_template_has_a_quota_of_its_own(cluster: Cluster):
    answers = [(await cluster.exchange("shop", "web"))[0] for _ in range(4)]
    assert answers == [200, 200, 200, 429]
    assert (await cluster.exchange("shop", "api"))[0] == 200


async def test_a_token_ends_with_its_template(cluster: Cluster):
    _, body = await cluster.exchange("shop", "web")
    text = (cluster.folder / "policies" / "all.yaml").read_text()
    (cluster.folder / "policies" / "all.yaml").write_text(text.replace("k8s.", "pods."))
    assert (await cluster.gateway.gateway.reload()).result == "loaded"
    assert (await cluster.verify(body["access_token"]))[0] == 401
