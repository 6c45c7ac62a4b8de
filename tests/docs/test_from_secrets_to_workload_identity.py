"""The four steps of the page, walked with a real gateway: at each, what the page says works, and what it says ends."""

import base64
import re
from pathlib import Path

import aiohttp
import pytest

from gateway.app import Gateway
from gateway.clock import SteadyClock
from gateway.model import KeySource
from gateway.oauth.client_secret import secret_digest
from gateway.standin.issuer import StandInIssuer, StandInServer
from gateway.standin.platforms import KUBERNETES
from tests.docs.examples import policy_sets
from tests.docs.markdown import ROOT
from tests.support.running import ISSUER, settings

PAGE = ROOT / "deploy" / "from-secrets-to-workload-identity.md"
SECRET = "the-reader-has-it"
SUBJECT = "system:serviceaccount:billing:nightly-export"
BY_SECRET, BY_TOKEN, BY_ASSERTION = "the secret", "the pod's token", "the pod's token as client_assertion"


@pytest.mark.parametrize(
    ("step", "works"),
    [
        ("one", {BY_SECRET}),
        ("two", {BY_SECRET}),
        ("three", {BY_SECRET, BY_TOKEN, BY_ASSERTION}),
        ("four", {BY_TOKEN, BY_ASSERTION}),
    ],
)
async def test_at_each_step_works_what_the_page_says(step: str, works: set[str], tmp_path: Path):
    (tmp_path / "policies").mkdir()
    for number, block in enumerate(policy_sets(PAGE.read_text())[step]):
        text = re.sub(r"sha256:[0-9a-f]{64}", secret_digest(SECRET), block.text)
        (tmp_path / "policies" / f"{number}.yaml").write_text(text)
    cluster = StandInIssuer(KUBERNETES, clock=SteadyClock())
    async with StandInServer(cluster):
        source = KeySource(discovery_url=cluster.discovery_url, private_network=True, insecure_http=True)
        gateway = Gateway(settings(tmp_path), key_sources={"https://kubernetes.default.svc.cluster.local": source})
        await gateway.start()
        try:
            assert await accepted(gateway, cluster.mint({**cluster.claims(ISSUER), "sub": SUBJECT})) == works
        finally:
            await gateway.stop()


async def accepted(gateway: Gateway, token: str) -> set[str]:
    basic = base64.b64encode(f"nightly-export:{SECRET}".encode()).decode()
    requests = {
        BY_SECRET: ({"grant_type": "client_credentials"}, {"Authorization": f"Basic {basic}"}),
        BY_TOKEN: (
            {
                "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
                "subject_token": token,
                "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                "client_id": "nightly-export",
            },
            {},
        ),
        BY_ASSERTION: (
            {
                "grant_type": "client_credentials",
                "client_id": "nightly-export",
                "client_assertion": token,
                "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            },
            {},
        ),
    }
    async with aiohttp.ClientSession() as session:
        statuses = {}
        for name, (form, headers) in requests.items():
            async with session.post(f"http://{gateway.public_address}/token", data=form, headers=headers) as answer:
                statuses[name] = answer.status
    return {name for name, status in statuses.items() if status == 200}
