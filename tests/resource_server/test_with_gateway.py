"""An API with a real gateway: tokens of workloads over HTTP, keys by discovery, and the gateway going away."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.clock import SteadyClock
from gateway.resource_server import AccessDenied, Verifier
from gateway.resource_server.key_cache import Pace
from gateway.standin.issuer import StandInIssuer, StandInServer
from gateway.standin.platforms import GITHUB_ACTIONS, KUBERNETES
from tests.resource_server.apis import FRAMEWORKS, records
from tests.support.house import POLICIES, House
from tests.support.parts import free_port
from tests.support.running import running, settings

AUDIENCE = "https://ledger.example.com"


async def minted(house: House) -> str:
    status, answer = await house.gateway.exchange(house.pod_token(), scope="ledger:read")
    assert status == 200, answer
    return answer["access_token"]


def verifier_of(house: House, **options: Any) -> Verifier:
    jwks_uri = f"{house.gateway.url}/.well-known/jwks.json"
    return Verifier(issuer=house.audience, audience=AUDIENCE, jwks_uri=jwks_uri, insecure_http=True, **options)


@pytest.mark.parametrize("name", FRAMEWORKS)
async def test_a_pod_calls_an_api_and_its_log_says_so(house: House, name: str) -> None:
    framework = FRAMEWORKS[name]
    application = framework.application(verifier_of(house), scopes=["ledger:read"])
    headers = {"Authorization": f"Bearer {await minted(house)}"}
    with records() as kept:
        async with framework.served(application) as base:
            async with house.gateway.session.get(f"{base}/entries", headers=headers) as answer:
                assert (answer.status, (await answer.json())["client_id"]) == (200, "invoicer")
            async with house.gateway.session.post(f"{base}/entries", headers=headers) as answer:
                assert answer.status == 403
    client, subject, act = kept.of("ledger.entries")[0]
    assert (client, subject) == ("invoicer", "invoicer")
    assert "system:serviceaccount:billing:invoicer" in act


async def test_a_token_for_another_api_is_refused(house: House) -> None:
    verifier = Verifier(
        issuer=house.audience, audience="https://deploy.example.com", insecure_http=True,
        jwks_uri=f"{house.gateway.url}/.well-known/jwks.json",
    )  # fmt: skip
    with pytest.raises(AccessDenied, match="wrong_audience"):
        await verifier.verify_async(await minted(house))


class ShiftedClock:
    """The time of now, and as much later as a test wants it to be."""

    def __init__(self) -> None:
        self.later = 0.0
        self._clock = SteadyClock()

    def __call__(self) -> float:
        return self._clock() + self.later


async def test_last_good_keys_serve_while_the_gateway_is_away_and_then_503(house: House) -> None:
    clock = ShiftedClock()
    verifier = verifier_of(house, clock=clock, pace=Pace(max_age_seconds=600))
    token = await minted(house)
    await verifier.verify_async(token)
    await house.gateway.gateway.stop()
    clock.later = 590
    assert (await verifier.verify_async(token)).client_id == "invoicer"
    clock.later = 605
    with pytest.raises(AccessDenied) as refused:
        await verifier.verify_async(token)
    assert (refused.value.status, refused.value.error) == (503, "temporarily_unavailable")


@pytest.fixture
async def reachable(tmp_path: Path) -> AsyncIterator[House]:
    """A house whose gateway is reached by its own name."""
    clock = SteadyClock()
    cluster, github = StandInIssuer(KUBERNETES, clock=clock), StandInIssuer(GITHUB_ACTIONS, clock=clock)
    url = f"http://127.0.0.1:{free_port()}"
    (tmp_path / "policies").mkdir()
    async with StandInServer(cluster, github):
        text = POLICIES.format(kubernetes=cluster.discovery_url, github=github.discovery_url)
        (tmp_path / "policies" / "policies.yaml").write_text(text)
        async with running(settings(tmp_path, issuer=url, listen=url.removeprefix("http://"))) as gateway:
            yield House(gateway, cluster, github, tmp_path, url)


async def test_at_16_keys_are_found_by_the_gateways_metadata(reachable: House) -> None:
    verifier = Verifier(issuer=reachable.audience, audience=AUDIENCE, insecure_http=True)
    claims = await asyncio.to_thread(verifier.verify, await minted(reachable))
    assert (claims.client_id, claims.issuer) == ("invoicer", reachable.audience)


async def test_md_06_metadata_under_another_name_is_not_believed(reachable: House) -> None:
    alias = reachable.audience.replace("127.0.0.1", "localhost")
    verifier = Verifier(issuer=alias, audience=AUDIENCE, insecure_http=True)
    with pytest.raises(AccessDenied, match="issuer_unavailable"):
        await verifier.verify_async(await minted(reachable))
