"""The checks of the OpenID Foundation's conformance suite that apply to a server without people: its plan for client
credentials with ``private_key_jwt`` and DPoP (FAPI 2.0), check by check, with two clients and their mix-ups.

The numbers are those of our own list of them. Whatever is refused anywhere here is refused in the form of RFC 6749
§5.2.
"""

import hmac
import json
import math
import re
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
import pytest_asyncio
from aiohttp import ClientConnectionError, encode_basic_auth

from gateway.clock import SteadyClock
from gateway.jose.thumbprint import certificate_thumbprint
from gateway.oauth.client_authentication import ASSERTION_TYPE_JWT_BEARER
from tests.interoperability.classic_gateway import (
    LEDGER,
    LEDGER_SECRET,
    MACHINE,
    OTHER_SECRET,
    SECRET,
    SELF_SIGNED,
    ClassicGateway,
    classic_gateway,
)
from tests.support.proofs import ProvingClient
from tests.support.running import JWT, TOKEN_EXCHANGE
from tests.support.tokens import ABSENT, SigningIssuer, base64url, compact, encode_json, private_key

pytestmark = pytest.mark.asyncio(loop_scope="module")

API_CALL = f"{LEDGER}/invoices"
"""What the clients call with their tokens; a proxy asks the gateway about it."""

ALGORITHMS = ("ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA", "Ed25519")
REFUSED_ALGORITHMS = ("RS256", "RS384", "RS512", "ES256K", "HS256", "none")


class Signer:
    """A client of the suite: a key for its assertions, another for its proofs."""

    def __init__(self, client_id: str, algorithm: str, number: int) -> None:
        self.client_id = client_id
        self.signing = SigningIssuer(algorithm, number=number, url=client_id, kid=f"{client_id}-key")
        self.proving = ProvingClient(number=number)
        self._count = count()

    def assertion(self, place: ClassicGateway, *, header: Any = None, key: Any = None, **changes: Any) -> str:
        """RFC 7523 §3: what a good assertion says, with claims replaced or left out (``ABSENT``)."""
        claims = {"sub": self.client_id, "aud": place.url, "jti": f"{self.client_id}-{next(self._count)}"}
        return self.signing.token({**claims, **changes}, header=header, key=key, now=SteadyClock()())

    def form(self, place: ClassicGateway, **changes: Any) -> dict[str, str]:
        return assertion_form(self.assertion(place, **changes))


FIRST, SECOND = Signer("first", "ES256", 60), Signer("second", "PS256", 61)
CLIENTS = pytest.mark.parametrize("client", [FIRST, SECOND], ids=["first", "second"])
CROSSOVERS = pytest.mark.parametrize(
    ("client", "other"), [(FIRST, SECOND), (SECOND, FIRST)], ids=["first as second", "second as first"]
)
SIGNERS = {name: SigningIssuer(name, number=62, url=f"signs-{name.lower()}") for name in ALGORITHMS}


def assertion_form(assertion: str) -> dict[str, str]:
    return {"client_assertion": assertion, "client_assertion_type": ASSERTION_TYPE_JWT_BEARER}


def documents() -> list[dict[str, Any]]:
    def resource(constraint: str) -> dict[str, Any]:
        return {"kind": "Resource", "name": f"{constraint}-api", "identifier": f"https://{constraint}.example.com",
                "scopes": {"read": "Read"}, "sender_constraint": constraint}  # fmt: skip

    def account(signing: SigningIssuer) -> dict[str, Any]:
        access = [
            {"resource": "ledger-api", "scopes": ["ledger:read", "ledger:write"]},
            {"resource": "dpop-api", "scopes": ["read"]},
            {"resource": "mtls-api", "scopes": ["read"]},
        ]
        keys = {"jwks": signing.jwks()}
        return {"kind": "ServiceAccount", "name": signing.url, "access": access, "credentials": {"keys": keys}}

    signers = [FIRST.signing, SECOND.signing, *SIGNERS.values()]
    return [resource("dpop"), resource("mtls"), *map(account, signers)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ClassicGateway]:
    """One gateway for all checks, as the suite finds one: no check relies on what another left behind."""
    folder = tmp_path_factory.mktemp("suite")
    settings = {"trusted_proxies": ["127.0.0.1/32"], "quotas": {"enabled": False}}  # so many failures from one source
    async with classic_gateway(folder, policies=documents(), **settings) as started:
        yield started


@cache
def tls_of(place: ClassicGateway, certificate: str | None = None) -> ssl.SSLContext:
    """The same context for the same client, so that its connections are used again."""
    return place.tls(certificate)


# ---------------------------------------------------------------- requests and answers


