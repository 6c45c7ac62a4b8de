"""Unmodified clients get tokens from a running gateway, unmodified verifiers accept them."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from authlib.integrations.requests_client import AssertionSession, OAuth2Session
from cryptography.hazmat.primitives.asymmetric import ec
from google.auth import identity_pool
from google.auth.transport.requests import Request

from gateway.clock import SteadyClock
from gateway.standin.issuer import StandInIssuer, StandInServer
from gateway.standin.platforms import GITHUB_ACTIONS, KUBERNETES
from tests.support.parts import free_port, program
from tests.support.running import ACCESS_TOKEN, JWT, JWT_BEARER, TOKEN_EXCHANGE, RunningGateway, running, settings

AUDIENCE = "https://ledger.example.com"
NODE = Path(__file__).parent / "node"

POLICIES = """
kind: Issuer
name: prod-cluster
preset: kubernetes
url: https://kubernetes.default.svc.cluster.local
keys: {{discovery_url: {cluster}, private_network: true}}
---
kind: Issuer
name: github
preset: github-actions
keys: {{discovery_url: {github}, private_network: true}}
---
kind: Issuer
name: own-service
url: https://service.example.com
algorithms: [ES256]
keys: {{jwks: {jwks}}}
---
kind: Resource
name: ledger-api
identifier: https://ledger.example.com
scopes: {{ledger:read: Read, ledger:write: Write}}
---
kind: ServiceAccount
name: invoicer
access: [{{resource: ledger-api, scopes: [ledger:read, ledger:write]}}]
trust:
  - {{issuer: prod-cluster, match: {{sub: "system:serviceaccount:billing:invoicer"}}}}
  - {{issuer: github, match: {{repository_id: "300400"}}}}
  - {{issuer: own-service, match: {{sub: invoicer}}}}
