import hashlib
import hmac
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.identity.verification import MAX_NUMERIC_DATE, verify_compact, verify_token
from gateway.jose.compact import parse_token, parse_unverified_claims
from gateway.jose.jwks import ALGORITHMS, parse_key_set
from gateway.model import ClaimTable, TrustedIssuer, Workload
from gateway.oauth.errors import Refusal
from tests.support.tokens import (
    ABSENT,
    AUDIENCE,
    NOW,
    SigningIssuer,
    base64url,
    encode_json,
    private_key,
    public_jwk,
)

SIGNER = SigningIssuer("ES256")
ISSUER = SIGNER.issuer()


def verify(overrides: dict[str, Any] | bytes | None = None, *, now: float = NOW, **issuer: Any) -> Workload:
    return verify_compact(SIGNER.token(overrides), replace(ISSUER, **issuer), SIGNER.key_set, now)


def refusal(overrides: dict[str, Any] | bytes | None = None, *, now: float = NOW, **issuer: Any) -> Refusal:
    with pytest.raises(Refusal) as refused:
        verify(overrides, now=now, **issuer)
    return refused.value


def refusal_of_token(text: str, issuer: TrustedIssuer = ISSUER, signer: SigningIssuer = SIGNER) -> Refusal:
    with pytest.raises(Refusal) as refused:
        verify_compact(text, issuer, signer.key_set, NOW)
    return refused.value


def code(overrides: dict[str, Any] | bytes | None = None, *, now: float = NOW, **issuer: Any) -> str:
    return refusal(overrides, now=now, **issuer).reason.code


# ------------------------------------------------------------ what a good token proves


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_a_good_token_proves_its_workload(algorithm: str) -> None:
    signer = SigningIssuer(algorithm)
    text = signer.token()
    workload = verify_compact(text, signer.issuer(), signer.key_set, NOW)
    assert workload.issuer == signer.issuer()
    assert workload.subject == "workload"
    assert workload.claims == signer.claims()
    assert (workload.issued_at, workload.expires_at) == (NOW, NOW + 300)
    assert workload.token_id == "token-1"
    assert workload.key_id == f"{algorithm}-0"
    assert workload.token_sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_claims_that_were_parsed_before_are_not_parsed_again() -> None:
    token = parse_token(SIGNER.token())
    claims = parse_unverified_claims(token)
    assert verify_token(token, ISSUER, SIGNER.key_set, NOW, claims).claims is claims


def test_a_refusal_carries_the_issuer_and_claims_only_once_the_signature_verified() -> None:
    late = refusal({"aud": "elsewhere"})
    assert late.issuer is not None
    assert late.claims == SIGNER.claims({"aud": "elsewhere"})
    forged = refusal_of_token(SIGNER.token(key=private_key("ES256", 1)))
    assert forged.issuer is not None
    assert forged.claims is None


GOOD = SIGNER.token()
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_. =+/\n\x00\u00e9"


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.sampled_from(ALPHABET))
def test_no_token_verifies_with_one_character_changed(position: int, character: str) -> None:
    if GOOD[position] != character:
        refusal_of_token(GOOD[:position] + character + GOOD[position + 1 :])


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(GOOD)), st.sampled_from(ALPHABET))
def test_no_token_verifies_with_one_character_more_or_less(position: int, character: str) -> None:
    refusal_of_token(GOOD[:position] + character + GOOD[position:])
    refusal_of_token(GOOD[: max(position - 1, 0)] + GOOD[max(position, 1) :])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "act"]), JSON, max_size=3))
def test_whatever_the_claims_hold_the_answer_is_a_workload_or_a_refusal(overrides: dict[str, Any]) -> None:
    try:
        workload = verify(overrides)
    except Refusal:
        return
    assert workload.claims["iss"] == SIGNER.url


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "x"]), JSON, max_size=3))
def test_whatever_the_header_holds_the_answer_is_a_workload_or_a_refusal(header: dict[str, Any]) -> None:
    try:
        workload = verify_compact(SIGNER.token(header=header), ISSUER, SIGNER.key_set, NOW)
    except Refusal:
        return
    assert workload.key_id == SIGNER.kid


# ------------------------------------------------------------ 1. typ


