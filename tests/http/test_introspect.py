"""``POST /introspect`` over real HTTP: RFC 7662 and RFC 9701."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.introspect import INTROSPECTION_JWT, prefers_jwt
from gateway.oauth.errors import Refusal
from tests.support.ledger import (
    API,
    BATCH,
    CLIENT_ASSERTION,
    CLUSTER,
    OTHER_API,
    POLICIES,
    WEB,
    Ledger,
    basic,
    ledger,
)
from tests.support.proofs import ProvingClient
from tests.support.running import ACCESS_TOKEN, ISSUER, TOKEN_EXCHANGE
from tests.support.time import HandClock

INACTIVE = {"active": False}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with ledger(tmp_path) as started:
        yield started


def claims_of(token: str) -> dict:
    return jwt.decode(token, options={"verify_signature": False})


async def as_jwt(house: Ledger, token: str, accept: str = INTROSPECTION_JWT) -> tuple[str, str]:
    """Content type and body."""
    async with house.gateway.session.post(
        f"{house.gateway.url}/introspect", data={"token": token}, headers={**API, "Accept": accept}
    ) as answer:
        return answer.headers["Content-Type"], await answer.text()


# ---------------------------------------------------------------- what is told


async def test_rfc_7662_section_2_2_an_api_is_told_all_that_the_token_says(house: Ledger):
    token = await house.token(scope="ledger:read")
    status, body = await house.introspect(token)
    assert status == 200
    assert body == {"active": True, "token_type": "Bearer", **claims_of(token)}
    assert body["client_id"] == body["sub"] == "shop"
    assert body["scope"] == "ledger:read"
    assert body["act"] == {"iss": CLUSTER, "sub": WEB}
    assert body["aud"] == "https://ledger.example.com"
    assert body["iss"] == ISSUER
    assert body["entitled_by"] == "prod-cluster/web"
    assert body["tenant"] == "acme"
    assert {"exp", "iat", "nbf", "jti"} <= body.keys()


async def test_rfc_7662_section_2_2_the_answer_is_json_that_nobody_stores(house: Ledger):
    async with house.gateway.session.post(
        f"{house.gateway.url}/introspect", data={"token": await house.token()}, headers=API
    ) as answer:
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Cache-Control"] == "no-store"


async def test_rfc_9449_section_6_2_a_bound_token_is_told_with_its_cnf_and_type(house: Ledger):
    client = ProvingClient()
    token = await house.bound_token(client, house.cluster._clock())
    _, body = await house.introspect(token)
    assert (body["token_type"], body["cnf"]) == ("DPoP", {"jkt": client.jkt})


@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "no such thing", ""])
async def test_rfc_7662_section_2_1_a_wrong_hint_hinders_nothing(house: Ledger, hint: str):
    _, body = await house.introspect(await house.token(), token_type_hint=hint)
    assert body["active"] is True


async def test_an_api_authenticates_with_its_workload_token_too(house: Ledger):
    assertion = house.pod_token("ledger", "api")
    form = {"client_assertion": assertion, "client_assertion_type": CLIENT_ASSERTION, "client_id": "ledger-service"}
    _, body = await house.introspect(await house.token(), {}, **form)
    assert body["active"] is True


# ---------------------------------------------------------------- what is not


async def test_rfc_7662_section_2_2_who_does_not_serve_the_resource_learns_nothing(house: Ledger):
    token = await house.token()
    assert await house.introspect(token, OTHER_API) == (200, INACTIVE)
    assert await house.introspect(token, BATCH) == (200, INACTIVE)


async def test_attack_92_not_even_the_client_of_the_token_learns_of_it(house: Ledger):
    assert await house.introspect(await house.client_token(), BATCH) == (200, INACTIVE)


async def test_rfc_7662_section_2_2_what_is_no_good_token_is_inactive_and_no_more(house: Ledger):
    token = await house.token()
    header, payload, signature = token.split(".")
    for bad in (
        "nonsense", "a.b.c", "ä", "x" * 20_000, house.pod_token(), f"{header}.{payload}.{signature[:-4]}AAAA",
        f"{token} ", jwt.encode(claims_of(token), "k" * 32, headers={"typ": "at+jwt"}),
    ):  # fmt: skip
        assert await house.introspect(bad) == (200, INACTIVE)


async def test_an_expired_token_is_inactive(tmp_path: Path):
    clock = HandClock()
    async with ledger(tmp_path, clock=clock) as house:
        token = await house.token()
        clock.now += 899
        assert (await house.introspect(token))[1]["active"] is True
        clock.now += 1
        assert await house.introspect(token) == (200, INACTIVE)


async def test_a_revoked_token_is_inactive_at_once(house: Ledger):
    token = await house.token()
    assert await house.revoke(token) == (200, None)
    assert await house.introspect(token) == (200, INACTIVE)


async def test_attack_90_the_tokens_of_a_deleted_service_account_are_inactive(house: Ledger):
    token, other = await house.token(), await house.client_token()
    house.write_policies(POLICIES.replace("name: shop", "name: shop-2"))
    assert (await house.gateway.gateway.reload()).result == "loaded"
    assert await house.introspect(token) == (200, INACTIVE)
    assert (await house.introspect(other))[1]["active"] is True


async def test_a_resource_that_is_no_more_has_no_tokens(house: Ledger):
    token = await house.token()
    house.write_policies(POLICIES.replace("https://ledger.example.com", "https://ledger-2.example.com"))
    await house.gateway.gateway.reload()
    assert await house.introspect(token) == (200, INACTIVE)


async def test_rfc_9701_section_5_an_introspection_jwt_passes_nowhere_as_an_access_token(house: Ledger):
    _, answer = await as_jwt(house, await house.token())
    assert await house.introspect(answer) == (200, INACTIVE)
    assert (await house.verify(answer))[0] == 401
    form = {"grant_type": TOKEN_EXCHANGE, "subject_token": answer, "subject_token_type": ACCESS_TOKEN}
    status, body, _ = await house.gateway.post(form)
    assert (status, body["reason"]) == (400, "wrong_token_type")


# ---------------------------------------------------------------- who asks


@pytest.mark.parametrize(
    "headers", [{}, basic("ledger-service", "wrong"), basic("nobody", "x"), {"Authorization": "Bearer x"}]
)
async def test_rfc_7662_section_2_1_whoever_asks_authenticates(house: Ledger, headers: dict[str, str]):
    async with house.gateway.session.post(
        f"{house.gateway.url}/introspect", data={"token": "x"}, headers=headers
    ) as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
        assert (await answer.json())["error"] == "invalid_client"
    record = house.audit()[-1]
    assert (record["endpoint"], record["decision"]) == ("introspection", "denied")


async def test_a_workload_that_is_nobody_here_is_answered_401(house: Ledger):
    form = {"client_assertion": house.pod_token("x", "y"), "client_assertion_type": CLIENT_ASSERTION}
    status, body = await house.introspect(await house.token(), {}, **form)
    assert (status, body["error"], body["reason"]) == (401, "invalid_client", "no_matching_trust")
    record = house.audit()[-1]
    assert (record["endpoint"], record["issuer"], record["subject"]) == (
        "introspection", "prod-cluster", "system:serviceaccount:x:y",
    )  # fmt: skip


async def test_the_record_of_a_refusal_holds_neither_token_nor_secret(house: Ledger):
    token = await house.token()
    await house.introspect(token, basic("ledger-service", "wrong-secret"))
    record = json.dumps(house.audit()[-1])
    assert "wrong-secret" not in record
    assert token not in record
    assert json.loads(record)["client_id"] == "ledger-service"


async def test_guessing_secrets_here_is_bounded_as_at_the_token_endpoint(tmp_path: Path):
    async with ledger(tmp_path, quotas={"failures_per_source": "5/minute"}) as house:
        statuses = [(await house.introspect("x", basic("ledger-service", f"guess-{n}")))[0] for n in range(8)]
        assert statuses == [401] * 5 + [429] * 3


async def test_more_than_is_worked_on_at_once_is_503(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with ledger(tmp_path, limits={"in_flight": 1}) as house:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow(*_: object) -> None:
            begun.set()
            await go_on.wait()
            raise Refusal("client_authentication_failed")

        monkeypatch.setattr(house.gateway.gateway.clients, "authenticate", slow)
        first = asyncio.create_task(house.introspect("x"))
        await begun.wait()
        status, body = await house.introspect("x")
        assert (status, body["reason"]) == (503, "overloaded")
        go_on.set()
        assert (await first)[0] == 401
        assert (await house.introspect("x"))[0] == 401


async def test_it_is_post_with_a_form_and_a_token(house: Ledger):
    url = f"{house.gateway.url}/introspect"
    async with house.gateway.session.get(url, headers=API) as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    async with house.gateway.session.post(url, data={"token_type_hint": "x"}, headers=API) as answer:
        assert (answer.status, (await answer.json())["reason"]) == (400, "missing_parameter")
    async with house.gateway.session.post(f"{url}?token=x", data={}, headers=API) as answer:
        assert (answer.status, (await answer.json())["reason"]) == (400, "parameter_in_query")
    async with house.gateway.session.post(url, json={"token": "x"}, headers=API) as answer:
        assert (answer.status, (await answer.json())["reason"]) == (400, "malformed_request")
    async with house.gateway.session.post(url, data=[("token", "x"), ("token", "y")], headers=API) as answer:
        assert (answer.status, (await answer.json())["reason"]) == (400, "duplicate_parameter")


async def test_what_is_asked_is_counted(house: Ledger):
    token = await house.token()
    await house.introspect(token)
    await house.introspect(token, OTHER_API)
    await house.introspect(token, {})
    metrics = await house.gateway.get(f"{house.gateway.admin_url}/metrics")
    for outcome, reason in (
        ("active", "granted"),
        ("inactive", "wrong_audience"),
        ("refused", "client_authentication_missing"),
    ):
        line = f'gateway_inspections_total{{endpoint="introspection",outcome="{outcome}",reason="{reason}"}} 1.0'
        assert line in metrics


# ---------------------------------------------------------------- as a JWT


async def test_rfc_9701_section_5_the_answer_is_signed_for_whoever_asked(house: Ledger):
    token = await house.token()
    content_type, answer = await as_jwt(house, token)
    assert content_type == INTROSPECTION_JWT
    key_set = jwt.PyJWKSet.from_json(await house.gateway.get(f"{house.gateway.url}/.well-known/jwks.json"))
    header = jwt.get_unverified_header(answer)
    assert header["typ"] == "token-introspection+jwt"
    claims = jwt.decode(answer, key_set[header["kid"]].key, algorithms=["ES256"], audience="ledger-service")
    assert claims.keys() == {"iss", "aud", "iat", "token_introspection"}, "no sub and no exp at the top"
    assert claims["iss"] == ISSUER
    _, plain = await house.introspect(token)
    assert claims["token_introspection"] == plain


async def test_rfc_9701_section_5_of_an_inactive_token_the_jwt_says_no_more(house: Ledger):
    _, answer = await as_jwt(house, "nonsense")
    assert claims_of(answer)["token_introspection"] == INACTIVE


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("application/*", False),
        ("application/json", False),
        (INTROSPECTION_JWT, True),
        (INTROSPECTION_JWT.upper(), True),
        (f"{INTROSPECTION_JWT}, application/json", True),
        (f"application/json, {INTROSPECTION_JWT}", True),
        (f"{INTROSPECTION_JWT}, */*;q=0.8", True),
        (f"{INTROSPECTION_JWT};q=0.5, application/json", False),
        (f"{INTROSPECTION_JWT};q=0.5, */*", False),
        (f"{INTROSPECTION_JWT};q=0.5, application/json;q=0.4, */*", True),
        (f"{INTROSPECTION_JWT};q=0", False),
        (f"{INTROSPECTION_JWT};q=0.000", False),
        (f"{INTROSPECTION_JWT};q=1.000", True),
        (f"{INTROSPECTION_JWT};q=2", False),
        (f"{INTROSPECTION_JWT};q=1e3", False),
        (f"{INTROSPECTION_JWT};q=nan", False),
        (f"{INTROSPECTION_JWT};q=", False),
        (f"{INTROSPECTION_JWT} ; v=1 ; q=0.9 , text/html", True),
        (f"text/{INTROSPECTION_JWT}", False),
        (f"{INTROSPECTION_JWT}x", False),
        ("a/b," * 20 + INTROSPECTION_JWT, False),
        (INTROSPECTION_JWT + "," + " " * 2000, False),
    ],
)
def test_rfc_9110_section_12_5_1_the_quality_values_of_accept_are_honoured(accept: str, wanted: bool):
    assert prefers_jwt(accept) is wanted


@given(st.text(max_size=200), st.text(max_size=200))
def test_no_accept_header_breaks_anything(before: str, behind: str):
    assert prefers_jwt(f"{before}{INTROSPECTION_JWT}{behind}") in {True, False}


async def test_the_metadata_names_the_endpoint_and_its_algorithms(house: Ledger):
    text = await house.gateway.get(f"{house.gateway.url}/.well-known/oauth-authorization-server")
    document = json.loads(text)
    assert document["introspection_endpoint"] == f"{ISSUER}/introspect"
    assert document["introspection_signing_alg_values_supported"] == ["ES256"]
    assert "none" not in document["introspection_endpoint_auth_methods_supported"]
    assert document["revocation_endpoint"] == f"{ISSUER}/revoke"


async def test_an_unforeseen_error_is_a_500_that_is_written_down(
    house: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def broken(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(house.gateway.gateway.revocations, "check", broken)
    with caplog.at_level(logging.CRITICAL):
        status, body = await house.introspect(await house.token())
    assert (status, body["reason"]) == (500, "internal_error")
    assert house.audit()[-1]["reason"] == "internal_error"
