"""Tokens bound to a key of the client at the token endpoint: by DPoP (RFC 9449 §5, §6) or certificate (RFC 8705 §3)."""

import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import trustme

from gateway.clock import SteadyClock
from gateway.jose.thumbprint import certificate_thumbprint
from gateway.oauth.client_secret import secret_digest
from tests.support.certificates import issue
from tests.support.proofs import ProvingClient
from tests.support.running import ACCESS_TOKEN, ISSUER, TOKEN_EXCHANGE, RunningGateway, running, settings

TOKEN_URL = f"{ISSUER}/token"
SECRET = {"client_id": "batch", "client_secret": "s3cret"}
SELF_SIGNED = issue()
CLIENT = ProvingClient()

POLICIES = f"""
kind: Resource
name: open-api
identifier: https://open.example.com
scopes: {{read: Read, write: Write}}
---
kind: Resource
name: dpop-api
identifier: https://dpop.example.com
scopes: {{read: Read}}
sender_constraint: dpop
---
kind: Resource
name: mtls-api
identifier: https://mtls.example.com
scopes: {{read: Read}}
sender_constraint: mtls
---
kind: ServiceAccount
name: batch
access:
  - {{resource: open-api, scopes: [read, write]}}
  - {{resource: dpop-api, scopes: [read]}}
  - {{resource: mtls-api, scopes: [read]}}
credentials:
  secrets: [{{id: s1, digest: "{secret_digest("s3cret")}"}}]
  certificates:
    - {{san_dns: batch.example.com}}
    - {{thumbprint: {certificate_thumbprint(SELF_SIGNED.der)}}}
---
kind: ServiceAccount
name: other
access: [{{resource: open-api, scopes: [read]}}]
credentials: {{certificates: [{{san_dns: other.example.com}}]}}
"""


def written(folder: Path) -> Path:
    (folder / "policies").mkdir()
    (folder / "policies" / "policies.yaml").write_text(POLICIES)
    return folder


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    async with running(settings(written(tmp_path))) as started:
        yield started


def proof(client: ProvingClient = CLIENT, **changes: Any) -> dict[str, str]:
    return {"DPoP": client.proof("POST", TOKEN_URL, now=SteadyClock()(), **changes)}


async def ask(gateway: RunningGateway, headers: Any = None, **form: str) -> tuple[int, dict[str, Any]]:
    status, body, _ = await gateway.post(
        {"grant_type": "client_credentials", "resource": "open-api", **SECRET, **form}, headers=headers or {}
    )
    return status, body


def claims_of(body: dict[str, Any]) -> dict[str, Any]:
    return jwt.decode(body["access_token"], options={"verify_signature": False})


# ---------------------------------------------------------------- DPoP


async def test_rfc_9449_section_5_a_token_got_with_a_proof_is_bound_to_its_key(gateway: RunningGateway):
    status, body = await ask(gateway, proof())
    assert (status, body["token_type"]) == (200, "DPoP")
    assert claims_of(body)["cnf"] == {"jkt": CLIENT.jkt}


async def test_a_token_got_without_a_proof_is_a_bearer_token(gateway: RunningGateway):
    status, body = await ask(gateway)
    assert (status, body["token_type"]) == (200, "Bearer")
    assert "cnf" not in claims_of(body)


async def test_a_resource_that_wants_dpop_gives_no_bearer_token(gateway: RunningGateway):
    status, body = await ask(gateway, resource="dpop-api")
    assert (status, body["error"], body["reason"]) == (400, "invalid_request", "sender_constraint_missing")
    status, body = await ask(gateway, proof(), resource="dpop-api")
    assert (status, body["token_type"]) == (200, "DPoP")


async def test_a_proof_works_once(gateway: RunningGateway):
    once = proof()
    assert (await ask(gateway, once))[0] == 200
    status, body = await ask(gateway, once)
    assert (status, body["error"], body["reason"]) == (400, "invalid_dpop_proof", "proof_replayed")


async def test_a_refused_request_does_not_use_a_proof_up(gateway: RunningGateway):
    once = proof()
    assert (await ask(gateway, once, scope="admin"))[0] == 400
    assert (await ask(gateway, once))[0] == 200


async def test_two_dpop_headers_are_refused(gateway: RunningGateway):
    headers = [("DPoP", proof()["DPoP"]), ("DPoP", proof()["DPoP"])]
    status, body = await ask(gateway, headers)
    assert (status, body["error"]) == (400, "invalid_dpop_proof")


async def test_the_name_of_the_header_is_case_insensitive(gateway: RunningGateway):
    assert (await ask(gateway, {"DPOP": proof()["DPoP"]}))[1]["token_type"] == "DPoP"


@pytest.mark.parametrize("seconds", [-10, 10])
async def test_an_iat_ten_seconds_off_is_accepted(gateway: RunningGateway, seconds: int):
    now = int(SteadyClock()())
    assert (await ask(gateway, proof(claims={"iat": now + seconds})))[0] == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"claims": {"htm": "GET"}},
        {"claims": {"htu": "https://sts.example.com/revoke"}},
        {"claims": {"iat": 1}},
        {"header": {"typ": "JWT"}},
        {"header": {"alg": "none"}},
        {"key": ProvingClient(number=101).key},
    ],
)
async def test_rfc_9449_section_4_3_a_proof_of_something_else_is_refused(gateway: RunningGateway, changes: Any):
    status, body = await ask(gateway, proof(**changes))
    assert (status, body["error"], body["reason"]) == (400, "invalid_dpop_proof", "invalid_dpop_proof")