@dataclass(frozen=True)
class Answer:
    status: int
    body: dict[str, Any]
    headers: Mapping[str, str]

    @property
    def granted(self) -> dict[str, Any]:
        assert self.status == 200, self.body
        return self.body

    def refused(self, *errors: str, status: int | None = None) -> str:
        """The error, once it is one of ``errors`` and the answer is what RFC 6749 §5.2 allows."""
        assert 400 <= self.status < 500, self.body
        assert status in {None, self.status}
        assert self.headers["Content-Type"].partition(";")[0] == "application/json"
        assert "no-store" in self.headers["Cache-Control"]
        for name in ("error", "error_description"):
            assert re.fullmatch(r"[\x20-\x21\x23-\x5b\x5d-\x7e]+", self.body[name]), self.body
        assert "error_uri" not in self.body or urlsplit(self.body["error_uri"]).scheme
        assert not {"access_token", "id_token", "refresh_token"} & self.body.keys()
        assert not errors or self.body["error"] in errors, self.body
        return self.body["error"]


async def post(
    place: ClassicGateway, path: str, form: Any, *, certificate: str | None = None, **request: Any
) -> Answer:
    url = f"{place.url}{path}"
    async with place.gateway.session.post(url, data=form, ssl=tls_of(place, certificate), **request) as answer:
        body = await answer.read()
        return Answer(answer.status, json.loads(body) if body else {}, answer.headers)


async def ask(place: ClassicGateway, form: Any, *, headers: Any = None, **request: Any) -> Answer:
    """A request for a token for the ledger, unless the form says otherwise."""
    form = {"grant_type": "client_credentials", "resource": LEDGER, **form}
    return await post(place, "/token", form, headers=headers or {}, **request)


def proof(place: ClassicGateway, client: Signer, **changes: Any) -> dict[str, str]:
    """A proof for the token endpoint."""
    return {"DPoP": client.proving.proof("POST", place.token_url, **{"now": SteadyClock()(), **changes})}


async def call(place: ClassicGateway, authorization: str, proofs: Any = (), query: str = "") -> Answer:
    """A call of the API, as its proxy asks the gateway about it."""
    headers = [("X-Original-Method", "GET"), ("X-Original-URL", API_CALL), *proofs]
    if authorization:
        headers.append(("Authorization", authorization))
    url = f"{place.url}/verify?resource=ledger-api{query}"
    async with place.gateway.session.get(url, headers=headers, ssl=tls_of(place)) as answer:
        body = await answer.read()
        return Answer(answer.status, json.loads(body) if body else {}, answer.headers)


def call_proof(client: ProvingClient, token: str, **changes: Any) -> list[tuple[str, str]]:
    """A proof for the call of the API."""
    return [("DPoP", client.proof("GET", API_CALL, **{"now": SteadyClock()(), "access_token": token, **changes}))]


# ---------------------------------------------------------------- 1: discovery

SPACE_DELIMITED = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
LISTS = {
    "scopes_supported", "response_types_supported", "grant_types_supported", "token_endpoint_auth_methods_supported",
    "token_endpoint_auth_signing_alg_values_supported", "revocation_endpoint_auth_methods_supported",
    "revocation_endpoint_auth_signing_alg_values_supported", "introspection_endpoint_auth_methods_supported",
    "introspection_endpoint_auth_signing_alg_values_supported", "introspection_signing_alg_values_supported",
    "dpop_signing_alg_values_supported",
}  # fmt: skip
URLS = {
    "issuer",
    "authorization_endpoint",
    "token_endpoint",
    "jwks_uri",
    "introspection_endpoint",
    "revocation_endpoint",
}


async def metadata_of(place: ClassicGateway, name: str = "oauth-authorization-server") -> dict[str, Any]:
    url = f"{place.url}/.well-known/{name}"
    async with place.gateway.session.get(url, ssl=tls_of(place)) as answer:
        assert answer.status == 200
        assert answer.content_type == "application/json"
        return await answer.json()


@pytest.mark.parametrize("name", ["oauth-authorization-server", "openid-configuration"])
async def test_check_01_the_metadata_is_valid_and_its_issuer_is_where_it_was_found(place: ClassicGateway, name: str):
    metadata = await metadata_of(place, name)
    assert metadata["issuer"] == place.url
    assert metadata.keys() <= LISTS | URLS | {"tls_client_certificate_bound_access_tokens"}  # nothing unregistered
    for member in LISTS & metadata.keys():
        assert metadata[member]
        assert all(type(value) is str for value in metadata[member])
        assert len(set(metadata[member])) == len(metadata[member])
    for member in URLS & metadata.keys():
        parts = urlsplit(metadata[member])
        assert parts.scheme == "https"
        assert not parts.query
        assert not parts.fragment
    assert {"issuer", "token_endpoint", "jwks_uri", "response_types_supported"} <= metadata.keys()
    assert "client_credentials" in metadata["grant_types_supported"]
    assert metadata["tls_client_certificate_bound_access_tokens"] is True
    assert all(SPACE_DELIMITED.fullmatch(scope) for scope in metadata["scopes_supported"])