@pytest.mark.parametrize("typ", ["JWT", "jwt", "Jwt", "application/jwt", "APPLICATION/JWT", ABSENT])
def test_a_token_of_a_usual_type_is_accepted(typ: Any) -> None:
    """RFC 7515 §4.1.9, RFC 7519 §5.1."""
    verify_compact(SIGNER.token(header={"typ": typ}), ISSUER, SIGNER.key_set, NOW)


@pytest.mark.parametrize(
    "typ",
    [
        "at+jwt", "application/at+jwt", "dpop+jwt", "secevent+jwt", "logout+jwt", "oauth-authz-req+jwt", "wit+jwt",
        "client-authentication+jwt", "JOSE", "JWE", " jwt", "jwt ", "application/application/jwt", "text/jwt",
    ],
)  # fmt: skip
def test_a_token_of_another_kind_is_refused(typ: str) -> None:
    """RFC 8725 §3.11, §3.12."""
    assert refusal_of_token(SIGNER.token(header={"typ": typ})).reason.code == "wrong_token_type"


@pytest.mark.parametrize("typ", ["", ABSENT, "at+jwt"])
def test_an_issuer_may_insist_on_a_type(typ: Any) -> None:
    insisting = replace(ISSUER, token_types=frozenset({"jwt"}))
    assert refusal_of_token(SIGNER.token(header={"typ": typ}), insisting).reason.code == "wrong_token_type"


# ------------------------------------------------------------ 2. alg


@pytest.mark.parametrize("alg", ["none", "None", "nOnE", "", "HS256", "HS512", "RS256", "es256", "ES256 ", "ES256K"])
def test_an_alg_that_is_not_on_the_issuers_list_is_refused(alg: str) -> None:
    """RFC 8725 §3.1, §3.2; RFC 7518 §3.1: names are case-sensitive."""
    assert refusal_of_token(SIGNER.token(header={"alg": alg})).reason.code == "algorithm_not_allowed"


def test_an_unsigned_token_is_refused() -> None:
    unsigned = f"{base64url(encode_json({'alg': 'none'}))}.{base64url(encode_json(SIGNER.claims()))}.AA"
    assert refusal_of_token(unsigned).reason.code == "algorithm_not_allowed"


@pytest.mark.parametrize("algorithms", [frozenset({"RS256"}), frozenset({"RS256", "HS256"}), ALGORITHMS | {"HS256"}])
def test_the_public_key_is_never_an_hmac_secret(algorithms: frozenset[str]) -> None:
    """CVE-2022-29217 and its many sisters: even an operator's mistake in the list opens nothing."""
    signer = SigningIssuer("RS256")
    public = signer.key.public_key()
    secrets = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        encode_json(signer.jwk()),
    ]
    signing_input = signer.token(header={"alg": "HS256"}).rpartition(".")[0]
    for secret in secrets:
        forged = f"{signing_input}.{base64url(hmac.digest(secret, signing_input.encode(), 'sha256'))}"
        issuer = signer.issuer(algorithms=algorithms)
        assert refusal_of_token(forged, issuer, signer).reason.code == "algorithm_not_allowed"


# ------------------------------------------------------------ 3. the key


def test_an_alg_that_is_not_its_keys_is_refused() -> None:
    """One key, one algorithm (RFC 8725 bis §3.1)."""
    signer = SigningIssuer("RS256")
    keys = parse_key_set({"keys": [signer.jwk(alg="PS256")]}, algorithms=ALGORITHMS)
    with pytest.raises(Refusal, match="algorithm_not_allowed"):
        verify_compact(signer.token(), signer.issuer(algorithms=ALGORITHMS), keys, NOW)


def test_an_unknown_kid_is_refused_though_another_key_would_verify() -> None:
    assert refusal_of_token(SIGNER.token(header={"kid": "other"})).reason.code == "unknown_key"


def test_a_token_without_kid_is_refused() -> None:
    assert refusal_of_token(SIGNER.token(header={"kid": ABSENT})).reason.code == "missing_key_id"


