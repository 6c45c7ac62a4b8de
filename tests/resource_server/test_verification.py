"""Which tokens open an API: RFC 9068 §4, RFC 8725, RFC 7519, and what a token may be bound to."""

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.resource_server import AccessDenied, AccessTokenClaims, DpopRequest, Verifier
from gateway.tokens.signing_key import SigningKey
from tests.resource_server.minting import AUDIENCE, ISSUER, JWKS_URI, WORKLOAD, Mint, bound
from tests.support.proofs import ProvingClient
from tests.support.tokens import ABSENT, NOW, base64url, compact, encode_json, private_key, public_jwk

MINT = Mint()
VERIFIER = MINT.verifier()
CLIENT = ProvingClient()
URL = f"{AUDIENCE}/entries"


def denied(token: str, verifier: Verifier = VERIFIER, **options: Any) -> AccessDenied:
    with pytest.raises(AccessDenied) as refused:
        verifier.verify(token, **options)
    return refused.value


def why(token: str, verifier: Verifier = VERIFIER, **options: Any) -> str:
    """The reason of a 401 with invalid_token."""
    refused = denied(token, verifier, **options)
    assert (refused.status, refused.error) == (401, "invalid_token")
    return refused.reason


def with_header(**header: Any) -> str:
    members = {"alg": "ES256", "kid": MINT.key.kid, "typ": "at+jwt"} | header
    present = {name: value for name, value in members.items() if value is not ABSENT}
    return compact(present, MINT.claims(), "ES256", MINT.key._private_key)


def test_a_good_token_says_who_may_do_what() -> None:
    claims = VERIFIER.verify(MINT.token(tenant="acme"), scopes=["ledger:read"])
    assert claims == AccessTokenClaims(
        client_id="invoicer",
        subject="invoicer",
        scopes=("ledger:read",),
        act=WORKLOAD,
        issuer=ISSUER,
        audience=AUDIENCE,
        expires_at=NOW + 900,
        token_id="token-1",
        cnf={},
        claims=MINT.claims(tenant="acme"),
    )
    assert claims.claims["tenant"] == "acme"


async def test_the_async_twin_says_the_same() -> None:
    assert await VERIFIER.verify_async(MINT.token()) == VERIFIER.verify(MINT.token())
    with pytest.raises(AccessDenied):
        await VERIFIER.verify_async("no token")


@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "EdDSA"])
def test_at_03_every_algorithm_that_the_gateway_signs_with_is_verified(algorithm: str) -> None:
    mint = Mint(algorithm)
    assert mint.verifier().verify(mint.token()).client_id == "invoicer"


# ------------------------------------------------------------ 1. a compact JWS


@pytest.mark.parametrize("text", ["", "a", "a.b.c", "a.b.c.d.e", "é.b.c", "{}", "x" * 20_000])
def test_1_what_is_no_compact_jws_is_refused(text: str) -> None:
    assert why(text) in {"malformed_token", "malformed_header", "token_too_large"}


@pytest.mark.parametrize("member", ["crit", "b64", "jku", "jwk", "x5u", "zip", "cty"])
def test_1_a_token_cannot_say_how_it_is_verified(member: str) -> None:
    """RFC 8725 §3.10."""
    assert why(with_header(**{member: "x"})) == "forbidden_header"


# ------------------------------------------------------------ 2. typ


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "Application/At+Jwt"])
def test_at_12_both_spellings_of_the_type_are_accepted(typ: str) -> None:
    assert VERIFIER.verify(with_header(typ=typ))


@pytest.mark.parametrize(
    "typ",
    [
        ABSENT, "", "JWT", "dpop+jwt", "txntoken+jwt", "token-introspection+jwt", "id_token", "at+jwt ", "x/at+jwt",
        "logout+jwt", "application/application/at+jwt",
    ],
)  # fmt: skip
def test_at_12_every_other_type_is_refused(typ: Any) -> None:
    """RFC 8725 §3.11, §3.12: a token of another kind of the same issuer, with the same key."""
    assert why(with_header(typ=typ)) == "wrong_token_type"


