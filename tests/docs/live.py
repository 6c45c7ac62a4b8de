"""What a running gateway shows: its metrics, its health, its audit records. Run once, on loopback, with a stand-in.

The pages are held against this, so that they cannot describe what is not there.
"""

import asyncio
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp

from gateway.clock import SteadyClock
from gateway.standin.issuer import StandInIssuer, StandInServer
from gateway.standin.platforms import GITHUB_ACTIONS
from tests.support.running import ISSUER, RunningGateway, running, settings

POLICIES = """
kind: Issuer
name: github
preset: github-actions
keys: {{discovery_url: "{discovery_url}", private_network: true}}
---
kind: Resource
name: deploy-api
identifier: https://deploy.example.com
scopes: {{deploy:write: Deploy}}
---
kind: ServiceAccount
name: web-deployer
access: [{{resource: deploy-api, scopes: [deploy:write]}}]
trust:
  - name: production
    issuer: github
    match: {{repository_id: "300400", environment: production, event_name: push}}
"""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name on the wire, its type, its labels, its help, and the names of its samples."""

    name: str
    exposed_name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    samples: frozenset[str]


@dataclass(frozen=True, slots=True)
class Observed:
    """A gateway that granted one request and denied another, as seen from outside."""

    families: tuple[Family, ...]
    granted: Mapping[str, Any]
    denied: Mapping[str, Any]
    readiness: Mapping[str, Any]


@cache
def observed() -> Observed:
    """What the gateway showed. Runs it at the first call."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_observe(Path(folder)))


def metric_families() -> tuple[Family, ...]:
    """Every metric of the admin listener, the client library's own included."""
    return observed().families


async def _observe(folder: Path) -> Observed:
    clock = SteadyClock()
    github = StandInIssuer(GITHUB_ACTIONS, clock=clock)
    async with StandInServer(github):
        (folder / "policies").mkdir()
        policies = POLICIES.format(discovery_url=github.discovery_url)
        (folder / "policies" / "policies.yaml").write_text(policies)
        (folder / "shadow").mkdir()
        others = policies.replace("environment: production", "environment: prod")
        (folder / "shadow" / "policies.yaml").write_text(others)
        async with running(settings(folder, policies_shadow=folder / "shadow"), clock=clock) as gateway:
            # One claim that the preset does not know, so that every metric has a sample and with it its labels.
            await gateway.exchange(github.token(ISSUER, claim_of_tomorrow="x"))
            await gateway.exchange(github.token(ISSUER, event_name="pull_request_target"))
            granted, denied = map(json.loads, (folder / "audit.jsonl").read_text().splitlines())
            for path in ("/introspect", "/verify"):
                async with gateway.session.post(f"{gateway.url}{path}", data={"token": "x"}) as answer:
                    assert answer.status in {400, 401}
            readiness = await _readiness(gateway)
            families = tuple(map(_family, gateway.gateway.registry.collect()))
    return Observed(families, granted, denied, readiness)


async def _readiness(gateway: RunningGateway) -> Mapping[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"{gateway.admin_url}/readyz") as answer:
        assert answer.status == 200
        document: Mapping[str, Any] = await answer.json()
        return document


def _family(family: Any) -> Family:
    suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
    labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
    return Family(
        name=family.name,
        exposed_name=family.name + suffix,
        kind=family.type,
        labels=tuple(labels),
        help=family.documentation,
        samples=frozenset(sample.name for sample in family.samples),
    )