def test_a_token_without_kid_is_accepted_where_configured_and_one_key_fits() -> None:
    issuer = replace(ISSUER, allow_missing_kid=True)
    text = SIGNER.token(header={"kid": ABSENT})
    two_types = parse_key_set(SIGNER.jwks(SigningIssuer("RS256").jwk()), algorithms=ALGORITHMS)
    listed_twice = parse_key_set(SIGNER.jwks(SIGNER.jwk(kid=ABSENT)), algorithms=ALGORITHMS)
    for keys in (SIGNER.key_set, two_types, listed_twice):
        assert verify_compact(text, issuer, keys, NOW).subject == "workload"


def test_keys_are_not_tried_one_by_one_for_a_token_without_kid() -> None:
    issuer = replace(ISSUER, allow_missing_kid=True)
    text = SIGNER.token(header={"kid": ABSENT})
    two = parse_key_set(SIGNER.jwks(SigningIssuer("ES256", number=1).jwk()), algorithms=ALGORITHMS)
    none = parse_key_set(SigningIssuer("RS256").jwks(), algorithms=ALGORITHMS)
    for keys, expected in ((two, "missing_key_id"), (none, "unknown_key")):
        with pytest.raises(Refusal, match=expected):
            verify_compact(text, issuer, keys, NOW)


# ------------------------------------------------------------ 4. the signature


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
def test_another_key_of_the_same_name_verifies_nothing(algorithm: str) -> None:
    signer = SigningIssuer(algorithm)
    forged = signer.token(key=private_key(algorithm, 1))
    assert refusal_of_token(forged, signer.issuer(), signer).reason.code == "bad_signature"


def test_claims_of_one_token_under_the_signature_of_another_are_refused() -> None:
    header, _, signature = SIGNER.token().split(".")
    _, payload, _ = SIGNER.token({"sub": "admin"}).split(".")
    assert refusal_of_token(f"{header}.{payload}.{signature}").reason.code == "bad_signature"


def test_the_signature_is_checked_before_any_claim() -> None:
    forged = SIGNER.token({"exp": 1, "aud": "elsewhere"}, key=private_key("ES256", 1))
    assert refusal_of_token(forged).reason.code == "bad_signature"


def test_an_embedded_key_is_never_used() -> None:
    """CVE-2026-27962, CVE-2018-0114."""
    attacker = private_key("ES256", 1)
    for header in ({"jwk": public_jwk(attacker)}, {"jku": "https://evil.example/jwks"}):
        assert refusal_of_token(SIGNER.token(header=header, key=attacker)).reason.code == "forbidden_header"
    assert refusal_of_token(SIGNER.token(header={"x5c": ["MII"]}, key=attacker)).reason.code == "bad_signature"


# ------------------------------------------------------------ 5. the payload


@pytest.mark.parametrize(
    "payload", [b"[1]", b"null", b'{"iss":1,"iss":2}', b'{"exp":1e400}', b"\xff", b'{"a":"\\ud800"}']
)
def test_a_signed_payload_that_is_no_strict_json_object_is_refused(payload: bytes) -> None:
    assert code(payload) == "malformed_claims"


# ------------------------------------------------------------ 6. iss


@pytest.mark.parametrize(
    "iss",
    [
        "https://issuer.example/", "https://ISSUER.example", "https://issuer.example:443", "http://issuer.example",
        "https://issuer.example@evil.example", "https://issuer.example.evil.example", " https://issuer.example",
        "https://issuer.exampl", "https://issuer.exampl%65", "https://issuer.ex\u0430mple", "", 1, True,
        ["https://issuer.example"], {"a": "https://issuer.example"},
    ],
)  # fmt: skip
def test_an_iss_that_is_not_the_issuer_byte_for_byte_is_refused(iss: Any) -> None:
    """RFC 7519 §4.1.1, RFC 8725 §3.8."""
    assert code({"iss": iss}) == "invalid_claim"


@pytest.mark.parametrize("name", ["iss", "sub", "aud", "exp", "iat"])
@pytest.mark.parametrize("value", [ABSENT, None])
def test_a_token_without_a_claim_that_every_token_has_is_refused(name: str, value: Any) -> None:
    refused = refusal({name: value})
    assert refused.reason.code == "missing_claim"
    assert refused.public == f"{name} is missing."


# ------------------------------------------------------------ 7. sub