async def test_check_01_the_algorithms_are_strong_and_the_ones_of_fapi_are_among_them(place: ClassicGateway):
    metadata = await metadata_of(place)
    for member in ("token_endpoint_auth_signing_alg_values_supported", "dpop_signing_alg_values_supported"):
        assert {"PS256", "ES256", "EdDSA"} <= set(metadata[member]) <= set(ALGORITHMS)


async def test_check_01_the_key_set_holds_public_signature_keys_alone(place: ClassicGateway):
    metadata = await metadata_of(place)
    async with place.gateway.session.get(metadata["jwks_uri"], ssl=tls_of(place)) as answer:
        keys = (await answer.json(content_type=None))["keys"]
    assert keys
    assert len({key["kid"] for key in keys}) == len(keys)
    for key in keys:
        assert key["use"] == "sig"
        assert key["alg"] == "ES256"
        assert not {"d", "p", "q", "dp", "dq", "qi", "k"} & key.keys()


# ---------------------------------------------------------------- the metadata says what is so


@dataclass(frozen=True)
class Credentials:
    """What a request authenticates with."""

    form: Mapping[str, str]
    headers: Mapping[str, str] = field(default_factory=dict)
    certificate: str | None = None


def basic(client_id: str, secret: str) -> dict[str, str]:
    return {"Authorization": encode_basic_auth(client_id, secret)}


def credentials_of(place: ClassicGateway, method: str) -> Credentials:
    match method:
        case "client_secret_basic":
            return Credentials({}, basic("ledger", LEDGER_SECRET))
        case "client_secret_post":
            return Credentials({"client_id": "ledger", "client_secret": LEDGER_SECRET})
        case "private_key_jwt":
            return Credentials(FIRST.form(place))
        case "client_secret_jwt":
            now = int(SteadyClock()())
            claims = {"iss": "ledger", "sub": "ledger", "aud": place.url, "iat": now, "exp": now + 60, "jti": "x"}
            return Credentials(assertion_form(jwt.encode(claims, LEDGER_SECRET * 2, "HS256")))
        case "tls_client_auth":
            return Credentials({"client_id": "machine"}, certificate=MACHINE)
        case "self_signed_tls_client_auth":
            return Credentials({"client_id": "machine"}, certificate="self-signed")
        case _:
            return Credentials({"client_id": "ledger"})


METHODS = (
    "client_secret_basic", "client_secret_post", "client_secret_jwt", "private_key_jwt", "tls_client_auth",
    "self_signed_tls_client_auth", "none",
)  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
async def test_metadata_a_method_works_at_the_token_endpoint_if_and_only_if_it_is_advertised(
    place: ClassicGateway, method: str
):
    advertised = method in (await metadata_of(place))["token_endpoint_auth_methods_supported"]
    used = credentials_of(place, method)
    form = dict(used.form)
    if method == "none":  # is for a grant that brings its own credential
        form = {"grant_type": TOKEN_EXCHANGE, "subject_token": place.pod_token(), "subject_token_type": JWT}
    answer = await ask(place, form, headers=used.headers, certificate=used.certificate)
    if advertised:
        assert answer.granted["access_token"]
    else:
        answer.refused("invalid_client")
    if method == "none":
        (await ask(place, used.form)).refused("invalid_client")


@pytest.mark.parametrize("method", METHODS)
async def test_metadata_a_method_works_at_introspection_if_and_only_if_it_is_advertised(
    place: ClassicGateway, method: str
):
    advertised = method in (await metadata_of(place))["introspection_endpoint_auth_methods_supported"]
    token = (await ask(place, FIRST.form(place))).granted["access_token"]
    used = credentials_of(place, method)
    answer = await post(
        place, "/introspect", {"token": token, **used.form}, headers=used.headers, certificate=used.certificate
    )
    if advertised:
        # The API's own service account is told; others authenticate as well, and are told nothing.
        assert answer.granted["active"] is method.startswith("client_secret")
    else:
        answer.refused("invalid_client")


@pytest.mark.parametrize("method", METHODS)
async def test_metadata_a_method_works_at_revocation_if_and_only_if_it_is_advertised(
    place: ClassicGateway, method: str
):
    advertised = method in (await metadata_of(place))["revocation_endpoint_auth_methods_supported"]
    used = credentials_of(place, method)
    obtained = used if method not in {"none", "client_secret_jwt"} else credentials_of(place, "client_secret_post")
    token = (await ask(place, obtained.form, headers=obtained.headers, certificate=obtained.certificate)).granted
    again = credentials_of(place, method)  # an assertion works once
    form = {"token": token["access_token"], **again.form}
    answer = await post(place, "/revoke", form, headers=again.headers, certificate=again.certificate)
    if advertised:
        assert (answer.status, answer.body) == (200, {})
    else:
        answer.refused("invalid_client")
    revoked = (await call(place, f"Bearer {token['access_token']}")).status == 401
    assert revoked is advertised


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, *REFUSED_ALGORITHMS])
async def test_metadata_an_algorithm_of_assertions_works_if_and_only_if_it_is_advertised(
    place: ClassicGateway, algorithm: str
):
    advertised = (await metadata_of(place))["token_endpoint_auth_signing_alg_values_supported"]
    signing = SIGNERS.get(algorithm)
    if signing is not None:
        claims = {"sub": signing.url, "aud": place.url, "jti": f"alg-{algorithm}"}
        form = assertion_form(signing.token(claims, now=SteadyClock()()))
    else:
        form = assertion_form(signed_otherwise(place, algorithm))
    answer = await ask(place, form)
    if algorithm in advertised:
        assert answer.granted["access_token"]
    else:
        answer.refused("invalid_client")


