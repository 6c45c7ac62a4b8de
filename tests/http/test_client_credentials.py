"""``client_credentials`` over real HTTP: RFC 6749 §2.3 and §4.4, with a secret."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote_plus

import aiohttp
import jwt
import pytest

from gateway.oauth.client_secret import secret_digest
from tests.support.running import RunningGateway, running, settings
from tests.support.time import HandClock

SECRET, OLD, NEXT = "s3cret~one.two-three", "old", "next"
ODD = "pä ss:w%rd+&=€"
LATIN = "grüße%"

POLICIES = f"""
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
kind: Role
name: reader
access: [{{resource: ledger-api, scopes: [ledger:read]}}]
---
kind: ServiceAccount
name: batch
roles: [reader]
access: [{{resource: ledger-api, scopes: [ledger:write]}}]
token_claims: {{tenant: '"acme"'}}
credentials:
  secrets:
    - {{id: s1, digest: "{secret_digest(SECRET)}", created: 2026-11-01}}
    - {{id: odd, digest: "{secret_digest(ODD)}"}}
    - {{id: latin, digest: "{secret_digest(LATIN)}"}}
    - {{id: gone, digest: "{secret_digest(OLD)}", expires: 2026-11-02}}
---
kind: ServiceAccount
name: other
access: [{{resource: ledger-api, scopes: [ledger:read]}}, {{resource: deploy-api, scopes: [deploy:write]}}]
credentials: {{secrets: [{{id: s1, digest: "{secret_digest(NEXT)}"}}]}}
---
kind: ServiceAccount
name: no-secret
access: [{{resource: ledger-api, scopes: [ledger:read]}}]
"""


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "policies.yaml").write_text(POLICIES)
    async with running(settings(tmp_path)) as started:
        yield started


def basic(client_id: str, secret: str, encoding: str = "utf-8") -> dict[str, str]:
    joined = base64.b64encode(f"{client_id}:{secret}".encode(encoding)).decode()
    return {"Authorization": f"Basic {joined}"}


async def ask(gateway: RunningGateway, headers: dict[str, str] | None = None, **form: str):
    return await gateway.post({"grant_type": "client_credentials", **form}, headers=headers or {})


def audit(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]


async def test_a_client_with_a_secret_gets_all_that_its_access_and_roles_approve(gateway: RunningGateway):
    status, body, headers = await ask(gateway, basic("batch", SECRET))
    assert status == 200
    assert body["scope"] == "ledger:read ledger:write"
    assert body["token_type"] == "Bearer"
    assert headers["Cache-Control"] == "no-store"
    claims = jwt.decode(body["access_token"], options={"verify_signature": False})
    assert claims["sub"] == claims["client_id"] == "batch"
    assert "act" not in claims
    assert claims["tenant"] == "acme"
    assert claims["entitled_by"] == "client_secret_basic/secret:s1"


async def test_there_is_no_refresh_token_and_no_id_token(gateway: RunningGateway):
    _, body, _ = await ask(gateway, basic("batch", SECRET))
    assert not {"refresh_token", "id_token"} & body.keys()


async def test_a_secret_in_the_body_is_worth_the_same(gateway: RunningGateway):
    status, body, _ = await ask(gateway, client_id="batch", client_secret=SECRET, scope="ledger:read")
    assert (status, body["scope"]) == (200, "ledger:read")


SENDERS = [
    (secret, spelling)
    for secret in (SECRET, ODD, LATIN)
    for spelling in ("form", "utf-8", "latin-1")
    if not (spelling == "latin-1" and "€" in secret)  # which Latin-1 does not have
]


@pytest.mark.parametrize(("secret", "spelling"), SENDERS)
async def test_form_encoded_raw_utf_8_and_raw_latin_1_senders_all_work(
    gateway: RunningGateway, secret: str, spelling: str
):
    headers = basic("batch", quote_plus(secret)) if spelling == "form" else basic("batch", secret, spelling)
    status, _, _ = await ask(gateway, headers)
    assert status == 200


async def test_the_scheme_name_is_case_insensitive(gateway: RunningGateway):
    headers = {"Authorization": basic("batch", SECRET)["Authorization"].replace("Basic", "bAsIc")}
    status, _, _ = await ask(gateway, headers)
    assert status == 200


@pytest.mark.parametrize(
    ("client_id", "secret"),
    [("batch", "not-it"), ("batch", OLD), ("batch", NEXT), ("nobody", SECRET), ("no-secret", SECRET), ("batch", "")],
)
async def test_unknown_client_wrong_secret_and_expired_secret_answer_alike(
    gateway: RunningGateway, tmp_path: Path, client_id: str, secret: str
):
    status, body, headers = await ask(gateway, basic(client_id, secret))
    assert status == 401
    assert headers["WWW-Authenticate"].startswith("Basic ")
    body.pop("request_id")
    assert body == {
        "error": "invalid_client",
        "error_description": "Client authentication failed.",
        "reason": "client_authentication_failed",
    }
    record = audit(tmp_path)[-1]
    assert record.get("client_id") == (client_id if secret else None)
    assert record["detail"]
    assert not secret or secret not in json.dumps(record)


async def test_no_credential_at_all_is_invalid_client(gateway: RunningGateway):
    status, body, _ = await ask(gateway, client_id="batch")
    assert (status, body["error"], body["reason"]) == (401, "invalid_client", "client_authentication_missing")


@pytest.mark.parametrize(
    "form",
    [
        {"client_id": "batch", "client_secret": SECRET},
        {"client_assertion": "a.b.c"},
        {"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
    ],
)
async def test_two_methods_in_one_request_are_refused(gateway: RunningGateway, form: dict[str, str]):
    status, body, _ = await ask(gateway, basic("batch", SECRET), **form)
    assert (status, body["error"], body["reason"]) == (400, "invalid_request", "multiple_client_authentication")


async def test_a_client_id_of_another_client_in_the_body_is_refused(gateway: RunningGateway):
    status, body, _ = await ask(gateway, basic("batch", SECRET), client_id="other")
    assert (status, body["error"], body["reason"]) == (401, "invalid_client", "client_mismatch")
    status, _, _ = await ask(gateway, basic("batch", SECRET), client_id="batch")
    assert status == 200


async def test_another_scheme_is_refused(gateway: RunningGateway):
    status, body, _ = await ask(gateway, {"Authorization": "Bearer abc"})
    assert (status, body["error"], body["reason"]) == (401, "invalid_client", "client_authentication_unsupported")


async def test_scopes_are_approved_in_advance_and_never_cut(gateway: RunningGateway):
    status, body, _ = await ask(gateway, basic("other", NEXT), resource="deploy-api", scope="ledger:read")
    assert (status, body["error"]) == (400, "invalid_scope")
    status, body, _ = await ask(gateway, basic("other", NEXT))
    assert (status, body["error"], body["reason"]) == (400, "invalid_target", "ambiguous_resource")
    status, body, _ = await ask(gateway, basic("other", NEXT), audience="https://deploy.example.com")
    assert (status, body["scope"]) == (200, "deploy:write")


async def test_requested_expires_in_only_shortens(gateway: RunningGateway):
    _, body, _ = await ask(gateway, basic("batch", SECRET), requested_expires_in="60")
    assert body["expires_in"] == 60


async def test_the_record_says_how_the_client_proved_itself(gateway: RunningGateway, tmp_path: Path):
    await ask(gateway, basic("batch", SECRET))
    record = audit(tmp_path)[-1]
    assert record["grant"] == "client_credentials"
    assert record["decision"] == "granted"
    assert record["client_id"] == "batch"
    assert record["authentication"] == "client_secret_basic/secret:s1"
    assert SECRET not in json.dumps(record)


async def test_a_secret_ends_at_midnight_of_the_day_of_its_expiry(tmp_path: Path):
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "policies.yaml").write_text(POLICIES)
    clock = HandClock(1_793_577_600.0 - 1)  # a second before 2026-11-02
    async with running(settings(tmp_path), clock=clock) as gateway:
        assert (await ask(gateway, basic("batch", OLD)))[0] == 200
        clock.now += 1
        assert (await ask(gateway, basic("batch", OLD)))[0] == 401


async def test_a_secret_never_stands_in_the_url(gateway: RunningGateway):
    async with gateway.session.post(
        f"{gateway.url}/token?client_id=batch&client_secret={SECRET}", data={"grant_type": "client_credentials"}
    ) as answer:
        assert (answer.status, (await answer.json())["reason"]) == (400, "parameter_in_query")


async def test_credentials_beside_a_subject_token_must_be_good(gateway: RunningGateway):
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": "a.b.c",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
    }
    status, body, _ = await gateway.post(form, headers=basic("batch", "wrong"))
    assert (status, body["error"], body["reason"]) == (401, "invalid_client", "client_authentication_failed")
    status, body, _ = await gateway.post(form, headers=basic("batch", SECRET))
    assert (status, body["error"], body["reason"]) == (400, "invalid_request", "malformed_token")


async def test_aiohttps_own_basic_auth_works(gateway: RunningGateway):
    auth = aiohttp.encode_basic_auth("batch", SECRET) if hasattr(aiohttp, "encode_basic_auth") else None
    headers = {"Authorization": auth} if auth else basic("batch", SECRET)
    assert (await ask(gateway, headers))[0] == 200