@pytest.mark.parametrize(
    "sub", ["", " ", " workload", "workload ", "x" * 256, "a\u00e9", "repo:acme/\u0430pp", "a\u2028b", 1, True, [], {}]
)
def test_a_sub_that_is_no_short_printable_string_is_refused(sub: Any) -> None:
    assert code({"sub": sub}) == "invalid_claim"


def test_a_sub_of_another_shape_than_the_platforms_is_refused() -> None:
    assert code({"sub": "job:12"}, subject_pattern=r"job:[0-9]") == "invalid_claim"
    assert verify({"sub": "job:1"}, subject_pattern=r"job:[0-9]").subject == "job:1"


def test_the_shape_is_that_of_the_whole_sub() -> None:
    assert code({"sub": "xjob:1"}, subject_pattern=r"job:1") == "invalid_claim"
    assert code({"sub": "job:1x"}, subject_pattern=r"job:1|job:2") == "invalid_claim"


# ------------------------------------------------------------ 8. aud


@pytest.mark.parametrize("aud", [AUDIENCE, [AUDIENCE], [AUDIENCE, AUDIENCE]])
def test_our_audience_alone_is_accepted_as_string_or_array(aud: Any) -> None:
    """RFC 7519 §4.1.3."""
    assert verify({"aud": aud})


@pytest.mark.parametrize("aud", ["", [], [""], 1, True, [1], [None], [AUDIENCE, 1], [[AUDIENCE]], {}, {"a": AUDIENCE}])
def test_an_aud_that_is_no_string_or_array_of_strings_is_refused(aud: Any) -> None:
    assert code({"aud": aud}) == "invalid_claim"


@pytest.mark.parametrize(
    "aud",
    [
        f"{AUDIENCE}/", AUDIENCE.upper(), f"{AUDIENCE}:443", AUDIENCE[:-1], f"{AUDIENCE}x", f" {AUDIENCE}",
        "https://sts.ex%61mple.com", "elsewhere", ["elsewhere"], ["a"] * 1000,
    ],
)  # fmt: skip
def test_an_audience_that_is_not_ours_byte_for_byte_is_refused(aud: Any) -> None:
    assert code({"aud": aud}) == "wrong_audience"


def test_a_token_for_us_and_for_somebody_else_is_refused() -> None:
    assert code({"aud": [AUDIENCE, "elsewhere"]}) == "wrong_audience"


def test_a_companion_audience_may_stand_beside_ours_and_not_alone() -> None:
    companions = frozenset({"companion"})
    assert verify({"aud": [AUDIENCE, "companion"]}, companion_audiences=companions)
    assert code({"aud": ["companion"]}, companion_audiences=companions) == "wrong_audience"


@pytest.mark.parametrize(
    "aud",
    [
        "sts.amazonaws.com", "api://AzureADTokenExchange", "https://kubernetes.default.svc", "vault", "sigstore",
        "https://github.com/acme", "project.svc.id.goog", SIGNER.url,
        "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/x",
    ],
)  # fmt: skip
def test_an_audience_of_another_relying_party_is_refused_as_such(aud: str) -> None:
    assert code({"aud": aud}) == "reserved_audience"
    assert code({"aud": [AUDIENCE, aud]}) == "reserved_audience"


def test_an_audience_that_the_issuer_reserves_is_refused_as_such() -> None:
    assert code({"aud": "door"}, reserved_audiences=frozenset({"door"})) == "reserved_audience"


# ------------------------------------------------------------ 9. exp, iat, nbf


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("value", [str(NOW), f" {NOW} ", "", True, False, [NOW], {}, 0, -1, MAX_NUMERIC_DATE + 1])
def test_a_time_that_is_no_integer_of_seconds_is_refused(name: str, value: Any) -> None:
    """RFC 7519 §2."""
    assert code({name: value}) == "invalid_claim"


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
def test_a_time_with_a_fraction_is_refused(name: str) -> None:
    assert code({name: NOW + 0.5}) == "malformed_claims"


def test_a_token_is_expired_at_the_very_second_of_exp() -> None:
    """RFC 7519 §4.1.4: on or after."""
    assert verify(now=NOW + 299.9, leeway_seconds=0)
    assert code(now=NOW + 300, leeway_seconds=0) == "token_expired"