def signed_otherwise(place: ClassicGateway, algorithm: str) -> str:
    """An assertion of ``second`` by an algorithm that it may not use."""
    now = int(SteadyClock()())
    claims = {"iss": "second", "sub": "second", "aud": place.url, "iat": now, "exp": now + 60, "jti": algorithm}
    header = {"alg": algorithm, "kid": SECOND.signing.kid}
    if algorithm == "none":
        return f"{base64url(encode_json(header))}.{base64url(encode_json(claims))}."
    if algorithm == "HS256":  # with the public key as the secret
        signing_input = f"{base64url(encode_json(header))}.{base64url(encode_json(claims))}"
        secret = encode_json(SECOND.signing.jwk())
        return f"{signing_input}.{base64url(hmac.digest(secret, signing_input.encode(), 'sha256'))}"
    key = private_key(algorithm) if algorithm == "ES256K" else SECOND.signing.key
    return compact(header, claims, algorithm, key)


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "RS256", "ES256K"])
async def test_metadata_an_algorithm_of_proofs_works_if_and_only_if_it_is_advertised(
    place: ClassicGateway, algorithm: str
):
    advertised = (await metadata_of(place))["dpop_signing_alg_values_supported"]
    proving = ProvingClient(algorithm) if algorithm != "ES256K" else ProvingClient()
    changes = {"header": {"alg": algorithm}, "key": private_key(algorithm)} if algorithm == "ES256K" else {}
    headers = {"DPoP": proving.proof("POST", place.token_url, now=SteadyClock()(), **changes)}
    answer = await ask(place, FIRST.form(place), headers=headers)
    if algorithm in advertised:
        assert answer.granted["token_type"] == "DPoP"
    else:
        answer.refused("invalid_dpop_proof")


async def test_metadata_a_grant_that_is_not_advertised_is_not_served(place: ClassicGateway):
    advertised = (await metadata_of(place))["grant_types_supported"]
    for grant in ("authorization_code", "implicit", "password", "refresh_token", "urn:openid:params:grant-type:ciba"):
        assert grant not in advertised
        (await ask(place, {**FIRST.form(place), "grant_type": grant})).refused("unsupported_grant_type")


async def test_metadata_the_authorization_endpoint_answers_with_an_error(place: ClassicGateway):
    url = (await metadata_of(place))["authorization_endpoint"]
    query = {"response_type": "none", "client_id": "first", "redirect_uri": "https://client.example/back"}
    request = place.gateway.session.get(url, params=query, ssl=tls_of(place), allow_redirects=False)
    async with request as answer:
        answered = Answer(answer.status, await answer.json(), answer.headers)
    answered.refused("unsupported_response_type", status=400)


async def test_metadata_without_client_certificates_neither_their_methods_nor_bound_tokens_are_advertised(
    tmp_path: Path, place: ClassicGateway
):
    tls = place.gateway.gateway.settings.tls
    assert tls is not None
    plain = {"certificate": tls.certificate, "key": tls.key}
    async with classic_gateway(tmp_path, policies=documents(), tls=plain) as without:
        without_ca = ClassicGateway(without.gateway, without.cluster, place.authority, without.url, place.folder)
        metadata = await metadata_of(without_ca)
        assert not [name for name in metadata["token_endpoint_auth_methods_supported"] if "tls" in name]
        assert "tls_client_certificate_bound_access_tokens" not in metadata
        for name in (MACHINE, "self-signed"):
            answer = await ask(without_ca, {"client_id": "machine"}, certificate=name)
            answer.refused("invalid_client")


# ---------------------------------------------------------------- 2: the happy flow


@CLIENTS
@pytest.mark.parametrize("bound", [False, True], ids=["Bearer", "DPoP"])
async def test_check_02_the_happy_flow(place: ClassicGateway, client: Signer, bound: bool):
    answer = await ask(place, client.form(place), headers=proof(place, client) if bound else {})
    body = answer.granted
    assert answer.headers["Content-Type"].partition(";")[0] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert body["token_type"] == ("DPoP" if bound else "Bearer")
    assert type(body["expires_in"]) is int
    assert body["expires_in"] > 0
    assert body["scope"] == "ledger:read ledger:write"
    assert not {"refresh_token", "id_token"} & body.keys()
    token = body["access_token"]
    proofs = call_proof(client.proving, token) if bound else []
    called = await call(place, f"{body['token_type']} {token}", proofs)
    assert (called.status, called.headers["X-Client-Id"]) == (200, client.client_id)


