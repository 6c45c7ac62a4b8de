"""``/verify`` over real HTTP: what proxies are told of a request (RFC 6750 §3, RFC 9449 §7, RFC 8705 §3)."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.http.verify import actor_of, parse_authorization, parse_demands
from gateway.oauth.errors import Refusal
from gateway.tokens.own_token import OwnToken
from tests.support.certificates import Issued, issue
from tests.support.ledger import CLUSTER, POLICIES, WEB, Ledger, ledger
from tests.support.proofs import ProvingClient
from tests.support.time import HandClock
from tests.support.tokens import NOW

LEDGER, VAULT = "resource=ledger-api", "resource=vault-api&scope=vault:read"
URL = "https://vault.example.com/accounts/1?full=yes"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with ledger(tmp_path) as started:
        yield started


@pytest.fixture
async def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def behind(tmp_path: Path, clock: HandClock) -> AsyncIterator[Ledger]:
    """The gateway behind proxies on loopback that are trusted."""
    async with ledger(
        tmp_path,
        clock=clock,
        trusted_proxies=["127.0.0.0/8"],
        client_certificates={"proxies": ["127.0.0.0/8"], "header": "nginx"},
    ) as started:
        yield started


# ---------------------------------------------------------------- who is let through


async def test_a_good_token_is_let_through_and_the_api_is_told_who_calls(house: Ledger):
    status, headers, body = await house.verify(await house.token(), f"{LEDGER}&scope=ledger:read")
    assert (status, body) == (200, b"")
    assert headers["X-Client-Id"] == headers["X-Subject"] == "shop"
    assert headers["X-Scope"] == "ledger:read ledger:write"
    assert headers["X-Actor"] == f"{CLUSTER} {WEB}"
    assert headers["Cache-Control"] == "no-store"


async def test_every_header_is_there_even_if_empty_to_replace_what_a_client_wrote(house: Ledger):
    status, headers, _ = await house.verify(await house.client_token())
    assert status == 200
    assert headers["X-Actor"] == ""


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
async def test_any_method_will_do(house: Ledger, method: str):
    assert (await house.verify(await house.token(), method=method))[0] == 200
    assert (await house.verify(None, method=method))[0] == 401


@pytest.mark.parametrize("query", [f"resource={quote('https://ledger.example.com', '')}", LEDGER,
                                   f"{LEDGER}&scope=ledger:read+ledger:write"])  # fmt: skip
async def test_a_resource_is_named_by_name_or_identifier(house: Ledger, query: str):
    assert (await house.verify(await house.token(), query))[0] == 200


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer "])
async def test_the_scheme_name_is_case_insensitive(house: Ledger, scheme: str):
    assert (await house.verify(await house.token(), scheme=scheme))[0] == 200


# ---------------------------------------------------------------- who is not


async def test_rfc_6750_section_3_without_a_token_the_challenge_says_nothing_of_an_error(house: Ledger):
    status, headers, _ = await house.verify(None)
    assert status == 401
    assert headers["WWW-Authenticate"] == 'Bearer realm="ledger-api"'
    status, headers, _ = await house.verify("YWxhZGRpbjpvcGVuc2VzYW1l", scheme="Basic")
    assert (status, headers["WWW-Authenticate"]) == (401, 'Bearer realm="ledger-api"')


async def test_rfc_6750_section_3_1_a_bad_token_is_invalid_token(house: Ledger):
    token = await house.token()
    for bad in ("nonsense", "a.b.c", house.pod_token(), token[:-4] + "AAAA", "x" * 8000, '"', "a b"):
        status, headers, _ = await house.verify(bad)
        assert status == 401
        assert "X-Client-Id" not in headers
        if bad != "a b":
            assert 'error="invalid_token"' in headers["WWW-Authenticate"]


async def test_rfc_6750_section_3_1_a_token_for_another_resource_is_invalid_token(house: Ledger):
    status, headers, _ = await house.verify(await house.token(), "resource=deploy-api")
    assert status == 401
    assert headers["WWW-Authenticate"].startswith('Bearer realm="deploy-api", error="invalid_token"')


async def test_rfc_6750_section_3_1_a_scope_too_few_is_insufficient_scope(house: Ledger):
    token = await house.token(scope="ledger:read")
    status, headers, body = await house.verify(token, f"{LEDGER}&scope=ledger:read+ledger:write")
    assert status == 403
    assert 'error="insufficient_scope"' in headers["WWW-Authenticate"]
    assert 'scope="ledger:read ledger:write"' in headers["WWW-Authenticate"]
    assert b"insufficient_scope" in body


async def test_an_expired_token_is_stopped_to_the_second(tmp_path: Path, clock: HandClock):
    async with ledger(tmp_path, clock=clock) as house:
        token = await house.token()
        clock.now += 899
        assert (await house.verify(token))[0] == 200
        clock.now += 1
        status, _, body = await house.verify(token)
        assert status == 401
        assert b"token_expired" in body


async def test_a_revoked_token_is_stopped_at_once_though_it_was_let_through_before(house: Ledger):
    token = await house.token()
    for _ in range(3):
        assert (await house.verify(token))[0] == 200
    await house.revoke(token)
    status, _, body = await house.verify(token)
    assert status == 401
    assert b"token_revoked" in body


async def test_attack_90_the_token_of_a_deleted_service_account_is_stopped(house: Ledger):
    token = await house.token()
    assert (await house.verify(token))[0] == 200
    house.write_policies(POLICIES.replace("name: shop", "name: shop-2"))
    await house.gateway.gateway.reload()
    assert (await house.verify(token))[0] == 401


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", "missing_parameter"),
        ("resource=", "missing_parameter"),
        ("scope=ledger:read", "missing_parameter"),
        (f"{LEDGER}&{LEDGER}", "duplicate_parameter"),
        (f"{LEDGER}&scope=a&scope=b", "duplicate_parameter"),
        (f"{LEDGER}&scope=%22", "malformed_scope"),
        (f"{LEDGER}&access_token=x", "parameter_in_query"),
        ("resource=unknown", "unknown_resource"),
        ("resource=%00", "invalid_parameter"),
        ("resource=%ff", "malformed_request"),
        ("&".join(f"a{n}=1" for n in range(40)), "malformed_request"),
    ],
)
async def test_a_proxy_that_asks_wrongly_lets_nobody_through(house: Ledger, query: str, reason: str):
    status, _, body = await house.verify(await house.token(), query)
    assert status == 400
    assert f'"reason":"{reason}"'.encode() in body


async def test_rfc_6750_section_2_3_a_token_in_the_query_is_not_taken(house: Ledger):
    token = await house.token()
    assert (await house.verify(None, f"{LEDGER}&access_token={token}"))[0] == 400
    assert (await house.verify(None, f"{LEDGER}&original=/x?access_token={token}"))[0] == 401


async def test_two_authorization_headers_are_refused(house: Ledger):
    headers = [("Authorization", f"Bearer {await house.token()}"), ("Authorization", "Bearer x")]
    async with house.gateway.session.get(f"{house.gateway.url}/verify?{LEDGER}", headers=headers) as answer:
        assert answer.status == 400


async def test_it_is_counted_and_not_written_down(house: Ledger):
    token = await house.token()
    before = len(house.audit())
    for _ in range(3):
        await house.verify(token)
    await house.verify(None)
    assert len(house.audit()) == before
    metrics = await house.gateway.get(f"{house.gateway.admin_url}/metrics")
    assert 'gateway_verifications_total{outcome="passed",reason="granted"} 3.0' in metrics
    assert 'gateway_verifications_total{outcome="refused",reason="access_token_missing"} 1.0' in metrics


# ---------------------------------------------------------------- what cannot be forged


def of_actor(act: Any) -> OwnToken:
    return OwnToken("shop", "", (), 0, 0, "", act, "", None, {}, "")


@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1, max_size=3))
@example([("https://issuer.example", 'a%20b c,d;e"\r\nX-Client-Id: admin')])
def test_no_subject_of_a_workload_can_look_like_anything_else_in_a_header(chain: list[tuple[str, str]]):
    act: dict[str, Any] | None = None
    for iss, sub in reversed(chain):
        act = {"iss": iss, "sub": sub} | ({"act": act} if act else {})
    header = actor_of(of_actor(act))
    assert re.fullmatch(r"[A-Za-z0-9._~:/@%-]+(?: [A-Za-z0-9._~:/@%-]+)*", header)
    words = [unquote(word) for word in header.split(" ")]
    assert list(zip(words[::2], words[1::2], strict=True)) == chain


@given(st.text(), st.sampled_from(["", "&scope=admin"]))
def test_nothing_that_a_client_writes_behind_original_is_a_demand(target: str, demands: str):
    found, original = parse_demands(f"/verify?resource=ledger-api{demands}&original={target}")
    assert (found.resource, found.scopes) == ("ledger-api", ("admin",) if demands else ())
    assert original == target


@given(st.text(max_size=200))
def test_no_query_breaks_the_parser(query: str):
    with suppress(Refusal):
        parse_demands(f"/verify?{query}")


@given(st.text(max_size=200))
def test_no_authorization_header_breaks_the_parser(text: str):
    scheme, token = parse_authorization(text)
    assert scheme in {"Bearer", "DPoP"}
    assert token is None or " " not in token


async def test_a_quote_in_what_is_asked_breaks_no_challenge(house: Ledger):
    _, headers, _ = await house.verify(None, "resource=x%22,error=%22y")
    assert "WWW-Authenticate" not in headers


# ---------------------------------------------------------------- bound tokens


async def prove(
    behind: Ledger,
    clock: HandClock,
    headers: Mapping[str, str],
    *,
    client: ProvingClient | None = None,
    query: str = VAULT,
    method: str = "GET",
    proof_url: str = URL,
    proof_method: str = "GET",
    scheme: str = "DPoP",
    with_proof: bool = True,
    **of_proof: Any,
) -> tuple[int, Any, bytes]:
    """Asks with a bound token and a proof."""
    holder = ProvingClient()
    token = await behind.bound_token(holder, clock.now)
    proof = (client or holder).proof(proof_method, proof_url, now=clock.now, access_token=token, **of_proof)
    sent = {**headers, **({"DPoP": proof} if with_proof else {})}
    return await behind.verify(token, query, scheme=scheme, headers=sent, method=method)


NGINX = {"X-Original-Method": "GET", "X-Original-URL": URL}
TRAEFIK = {
    "X-Forwarded-Method": "GET", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "vault.example.com",
    "X-Forwarded-Uri": "/accounts/1?full=yes",
}  # fmt: skip
ENVOY = {"X-Forwarded-Proto": "https", "Host": "vault.example.com"}
ENVOY_QUERY = f"{VAULT}&original=/accounts/1?full=yes"


@pytest.mark.parametrize(
    ("headers", "query"), [(NGINX, VAULT), (TRAEFIK, VAULT), (ENVOY, ENVOY_QUERY)], ids=["nginx", "traefik", "envoy"]
)
async def test_rfc_9449_section_7_1_a_proof_for_the_original_request_is_taken(
    behind: Ledger, clock: HandClock, headers: dict[str, str], query: str
):
    status, answered, body = await prove(behind, clock, headers, query=query)
    assert status == 200, body
    assert answered["X-Client-Id"] == "shop"


async def test_rfc_9449_section_7_1_without_a_token_the_challenge_is_dpop(house: Ledger):
    status, headers, _ = await house.verify(None, VAULT)
    assert status == 401
    assert headers["WWW-Authenticate"] == 'DPoP realm="vault-api", algs="ES256 ES384 PS256 EdDSA Ed25519"'


async def test_rfc_9449_section_7_2_a_bound_token_sent_as_bearer_is_refused(behind: Ledger, clock: HandClock):
    status, headers, body = await prove(behind, clock, NGINX, scheme="Bearer")
    assert status == 401
    assert b"confirmation_failed" in body
    assert headers["WWW-Authenticate"].startswith('DPoP realm="vault-api", error="invalid_token"')


async def test_rfc_9449_section_7_1_an_unbound_token_is_not_taken_as_dpop(behind: Ledger):
    assert (await behind.verify(await behind.token(), scheme="DPoP", headers=NGINX))[0] == 401


@pytest.mark.parametrize(
    "wrong",
    [
        {"with_proof": False},
        {"proof_method": "POST"},
        {"proof_url": "https://vault.example.com/accounts/2"},
        {"proof_url": "https://other.example.com/accounts/1"},
        {"client": ProvingClient(number=101)},
        {"claims": {"ath": "x"}},
        {"claims": {"iat": NOW - 3600}},
    ],
    ids=str,
)
async def test_rfc_9449_section_4_3_another_proof_is_refused(behind: Ledger, clock: HandClock, wrong: dict[str, Any]):
    status, headers, body = await prove(behind, clock, NGINX, **wrong)
    assert status == 401
    assert b'"reason":"invalid_dpop_proof"' in body
    assert headers["WWW-Authenticate"].startswith('DPoP realm="vault-api", error="invalid_dpop_proof"')


async def test_rfc_9449_section_11_1_a_proof_works_once(behind: Ledger, clock: HandClock):
    client = ProvingClient()
    token = await behind.bound_token(client, clock.now)
    headers = {**NGINX, "DPoP": client.proof("GET", URL, now=clock.now, access_token=token)}
    assert (await behind.verify(token, VAULT, scheme="DPoP", headers=headers))[0] == 200
    status, _, body = await behind.verify(token, VAULT, scheme="DPoP", headers=headers)
    assert status == 401
    assert b"proof_replayed" in body


async def test_a_request_that_is_refused_uses_no_proof_up(behind: Ledger, clock: HandClock):
    client = ProvingClient()
    token = await behind.bound_token(client, clock.now)
    headers = {**NGINX, "DPoP": client.proof("GET", URL, now=clock.now, access_token=token)}
    query = "resource=vault-api&scope=vault:write"
    assert (await behind.verify(token, query, scheme="DPoP", headers=headers))[0] == 403
    assert (await behind.verify(token, VAULT, scheme="DPoP", headers=headers))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {**NGINX, **TRAEFIK},
        {**NGINX, "X-Forwarded-Uri": "/accounts/1"},
        {"X-Original-URL": URL},
        {"X-Original-Method": "GET"},
        {name: value for name, value in TRAEFIK.items() if name != "X-Forwarded-Host"},
    ],
    ids=str,
)
async def test_the_original_request_must_be_said_once_and_whole(
    behind: Ledger, clock: HandClock, headers: dict[str, str]
):
    status, _, body = await prove(behind, clock, headers)
    assert status == 401
    assert b"confirmation_failed" in body


async def test_of_a_proxy_that_is_not_trusted_nothing_is_believed(tmp_path: Path, clock: HandClock):
    async with ledger(tmp_path, clock=clock, trusted_proxies=["192.0.2.0/24"]) as house:
        status, _, body = await prove(house, clock, NGINX)
        assert status == 401
        assert b"confirmation_failed" in body


async def test_an_unbound_token_is_not_enough_where_the_resource_has_come_to_ask_for_bound_ones(house: Ledger):
    token = await house.token()
    bound = "scopes: {ledger:read: Read, ledger:write: Write}\nsender_constraint: mtls"
    house.write_policies(POLICIES.replace("scopes: {ledger:read: Read, ledger:write: Write}", bound))
    assert (await house.gateway.gateway.reload()).result == "loaded"
    status, _, body = await house.verify(token)
    assert status == 401
    assert b"confirmation_failed" in body


# ---------------------------------------------------------------- bound to a certificate


def handed_on(certificate: Issued) -> dict[str, str]:
    return {"X-SSL-Client-Cert": quote(certificate.pem.decode(), ""), "X-SSL-Client-Verify": "SUCCESS"}


async def certificate_bound_token(behind: Ledger, certificate: Issued) -> str:
    behind.write_policies(POLICIES.replace("sender_constraint: dpop", "sender_constraint: mtls"))
    assert (await behind.gateway.gateway.reload()).result == "loaded"
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "assertion": behind.pod_token(),
        "resource": "vault-api",
    }
    status, body, _ = await behind.gateway.post(form, headers=handed_on(certificate))
    assert status == 200, body
    return str(body["access_token"])


async def test_rfc_8705_section_3_a_token_works_with_the_certificate_that_it_is_bound_to(behind: Ledger):
    certificate, other = issue(), issue()
    token = await certificate_bound_token(behind, certificate)
    assert (await behind.verify(token, VAULT, headers=handed_on(certificate)))[0] == 200
    for headers in (handed_on(other), {}):
        status, answered, body = await behind.verify(token, VAULT, headers=headers)
        assert status == 401
        assert b"confirmation_failed" in body
        assert 'error="invalid_token"' in answered["WWW-Authenticate"]


async def test_a_certificate_header_that_cannot_be_read_lets_nobody_through(behind: Ledger):
    token = await certificate_bound_token(behind, issue())
    headers = {"X-SSL-Client-Cert": "nonsense", "X-SSL-Client-Verify": "SUCCESS"}
    assert (await behind.verify(token, VAULT, headers=headers))[0] == 401
