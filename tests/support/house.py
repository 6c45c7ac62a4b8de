"""A gateway on loopback that trusts stand-ins for a cluster and for GitHub."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.clock import SteadyClock
from gateway.standin.issuer import StandInIssuer, StandInServer
from gateway.standin.platforms import GITHUB_ACTIONS, KUBERNETES
from tests.support.running import RunningGateway, running, settings

POLICIES = """
kind: Issuer
name: prod-cluster
preset: kubernetes
url: https://kubernetes.default.svc.cluster.local
keys: {{discovery_url: {kubernetes}, private_network: true}}
---
kind: Issuer
name: github
preset: github-actions
keys: {{discovery_url: {github}, private_network: true}}
---
kind: Resource
name: ledger-api
identifier: https://ledger.example.com
scopes: {{ledger:read: Read, ledger:write: Write}}
token_lifetime: 15m
---
kind: Resource
name: deploy-api
identifier: https://deploy.example.com
scopes: {{deploy:write: Deploy}}
---
kind: ServiceAccount
name: invoicer
access: [{{resource: ledger-api, scopes: [ledger:read, ledger:write]}}]
trust:
  - {{issuer: prod-cluster, match: {{sub: "system:serviceaccount:billing:invoicer"}}}}
---
kind: ServiceAccount
name: web-deploy
access:
  - {{resource: deploy-api, scopes: [deploy:write]}}
  - {{resource: ledger-api, scopes: [ledger:read]}}
trust:
  - name: production
    issuer: github
    match: {{repository_id: "300400", environment: production, event_name: push}}
"""


@dataclass(frozen=True)
class House:
    """The gateway under test and the issuers around it."""

    gateway: RunningGateway
    cluster: StandInIssuer
    github: StandInIssuer
    folder: Path
    audience: str

    def pod_token(self, **claims: object) -> str:
        return self.cluster.token(self.audience, **claims)

    def job_token(self, **claims: object) -> str:
        return self.github.token(self.audience, **claims)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    clock = SteadyClock()
    cluster, github = StandInIssuer(KUBERNETES, clock=clock), StandInIssuer(GITHUB_ACTIONS, clock=clock)
    async with StandInServer(cluster, github):
        folder = tmp_path / "policies"
        folder.mkdir()
        text = POLICIES.format(kubernetes=cluster.discovery_url, github=github.discovery_url)
        (folder / "policies.yaml").write_text(text)
        configured = settings(tmp_path)
        async with running(configured) as gateway:
            yield House(gateway, cluster, github, tmp_path, configured.issuer)
