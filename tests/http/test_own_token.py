"""A token of the gateway as the subject: narrowed by its holder, delegated to the API that it was sent to."""

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from gateway.clock import SteadyClock
from gateway.standin.issuer import StandInIssuer, StandInServer
from gateway.standin.platforms import KUBERNETES
from tests.support.running import ACCESS_TOKEN, ISSUER, JWT, TOKEN_EXCHANGE, RunningGateway, running, settings

POLICIES = """
kind: Issuer
name: cluster
preset: kubernetes
url: https://kubernetes.default.svc.cluster.local
keys: {{discovery_url: {cluster}, private_network: true}}
---
kind: Resource
name: orders
identifier: https://orders.example.com
scopes: {{orders:read: Read, orders:write: Write}}
served_by: [orders-service]
---
kind: Resource
name: stock
identifier: https://stock.example.com
scopes: {{stock:read: Read, stock:reserve: Reserve}}
served_by: [stock-service]
---
kind: Resource
name: payroll
identifier: https://payroll.example.com
scopes: {{payroll:read: Read}}
---
kind: ServiceAccount
name: shop
access:
  - {{resource: orders, scopes: [orders:read, orders:write]}}
  - {{resource: stock, scopes: [stock:reserve]}}
trust: [{{issuer: cluster, match: {{sub: "system:serviceaccount:shop:web"}}}}]
---
kind: ServiceAccount
name: orders-service
access:
  - {{resource: stock, scopes: [stock:read, stock:reserve]}}
  - {{resource: orders, scopes: [orders:read, orders:write]}}
  - {{resource: payroll, scopes: [payroll:read]}}
trust: [{{issuer: cluster, match: {{sub: "system:serviceaccount:orders:api"}}}}]
---
kind: ServiceAccount
name: stock-service
access: [{{resource: orders, scopes: [orders:read]}}]
trust: [{{issuer: cluster, match: {{sub: "system:serviceaccount:stock:api"}}}}]
"""


class Shop:
    def __init__(self, gateway: RunningGateway, cluster: StandInIssuer) -> None:
        self.gateway = gateway
        self.cluster = cluster

    def pod(self, namespace: str, account: str) -> str:
        return self.cluster.token(ISSUER, namespace=namespace, service_account=account)

    async def token(self, resource: str, **parameters: str) -> str:
        status, body = await self.gateway.exchange(self.pod("shop", "web"), resource=resource, **parameters)
        assert status == 200, body
        token: str = body["access_token"]
        return token

    async def exchange(self, subject: str, actor: str | None = None, **parameters: str) -> tuple[int, dict[str, Any]]:
        form = {
            "grant_type": TOKEN_EXCHANGE,
            "subject_token": subject,
            "subject_token_type": ACCESS_TOKEN,
            **parameters,
        }
        if actor is not None:
            form |= {"actor_token": actor, "actor_token_type": JWT}
        status, body, _ = await self.gateway.post(form)
        return status, body


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    cluster = StandInIssuer(KUBERNETES, clock=SteadyClock())
    async with StandInServer(cluster):
        (tmp_path / "policies").mkdir()
        (tmp_path / "policies" / "all.yaml").write_text(POLICIES.format(cluster=cluster.discovery_url))
        async with running(settings(tmp_path)) as gateway:
            yield Shop(gateway, cluster)


def claims_of(body: dict[str, Any]) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(body["access_token"], options={"verify_signature": False})
    return claims


async def test_a_token_is_narrowed_to_fewer_scopes_and_keeps_its_actor(shop: Shop):
    token = await shop.token("orders")
    status, body = await shop.exchange(token, scope="orders:read")
    assert status == 200
    claims = claims_of(body)
    assert claims["scope"] == "orders:read"
    assert claims["aud"] == "https://orders.example.com"
    assert claims["act"] == {
        "iss": "https://kubernetes.default.svc.cluster.local",
        "sub": "system:serviceaccount:shop:web",
    }


async def test_a_narrowed_token_never_gets_a_scope_back(shop: Shop):
    token = await shop.token("orders", scope="orders:read")
    status, body = await shop.exchange(token, scope="orders:read orders:write")
    assert (status, body["error"], body["reason"]) == (400, "invalid_scope", "scope_not_granted")
    _, body = await shop.exchange(token)
    assert claims_of(body)["scope"] == "orders:read"


async def test_a_narrowed_token_ends_no_later_than_its_subject(shop: Shop):
    token = await shop.token("orders", requested_expires_in="120")
    _, body = await shop.exchange(token)
    assert claims_of(body)["exp"] <= jwt.decode(token, options={"verify_signature": False})["exp"]