"""


@dataclass(frozen=True)
class Place:
    gateway: RunningGateway
    cluster: StandInIssuer
    github: StandInIssuer
    own_key: ec.EllipticCurvePrivateKey
    url: str
    folder: Path


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")
    clock = SteadyClock()
    cluster, github = StandInIssuer(KUBERNETES, clock=clock), StandInIssuer(GITHUB_ACTIONS, clock=clock)
    own_key = ec.generate_private_key(ec.SECP256R1())
    jwk = jwt.algorithms.ECAlgorithm.to_jwk(own_key.public_key(), as_dict=True)
    async with StandInServer(cluster, github):
        url = f"http://127.0.0.1:{free_port()}"
        folder = tmp_path / "policies"
        folder.mkdir()
        jwks = json.dumps({"keys": [{**jwk, "kid": "own", "use": "sig"}]})
        text = POLICIES.format(cluster=cluster.discovery_url, github=github.discovery_url, jwks=jwks)
        (folder / "policies.yaml").write_text(text)
        async with running(settings(tmp_path, issuer=url, listen=url.removeprefix("http://"))) as gateway:
            yield Place(gateway, cluster, github, own_key, url, tmp_path)


def google_credentials(place: Place, credential_source: dict[str, Any]) -> identity_pool.Credentials:
    return identity_pool.Credentials.from_info({
        "type": "external_account",
        "audience": "ledger-api",
        "subject_token_type": JWT,
        "token_url": f"{place.url}/token",
        "credential_source": credential_source,
    }).with_scopes(["ledger:read"])  # fmt: skip


async def test_google_auth_exchanges_a_token_from_a_file(place: Place):
    file = place.folder / "token"
    file.write_text(place.cluster.token(place.url))
    credentials = google_credentials(place, {"file": str(file)})
    await asyncio.to_thread(credentials.refresh, Request())
    assert jwt.decode(credentials.token, options={"verify_signature": False})["scope"] == "ledger:read"
    assert not credentials.expired


async def test_google_auth_exchanges_a_token_from_a_url(place: Place):
    job = place.github.job_environment()
    source = {
        "url": f"{job['ACTIONS_ID_TOKEN_REQUEST_URL']}&audience={place.url}",
        "headers": {"Authorization": f"Bearer {job['ACTIONS_ID_TOKEN_REQUEST_TOKEN']}"},
        "format": {"type": "json", "subject_token_field_name": "value"},
    }
    credentials = google_credentials(place, source)
    await asyncio.to_thread(credentials.refresh, Request())
    assert jwt.decode(credentials.token, options={"verify_signature": False})["act"]["iss"] == place.github.issuer


async def test_authlib_exchanges_a_token(place: Place):
    def fetch() -> dict[str, Any]:
        session = OAuth2Session("invoicer", token_endpoint_auth_method="none", scope="ledger:read ledger:write")
        return session.fetch_token(
            f"{place.url}/token",
            grant_type=TOKEN_EXCHANGE,
            subject_token=place.cluster.token(place.url),
            subject_token_type=JWT,
            resource=AUDIENCE,
        )

    answer = await asyncio.to_thread(fetch)
    assert answer["issued_token_type"] == ACCESS_TOKEN
    assert answer["scope"] == "ledger:read ledger:write"


async def test_authlib_sends_an_assertion_that_it_signed(place: Place):
    def fetch() -> dict[str, Any]:
        session = AssertionSession(
            token_endpoint=f"{place.url}/token",
            issuer="https://service.example.com",
            subject="invoicer",
            audience=place.url,
            grant_type=JWT_BEARER,
            key=jwt.algorithms.ECAlgorithm.to_jwk(place.own_key, as_dict=True),
            header={"alg": "ES256", "kid": "own"},
        )
        return session.refresh_token()

    answer = await asyncio.to_thread(fetch)
    assert answer["access_token"]


async def test_pyjwk_client_verifies_what_was_minted(place: Place):
    _, body = await place.gateway.exchange(place.cluster.token(place.url))

    def verify() -> dict[str, Any]:
        key = jwt.PyJWKClient(f"{place.url}/.well-known/jwks.json").get_signing_key_from_jwt(body["access_token"])
        return jwt.decode(body["access_token"], key, algorithms=["ES256"], audience=AUDIENCE, issuer=place.url)

    assert (await asyncio.to_thread(verify))["sub"] == "invoicer"


async def node(place: Place, algorithm: str, grant_type: str, parameters: dict[str, str]) -> dict[str, Any]:
    executable = program("node", "nodejs")
    if not (NODE / "node_modules").exists():
        pytest.fail("the Node.js clients are not installed: make test does that")
    process = await asyncio.create_subprocess_exec(
        executable, "exchange.mjs", cwd=NODE, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    asked = {
        "issuer": place.url,
        "algorithm": algorithm,
        "grantType": grant_type,
        "parameters": parameters,
        "audience": AUDIENCE,
    }
    written, _ = await asyncio.wait_for(process.communicate(json.dumps(asked).encode()), 60)
    return json.loads(written)


@pytest.mark.parametrize("algorithm", ["oauth2", "oidc"])
async def test_openid_client_exchanges_a_token_and_jose_verifies_it(place: Place, algorithm: str):
    parameters = {
        "subject_token": place.cluster.token(place.url),
        "subject_token_type": JWT,
        "resource": AUDIENCE,
        "scope": "ledger:read",
    }
    result = await node(place, algorithm, TOKEN_EXCHANGE, parameters)
    assert result["answer"]["scope"] == "ledger:read"
    assert result["payload"]["sub"] == "invoicer"


async def test_openid_client_sends_an_assertion(place: Place):
    result = await node(place, "oauth2", JWT_BEARER, {"assertion": place.cluster.token(place.url)})
    assert result["payload"]["act"]["sub"] == "system:serviceaccount:billing:invoicer"


async def test_openid_client_understands_a_denial(place: Place):
    parameters = {"assertion": place.cluster.token("https://else.example.com")}
    result = await node(place, "oauth2", JWT_BEARER, parameters)
    assert (result["error"], result["status"]) == ("invalid_grant", 400)