@CLIENTS
async def test_check_02_access_tokens_have_entropy(place: ClassicGateway, client: Signer):
    tokens = [(await ask(place, client.form(place))).granted["access_token"] for _ in range(20)]
    for token in tokens:
        assert len(token) * 8 >= 128
        assert shannon_bits(token) >= 96
    identifiers = [jwt.decode(token, options={"verify_signature": False})["jti"] for token in tokens]
    # What tells two tokens of one second apart is the jti: 128 random bits as base64url.
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{22}", identifier) for identifier in identifiers)
    assert len(set(identifiers)) == len(identifiers)
    for position in range(21):
        assert len({identifier[position] for identifier in identifiers}) > 5  # nothing in it is a counter or a clock


def shannon_bits(text: str) -> float:
    """The suite's own measure: the entropy of the characters, times their number."""
    counts = Counter(text).values()
    return -sum(n * math.log2(n / len(text)) for n in counts)


@pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_check_02_tls_1_2_or_later(place: ClassicGateway, version: ssl.TLSVersion):
    context = place.tls()
    context.set_ciphers("ALL:@SECLEVEL=0")  # else OpenSSL itself would not offer the old versions
    context.minimum_version = context.maximum_version = version
    assert await shakes_hands(place, context) is (version >= ssl.TLSVersion.TLSv1_2)


@pytest.mark.parametrize(
    ("ciphers", "accepted"),
    [
        ("ECDHE+AESGCM", True),
        ("ECDHE+AES:!AESGCM:!AESCCM", False),
        ("RSA+AES", False),
        ("AESCCM", False),
        ("aNULL", False),
    ],
)
async def test_check_02_tls_1_2_with_the_ciphers_of_bcp_195_alone(place: ClassicGateway, ciphers: str, accepted: bool):
    context = place.tls()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    assert await shakes_hands(place, context) is accepted


async def shakes_hands(place: ClassicGateway, context: ssl.SSLContext) -> bool:
    try:
        async with place.gateway.session.get(f"{place.url}/.well-known/jwks.json", ssl=context) as answer:
            return answer.status == 200
    except ClientConnectionError:
        return False


@CLIENTS
async def test_check_02_a_token_in_the_query_is_refused(place: ClassicGateway, client: Signer):
    token = (await ask(place, client.form(place))).granted["access_token"]
    (await call(place, "", query=f"&access_token={token}")).refused("invalid_request")
    (await post(place, f"/introspect?token={token}", {})).refused("invalid_request")
    (await post(place, f"/revoke?token={token}", {})).refused("invalid_request")
    assert (await call(place, f"Bearer {token}")).status == 200


@CLIENTS
@pytest.mark.parametrize("name", ["client_assertion", "client_id", "grant_type", "scope"])
async def test_check_02_parameters_of_a_token_request_in_the_query_are_refused(
    place: ClassicGateway, client: Signer, name: str
):
    (await post(place, f"/token?{name}=x", client.form(place))).refused("invalid_request")


@pytest.mark.parametrize(
    "accept", ["*/*", "application/json", "application/json;charset=UTF-8", "application/*;q=0.1", "text/html", None]
)
async def test_check_02_any_accept_header_is_answered_with_json(place: ClassicGateway, accept: str | None):
    headers = {} if accept is None else {"Accept": accept}
    skipped = ["Accept"] if accept is None else []
    answer = await ask(place, FIRST.form(place), headers=headers, skip_auto_headers=skipped)
    assert answer.granted["token_type"] == "Bearer"
    (await ask(place, {}, headers=headers, skip_auto_headers=skipped)).refused("invalid_client")


# ---------------------------------------------------------------- 3: the scheme


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC", "bAsIc"])
async def test_check_03_the_scheme_of_client_authentication_is_case_insensitive(place: ClassicGateway, scheme: str):
    encoded = basic("batch", SECRET)["Authorization"].partition(" ")[2]
    answer = await ask(place, {}, headers={"Authorization": f"{scheme} {encoded}"})
    assert answer.granted["access_token"]


@CLIENTS
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "DPoP", "dpop", "DPOP"])
async def test_check_03_the_scheme_of_a_token_is_case_insensitive(place: ClassicGateway, client: Signer, scheme: str):
    bound = scheme.lower() == "dpop"
    body = (await ask(place, client.form(place), headers=proof(place, client) if bound else {})).granted
    proofs = call_proof(client.proving, body["access_token"]) if bound else []
    assert (await call(place, f"{scheme} {body['access_token']}", proofs)).status == 200


# ---------------------------------------------------------------- 4 to 6: proofs that are good