async def test_a_bound_token_is_narrowed_by_the_holder_of_its_key_alone(gateway: RunningGateway):
    _, bound = await ask(gateway, proof())
    form = {"grant_type": TOKEN_EXCHANGE, "subject_token": bound["access_token"], "subject_token_type": ACCESS_TOKEN,
            "scope": "read"}  # fmt: skip
    for headers in ({}, proof(ProvingClient(number=101))):
        status, body, _ = await gateway.post(form, headers=headers)
        assert (status, body["reason"]) == (400, "sender_constraint_missing")
    status, body, _ = await gateway.post(form, headers=proof())
    assert (status, body["token_type"], body["scope"]) == (200, "DPoP", "read")
    assert claims_of(body)["cnf"] == {"jkt": CLIENT.jkt}


# ---------------------------------------------------------------- TLS certificates


class Tls:
    """A gateway that ends TLS itself, and clients with and without certificates."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        server = self.authority.issue_cert("127.0.0.1")
        server.cert_chain_pems[0].write_to_path(folder / "tls.crt")
        server.private_key_pem.write_to_path(folder / "tls.key")
        self.authority.cert_pem.write_to_path(folder / "ca.pem")
        (folder / "pinned.pem").write_bytes(SELF_SIGNED.pem)
        self.settings = settings(
            written(folder),
            tls={"certificate": folder / "tls.crt", "key": folder / "tls.key", "client_ca": folder / "ca.pem",
                 "client_certificates": folder / "pinned.pem"},
        )  # fmt: skip
        self.folder = folder

    def context(self, name: str | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        if name == "self-signed":
            context.load_cert_chain(SELF_SIGNED.written(self.folder))
        elif name is not None:
            self.authority.issue_cert(name).configure_cert(context)
        return context

    async def ask(self, gateway: RunningGateway, name: str | None, **form: str) -> tuple[int, dict[str, Any]]:
        url = f"https://{gateway.gateway.public_address}/token"
        form = {"grant_type": "client_credentials", "resource": "open-api", **form}
        async with gateway.session.post(url, data=form, ssl=self.context(name)) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def tls(tmp_path: Path) -> Tls:
    return Tls(tmp_path)


async def test_rfc_8705_section_2_1_a_certificate_of_a_ca_authenticates_its_client(tls: Tls):
    async with running(tls.settings) as gateway:
        status, body = await tls.ask(gateway, "batch.example.com", client_id="batch")
        assert status == 200
        assert claims_of(body)["entitled_by"].startswith("tls_client_auth/certificate:")
        assert (await tls.ask(gateway, "other.example.com", client_id="other"))[0] == 200


async def test_rfc_8705_section_2_2_a_registered_self_signed_certificate_authenticates_its_client(tls: Tls):
    async with running(tls.settings) as gateway:
        status, body = await tls.ask(gateway, "self-signed", client_id="batch")
        assert status == 200
        assert claims_of(body)["entitled_by"] == (
            f"self_signed_tls_client_auth/certificate:{certificate_thumbprint(SELF_SIGNED.der)}"
        )


@pytest.mark.parametrize(
    ("name", "form", "reason"),
    [
        ("other.example.com", {"client_id": "batch"}, "client_authentication_failed"),
        ("self-signed", {"client_id": "other"}, "client_authentication_failed"),
        ("batch.example.com", {"client_id": "nobody"}, "client_authentication_failed"),
        ("batch.example.com", {}, "client_authentication_missing"),
        (None, {"client_id": "batch"}, "client_authentication_missing"),
    ],
)
async def test_a_certificate_of_somebody_else_or_without_client_id_is_invalid_client(
    tls: Tls, name: str | None, form: dict[str, str], reason: str
):
    async with running(tls.settings) as gateway:
        status, body = await tls.ask(gateway, name, **form)
        assert (body["error"], body["reason"]) == ("invalid_client", reason)
        assert status == (401 if reason == "client_authentication_missing" else 400)


async def test_rfc_8705_section_3_a_token_is_bound_to_the_certificate_where_the_resource_wants_it(tls: Tls):
    async with running(tls.settings) as gateway:
        status, body = await tls.ask(gateway, "self-signed", client_id="batch", resource="mtls-api")
        assert (status, body["token_type"]) == (200, "Bearer")
        assert claims_of(body)["cnf"] == {"x5t#S256": certificate_thumbprint(SELF_SIGNED.der)}
        status, body = await tls.ask(gateway, "self-signed", client_id="batch")
        assert "cnf" not in claims_of(body)
        status, body = await tls.ask(gateway, None, **SECRET, resource="mtls-api")
        assert (status, body["error"], body["reason"]) == (400, "invalid_request", "sender_constraint_missing")
        status, body = await tls.ask(gateway, "other.example.com", **SECRET, resource="mtls-api")
        assert status == 200  # any certificate binds; who the client is says the secret


async def test_the_metadata_says_so(tls: Tls):
    async with running(tls.settings) as gateway:
        url = f"https://{gateway.gateway.public_address}/.well-known/oauth-authorization-server"
        async with gateway.session.get(url, ssl=tls.context(None)) as answer:
            metadata = json.loads(await answer.read())
    assert metadata["tls_client_certificate_bound_access_tokens"] is True
    assert metadata["token_endpoint_auth_methods_supported"] == [
        "client_secret_basic", "client_secret_post", "private_key_jwt", "tls_client_auth",
        "self_signed_tls_client_auth", "none",
    ]  # fmt: skip
