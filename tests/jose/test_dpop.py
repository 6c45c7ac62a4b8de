"""DPoP proofs: RFC 9449 §4.2 and §4.3, and what the OpenID suite tries at a resource."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.jose.compact import parse_token
from gateway.jose.dpop import (
    FUTURE_SECONDS,
    MAX_TOKEN_ID_LENGTH,
    PAST_SECONDS,
    PROOF_ALGORITHMS,
    DpopProof,
    access_token_hash,
    verify_proof,
    verify_sole_proof,
)
from gateway.jose.jwks import ALGORITHMS, parse_key
from gateway.jose.thumbprint import jwk_thumbprint, key_thumbprint
from gateway.oauth.errors import Refusal
from tests.support.proofs import ProvingClient
from tests.support.tokens import ABSENT, NOW, base64url, compact, encode_json, private_key, public_jwk

METHOD, URL = "POST", "https://sts.example.com/token"
CLIENT = ProvingClient()
TOKEN = "header.payload.signature"


def verified(text: str, **options: Any) -> DpopProof:
    return verify_proof(text, **{"method": METHOD, "url": URL, "now": NOW} | options)


def made(**options: Any) -> str:
    return CLIENT.proof(METHOD, URL, **options)


def why(text: str, **options: Any) -> str:
    with pytest.raises(Refusal) as refused:
        verified(text, **options)
    assert refused.value.reason.code == "invalid_dpop_proof"
    assert refused.value.reason.error == "invalid_dpop_proof"
    assert refused.value.reason.status == 400
    return refused.value.public


def test_a_good_proof_names_its_key_and_its_jti_and_until_when_to_remember_it() -> None:
    proof = verified(made(claims={"jti": "once"}))
    assert proof == DpopProof(jkt=CLIENT.jkt, jti="once", until=NOW + PAST_SECONDS + 5)


# ------------------------------------------------------------ DP-01: exactly one header


def test_dp_01_a_request_has_exactly_one_dpop_header() -> None:
    for headers in ([], [made(), made()]):
        with pytest.raises(Refusal) as refused:
            verify_sole_proof(headers, method=METHOD, url=URL, now=NOW)
        assert refused.value.reason.code == "invalid_dpop_proof"
    assert verify_sole_proof([made()], method=METHOD, url=URL, now=NOW).jkt == CLIENT.jkt


def test_dp_01_two_headers_that_a_server_joined_are_no_proof() -> None:
    """RFC 9110 §5.3: what a CGI-like server makes of two header lines."""
    assert "cannot be read" in why(f"{made()}, {made()}")
    assert "cannot be read" in why(f"{made()},{made()}")


# ------------------------------------------------------------ DP-02, DP-25: a JWT of the right type


@pytest.mark.parametrize("text", ["", "no-jwt", "a.b", "a.b.c", "a.b.c.d.e", "..", "{}", "é.b.c", "a" * 20_000])
def test_dp_02_what_is_no_jwt_is_no_proof(text: str) -> None:
    assert "cannot be read" in why(text)


@pytest.mark.parametrize(
    "typ",
    [ABSENT, "", "JWT", "jwt", "at+jwt", "dpop", "dpop+jwt2", "application/", "application/application/dpop+jwt"],
)
def test_dp_02_dp_25_a_jwt_of_another_type_is_no_proof(typ: Any) -> None:
    """RFC 9449 §11.5: another signed JWT of the same key is not taken for a proof."""
    assert "typ" in why(made(header={"typ": typ}))


@pytest.mark.parametrize("typ", ["DPOP+JWT", "application/dpop+jwt", "Application/DPoP+jwt"])
def test_dp_02_the_type_is_a_media_type(typ: str) -> None:
    """RFC 7515 §4.1.9."""
    assert verified(made(header={"typ": typ}))


@pytest.mark.parametrize("payload", [b"", b"[]", b'"text"', b"{", b'{"iat":1.5}', b'{"a":1,"a":2}', b"\xff"])
def test_dp_02_a_payload_that_is_no_strict_json_object_is_refused(payload: bytes) -> None:
    header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": CLIENT.jwk}
    assert "cannot be read" in why(compact(header, payload, "ES256", CLIENT.key))


@pytest.mark.parametrize("member", ["crit", "b64", "jku", "x5u", "zip", "cty"])
def test_a_proof_cannot_say_how_it_is_read(member: str) -> None:
    """RFC 7515 §4.1.11."""
    assert member in why(made(header={member: ["exp"]}))


def test_only_a_proof_brings_its_own_key() -> None:
    """RFC 8725 §3.10: the same JWT as a token is refused for its jwk."""
    with pytest.raises(Refusal) as refused:
        parse_token(made())
    assert refused.value.reason.code == "forbidden_header"


# ------------------------------------------------------------ DP-03: the algorithm


@pytest.mark.parametrize("algorithm", PROOF_ALGORITHMS)
def test_dp_03_each_algorithm_of_the_list_is_accepted(algorithm: str) -> None:
    client = ProvingClient(algorithm)
    assert verified(client.proof(METHOD, URL)).jkt == client.jkt


def test_dp_03_rs256_is_refused() -> None:
    """The OpenID suite: RS256 is no algorithm of FAPI 2."""
    assert "alg" in why(ProvingClient("RS256").proof(METHOD, URL))


@pytest.mark.parametrize("alg", ["none", "None", "HS256", "es256", "ES512", "ES256K", "RS512", "PS512", ""])
def test_dp_03_every_other_algorithm_is_refused(alg: str) -> None:
    header = {"typ": "dpop+jwt", "alg": alg, "jwk": CLIENT.jwk}
    assert "alg of the DPoP proof" in why(compact(header, {}, "ES256", CLIENT.key))


@pytest.mark.parametrize("alg", [ABSENT, None, 1, ["ES256"]])
def test_dp_03_a_missing_algorithm_is_refused(alg: Any) -> None:
    assert "alg" in why(made(header={"alg": alg}))


def test_dp_03_the_algorithm_is_one_of_the_key() -> None:
    assert "jwk" in why(made(header={"jwk": public_jwk(private_key("ES384"))}))
    assert "jwk" in why(made(header={"jwk": CLIENT.jwk | {"alg": "ES384"}}))


# ------------------------------------------------------------ DP-04: the key


@pytest.mark.parametrize("jwk", [ABSENT, None, {}, [], "key", {"kty": "EC"}, {"kty": "oct", "k": "c2VjcmV0"}])
def test_dp_04_a_missing_or_unusable_key_is_refused(jwk: Any) -> None:
    assert "jwk" in why(made(header={"jwk": jwk}))


@pytest.mark.parametrize("member", ["d", "k", "p", "q", "dp", "dq", "qi", "oth"])
def test_dp_04_a_private_key_inside_jwk_is_refused(member: str) -> None:
    text = why(made(header={"jwk": CLIENT.jwk | {member: "c2VjcmV0"}}))
    assert "private key" in text
    assert "c2VjcmV0" not in text


def test_dp_04_a_weak_key_is_refused() -> None:
    key = private_key("PS256", 7, rsa_bits=1024)
    header = {"typ": "dpop+jwt", "alg": "PS256", "jwk": public_jwk(key)}
    assert "bits" in why(compact(header, {}, "PS256", key))


def test_dp_04_the_signature_is_of_the_key_inside() -> None:
    assert "signature" in why(made(key=private_key("ES256", 101)))
    head, payload, signature = made().split(".")
    assert "signature" in why(f"{head}.{payload}.{'A' * len(signature)}")
    other = base64url(encode_json({"jti": "x", "htm": METHOD, "htu": URL, "iat": NOW}))
    assert "signature" in why(f"{head}.{other}.{signature}")


# ------------------------------------------------------------ DP-05: the claims


@pytest.mark.parametrize("name", ["jti", "htm", "htu", "iat"])
@pytest.mark.parametrize("value", [ABSENT, None, True, 1.0e3, [], {}])
def test_dp_05_jti_htm_htu_and_iat_are_there_and_of_their_type(name: str, value: Any) -> None:
    assert why(made(claims={name: value}))


@pytest.mark.parametrize("jti", ["", "x" * (MAX_TOKEN_ID_LENGTH + 1)])
def test_dp_05_dp_10_jti_is_bounded(jti: str) -> None:
    assert "jti" in why(made(claims={"jti": jti}))
    assert verified(made(claims={"jti": "x" * MAX_TOKEN_ID_LENGTH}))


def test_further_claims_are_ignored() -> None:
    """The OpenID suite: extra claims; DP-07: a nonce that nobody here gave out."""
    assert verified(made(claims={"nonce": "of another server", "extra": {"a": [1, 2]}, "aud": "x"}))


# ------------------------------------------------------------ DP-06: method and URL


@pytest.mark.parametrize("method", ["GET", "post", "POST ", ""])
def test_dp_06_htm_is_the_method_letter_by_letter(method: str) -> None:
    assert "htm" in why(made(claims={"htm": method}))


@pytest.mark.parametrize(
    "htu",
    [
        "https://sts.example.com/token?a=b", "https://sts.example.com/token#part", "https://sts.example.com/token?#",
        "HTTPS://STS.EXAMPLE.COM/token", "https://sts.example.com:443/token", "https://sts.example.com:/token",
        "https://sts.example.com/%74oken", "https://sts.example.com/tok%65n",
    ],
)  # fmt: skip
def test_dp_06_htu_is_the_url_after_normalisation(htu: str) -> None:
    """RFC 9449 §4.3, RFC 3986 §6.2: query and fragment, upper case, the default port, letters in percent-encoding."""
    assert verified(made(claims={"htu": htu}))
    assert verified(made(), url=htu)


@pytest.mark.parametrize(
    "htu",
    [
        "https://sts.example.com/", "https://sts.example.com", "https://sts.example.com/Token",
        "https://sts.example.com/token/", "http://sts.example.com/token", "https://sts.example.com:8443/token",
        "https://sts.example.com.evil.example/token", "https://sts.example.com./token", "https://evil.example/token",
        "https://sts.example.com//token", "https://sts.example.com/x/../token", "https://sts.example.com/token%2F",
        "https://sts.example.com:80/token",
    ],
)  # fmt: skip
def test_dp_06_htu_of_another_url_is_refused(htu: str) -> None:
    assert why(made(claims={"htu": htu})) == "htu of the DPoP proof is not the URL of the request."


@pytest.mark.parametrize(
    "htu",
    [
        "", "/token", "sts.example.com/token", "//sts.example.com/token", "ftp://sts.example.com/token", "https:/token",
        "https://user@sts.example.com/token", "https://@sts.example.com/token", "https://sts.example.com:x/token",
        "https://sts.example.com:99999/token", "https://[::1/token", " https://sts.example.com/token",
        "https://sts.example.com/token ", "https://sts.example.com/é", "https://sts.example.com/" + "a" * 2048,
    ],
)  # fmt: skip
def test_dp_06_htu_is_an_absolute_http_url(htu: str) -> None:
    assert why(made(claims={"htu": htu})) == "htu of the DPoP proof is not an absolute http or https URL."


def test_dp_06_percent_encoding_means_the_same_in_either_case_and_never_a_slash() -> None:
    url = "https://api.example.com/files/a%2Fb"
    assert verified(CLIENT.proof("GET", "https://api.example.com/files/a%2fb"), method="GET", url=url)
    assert "htu" in why(CLIENT.proof("GET", "https://api.example.com/files/a/b"), method="GET", url=url)


# ------------------------------------------------------------ DP-08: the time


@pytest.mark.parametrize("seconds", [-PAST_SECONDS, -10, 0, 10])
def test_dp_08_iat_may_lie_a_little_beside_our_clock(seconds: int) -> None:
    """The OpenID suite: 10 seconds past and 10 seconds future are accepted."""
    assert verified(made(claims={"iat": NOW + seconds})).until == NOW + seconds + PAST_SECONDS + 5


@pytest.mark.parametrize("seconds", [-3600, -PAST_SECONDS - 1, FUTURE_SECONDS + 1, 3600])
def test_dp_08_iat_far_away_is_refused(seconds: int) -> None:
    assert "iat" in why(made(claims={"iat": NOW + seconds}))


@pytest.mark.parametrize("iat", [0, -1, "1793610000", True, 10**19, 1.5])
def test_dp_08_iat_is_a_number_of_seconds(iat: Any) -> None:
    assert why(made(claims={"iat": iat}))


def test_dp_10_the_mark_of_a_jti_outlives_the_proof() -> None:
    text = made(claims={"iat": NOW + FUTURE_SECONDS})
    until = verified(text).until
    assert "old" in why(text, now=until - 4)
    assert verified(text, now=until - 5)


def test_exp_and_nbf_are_honoured_where_they_stand() -> None:
    """The OpenID suite: a proof with nbf and exp is accepted while they allow it."""
    assert verified(made(claims={"exp": NOW + 60, "nbf": NOW}))
    assert "exp" in why(made(claims={"exp": NOW - FUTURE_SECONDS}))
    assert "nbf" in why(made(claims={"nbf": NOW + FUTURE_SECONDS + 1}))
    assert "exp" in why(made(claims={"exp": "soon"}))
    assert "nbf" in why(made(claims={"nbf": None}))


# ------------------------------------------------------------ DP-09: with an access token


def test_dp_09_ath_is_the_hash_of_the_token_that_comes_with_it() -> None:
    assert verified(made(access_token=TOKEN), access_token=TOKEN)
    for text in (made(), made(access_token="another"), made(claims={"ath": None}), made(claims={"ath": TOKEN})):
        assert "ath" in why(text, access_token=TOKEN)


def test_dp_09_ath_of_the_example_in_rfc_9449_section_7_1() -> None:
    token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
    assert access_token_hash(token) == "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"


def test_dp_09_the_key_is_the_one_that_the_token_is_bound_to() -> None:
    assert verified(made(), jkt=CLIENT.jkt)
    assert "another key" in why(made(), jkt=ProvingClient(number=101).jkt)


# ------------------------------------------------------------ DP-12: what is told


def test_dp_12_a_refusal_repeats_nothing_of_the_proof() -> None:
    marked = "mark3d"
    for claims in ({"htu": f"https://{marked}/"}, {"htm": marked}, {"iat": marked}, {"jti": marked * 100}):
        assert marked not in why(made(claims=claims))
    for header in ({"typ": marked}, {"alg": marked}, {"jwk": {"kty": marked}}, {"jwk": CLIENT.jwk | {"crv": marked}}):
        assert marked not in why(made(header=header))


# ------------------------------------------------------------ DP-14, TP-04: thumbprints


def test_dp_14_the_example_of_rfc_9449_has_its_thumbprint() -> None:
    jwk = {
        "kty": "EC", "crv": "P-256",
        "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs", "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
    }  # fmt: skip
    assert jwk_thumbprint(jwk) == "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
    assert key_thumbprint(parse_key(jwk, algorithms=ALGORITHMS).public_key) == jwk_thumbprint(jwk)


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "ES512", "RS256", "EdDSA"])
def test_tp_01_a_key_has_the_thumbprint_of_its_own_jwk(algorithm: str) -> None:
    jwk = public_jwk(private_key(algorithm, 100))
    assert key_thumbprint(parse_key(jwk, algorithms=ALGORITHMS).public_key) == jwk_thumbprint(jwk)


def test_tp_04_one_key_has_one_thumbprint_however_its_modulus_is_spelled() -> None:
    client = ProvingClient("PS256")
    numbers = client.key.public_key().public_numbers()
    padded = client.jwk | {"n": base64url(numbers.n.to_bytes(260)), "e": base64url(numbers.e.to_bytes(8))}
    assert padded != client.jwk
    assert verified(client.proof(METHOD, URL, header={"jwk": padded})).jkt == client.jkt


# ------------------------------------------------------------ anything at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = st.sampled_from(["typ", "alg", "jwk", "kid", "crit"])
CLAIMS = st.sampled_from(["jti", "htm", "htu", "iat", "exp", "nbf", "ath"])


@given(st.dictionaries(MEMBERS, JSON, max_size=3), st.dictionaries(CLAIMS, JSON, max_size=3))
def test_whatever_a_proof_says_it_is_verified_or_refused_with_the_one_reason(
    header: dict[str, Any], claims: dict[str, Any]
) -> None:
    try:
        verified(made(header=header, claims=claims))
    except Refusal:
        assert why(made(header=header, claims=claims)).isascii()


@given(st.text(max_size=200))
def test_whatever_text_is_sent_is_refused_with_the_one_reason(text: str) -> None:
    assert why(text)


@given(st.integers(min_value=0, max_value=400), st.characters(codec="ascii"))
def test_no_changed_letter_of_a_proof_goes_unnoticed(position: int, letter: str) -> None:
    text = made(claims={"jti": "fixed"})
    position %= len(text)
    changed = text[:position] + letter + text[position + 1 :]
    if changed != text:
        assert why(changed)