@CLIENTS
@pytest.mark.parametrize(
    "offsets",
    [
        pytest.param({"nbf": 0, "exp": 60}, id="check 4, nbf and exp"),
        pytest.param({"iat": -10}, id="check 5, iat 10 seconds past"),
        pytest.param({"iat": 10}, id="check 6, iat 10 seconds ahead"),
    ],
)
async def test_check_04_05_06_times_of_a_proof(place: ClassicGateway, client: Signer, offsets: dict[str, int]):
    now = int(SteadyClock()())
    times = {name: now + offset for name, offset in offsets.items()}
    body = (await ask(place, client.form(place), headers=proof(place, client, claims=times))).granted
    assert body["token_type"] == "DPoP"
    proofs = call_proof(client.proving, body["access_token"], claims=times)
    assert (await call(place, f"DPoP {body['access_token']}", proofs)).status == 200


# ---------------------------------------------------------------- 7: the wrong client


@CROSSOVERS
async def test_check_07_client_id_of_another_client_in_the_body(place: ClassicGateway, client: Signer, other: Signer):
    answer = await ask(place, {**client.form(place), "client_id": other.client_id})
    answer.refused("invalid_client", "invalid_grant")
    assert (await ask(place, {**client.form(place), "client_id": client.client_id})).status == 200


@pytest.mark.parametrize(
    ("used", "client_id"),
    [
        (Credentials({}, basic("batch", SECRET)), "other"),
        (Credentials({}, basic("other", OTHER_SECRET)), "batch"),
        (Credentials({"client_secret": SECRET}), "other"),
        (Credentials({"client_secret": OTHER_SECRET}), "batch"),
        (Credentials({}, certificate=MACHINE), "batch"),
        (Credentials({}, certificate="self-signed"), "first"),
        (Credentials({}, certificate="batch.example.com"), "machine"),
    ],
)
async def test_check_07_client_id_of_another_client_in_the_body_of_every_method(
    place: ClassicGateway, used: Credentials, client_id: str
):
    form = {**used.form, "client_id": client_id}
    answer = await ask(place, form, headers=used.headers, certificate=used.certificate)
    answer.refused("invalid_client", "invalid_grant")


@CROSSOVERS
@pytest.mark.parametrize(
    ("sub", "iss", "kid", "key"),
    [
        ("other", "own", "own", "own"),
        ("own", "other", "own", "own"),
        ("other", "other", "own", "own"),
        ("other", "other", "other", "own"),
        ("own", "own", "other", "own"),
        ("own", "own", "own", "other"),
    ],
)
async def test_check_07_an_assertion_of_one_client_for_another(
    place: ClassicGateway, client: Signer, other: Signer, sub: str, iss: str, kid: str, key: str
):
    who = {"own": client, "other": other}
    header = {"kid": who[kid].signing.kid, "alg": who[key].signing.algorithm}
    claims = {"iss": who[iss].client_id, "sub": who[sub].client_id}
    signer = who[key]
    answer = await ask(place, signer.form(place, header=header, **claims))
    answer.refused("invalid_client")


@CROSSOVERS
async def test_check_07_two_clients_at_once(place: ClassicGateway, client: Signer, other: Signer):
    (await ask(place, client.form(place), headers=basic("batch", SECRET))).refused("invalid_request", "invalid_client")
    pairs = [("grant_type", "client_credentials"), *client.form(place).items(), *other.form(place).items()]
    (await post(place, "/token", pairs)).refused("invalid_request")


@CROSSOVERS
async def test_check_07_a_client_revokes_no_token_of_another(place: ClassicGateway, client: Signer, other: Signer):
    token = (await ask(place, client.form(place))).granted["access_token"]
    (await post(place, "/revoke", {"token": token, **other.form(place)})).refused()
    assert (await call(place, f"Bearer {token}")).status == 200


# ---------------------------------------------------------------- 8: without holder-of-key


@CLIENTS
@pytest.mark.parametrize("constraint", ["dpop", "mtls"])
async def test_check_08_without_holder_of_key(place: ClassicGateway, client: Signer, constraint: str):
    form = {"resource": f"https://{constraint}.example.com"}
    (await ask(place, {**client.form(place), **form})).refused()
    shown = {"headers": proof(place, client)} if constraint == "dpop" else {"certificate": "self-signed"}
    body = (await ask(place, {**client.form(place), **form}, **shown)).granted
    confirmation = jwt.decode(body["access_token"], options={"verify_signature": False})["cnf"]
    assert confirmation in ({"jkt": client.proving.jkt}, {"x5t#S256": certificate_thumbprint(SELF_SIGNED.der)})


# ---------------------------------------------------------------- 9 to 13: assertions that are no good


@CLIENTS
async def test_check_09_an_assertion_signed_with_rs256(place: ClassicGateway, client: Signer):
    key = client.signing.key if client is SECOND else private_key("RS256")
    now = int(SteadyClock()())
    claims = {"iss": client.client_id, "sub": client.client_id, "aud": place.url, "iat": now, "exp": now + 60,
              "jti": f"{client.client_id}-rs256"}  # fmt: skip
    assertion = compact({"alg": "RS256", "kid": client.signing.kid}, claims, "RS256", key)
    (await ask(place, assertion_form(assertion))).refused("invalid_client")


