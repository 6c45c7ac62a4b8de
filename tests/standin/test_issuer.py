"""Stand-in issuers over real HTTP, verified by PyJWT's own key client."""

import asyncio
import base64
import hashlib
import json
import ssl

import aiohttp
import jwt
import pytest
import trustme
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.standin import (
    ABSENT,
    AWS_STS,
    GITHUB_ACTIONS,
    GITLAB_CI,
    KUBERNETES,
    PLATFORMS,
    StandInIssuer,
    StandInServer,
)

NOW = 1_793_610_000.0
US = "https://sts.orchard.example"


def issuer_of(platform, **settings):
    return StandInIssuer(platform, clock=lambda: NOW, **settings)


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as session:
        yield session


async def fetched(session, url):
    async with session.get(url) as answer:
        assert answer.status == 200
        return await answer.json(content_type=None)


async def verified(issuer, token, audience=US):
    key = await asyncio.to_thread(jwt.PyJWKClient(issuer.jwks_uri).get_signing_key_from_jwt, token)
    return jwt.decode(
        token,
        key,
        algorithms=list(issuer.algorithms),
        audience=audience,
        issuer=issuer.issuer,
        options={"verify_exp": False, "verify_iat": False, "verify_nbf": False},
    )


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform.name)
async def test_a_minted_token_verifies_with_the_published_keys(platform, session):
    issuer = issuer_of(platform)
    async with StandInServer(issuer) as server:
        document = await fetched(session, f"{server.url}/{platform.name}/.well-known/openid-configuration")
        assert document["issuer"] == platform.issuer
        assert document["jwks_uri"] == issuer.jwks_uri
        assert document["jwks_uri"].startswith("http://127.0.0.1:")
        for algorithm in platform.algorithms:
            claims = issuer.claims()
            assert await verified(issuer, issuer.mint(claims, algorithm=algorithm)) == claims


@pytest.mark.parametrize(
    ("platform", "path", "members"),
    [
        (KUBERNETES, "/openid/v1/jwks", set()),
        (GITHUB_ACTIONS, "/.well-known/jwks", {"claims_supported", "scopes_supported"}),
        (GITLAB_CI, "/oauth/discovery/keys", {"authorization_endpoint", "token_endpoint", "userinfo_endpoint"}),
        (AWS_STS, "/.well-known/jwks.json", set()),
    ],
    ids=lambda value: getattr(value, "name", None),
)
async def test_documents_lie_where_the_platform_has_them(platform, path, members):
    async with StandInServer(issuer := issuer_of(platform)):
        document = issuer.discovery()
    assert document["jwks_uri"] == issuer.url + path
    assert members <= document.keys()
    assert document["id_token_signing_alg_values_supported"] == sorted(platform.algorithms)
    assert ("authorization_endpoint" in document) == (platform is GITLAB_CI)


async def test_a_clusters_key_set_has_its_content_type_and_may_be_kept_for_an_hour(session):
    async with StandInServer(issuer := issuer_of(KUBERNETES)), session.get(issuer.jwks_uri) as answer:
        assert answer.content_type == "application/jwk-set+json"
        assert answer.headers["Cache-Control"] == "public, max-age=3600"


def test_a_kubernetes_key_id_is_the_sha256_of_the_der_public_key_and_the_header_has_no_typ():
    issuer = issuer_of(KUBERNETES)
    key = issuer.signing_key().private_key.public_key()
    digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    header = jwt.get_unverified_header(issuer.token())
    assert header == {"alg": "RS256", "kid": base64.urlsafe_b64encode(digest).rstrip(b"=").decode()}


def test_a_github_header_has_typ_kid_and_x5t():
    header = jwt.get_unverified_header(issuer_of(GITHUB_ACTIONS).token())
    assert header.keys() == {"alg", "typ", "kid", "x5t"}
    assert (header["alg"], header["typ"], len(header["x5t"])) == ("RS256", "JWT", 27)


def test_an_aws_caller_picks_the_algorithm():
    issuer = issuer_of(AWS_STS)
    algorithms = [jwt.get_unverified_header(issuer.mint({}, algorithm=name))["alg"] for name in ("RS256", "ES384")]
    assert algorithms == ["RS256", "ES384"]
    assert [key["kty"] for key in issuer.key_set()["keys"]] == ["RSA", "EC"]


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform.name)
def test_a_published_key_holds_no_private_member(platform):
    for key in issuer_of(platform).key_set()["keys"]:
        assert key.keys() <= {"kty", "use", "alg", "kid", "n", "e", "crv", "x", "y"}
        assert key["use"] == "sig"


async def test_a_rotated_issuer_publishes_old_and_new_keys():
    async with StandInServer(issuer := issuer_of(GITLAB_CI)):
        before = issuer.token()
        issuer.rotate()
        assert len(issuer.key_set()["keys"]) == 2
        assert await verified(issuer, before)
        assert await verified(issuer, issuer.token())


async def test_an_issuer_that_drops_its_old_keys_at_once_leaves_old_tokens_unverifiable():
    async with StandInServer(issuer := issuer_of(GITLAB_CI)):
        before = issuer.token()
        issuer.rotate(publish_old=False)
        with pytest.raises(jwt.PyJWKClientError):
            await verified(issuer, before)
        assert await verified(issuer, issuer.token())


