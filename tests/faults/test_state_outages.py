"""The shared state goes away in the middle of the work: what is closed stays closed, what is counted is counted alone,
nothing hangs, and nothing has to be restarted when it comes back.
"""

import asyncio
import base64
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter

import pytest

from gateway.clock import SteadyClock
from gateway.oauth.client_secret import secret_digest
from gateway.standin.issuer import StandInIssuer, StandInServer
from gateway.standin.platforms import GITHUB_ACTIONS, KUBERNETES
from tests.support.parts import eventually
from tests.support.redis_server import RedisServer
from tests.support.running import RunningGateway, running, settings

POLICIES = """
kind: Issuer
name: once
preset: github-actions
keys: {{discovery_url: {github}, private_network: true}}
replay: reject
---
kind: Issuer
name: cluster
preset: kubernetes
url: https://kubernetes.default.svc.cluster.local
keys: {{discovery_url: {cluster}, private_network: true}}
---
kind: Resource
name: ledger-api
identifier: https://ledger.example.com
scopes: {{ledger:read: Read}}
---
kind: ServiceAccount
name: job
access: [{{resource: ledger-api, scopes: [ledger:read]}}]
trust: [{{issuer: once, match: {{repository_id: "300400"}}}}]
---
kind: ServiceAccount
name: pod
access: [{{resource: ledger-api, scopes: [ledger:read]}}]
trust: [{{issuer: cluster, match: {{sub: "system:serviceaccount:billing:invoicer"}}}}]
rate_limit: 100000/minute
---
kind: ServiceAccount
name: batch
access: [{{resource: ledger-api, scopes: [ledger:read]}}]
credentials: {{secrets: [{{id: s1, digest: "{digest}"}}]}}
"""

LONGEST_SECONDS = 2.0
"""What a caller waits at most while the state is away. A timeout of the state is half a second."""


class Replicas:
    """Two gateways that share one Redis, and the issuers that they trust."""

    def __init__(
        self, gateways: tuple[RunningGateway, RunningGateway], github: StandInIssuer, cluster: StandInIssuer, aud: str
    ) -> None:
        self.gateways = gateways
        self._github = github
        self._cluster = cluster
        self._audience = aud

    def job_token(self) -> str:
        return self._github.token(self._audience)

    def pod_token(self) -> str:
        return self._cluster.token(self._audience)

    async def timed(self, replica: int, token: str) -> str:
        """The reason that one replica gives, within the time that a caller may wait."""
        started = perf_counter()
        _, body = await self.gateways[replica].exchange(token)
        assert perf_counter() - started < LONGEST_SECONDS
        return str(body.get("reason", "granted"))


@asynccontextmanager
async def replicas(folder: Path, redis: RedisServer) -> AsyncIterator[Replicas]:
    clock = SteadyClock()
    github, cluster = StandInIssuer(GITHUB_ACTIONS, clock=clock), StandInIssuer(KUBERNETES, clock=clock)
    async with StandInServer(github, cluster):
        text = POLICIES.format(
            github=github.discovery_url, cluster=cluster.discovery_url, digest=secret_digest("s3cret")
        )
        configured = []
        for name in ("a", "b"):
            (folder / name / "policies").mkdir(parents=True)
            (folder / name / "policies" / "policies.yaml").write_text(text)
            configured.append(settings(folder / name, state=redis.url))
        async with running(configured[0]) as first, running(configured[1]) as second:
            yield Replicas((first, second), github, cluster, configured[0].issuer)


async def test_of_two_replicas_that_get_a_one_time_token_at_once_one_takes_it(
    tmp_path: Path, redis_server: RedisServer, full_faults: bool
):
    async with replicas(tmp_path, redis_server) as both:
        for _ in range(500 if full_faults else 40):
            token = both.job_token()
            answers = await asyncio.gather(both.timed(0, token), both.timed(1, token))
            assert sorted(answers) == ["granted", "token_replayed"]


async def test_without_redis_replay_is_closed_pods_go_on_and_nothing_hangs(tmp_path: Path, redis_server: RedisServer):
    async with replicas(tmp_path, redis_server) as both:
        used = both.job_token()
        assert await both.timed(0, used) == "granted"
        await redis_server.kill()
        for _ in range(10):
            assert await both.timed(0, both.job_token()) == "state_unavailable"
            assert await both.timed(1, both.pod_token()) == "granted"
        burst = await asyncio.gather(*(both.timed(n % 2, both.job_token()) for n in range(50)))
        assert set(burst) == {"state_unavailable"}
        await redis_server.start()

        async def takes_tokens_again() -> bool:
            return {await both.timed(0, both.job_token()), await both.timed(1, both.job_token())} == {"granted"}

        await eventually(takes_tokens_again)


async def test_a_redis_that_takes_connections_and_never_answers_holds_nobody_up(
    tmp_path: Path, redis_server: RedisServer
):
    async with replicas(tmp_path, redis_server) as both:
        assert await both.timed(0, both.job_token()) == "granted"
        redis_server.freeze()
        try:
            reasons = await asyncio.gather(
                *(both.timed(0, both.job_token()) for _ in range(20)),
                *(both.timed(1, both.pod_token()) for _ in range(20)),
            )
        finally:
            redis_server.thaw()
        assert Counter(reasons) == {"state_unavailable": 20, "granted": 20}


async def test_a_token_that_was_refused_for_want_of_the_state_is_not_burnt(tmp_path: Path, redis_server: RedisServer):
    async with replicas(tmp_path, redis_server) as both:
        token = both.job_token()
        await redis_server.kill()
        assert await both.timed(0, token) == "state_unavailable"
        await redis_server.start()

        async def is_taken() -> bool:
            return await both.timed(0, token) == "granted"

        await eventually(is_taken)
        assert await both.timed(1, token) == "token_replayed"


@pytest.mark.parametrize("replica", [0, 1])
async def test_clients_with_a_secret_do_not_notice(tmp_path: Path, redis_server: RedisServer, replica: int):
    headers = {"Authorization": "Basic " + base64.b64encode(b"batch:s3cret").decode()}
    async with replicas(tmp_path, redis_server) as both:
        await redis_server.kill()
        for _ in range(10):
            status, _, _ = await both.gateways[replica].post({"grant_type": "client_credentials"}, headers=headers)
            assert status == 200