@CLIENTS
async def test_check_10_no_assertion(place: ClassicGateway, client: Signer):
    for form in (
        {},
        {"client_id": client.client_id},
        {"client_id": client.client_id, "client_assertion_type": ASSERTION_TYPE_JWT_BEARER},
        {"client_id": client.client_id, "client_assertion_type": ASSERTION_TYPE_JWT_BEARER, "client_assertion": ""},
        {"client_id": client.client_id, "client_assertion": client.assertion(place)},
    ):
        (await ask(place, form)).refused("invalid_client", "invalid_request")


@CLIENTS
async def test_check_11_an_assertion_that_expired_five_minutes_ago(place: ClassicGateway, client: Signer):
    now = int(SteadyClock()())
    (await ask(place, client.form(place, exp=now - 300, iat=now - 360, nbf=now - 360))).refused("invalid_client")
    (await ask(place, client.form(place, exp=now - 300, iat=ABSENT, nbf=ABSENT))).refused("invalid_client")


@CLIENTS
@pytest.mark.parametrize(
    "audience",
    [
        "https://else.example.com",
        "{issuer}/",
        "{issuer}/token",
        "{issuer}/.well-known/oauth-authorization-server",
        "HTTPS://127.0.0.1",
        ["{issuer}", "https://else.example.com"],
        [],
        "",
        ABSENT,
    ],
)
async def test_check_12_an_assertion_for_another_audience(place: ClassicGateway, client: Signer, audience: Any):
    if isinstance(audience, list):
        audience = [one.format(issuer=place.url) for one in audience]
    elif audience is not ABSENT:
        audience = audience.format(issuer=place.url)
    (await ask(place, client.form(place, aud=audience))).refused("invalid_client")


@CLIENTS
async def test_check_13_an_assertion_without_sub(place: ClassicGateway, client: Signer):
    for sub in (ABSENT, None, "", 1, [client.client_id]):
        (await ask(place, client.form(place, sub=sub))).refused("invalid_client")
        (await ask(place, {**client.form(place, sub=sub), "client_id": client.client_id})).refused("invalid_client")


# ---------------------------------------------------------------- 14: DPoP

PRIVATE = {"d": base64url(b"x" * 32)}

PROOF_FAULTS: dict[str, Any] = {
    "no typ": {"header": {"typ": ABSENT}},
    "wrong typ": {"header": {"typ": "JWT"}},
    "no alg": {"header": {"alg": ABSENT}},
    "alg none": {"header": {"alg": "none"}},
    "alg RS256": {"header": {"alg": "RS256"}},
    "no jwk": {"header": {"jwk": ABSENT}},
    "no jti": {"claims": {"jti": ABSENT}},
    "no htm": {"claims": {"htm": ABSENT}},
    "no htu": {"claims": {"htu": ABSENT}},
    "no iat": {"claims": {"iat": ABSENT}},
    "bad signature": {"key": ProvingClient(number=69).key},
    "wrong htm": {"claims": {"htm": "PUT"}},
    "htu of another URL": {"claims": {"htu": "https://else.example.com/token"}},
    "iat an hour ago": {"age": -3600},
    "iat in an hour": {"age": 3600},
}


def faulty(client: ProvingClient, fault: str) -> tuple[ProvingClient, dict[str, Any]]:
    """The client and the changes to its proof that make the fault."""
    if fault == "RS256 throughout":
        return ProvingClient("RS256"), {}
    if fault == "a private key inside jwk":
        return client, {"header": {"jwk": client.jwk | PRIVATE}}
    changes = dict(PROOF_FAULTS[fault])
    age = changes.pop("age", None)
    return client, changes if age is None else {"claims": {"iat": int(SteadyClock()()) + age}}


FAULTS = [*PROOF_FAULTS, "RS256 throughout", "a private key inside jwk"]


@CLIENTS
@pytest.mark.parametrize("fault", FAULTS)
async def test_check_14_a_faulty_proof_at_the_token_endpoint(place: ClassicGateway, client: Signer, fault: str):
    proving, changes = faulty(client.proving, fault)
    headers = {"DPoP": proving.proof("POST", place.token_url, **{"now": SteadyClock()(), **changes})}
    (await ask(place, client.form(place), headers=headers)).refused("invalid_dpop_proof", status=400)
    assert (await ask(place, client.form(place), headers=proof(place, client))).status == 200


@pytest.mark.parametrize("text", ["no-jwt", "a.b.c", "{}", "e30.e30.", "\u00e4.b.c"])
async def test_check_14_something_else_than_a_proof_at_the_token_endpoint(place: ClassicGateway, text: str):
    (await ask(place, FIRST.form(place), headers={"DPoP": text})).refused("invalid_dpop_proof", status=400)


