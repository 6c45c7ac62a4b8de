"""What becomes of minted tokens, attacked: introspection, revocation, ``/verify`` and the APIs' own side."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gateway.clock import SteadyClock
from gateway.model import Clock
from gateway.oauth.client_secret import secret_digest
from gateway.resource_server.aiohttp import access_token_middleware
from gateway.resource_server.claims import AccessTokenClaims
from gateway.resource_server.logging import CallerFilter
from gateway.resource_server.request import ApiRequest, parse_credentials
from gateway.resource_server.verifier import Verifier
from gateway.tokens.revocation import KIND, OfCredential, Revocation
from tests.attacks.test_clients import es256_twin
from tests.support.ledger import (
    API,
    API_SECRET,
    BATCH,
    BATCH_SECRET,
    CLIENT_ASSERTION,
    OTHER_API,
    POLICIES,
    Ledger,
    basic,
    ledger,
)  # fmt: skip
from tests.support.proofs import ProvingClient
from tests.support.running import ACCESS_TOKEN, ISSUER, JWT, TOKEN_EXCHANGE
from tests.support.time import HandClock
from tests.support.tokens import NOW

LEDGER = "resource=ledger-api"


@asynccontextmanager
async def besieged(folder: Path, *, clock: Clock | None = None, **overrides: Any) -> AsyncIterator[Ledger]:
    async with ledger(folder, clock=clock, **{"quotas": {"enabled": False}, **overrides}) as house:
        yield house


# ---------------------------------------------------------------- /verify: what a location demands


@pytest.mark.parametrize(
    ("demands", "reason"),
    [
        ("&scope=", "malformed_scope"),  # scope=$scope of a map in nginx that has no value for this method
        ("&scope", "malformed_scope"),
        ("&scope=&scope=ledger:write", "duplicate_parameter"),
        ("&scopes=ledger:write", "invalid_parameter"),
        ("&Scope=ledger:write", "invalid_parameter"),
        ("&scope[]=ledger:write", "invalid_parameter"),
        ("&scope%5B0%5D=ledger:write", "invalid_parameter"),
        ("&%20scope=ledger:write", "invalid_parameter"),
        (";scope=ledger:write", "unknown_resource"),
        ("&audience=deploy-api", "invalid_parameter"),
        ("&resource=deploy-api", "duplicate_parameter"),
        ("&resource=", "duplicate_parameter"),
        ("&r%65source=deploy-api", "duplicate_parameter"),
        ("&=ledger:write", "invalid_parameter"),
    ],
)
async def test_a_demand_that_is_misspelt_or_empty_lets_nobody_through(tmp_path: Path, demands: str, reason: str):
    async with besieged(tmp_path) as house:
        token = await house.token(scope="ledger:read")
        status, _, body = await house.verify(token, f"{LEDGER}{demands}")
        assert (status, f'"reason":"{reason}"'.encode() in body) == (400, True), body


async def test_what_a_client_writes_behind_envoys_prefix_demands_nothing_less(tmp_path: Path):
    async with besieged(tmp_path) as house:
        token = await house.token(scope="ledger:read")
        demanded = f"{LEDGER}&scope=ledger:write&original="
        for path in ("/x", "/x?scope=", "/x&scope=ledger:read", "&original=&resource=deploy-api", "/x%26scope=", "#"):
            assert (await house.verify(token, demanded + path))[0] == 403, path
            assert (await house.verify(await house.token(), demanded + path))[0] == 200, path


async def test_a_token_of_one_api_opens_no_other_by_any_name(tmp_path: Path):
    async with besieged(tmp_path) as house:
        token = await house.token()
        for name in ("deploy-api", "https%3A%2F%2Fdeploy.example.com", "vault-api"):
            status, _, body = await house.verify(token, f"resource={name}")
            assert (status, b'"reason":"wrong_audience"' in body) == (401, True)
        for name in (
            "LEDGER-API",
            "ledger-api%20",
            "ledger-api/",
            "https://ledger.example.com/",
            "*",
            "ledger-service",
        ):
            status, _, body = await house.verify(token, f"resource={name}")
            assert (status, b"unknown_resource" in body or b"invalid_parameter" in body) == (400, True), name


@pytest.mark.parametrize("scheme", ["Basic", "Bearer,", "Bearer Bearer", "DPoP", "Token", "Bearer\u00a0", "Bearer%20"])
async def test_a_token_under_another_scheme_is_not_taken(tmp_path: Path, scheme: str):
    async with besieged(tmp_path) as house:
        assert (await house.verify(await house.token(), scheme=scheme))[0] == 401


# ---------------------------------------------------------------- who may ask, and what that uses up


async def test_an_assertion_is_not_used_up_by_an_introspection_that_nobody_could_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with besieged(tmp_path, state=f"sqlite://{tmp_path}/state.db") as house:
        token = await house.token()
        house.write_policies(POLICIES.replace("preset: kubernetes", "preset: kubernetes\nreplay: reject"))
        assert (await house.gateway.gateway.reload()).result == "loaded"
        form = {
            "client_assertion": house.pod_token("ledger", "api"), "client_assertion_type": CLIENT_ASSERTION,
        }  # fmt: skip
        with monkeypatch.context() as patched:
            patched.setattr(house.gateway.gateway.mirror, "age_seconds", lambda _now: None)
            status, body = await house.introspect(token, {}, **form)
            assert (status, body["reason"]) == (503, "state_unavailable")
        status, body = await house.introspect(token, {}, **form)
        assert (status, body.get("active")) == (200, True), body
        status, body = await house.introspect(token, {}, **form)
        assert (status, body["reason"]) == (401, "token_replayed")


async def test_92_who_does_not_serve_the_api_learns_nothing_of_its_tokens(tmp_path: Path):
    async with besieged(tmp_path) as house:
        token = await house.token()
        good = await house.introspect(token, API)
        assert (good[0], good[1]["active"]) == (200, True)
        strangers = [OTHER_API, BATCH]
        for headers in strangers:
            assert await house.introspect(token, headers) == (200, {"active": False})
            assert await house.introspect("no token at all", headers) == (200, {"active": False})
        pod = {"client_assertion": house.pod_token(), "client_assertion_type": CLIENT_ASSERTION}
        assert await house.introspect(token, {}, **pod) == (200, {"active": False})
        status, body = await house.introspect(token, API, client_id="deploy-service")
        assert (status, body["reason"]) == (401, "client_mismatch")


async def test_the_secret_of_an_api_that_was_taken_away_asks_nothing_more(tmp_path: Path):
    async with besieged(tmp_path) as house:
        token = await house.token()
        house.write_policies(POLICIES.replace(secret_digest(API_SECRET), secret_digest("another")))
        assert (await house.gateway.gateway.reload()).result == "loaded"
        status, body = await house.introspect(token, API)
        assert (status, body["reason"]) == (401, "client_authentication_failed")


# ---------------------------------------------------------------- revocation


async def test_33_a_revoked_token_is_not_brought_back_by_the_twin_of_its_signature(tmp_path: Path):
    async with besieged(tmp_path) as house:
        token = await house.token()
        assert (await house.verify(es256_twin(token)))[0] == 200  # the same token, by design
        assert (await house.revoke(token))[0] == 200
        assert (await house.verify(es256_twin(token)))[0] == 401
        assert (await house.introspect(es256_twin(token)))[1] == {"active": False}


async def test_a_leaked_credential_is_revoked_with_all_that_was_made_of_its_tokens(tmp_path: Path):
    async with besieged(tmp_path) as house:
        mine, kept = await house.client_token(), await house.token()
        form = {"grant_type": TOKEN_EXCHANGE, "subject_token": mine, "subject_token_type": ACCESS_TOKEN}
        narrowed = (await house.gateway.post(form))[1]["access_token"]
        actor = {"actor_token": house.pod_token("ledger", "api"), "actor_token_type": JWT, "resource": "deploy-api"}
        passed_on = (await house.gateway.post(form | actor))[1]["access_token"]
        gateway = house.gateway.gateway
        target = OfCredential("batch", "secret:s1")
        revocation = Revocation.of_all("leaked", target, SteadyClock()(), max_lifetime_seconds=900)
        await gateway.mirror.put(KIND, revocation.id, revocation.to_json(), until=revocation.until)
        for token, resource in ((mine, "ledger-api"), (narrowed, "ledger-api"), (passed_on, "deploy-api")):
            assert (await house.verify(token, f"resource={resource}"))[0] == 401
            _, body, _ = await house.gateway.post(form | {"subject_token": token})
            assert body["reason"] == "token_revoked"
        assert (await house.verify(kept))[0] == 200


async def test_a_stranger_revokes_nothing_by_guessing(tmp_path: Path):
    async with besieged(tmp_path) as house:
        token = await house.token()
        header, payload, _ = token.split(".")
        claims = jwt.decode(token, options={"verify_signature": False})
        for guess in (claims["jti"], f"{header}.{payload}.", f"{header}.{payload}.AAAA", f"{token}A", token[:-4], "*"):
            assert (await house.revoke(guess))[0] == 200
        assert (await house.revoke(token, BATCH))[1]["reason"] == "token_of_another_client"
        assert (await house.revoke(token, client_id="batch"))[1]["reason"] == "token_of_another_client"
        assert (await house.revoke(token, basic("shop", BATCH_SECRET)))[1]["reason"] == "client_authentication_failed"
        assert house.gateway.gateway.revocations.active() == 0
        assert (await house.verify(token))[0] == 200


async def test_a_token_that_is_revoked_many_times_at_once_is_revoked_once(tmp_path: Path):
    async with besieged(tmp_path, state=f"sqlite://{tmp_path}/state.db") as house:
        token = await house.token()
        answers = await asyncio.gather(*(house.revoke(token) for _ in range(20)))
        assert {status for status, _ in answers} == {200}
        assert house.gateway.gateway.revocations.active() == 1


# ---------------------------------------------------------------- bound tokens


async def test_one_proof_opens_one_door_once(tmp_path: Path):
    clock, client = HandClock(), ProvingClient()
    proxy = {"trusted_proxies": ["127.0.0.1/32"]}
    async with besieged(tmp_path, clock=clock, **proxy) as house:
        token = await house.bound_token(client, clock.now)
        url = "https://vault.example.com/x"
        said = {"X-Original-Method": "GET", "X-Original-URL": url}

        async def opens(proof: str, **more: str) -> int:
            headers = {**said, "DPoP": proof, **more}
            return (await house.verify(token, "resource=vault-api", scheme="DPoP", headers=headers))[0]

        proof = client.proof("GET", url, now=clock.now, access_token=token)
        at_the_token_endpoint = client.proof("POST", f"{ISSUER}/token", now=clock.now, access_token=token)
        assert await opens(at_the_token_endpoint) == 401
        assert await opens(proof, **{"X-Original-Method": "POST"}) == 401
        assert await opens(proof, **{"X-Forwarded-Method": "GET", "X-Forwarded-Uri": "/x"}) == 401
        assert await opens(proof) == 200
        assert await opens(proof) == 401
        assert await opens(es256_twin(proof)) == 401
        assert await opens(proof, **{"X-Original-URL": f"{url}?other=1"}) == 401
        assert (await house.verify(token, "resource=vault-api", headers=said))[0] == 401, "as Bearer"


async def test_a_client_that_is_no_proxy_says_nothing_of_the_original_request(tmp_path: Path):
    clock, client = HandClock(), ProvingClient()
    async with besieged(tmp_path, clock=clock) as house:
        token = await house.bound_token(client, clock.now)
        url = "https://vault.example.com/x"
        headers = {
            "X-Original-Method": "GET", "X-Original-URL": url,
            "DPoP": client.proof("GET", url, now=clock.now, access_token=token),
        }  # fmt: skip
        assert (await house.verify(token, "resource=vault-api", scheme="DPoP", headers=headers))[0] == 401


# ---------------------------------------------------------------- the API's own side


async def test_a_connection_that_serves_one_caller_after_the_other_confuses_none(caplog: pytest.LogCaptureFixture):
    caller = AccessTokenClaims("shop", "shop", (), None, ISSUER, "https://x", NOW, "1", {}, {})

    class Accepting(Verifier):
        async def verify_request_async(self, request: ApiRequest, *, scopes: object = ()) -> AccessTokenClaims:
            parse_credentials(request, "x")
            return caller

    async def handle(_request: web.Request) -> web.Response:
        logging.getLogger("api").warning("handled")
        return web.Response()

    verifier = Accepting(issuer=ISSUER, audience="https://x")
    app = web.Application(middlewares=[access_token_middleware(verifier, open_paths=["/open"])])
    app.router.add_get("/{path}", handle)
    caplog.handler.addFilter(names := CallerFilter())
    try:
        async with TestServer(app) as server, TestClient(server) as client:
            for path, headers in (("/x", {"Authorization": "Bearer a"}), ("/open", {}), ("/x", {})):
                async with client.get(path, headers=headers) as answer:
                    await answer.read()
    finally:
        caplog.handler.removeFilter(names)
    found = [vars(record)["client_id"] for record in caplog.records if record.name == "api"]
    assert found == ["shop", "-"]