async def test_a_token_for_one_resource_buys_none_for_another(shop: Shop):
    status, body = await shop.exchange(await shop.token("orders"), resource="stock")
    assert (status, body["error"], body["reason"]) == (400, "invalid_request", "narrowing_only")


async def test_an_api_passes_the_call_on_in_the_name_of_its_caller(shop: Shop):
    token = await shop.token("orders")
    status, body = await shop.exchange(token, shop.pod("orders", "api"), resource="stock")
    assert status == 200
    claims = claims_of(body)
    assert (claims["sub"], claims["aud"]) == ("shop", "https://stock.example.com")
    assert claims["scope"] == "stock:reserve", "no more than both of them may have"
    assert claims["act"] == {
        "iss": "https://kubernetes.default.svc.cluster.local",
        "sub": "system:serviceaccount:orders:api",
        "act": {"iss": "https://kubernetes.default.svc.cluster.local", "sub": "system:serviceaccount:shop:web"},
    }


async def test_an_api_that_the_token_was_not_for_cannot_pass_it_on(shop: Shop):
    status, body = await shop.exchange(await shop.token("orders"), shop.pod("stock", "api"), resource="orders")
    assert (status, body["error"], body["reason"]) == (400, "invalid_request", "actor_not_permitted")


async def test_an_actor_does_not_lend_its_own_access(shop: Shop):
    status, body = await shop.exchange(await shop.token("orders"), shop.pod("orders", "api"), resource="payroll")
    assert (status, body["error"], body["reason"]) == (400, "invalid_target", "resource_not_granted")


async def test_a_call_is_passed_on_three_times_at_most(shop: Shop):
    token = await shop.token("orders")
    for actor, target in ((("orders", "api"), "stock"), (("stock", "api"), "orders")):
        status, body = await shop.exchange(token, shop.pod(*actor), resource=target)
        assert status == 200
        token = body["access_token"]
    status, body = await shop.exchange(token, shop.pod("orders", "api"), resource="stock")
    assert (status, body["reason"]) == (400, "delegation_too_deep")


async def test_a_workload_token_is_not_accepted_as_an_access_token(shop: Shop):
    status, body = await shop.exchange(shop.pod("shop", "web"))
    assert (status, body["error"]) == (400, "invalid_request")


async def test_an_access_token_is_not_accepted_as_a_workload_token(shop: Shop):
    status, body = await shop.gateway.exchange(await shop.token("orders"))
    assert (status, body["error"]) == (400, "invalid_request")


async def test_a_changed_access_token_is_refused(shop: Shop):
    header, payload, signature = (await shop.token("orders")).split(".")
    for changed in (f"{header}.{payload}.{signature[:-4]}AAAA", f"{header}.{payload[:-4]}AAAA.{signature}"):
        status, body = await shop.exchange(changed)
        assert (status, body["error"], body["reason"]) == (400, "invalid_request", "bad_signature")


@pytest.mark.parametrize(
    "parameters",
    [{"actor_token": "x"}, {"actor_token_type": JWT}],
)
async def test_actor_token_and_its_type_come_together(shop: Shop, parameters: dict[str, str]):
    status, body = await shop.exchange(await shop.token("orders"), **parameters)
    assert (status, body["error"]) == (400, "invalid_request")


async def test_a_workload_token_with_an_actor_is_refused_rather_than_the_actor_dropped(shop: Shop):
    status, body = await shop.gateway.exchange(
        shop.pod("shop", "web"), actor_token=shop.pod("orders", "api"), actor_token_type=JWT, resource="orders"
    )
    assert (status, body["error"], body["reason"]) == (400, "invalid_request", "actor_not_permitted")


async def test_passing_on_gives_nothing_back_that_narrowing_took_away(shop: Shop):
    token = await shop.token("stock")  # stock:reserve alone
    status, body = await shop.exchange(token, shop.pod("stock", "api"), resource="stock")
    assert (status, body["reason"]) == (400, "resource_not_granted"), "stock-service has no access to stock itself"
    narrowed = await shop.token("orders", scope="orders:read")
    status, body = await shop.exchange(narrowed, shop.pod("orders", "api"), resource="orders")
    assert status == 200
    assert claims_of(body)["scope"] == "orders:read"


async def test_the_record_of_a_delegation_names_both_tokens(shop: Shop, tmp_path: Path):
    token, actor = await shop.token("orders"), shop.pod("orders", "api")
    await shop.exchange(token, actor, resource="stock")
    record = json.loads((tmp_path / "audit.jsonl").read_text().splitlines()[-1])
    assert record["subject_token_sha256"] == hashlib.sha256(token.encode()).hexdigest()
    assert record["actor_token_sha256"] == hashlib.sha256(actor.encode()).hexdigest()
    assert record["client_id"] == "shop"
    assert record["subject"] == "system:serviceaccount:orders:api"