@CLIENTS
async def test_check_14_two_proofs_at_the_token_endpoint(place: ClassicGateway, client: Signer):
    headers = [("DPoP", proof(place, client)["DPoP"]) for _ in range(2)]
    (await ask(place, client.form(place), headers=headers)).refused("invalid_dpop_proof")
    one, two = (text for _, text in headers)
    (await ask(place, client.form(place), headers={"DPoP": f"{one}, {two}"})).refused("invalid_dpop_proof")
    assert (await ask(place, client.form(place), headers=proof(place, client))).status == 200


@CLIENTS
async def test_check_14_a_proof_works_once_at_the_token_endpoint(place: ClassicGateway, client: Signer):
    once = proof(place, client)
    assert (await ask(place, client.form(place), headers=once)).status == 200
    (await ask(place, client.form(place), headers=once)).refused("invalid_dpop_proof")


@CLIENTS
async def test_check_14_what_may_differ_in_a_proof_at_the_token_endpoint(place: ClassicGateway, client: Signer):
    url = place.token_url
    for changes in (
        {"claims": {"htu": f"{url}?a=b"}},
        {"claims": {"htu": f"{url}#here"}},
        {"claims": {"htu": url.replace("https:", "HTTPS:")}},
        {"claims": {"htu": url, "more": {"of": ["it"]}, "ath": "ignored without a token"}},
    ):
        assert (await ask(place, client.form(place), headers=proof(place, client, **changes))).status == 200, changes
    upper = {"DPOP": proof(place, client)["DPoP"]}
    assert (await ask(place, client.form(place), headers=upper)).granted["token_type"] == "DPoP"


async def bound_token(place: ClassicGateway, client: Signer) -> str:
    return (await ask(place, client.form(place), headers=proof(place, client))).granted["access_token"]


@CLIENTS
@pytest.mark.parametrize("fault", [*FAULTS, "no ath", "wrong ath"])
async def test_check_14_a_faulty_proof_at_the_api(place: ClassicGateway, client: Signer, fault: str):
    token = await bound_token(place, client)
    if fault.endswith("ath"):
        proving, changes = client.proving, {"claims": {"ath": ABSENT if fault == "no ath" else base64url(b"x" * 32)}}
    else:
        proving, changes = faulty(client.proving, fault)
    refused = await call(place, f"DPoP {token}", call_proof(proving, token, **changes))
    refused.refused(status=401)
    assert refused.headers["WWW-Authenticate"].startswith("DPoP ")
    assert (await call(place, f"DPoP {token}", call_proof(client.proving, token))).status == 200


@CROSSOVERS
async def test_check_14_whoever_does_not_hold_the_key_calls_no_api(
    place: ClassicGateway, client: Signer, other: Signer
):
    token, good = await bound_token(place, client), call_proof(client.proving, await bound_token(place, client))
    two = [*call_proof(client.proving, token), *call_proof(client.proving, token)]
    for authorization, proofs in (
        (f"DPoP {token}", call_proof(other.proving, token)),
        (f"DPoP {token}", good),  # of another token of the same key
        (f"DPoP {token}", [("DPoP", "no-jwt")]),
        (f"DPoP {token}", two),
        (f"DPoP {token}", []),
        (f"Bearer {token}", []),
        (f"Bearer {token}", call_proof(client.proving, token)),
    ):
        (await call(place, authorization, proofs)).refused(status=401)
    assert (await call(place, f"DPoP {token}", call_proof(client.proving, token))).status == 200


@CLIENTS
async def test_check_14_a_token_that_is_bound_to_no_key_is_sent_as_bearer(place: ClassicGateway, client: Signer):
    token = (await ask(place, client.form(place))).granted["access_token"]
    (await call(place, f"DPoP {token}", call_proof(client.proving, token))).refused(status=401)
    assert (await call(place, f"Bearer {token}")).status == 200


@CLIENTS
async def test_check_14_a_proof_works_once_at_the_api(place: ClassicGateway, client: Signer):
    token = await bound_token(place, client)
    once = call_proof(client.proving, token)
    assert (await call(place, f"DPoP {token}", once)).status == 200
    (await call(place, f"DPoP {token}", once)).refused(status=401)


@CLIENTS
async def test_check_14_what_may_differ_in_a_proof_at_the_api(place: ClassicGateway, client: Signer):
    token = await bound_token(place, client)
    for url in (
        f"{API_CALL}?a=b", f"{API_CALL}#here", "HTTPS://LEDGER.EXAMPLE.COM/invoices",
        "https://ledger.example.com:443/invoices",
    ):  # fmt: skip
        proofs = call_proof(client.proving, token, claims={"htu": url})
        assert (await call(place, f"DPoP {token}", proofs)).status == 200, url
    upper = [("DPOP", value) for _, value in call_proof(client.proving, token, claims={"more": 1})]
    assert (await call(place, f"DPoP {token}", upper)).status == 200