# ------------------------------------------------------------ 3. alg


@pytest.mark.parametrize("alg", ["none", "None", "HS256", "es256", "ES384", "PS256", "RS512", ""])
def test_at_14_every_other_algorithm_is_refused(alg: str) -> None:
    assert why(with_header(alg=alg)) == "algorithm_not_allowed"


def test_at_14_the_public_key_is_no_secret() -> None:
    """RFC 8725 §2.1: the classic confusion of RS256 and HS256."""
    assert why(with_header(alg="HS256")) == "algorithm_not_allowed"


def test_an_api_may_accept_fewer_algorithms() -> None:
    assert why(MINT.token(), MINT.verifier(algorithms=["EdDSA"])) == "algorithm_not_allowed"


# ------------------------------------------------------------ 4, 5. key and signature


def test_4_a_token_without_kid_is_refused() -> None:
    assert why(with_header(kid=ABSENT)) == "missing_key_id"


def test_4_a_key_of_somebody_else_is_refused() -> None:
    assert why(Mint().token()) == "unknown_key"


def test_4_the_algorithm_is_that_of_the_key() -> None:
    assert why(with_header(alg="EdDSA")) == "algorithm_not_allowed"


def test_5_a_signature_of_another_key_under_a_known_kid_is_refused() -> None:
    header = {"alg": "ES256", "kid": MINT.key.kid, "typ": "at+jwt"}
    assert why(compact(header, MINT.claims(), "ES256", private_key("ES256", 9))) == "bad_signature"


@given(st.integers(min_value=0), st.characters(codec="ascii"))
def test_5_no_changed_letter_goes_unnoticed(position: int, letter: str) -> None:
    token = MINT.token()
    position %= len(token)
    changed = token[:position] + letter + token[position + 1 :]
    if changed != token:
        assert why(changed)


# ------------------------------------------------------------ 6, 7. from whom, for whom


@pytest.mark.parametrize("iss", [f"{ISSUER}/", ISSUER.upper(), "https://evil.example", "", None, 1, [ISSUER], ABSENT])
def test_at_13_iss_is_the_gateway_letter_by_letter(iss: Any) -> None:
    assert why(MINT.token(iss=iss)) == "unknown_issuer"


@pytest.mark.parametrize("aud", ["https://other.example.com", f"{AUDIENCE}/", AUDIENCE.upper(), "", ["other"], []])
def test_at_13_aud_names_this_api(aud: Any) -> None:
    assert why(MINT.token(aud=aud)) == "wrong_audience"


@pytest.mark.parametrize("aud", [ABSENT, None, 1, {}, [AUDIENCE, 1], [[AUDIENCE]], {AUDIENCE: 1}])
def test_jw_24_aud_is_a_string_or_an_array_of_strings(aud: Any) -> None:
    assert why(MINT.token(aud=aud)) == "missing_claim"


def test_at_13_aud_may_name_others_too() -> None:
    assert VERIFIER.verify(MINT.token(aud=["https://other.example.com", AUDIENCE])).audience == AUDIENCE


# ------------------------------------------------------------ 8. when


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": NOW - 30}, "token_expired"),
        ({"iat": NOW + 31}, "token_not_yet_valid"),
        ({"nbf": NOW + 31}, "token_not_yet_valid"),
        ({"exp": ABSENT}, "missing_claim"),
        ({"iat": ABSENT}, "missing_claim"),
        ({"exp": str(NOW + 60)}, "invalid_claim"),
        ({"exp": True}, "invalid_claim"),
        ({"exp": 2**60}, "invalid_claim"),
        ({"iat": 0}, "invalid_claim"),
        ({"nbf": None}, "missing_claim"),
        ({"exp": NOW + 0.5}, "malformed_claims"),
    ],
)
def test_8_a_token_is_good_from_nbf_until_exp(claims: dict[str, Any], reason: str) -> None:
    assert why(MINT.token(**claims)) == reason