async def test_a_key_may_sign_before_it_is_published():
    async with StandInServer(issuer := issuer_of(GITLAB_CI)):
        issuer.rotate(publish_new=False)
        early = issuer.token()
        with pytest.raises(jwt.PyJWKClientError):
            await verified(issuer, early)
        issuer.publish()
        assert await verified(issuer, early)


async def test_one_server_hosts_several_issuers_even_of_one_name(session):
    east = issuer_of(KUBERNETES, name="east")
    west = issuer_of(KUBERNETES, name="west", algorithms=("ES256",))
    async with StandInServer(east, west) as server:
        documents = [await fetched(session, f"{server.url}/{name}/openid/v1/jwks") for name in ("east", "west")]
        assert east.issuer == west.issuer
        assert documents == [east.key_set(), west.key_set()]
        assert (east.fetches, west.fetches) == ({"discovery": 0, "jwks": 1}, {"discovery": 0, "jwks": 1})
        with pytest.raises(jwt.PyJWKClientError):
            await verified(east, west.token())


def test_another_issuer_name_stands_in_tokens_and_in_the_document():
    issuer = issuer_of(GITHUB_ACTIONS, issuer="https://ghes.example/_services/token")
    assert issuer.claims()["iss"] == issuer.discovery()["issuer"] == "https://ghes.example/_services/token"


def test_a_header_member_can_be_replaced_or_taken_out_and_any_payload_signed():
    issuer = issuer_of(GITHUB_ACTIONS)
    token = issuer.mint(b'{"sub":1,"sub":2}', header={"typ": "at+jwt", "kid": ABSENT, "x5t": ABSENT})
    header, payload, _ = token.split(".")
    assert json.loads(base64.urlsafe_b64decode(header + "==")) == {"alg": "RS256", "typ": "at+jwt"}
    assert base64.urlsafe_b64decode(payload + "==") == b'{"sub":1,"sub":2}'


async def test_a_cluster_may_show_its_documents_to_holders_of_a_token_only(session):
    async with StandInServer(issuer := issuer_of(KUBERNETES, bearer_token="reader")):
        async with session.get(issuer.discovery_url) as answer:
            assert answer.status == 401
        async with session.get(issuer.jwks_uri, headers={"Authorization": "Bearer reader"}) as answer:
            assert answer.status == 200


async def test_a_job_is_given_a_token_for_the_audience_that_it_asks_for(session):
    async with StandInServer(issuer := issuer_of(GITHUB_ACTIONS)):
        environment = issuer.job_environment()
        headers = {"Authorization": f"Bearer {environment['ACTIONS_ID_TOKEN_REQUEST_TOKEN']}"}
        url = environment["ACTIONS_ID_TOKEN_REQUEST_URL"]
        issuer.job_claims = {"ref": "refs/heads/release/7", "environment": None}
        async with session.get(f"{url}&audience=https%3A%2F%2Fsts.orchard.example", headers=headers) as answer:
            claims = await verified(issuer, (await answer.json())["value"])
        assert claims["sub"].endswith(":ref:refs/heads/release/7")
        async with session.get(url, headers=headers) as answer:
            assert await verified(issuer, (await answer.json())["value"], audience="https://github.com/acme")


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer guessed"}, {"Authorization": "Bearer \udcff"}])
async def test_nobody_else_is_given_a_jobs_token(session, header):
    async with (
        StandInServer(issuer := issuer_of(GITHUB_ACTIONS)),
        session.get(issuer.job_environment()["ACTIONS_ID_TOKEN_REQUEST_URL"], headers=header) as answer,
    ):
        assert answer.status == 401


async def test_an_outage_can_be_played_and_ended(session):
    async def broken(_request):
        return web.Response(status=500, text="<html>")

    async with StandInServer(issuer := issuer_of(GITHUB_ACTIONS)):
        issuer.instead = broken
        async with session.get(issuer.jwks_uri) as answer:
            assert answer.status == 500
        issuer.instead = None
        assert await fetched(session, issuer.jwks_uri) == issuer.key_set()


async def test_a_closed_server_comes_back_on_its_port(session):
    server = StandInServer(issuer := issuer_of(GITHUB_ACTIONS))
    await server.start()
    url = issuer.jwks_uri
    await server.close()
    with pytest.raises(aiohttp.ClientConnectionError):
        await fetched(session, url)
    async with server:
        assert issuer.jwks_uri == url
        assert await fetched(session, url) == issuer.key_set()


async def test_a_taken_port_is_an_error_at_start():
    async with StandInServer(issuer_of(GITLAB_CI)) as first:
        port = int(first.url.rpartition(":")[2])
        with pytest.raises(OSError, match=str(port)):
            await StandInServer(issuer_of(GITLAB_CI), port=port).start()


async def test_documents_can_lie_behind_tls(session):
    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with (
        StandInServer(issuer := issuer_of(KUBERNETES), tls=tls),
        session.get(issuer.discovery_url, ssl=trusting) as answer,
    ):
        assert (await answer.json())["jwks_uri"].startswith("https://127.0.0.1:")


def test_keys_and_issuers_do_not_show_their_secrets():
    issuer = issuer_of(GITHUB_ACTIONS)
    shown = repr(issuer.signing_key()) + repr(issuer)
    assert issuer.request_token not in shown
    assert "private" not in shown.lower()
