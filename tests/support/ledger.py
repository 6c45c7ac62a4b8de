"""A gateway with APIs that introspect, a cluster, and clients with secrets, for whatever happens to a minted token."""

import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway.clock import SteadyClock
from gateway.model import Clock
from gateway.oauth.client_secret import secret_digest
from gateway.standin.issuer import StandInIssuer, StandInServer
from gateway.standin.platforms import KUBERNETES
from tests.support.proofs import ProvingClient
from tests.support.running import ISSUER, RunningGateway, running, settings

CLUSTER = "https://kubernetes.default.svc.cluster.local"
WEB = "system:serviceaccount:shop:web"
BATCH_SECRET, API_SECRET, OTHER_SECRET = "batch-secret~1", "api-secret~1", "other-secret~1"
CLIENT_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

POLICIES = f"""
kind: Issuer
name: prod-cluster
preset: kubernetes
url: {CLUSTER}
keys: {{discovery_url: CLUSTER_DISCOVERY, private_network: true}}
---
kind: Resource
name: ledger-api
identifier: https://ledger.example.com
scopes: {{ledger:read: Read, ledger:write: Write}}
token_lifetime: 15m
served_by: [ledger-service]
---
kind: Resource
name: deploy-api
identifier: https://deploy.example.com
scopes: {{deploy:write: Deploy}}
served_by: [deploy-service]
---
kind: Resource
name: vault-api
identifier: https://vault.example.com
scopes: {{vault:read: Read}}
sender_constraint: dpop
served_by: [ledger-service]
---
kind: ServiceAccount
name: shop
access: [{{resource: ledger-api, scopes: [ledger:read, ledger:write]}}, {{resource: vault-api, scopes: [vault:read]}}]
trust: [{{name: web, issuer: prod-cluster, match: {{sub: "{WEB}"}}}}]
token_claims: {{tenant: '"acme"'}}
---
kind: ServiceAccount
name: batch
access: [{{resource: ledger-api, scopes: [ledger:read]}}, {{resource: deploy-api, scopes: [deploy:write]}}]
credentials: {{secrets: [{{id: s1, digest: "{secret_digest(BATCH_SECRET)}"}}]}}
---
kind: ServiceAccount
name: ledger-service
access: [{{resource: deploy-api, scopes: [deploy:write]}}]
credentials: {{secrets: [{{id: s1, digest: "{secret_digest(API_SECRET)}"}}]}}
trust: [{{issuer: prod-cluster, match: {{sub: "system:serviceaccount:ledger:api"}}}}]
---
kind: ServiceAccount
name: deploy-service
access: [{{resource: deploy-api, scopes: [deploy:write]}}]
credentials: {{secrets: [{{id: s1, digest: "{secret_digest(OTHER_SECRET)}"}}]}}
"""


def basic(client_id: str, secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()}


API = basic("ledger-service", API_SECRET)
OTHER_API = basic("deploy-service", OTHER_SECRET)
BATCH = basic("batch", BATCH_SECRET)


class Ledger:
    """The gateway and everybody around it."""

    def __init__(self, gateway: RunningGateway, cluster: StandInIssuer, folder: Path) -> None:
        self.gateway = gateway
        self.cluster = cluster
        self.folder = folder

    def pod_token(self, namespace: str = "shop", account: str = "web") -> str:
        """A workload token."""
        return self.cluster.token(ISSUER, namespace=namespace, service_account=account)

    async def token(self, **parameters: str) -> str:
        """An access token of the service account ``shop``, which the pod ``WEB`` has got."""
        status, body = await self.gateway.exchange(self.pod_token(), **{"resource": "ledger-api", **parameters})
        assert status == 200, body
        return str(body["access_token"])

    async def client_token(self, **parameters: str) -> str:
        """An access token of the service account ``batch``, which has got it with its secret."""
        form = {"grant_type": "client_credentials", "resource": "ledger-api", **parameters}
        status, body, _ = await self.gateway.post(form, headers=BATCH)
        assert status == 200, body
        return str(body["access_token"])

    async def bound_token(self, client: ProvingClient, now: float) -> str:
        """An access token for ``vault-api`` that is bound to a client's DPoP key."""
        proof = client.proof("POST", f"{ISSUER}/token", now=now)
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
            "assertion": self.pod_token(),
            "resource": "vault-api",
        }
        status, body, _ = await self.gateway.post(form, headers={"DPoP": proof})
        assert (status, body["token_type"]) == (200, "DPoP"), body
        return str(body["access_token"])

    async def introspect(
        self, token: str, headers: Mapping[str, str] | None = None, **form: str
    ) -> tuple[int, dict[str, Any]]:
        """Status and body of ``POST /introspect``."""
        async with self.gateway.session.post(
            f"{self.gateway.url}/introspect", data={"token": token, **form}, headers=API if headers is None else headers
        ) as answer:
            return answer.status, await answer.json()

    async def revoke(
        self, token: str, headers: Mapping[str, str] | None = None, **form: str
    ) -> tuple[int, dict[str, Any] | None]:
        """Status and body of ``POST /revoke``; None for an empty one."""
        async with self.gateway.session.post(
            f"{self.gateway.url}/revoke", data={"token": token, **form}, headers=headers
        ) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else None

    async def verify(
        self, token: str | None, query: str = "resource=ledger-api", *, scheme: str = "Bearer",
        headers: Mapping[str, str] | None = None, method: str = "GET",
    ) -> tuple[int, Any, bytes]:  # fmt: skip
        """Status, headers and body of ``/verify``."""
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"{scheme} {token}"
        async with self.gateway.session.request(method, f"{self.gateway.url}/verify?{query}", headers=sent) as answer:
            return answer.status, answer.headers, await answer.read()

    def audit(self) -> list[dict[str, Any]]:
        """Every record so far."""
        return [json.loads(line) for line in (self.folder / "audit.jsonl").read_text().splitlines()]

    def write_policies(self, text: str) -> None:
        """Other policies, for a reload."""
        _write(self.folder, text, self.cluster)


@asynccontextmanager
async def ledger(folder: Path, *, clock: Clock | None = None, **overrides: Any) -> AsyncIterator[Ledger]:
    """Runs it all."""
    clock = clock or SteadyClock()
    cluster = StandInIssuer(KUBERNETES, clock=clock)
    async with StandInServer(cluster):
        (folder / "policies").mkdir(exist_ok=True)
        _write(folder, POLICIES, cluster)
        async with running(settings(folder, **overrides), clock=clock) as gateway:
            yield Ledger(gateway, cluster, folder)


def _write(folder: Path, text: str, cluster: StandInIssuer) -> None:
    text = text.replace("CLUSTER_DISCOVERY", cluster.discovery_url)
    (folder / "policies" / "policies.yaml").write_text(text)