@pytest.mark.parametrize("claims", [{"exp": NOW - 29}, {"iat": NOW + 30}, {"nbf": NOW + 30}, {"nbf": ABSENT}])
def test_8_clocks_may_differ_a_little(claims: dict[str, Any]) -> None:
    assert VERIFIER.verify(MINT.token(**claims))


def test_8_the_leeway_is_a_setting_of_at_most_a_minute() -> None:
    assert why(MINT.token(exp=NOW), MINT.verifier(leeway_seconds=0)) == "token_expired"
    for seconds in (-1, 61):
        with pytest.raises(ValueError, match="leeway_seconds"):
            MINT.verifier(leeway_seconds=seconds)


# ------------------------------------------------------------ 9. the other claims of RFC 9068


@pytest.mark.parametrize("name", ["sub", "client_id", "jti"])
@pytest.mark.parametrize(("value", "reason"), [
    (ABSENT, "missing_claim"), (None, "missing_claim"), ("", "invalid_claim"), (1, "invalid_claim"),
    (["invoicer"], "invalid_claim"), ("x" * 256, "invalid_claim"), ("ü", "invalid_claim"),
])  # fmt: skip
def test_at_04_sub_client_id_and_jti_are_there(name: str, value: Any, reason: str) -> None:
    assert why(MINT.token(**{name: value})) == reason


@pytest.mark.parametrize("claims", [
    {"scope": None}, {"scope": ["ledger:read"]}, {"act": None}, {"act": "invoicer"}, {"act": {}}, {"act": {"sub": 1}},
])  # fmt: skip
def test_9_scope_and_act_are_what_they_should_be(claims: dict[str, Any]) -> None:
    assert why(MINT.token(**claims)) == "invalid_claim"


def test_9_a_client_that_is_no_workload_has_no_act() -> None:
    claims = VERIFIER.verify(MINT.token(act=ABSENT, scope=ABSENT))
    assert (claims.act, claims.scopes) == (None, ())


# ------------------------------------------------------------ 10. what it is bound to


@pytest.mark.parametrize("cnf", [
    {}, {"jwk": {}}, {"kid": "x"}, {"x5t": "x"}, {"jkt": "x", "other": "y"}, [], "x", None, {"jkt": 1},
    {"x5t#S256": None},
])  # fmt: skip
def test_10_a_confirmation_that_nobody_can_check_is_refused(cnf: Any) -> None:
    assert why(MINT.token(cnf=cnf)) == "invalid_claim"


def proven(token: str, client: ProvingClient = CLIENT, *, now: float = NOW, **claims: Any) -> DpopRequest:
    return DpopRequest((client.proof("GET", URL, access_token=token, now=now, claims=claims),), "GET", URL)


def test_dp_16_a_bound_token_comes_with_a_proof_of_its_key() -> None:
    token = bound(MINT, CLIENT)
    assert VERIFIER.verify(token, dpop=proven(token)).cnf == {"jkt": CLIENT.jkt}


def test_dp_16_a_proof_of_another_key_is_refused() -> None:
    token = bound(MINT, CLIENT)
    assert why(token, dpop=proven(token, ProvingClient(number=101))) == "confirmation_failed"


def test_dp_16_an_unbound_token_under_the_dpop_scheme_is_refused() -> None:
    assert why(MINT.token(), dpop=proven(MINT.token())) == "confirmation_failed"


def test_dp_17_a_bound_token_sent_as_bearer_is_refused() -> None:
    refused = denied(bound(MINT, CLIENT))
    assert (refused.status, refused.reason) == (401, "confirmation_failed")
    assert refused.www_authenticate.startswith("Bearer ")
    assert ', DPoP realm="https://ledger.example.com", algs="ES256 ' in refused.www_authenticate


def test_dp_09_a_proof_for_another_token_is_refused() -> None:
    refused = denied(bound(MINT, CLIENT), dpop=proven("another"))
    assert (refused.status, refused.error) == (401, "invalid_dpop_proof")


