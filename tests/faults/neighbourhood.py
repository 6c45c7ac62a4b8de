"""A gateway in this process between two issuers that a test can break, each on a server of its own.

All of them tell one hand-moved time, and the gateway's background work sleeps by it: a day passes in no time.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from gateway.app import Gateway
from gateway.identity.fetcher import HttpFetcher
from gateway.identity.trust import TrustStore
from gateway.model import Clock
from gateway.standin.issuer import StandInIssuer, StandInServer
from gateway.standin.platforms import GITHUB_ACTIONS, KUBERNETES, Platform
from tests.support.house import POLICIES
from tests.support.running import ISSUER, RunningGateway, settings
from tests.support.time import HandClock

REFRESH_SECONDS = 600
"""By then every issuer has been asked again, though the cluster's ``Cache-Control`` stretches the interval."""
COOLDOWN_SECONDS = 31
"""Both the cooldown between two fetches for unknown keys and their budget are over after this time."""


@dataclass(frozen=True)
class Neighbourhood:
    """A cluster, GitHub, and the server of each."""

    cluster: StandInIssuer
    github: StandInIssuer
    cluster_server: StandInServer
    github_server: StandInServer

    def pod_token(self, **claims: object) -> str:
        return self.cluster.token(ISSUER, **claims)

    def job_token(self, **claims: object) -> str:
        return self.github.token(ISSUER, **claims)

    def policies(self, *, cluster_keys: str = "", cluster: str = "", github: str = "") -> str:
        """The policies of ``house``, with more members for the cluster's ``keys`` and for either issuer."""
        urls = {"kubernetes": self.cluster.discovery_url, "github": self.github.discovery_url}
        text = POLICIES.format(**urls | {"kubernetes": f"{urls['kubernetes']}{cluster_keys and ', '}{cluster_keys}"})
        for preset, members in (("kubernetes", cluster), ("github-actions", github)):
            text = text.replace(f"preset: {preset}\n", f"preset: {preset}\n{members}{members and chr(10)}")
        return text


@asynccontextmanager
async def neighbours(clock: Clock, *, cluster: Platform = KUBERNETES) -> AsyncIterator[Neighbourhood]:
    """Both issuers, up. A server that was closed can be started again where it was."""
    # Elliptic keys where the platform allows them: an RSA key takes as long to make as most of these tests.
    one = StandInIssuer(cluster, clock=clock, algorithms=("ES256",))
    other = StandInIssuer(GITHUB_ACTIONS, clock=clock)
    async with StandInServer(one) as cluster_server, StandInServer(other) as github_server:
        yield Neighbourhood(one, other, cluster_server, github_server)


@asynccontextmanager
async def hand_driven(
    folder: Path, policies: str, clock: HandClock, *, fetch_seconds: float = 5.0, **overrides: object
) -> AsyncIterator[RunningGateway]:
    """A gateway whose time is ``clock``. ``fetch_seconds`` is how long it waits for an issuer's document."""
    (folder / "policies").mkdir()
    (folder / "policies" / "policies.yaml").write_text(policies)
    # A storm comes from one address here: what refuses a flood is shown in tests of its own.
    configured = settings(folder, **{"quotas": {"enabled": False}, **overrides})
    gateway = Gateway(configured, insecure_http=True, clock=clock)
    gateway.trust = TrustStore(
        HttpFetcher(total_seconds=fetch_seconds), clock=clock, sleep=clock.sleep, jitter=lambda: 1.0
    )
    await gateway.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield RunningGateway(gateway, session)
    finally:
        await gateway.stop()
