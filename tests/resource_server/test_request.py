"""Where a token may stand in a request: RFC 6750 §2, §3 and RFC 9449 §7.1."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.resource_server import AccessDenied, ApiRequest
from gateway.resource_server.request import each, parse_credentials
from tests.resource_server.minting import AUDIENCE, Mint, api_request, bound
from tests.support.proofs import ProvingClient
from tests.support.tokens import ABSENT, NOW, private_key

MINT = Mint()
CLIENT = ProvingClient()
URL = f"{AUDIENCE}/entries"


def denied(request: ApiRequest, **options: Any) -> AccessDenied:
    with pytest.raises(AccessDenied) as refused:
        MINT.verifier(**options).verify_request(request)
    return refused.value


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_br_01_the_scheme_is_written_in_any_case(scheme: str) -> None:
    assert MINT.verifier().verify_request(api_request(MINT.token(), scheme=scheme))


async def test_the_async_twin_does_the_same() -> None:
    assert await MINT.verifier().verify_request_async(api_request(MINT.token()))
    with pytest.raises(AccessDenied):
        await MINT.verifier().verify_request_async(api_request())


@pytest.mark.parametrize("authorization", [(), ("Basic dXNlcjpwYXNz",), ("",), ("Negotiate",), ("Bearerx a.b.c",)])
def test_br_05_without_a_token_there_is_a_challenge_without_an_error_code(authorization: tuple[str, ...]) -> None:
    refused = denied(api_request(authorization=authorization))
    assert (refused.status, refused.error) == (401, None)
    assert refused.www_authenticate == (
        f'Bearer realm="{AUDIENCE}", DPoP realm="{AUDIENCE}", algs="ES256 ES384 PS256 EdDSA Ed25519"'
    )
    assert refused.body == b'{"error_description": "An access token is needed."}'


@pytest.mark.parametrize(
    "header",
    ["Bearer", "Bearer ", "Bearer a b", "Bearer a,Bearer b", "Bearer \ta", "Bearer ä", "DPoP", "DPoP a, b", "Bearer ="],
)
def test_br_06_a_malformed_header_is_an_invalid_request(header: str) -> None:
    refused = denied(api_request(authorization=(header,)))
    assert (refused.status, refused.error) == (400, "invalid_request")
    assert refused.www_authenticate.startswith("Bearer ")


def test_br_02_two_headers_are_an_invalid_request() -> None:
    header = f"Bearer {MINT.token()}"
    refused = denied(api_request(authorization=(header, header)))
    assert (refused.status, refused.error) == (400, "invalid_request")


@pytest.mark.parametrize("query", [
    "access_token=x", "a=b&access_token=x", "access_token", "access%5ftoken=x", "%61ccess_token=x&b=c", "access_token=",
])  # fmt: skip
def test_br_02_br_03_a_token_in_the_query_is_refused(query: str) -> None:
    """RFC 6750 §2.3, §5.3; also beside one in the header: one method per request."""
    for authorization in ((), (f"Bearer {MINT.token()}",)):
        refused = denied(api_request(query=query, authorization=authorization))
        assert (refused.status, refused.error) == (400, "invalid_request")


def test_other_parameters_are_the_apis_own() -> None:
    query = "page=2&token=x&my_access_token=x&access_tokens=x&access_token%00=x"
    assert MINT.verifier().verify_request(api_request(MINT.token(), query=query))


def test_a_token_of_any_size_is_refused_before_it_is_looked_at() -> None:
    refused = denied(api_request("a" * 1_000_000))
    assert (refused.status, refused.error) == (400, "invalid_request")
    assert "16 KiB" in refused.description


@given(st.text(max_size=200))
def test_whatever_the_header_says_it_is_a_token_or_refused(header: str) -> None:
    try:
        scheme, token = parse_credentials(api_request(authorization=(header,)), AUDIENCE)
    except AccessDenied:
        with pytest.raises(AccessDenied, match=r"^40[01] (access_token_missing|malformed_request)"):
            parse_credentials(api_request(authorization=(header,)), AUDIENCE)
    else:
        assert header.lower().split() == [scheme.lower(), token.lower()]


def test_a_string_is_no_collection_of_names() -> None:
    """open_paths="/healthz" would open the path "/"."""
    with pytest.raises(TypeError):
        each("/healthz")


# ------------------------------------------------------------ DPoP

OTHER = ProvingClient(number=101)
TOKEN = bound(MINT, CLIENT)


def proof(**options: Any) -> str:
    return CLIENT.proof("GET", URL, access_token=TOKEN, **options)


def test_a_bound_token_comes_as_dpop_with_its_proof() -> None:
    for scheme in ("DPoP", "dpop", "DPOP"):
        assert MINT.verifier().verify_request(api_request(TOKEN, scheme=scheme, dpop=(proof(),)))


OPENID_SUITE: dict[str, tuple[str, ...]] = {
    "no DPoP header": (),
    "two DPoP headers": (proof(), proof()),
    "not a JWT": ("no.jwt",),
    "typ missing": (proof(header={"typ": ABSENT}),),
    "alg missing": (proof(header={"alg": ABSENT}),),
    "jwk missing": (proof(header={"jwk": ABSENT}),),
    "jti missing": (proof(claims={"jti": ABSENT}),),
    "htm missing": (proof(claims={"htm": ABSENT}),),
    "htu missing": (proof(claims={"htu": ABSENT}),),
    "iat missing": (proof(claims={"iat": ABSENT}),),
    "ath missing": (proof(claims={"ath": ABSENT}),),
    "wrong typ": (proof(header={"typ": "JWT"}),),
    "RS256": (ProvingClient("RS256").proof("GET", URL, access_token=TOKEN),),
    "none": (proof(header={"alg": "none"}),),
    "bad signature": (proof(key=private_key("ES256", 102)),),
    "private key inside jwk": (proof(header={"jwk": CLIENT.jwk | {"d": "c2VjcmV0"}}),),
    "wrong htm": (proof(claims={"htm": "POST"}),),
    "htu of another URL": (proof(claims={"htu": f"{AUDIENCE}/other"}),),
    "iat an hour ago": (proof(claims={"iat": NOW - 3600}),),
    "iat in an hour": (proof(claims={"iat": NOW + 3600}),),
    "wrong ath": (proof(claims={"ath": "x" * 43}),),
}


@pytest.mark.parametrize("name", OPENID_SUITE)
def test_openid_suite_14_is_refused(name: str) -> None:
    refused = denied(api_request(TOKEN, scheme="DPoP", dpop=OPENID_SUITE[name]))
    assert (refused.status, refused.error) == (401, "invalid_dpop_proof")
    assert f'DPoP realm="{AUDIENCE}", error="invalid_dpop_proof"' in refused.www_authenticate


def test_openid_suite_14_another_key_than_the_bound_one_is_refused() -> None:
    foreign = OTHER.proof("GET", URL, access_token=TOKEN)
    refused = denied(api_request(TOKEN, scheme="DPoP", dpop=(foreign,)))
    assert (refused.status, refused.error) == (401, "invalid_token")


def test_openid_suite_14_a_bound_token_sent_as_bearer_is_refused() -> None:
    for dpop in ((), (proof(),)):
        refused = denied(api_request(TOKEN, dpop=dpop))
        assert (refused.status, refused.error) == (401, "invalid_token")


@pytest.mark.parametrize(
    "claims",
    [
        {"htu": f"{URL}?page=2#top"}, {"extra": 1}, {"htu": "HTTPS://LEDGER.EXAMPLE.COM/entries"},
        {"htu": "https://ledger.example.com:443/entries"}, {"iat": NOW - 10}, {"iat": NOW + 10}, {"exp": NOW + 60},
        {"nbf": NOW}, {},
    ],
)  # fmt: skip
def test_openid_suite_14_is_accepted(claims: dict[str, Any]) -> None:
    assert MINT.verifier().verify_request(api_request(TOKEN, scheme="DPoP", dpop=(proof(claims=claims),)))


def test_openid_suite_14_second_use_of_a_jti_fails_and_a_correct_proof_afterwards_works() -> None:
    verifier, request = MINT.verifier(), api_request(TOKEN, scheme="DPoP", dpop=(proof(),))
    verifier.verify_request(request)
    with pytest.raises(AccessDenied):
        verifier.verify_request(request)
    assert verifier.verify_request(api_request(TOKEN, scheme="DPoP", dpop=(proof(),)))


def test_dp_06_htu_is_held_against_the_url_of_the_settings() -> None:
    """Never against a Host header, which is the sender's own."""
    verifier = MINT.verifier(url="https://api.example.com/ledger/")
    outside = CLIENT.proof("GET", "https://api.example.com/ledger/entries", access_token=TOKEN)
    assert verifier.verify_request(api_request(TOKEN, scheme="DPoP", dpop=(outside,)))
    assert denied(api_request(TOKEN, scheme="DPoP", dpop=(proof(),)), url="https://api.example.com").status == 401


def test_an_api_that_does_not_know_its_url_takes_no_bound_tokens() -> None:
    mint = Mint()
    token = bound(mint, CLIENT, aud="ledger")
    with pytest.raises(AccessDenied) as refused:
        mint.verifier(audience="ledger").verify_request(api_request(token, scheme="DPoP", dpop=(proof(),)))
    assert (refused.value.status, refused.value.error) == (400, "invalid_request")
    told = mint.verifier(audience="ledger", url=AUDIENCE)
    fresh = CLIENT.proof("GET", URL, access_token=token)
    assert told.verify_request(api_request(token, scheme="DPoP", dpop=(fresh,)))