def test_dp_10_a_proof_works_once() -> None:
    token = bound(MINT, CLIENT)
    request = proven(token)
    VERIFIER.verify(token, dpop=request)
    refused = denied(token, dpop=request)
    assert (refused.status, refused.error) == (401, "invalid_dpop_proof")
    assert "used before" in refused.description
    VERIFIER.verify(token, dpop=proven(token))


def test_dp_10_the_jti_of_one_client_is_not_that_of_another() -> None:
    for client in (CLIENT, ProvingClient(number=101)):
        token = bound(MINT, client)
        VERIFIER.verify(token, dpop=proven(token, client, jti="the same"))


def test_dp_10_a_refused_request_burns_no_proof() -> None:
    token = bound(MINT, CLIENT)
    request = proven(token)
    assert denied(token, dpop=request, scopes=["ledger:write"]).status == 403
    assert VERIFIER.verify(token, dpop=request)


def test_dp_10_a_full_table_of_proofs_forgets_none_and_says_503() -> None:
    now = [float(NOW)]
    verifier = MINT.verifier(clock=lambda: now[0], max_seen_proofs=2)
    token = bound(MINT, CLIENT)
    first = proven(token)
    verifier.verify(token, dpop=first)
    verifier.verify(token, dpop=proven(token))
    refused = denied(token, verifier, dpop=proven(token))
    assert (refused.status, refused.error, refused.retry_after_seconds) == (503, "temporarily_unavailable", 1)
    assert denied(token, verifier, dpop=first).error == "invalid_dpop_proof"
    now[0] += 65
    assert verifier.verify(token, dpop=proven(token, now=now[0]))


DER = b"the DER of a certificate"
X5T = base64url(hashlib.sha256(DER).digest())


def test_mt_06_mt_07_a_certificate_bound_token_comes_over_its_certificate() -> None:
    """RFC 8705 §3, §3.1."""
    token = MINT.token(cnf={"x5t#S256": X5T})
    assert VERIFIER.verify(token, certificate=DER)
    assert why(token) == "confirmation_failed"
    for other in (DER + b"!", b""):
        assert why(token, certificate=other) == "confirmation_failed"


@pytest.mark.parametrize("x5t", [hashlib.sha256(DER).hexdigest(), X5T + "=", X5T.lower(), ""])
def test_mt_07_the_thumbprint_has_one_spelling(x5t: str) -> None:
    assert why(MINT.token(cnf={"x5t#S256": x5t}), certificate=DER) == "confirmation_failed"


def test_10_a_token_bound_to_both_needs_both() -> None:
    token = MINT.token(cnf={"jkt": CLIENT.jkt, "x5t#S256": X5T})
    assert why(token, certificate=DER) == "confirmation_failed"
    assert why(token, dpop=proven(token)) == "confirmation_failed"
    assert VERIFIER.verify(token, dpop=proven(token), certificate=DER)


# ------------------------------------------------------------ 11. scopes


def test_11_every_scope_is_needed() -> None:
    token = MINT.token(scope="ledger:read ledger:write")
    assert VERIFIER.verify(token, scopes=["ledger:read", "ledger:write"])
    refused = denied(token, scopes=["ledger:read", "ledger:delete"])
    assert (refused.status, refused.error, refused.reason) == (403, "insufficient_scope", "insufficient_scope")
    assert refused.www_authenticate == (
        'Bearer realm="https://ledger.example.com", error="insufficient_scope", '
        'error_description="The token lacks a scope.", scope="ledger:read ledger:delete"'
    )


def test_11_a_scope_is_a_whole_word_in_its_own_case() -> None:
    for scope in ("ledger", "Ledger:read", "ledger:rea", "ledger:read ledger:read2"):
        assert denied(MINT.token(scope="ledger:read"), scopes=[scope]).status == 403