def test_the_leeway_moves_the_end_and_no_further() -> None:
    assert verify(now=NOW + 329.9)
    refused = refusal(now=NOW + 330)
    assert refused.reason.code == "token_expired"
    assert refused.public == "The token expired 30 seconds ago."


def test_a_token_that_begins_in_the_future_is_refused() -> None:
    assert verify({"nbf": NOW + 30})
    assert code({"nbf": NOW + 31}) == "token_not_yet_valid"
    assert verify({"iat": NOW + 30, "nbf": ABSENT})
    assert "clock" in refusal({"iat": NOW + 31, "nbf": ABSENT}).public


@pytest.mark.parametrize("times", [{"nbf": NOW + 300}, {"iat": NOW + 300}, {"nbf": NOW + 301}, {"iat": NOW + 301}])
def test_a_token_that_ends_before_it_begins_is_refused(times: dict[str, int]) -> None:
    assert code(times) == "invalid_claim"


def test_a_token_that_lives_too_long_is_refused() -> None:
    assert verify({"exp": NOW + 900}, max_token_lifetime_seconds=900)
    assert code({"exp": NOW + 901}, max_token_lifetime_seconds=900) == "token_lifetime_too_long"
    assert code({"exp": MAX_NUMERIC_DATE}) == "token_lifetime_too_long"


def test_a_token_that_was_issued_too_long_ago_is_refused() -> None:
    token = {"iat": NOW - 600}
    assert verify(token, max_token_age_seconds=600)
    assert verify(token, max_token_age_seconds=570)
    assert code(token, max_token_age_seconds=569) == "token_too_old"


def test_a_nbf_before_iat_is_usual() -> None:
    """GitHub writes ten minutes, GitLab five seconds."""
    assert verify({"nbf": NOW - 600})


# ------------------------------------------------------------ 10. jti


@pytest.mark.parametrize("jti", ["", None, 1, True, [], {}, "x" * 257])
def test_a_jti_that_is_no_short_string_is_refused(jti: Any) -> None:
    """RFC 7519 §4.1.7."""
    assert code({"jti": jti}) == "invalid_claim"


def test_a_token_may_go_without_jti() -> None:
    assert verify({"jti": ABSENT}).token_id is None


# ------------------------------------------------------------ 11. the platform's claims

TABLE = ClaimTable(
    required=(("nested", "uid"), ("name",)), optional=frozenset({"known", "property_*"}), ignored=frozenset({"noise"})
)
COMPLETE = {"nested": {"uid": "1"}, "name": "n"}


def test_a_token_with_every_required_claim_is_accepted() -> None:
    assert verify(COMPLETE, claims=TABLE).unaccounted_claims == ()


@pytest.mark.parametrize("empty", [ABSENT, None, "", [], {}])
def test_a_required_claim_that_is_absent_null_or_empty_refuses_the_token(empty: Any) -> None:
    assert refusal(COMPLETE | {"name": empty}, claims=TABLE).public == "name is missing."


@pytest.mark.parametrize("nested", [ABSENT, None, "uid", ["uid"], {}, {"uid": None}, {"uid": ""}, {"UID": "1"}, 1])
def test_a_required_nested_claim_is_looked_up_by_its_path(nested: Any) -> None:
    refused = refusal(COMPLETE | {"nested": nested}, claims=TABLE)
    assert refused.reason.code == "missing_claim"
    assert refused.public == "nested > uid is missing."


@pytest.mark.parametrize("value", [0, False])
def test_zero_and_false_are_values(value: Any) -> None:
    assert verify(COMPLETE | {"name": value}, claims=TABLE)


def test_claims_that_no_table_knows_are_named() -> None:
    extra = {"known": 1, "property_x": 1, "noise": 1, "novel": 1, "Sub": 1, "act": {"sub": "admin"}}
    assert verify(COMPLETE | extra, claims=TABLE).unaccounted_claims == ("Sub", "act", "novel")


def test_twins_of_registered_claims_mean_nothing() -> None:
    assert verify({"Sub": "admin", "\u017fub": "admin", "Exp": 1}).subject == "workload"