def test_11_require_asks_for_more_later() -> None:
    claims = VERIFIER.verify(MINT.token())
    claims.require("ledger:read")
    claims.require()
    with pytest.raises(AccessDenied) as refused:
        claims.require("ledger:write")
    assert refused.value.status == 403


# ------------------------------------------------------------ what is told, and what is not


def test_at_15_a_refusal_repeats_nothing_of_the_token() -> None:
    marked = "mark3d"
    for token in (
        f"{marked}.{marked}.{marked}", MINT.token(iss=marked), MINT.token(aud=marked), MINT.token(exp=marked),
        MINT.token(cnf={marked: 1}), MINT.token(sub=f"{marked}\n"), with_header(typ=marked), with_header(alg=marked),
        with_header(kid=marked),
    ):  # fmt: skip
        refused = denied(token)
        for shown in (refused.www_authenticate, refused.body.decode(), str(refused), repr(refused)):
            assert marked not in shown


def test_a_refusal_is_ready_to_be_answered_with() -> None:
    refused = denied(MINT.token(exp=NOW - 100))
    assert refused.headers == {
        "Content-Type": "application/json",
        "Cache-Control": "no-store",
        "WWW-Authenticate": (
            'Bearer realm="https://ledger.example.com", error="invalid_token", '
            'error_description="The token has expired.", '
            'DPoP realm="https://ledger.example.com", algs="ES256 ES384 PS256 EdDSA Ed25519"'
        ),
    }
    assert refused.body == b'{"error": "invalid_token", "error_description": "The token has expired."}'
    assert refused.reason == "token_expired"


# ------------------------------------------------------------ how a verifier is set up


@pytest.mark.parametrize("options", [
    {"jwks_uri": "http://sts.example.com/jwks"}, {"jwks_uri": "file:///etc/passwd"}, {"jwks_uri": "https://"},
    {"jwks_uri": "https://user@sts.example.com/"}, {"jwks_uri": None, "issuer": "http://sts.example.com"},
    {"jwks_uri": None, "issuer": "sts"}, {"url": "ledger.example.com"}, {"url": "ftp://ledger.example.com"},
])  # fmt: skip
def test_a_url_that_cannot_work_is_told_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Verifier(**{"issuer": ISSUER, "audience": AUDIENCE, "jwks_uri": JWKS_URI} | options)


def test_http_is_for_whoever_asks_for_it() -> None:
    assert Verifier(issuer="http://127.0.0.1:8080", audience=AUDIENCE, insecure_http=True)


def test_a_key_set_with_a_weak_key_is_read_without_it() -> None:
    """The key rules are those of the gateway's own issuers (RFC 8725 §3.4)."""
    weak = private_key("RS256", 1, rsa_bits=1024)
    mint = Mint()
    mint.published = [mint.key, _Foreign(public_jwk(weak, kid="weak", alg="RS256"))]
    verifier = mint.verifier()
    assert verifier.verify(mint.token())
    header = {"alg": "RS256", "kid": "weak", "typ": "at+jwt"}
    assert why(compact(header, mint.claims(), "RS256", weak), verifier) == "unknown_key"


class _Foreign(SigningKey):
    def __init__(self, jwk: dict[str, Any]) -> None:
        self._jwk = jwk

    def public_jwk(self) -> dict[str, str]:
        return self._jwk


def test_a_payload_that_is_no_strict_json_object_is_refused() -> None:
    for payload in (b"[]", b'{"iss":"a","iss":"b"}', b"\xff", b"null", b'{"a":' * 20 + b"1" + b"}" * 20):
        assert why(MINT.key.sign(payload)) == "malformed_claims"


def test_segments_in_another_spelling_are_refused() -> None:
    """RFC 7515 §2: one token has one text."""
    header, payload, signature = MINT.token().split(".")
    assert why(f"{header}.{payload}.{signature}=") == "malformed_token"
    respelled = base64url(encode_json({"kid": MINT.key.kid, "alg": "ES256", "typ": "at+jwt"}))
    assert why(f"{respelled}.{payload}.{signature}") == "bad_signature"
