"""Unmodified Python clients get tokens by ``client_credentials``: Authlib, requests-oauthlib, httpx-auth."""

import asyncio
from typing import Any

import httpx
import pytest
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from httpx_auth import InvalidGrantRequest, OAuth2ClientCredentials
from joserfc.jwk import ECKey
from oauthlib.oauth2 import BackendApplicationClient
from oauthlib.oauth2.rfc6749.errors import InvalidClientError
from requests.auth import HTTPBasicAuth
from requests_oauthlib import OAuth2Session as RequestsOAuth2Session

from tests.interoperability.classic_gateway import (
    LEDGER,
    ODD_SECRET,
    OLD_SIGNER,
    SECRET,
    SIGNER,
    ClassicGateway,
    private_jwk,
)
from tests.support.tokens import SigningIssuer

SECRETS = pytest.mark.parametrize("secret", [SECRET, ODD_SECRET], ids=["plain", "odd"])


# ---------------------------------------------------------------- Authlib


def authlib_token(classic: ClassicGateway, session: OAuth2Session) -> dict[str, Any]:
    with session:
        answer = session.fetch_token(
            classic.token_url, grant_type="client_credentials", resource=LEDGER, verify=classic.ca_file
        )
    return classic.claims(answer["access_token"])


@SECRETS
@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
async def test_authlib_authenticates_with_a_secret(classic: ClassicGateway, method: str, secret: str):
    session = OAuth2Session("batch", secret, token_endpoint_auth_method=method, scope="ledger:read")
    claims = await asyncio.to_thread(authlib_token, classic, session)
    assert (claims["client_id"], claims["scope"]) == ("batch", "ledger:read")
    assert claims["entitled_by"].startswith(f"{method}/secret:")


async def test_authlib_understands_that_its_secret_is_wrong(classic: ClassicGateway):
    session = OAuth2Session("batch", "not-it", token_endpoint_auth_method="client_secret_basic")
    with pytest.raises(OAuthError, match="invalid_client: Client authentication failed"):
        await asyncio.to_thread(authlib_token, classic, session)


def authlib_signer(classic: ClassicGateway, signer: SigningIssuer) -> OAuth2Session:
    key = ECKey.import_key(private_jwk(signer))
    session = OAuth2Session(signer.url, key, token_endpoint_auth_method="private_key_jwt")
    session.register_client_auth_method(PrivateKeyJWT(classic.token_url, alg="ES256"))
    return session


async def test_authlib_signs_for_the_token_endpoint_where_its_client_may(classic: ClassicGateway):
    claims = await asyncio.to_thread(authlib_token, classic, authlib_signer(classic, OLD_SIGNER))
    assert claims["client_id"] == "old-signer"
    assert claims["entitled_by"].startswith("private_key_jwt/key:")


async def test_authlib_is_told_what_is_wrong_where_its_client_may_not(classic: ClassicGateway):
    session = authlib_signer(classic, SIGNER)
    with pytest.raises(OAuthError, match=r"invalid_client: .*aud"):
        await asyncio.to_thread(authlib_token, classic, session)


# ---------------------------------------------------------------- requests-oauthlib


async def requests_oauthlib_token(classic: ClassicGateway, **parameters: Any) -> dict[str, Any]:
    def fetch() -> dict[str, Any]:
        client = BackendApplicationClient("batch", scope="ledger:read ledger:write")
        with RequestsOAuth2Session(client=client) as session:
            answer = session.fetch_token(classic.token_url, verify=classic.ca_file, **parameters)
        return classic.claims(answer["access_token"])

    return await asyncio.to_thread(fetch)


@SECRETS
async def test_requests_oauthlib_authenticates_by_header(classic: ClassicGateway, secret: str):
    claims = await requests_oauthlib_token(classic, client_id="batch", client_secret=secret)
    assert claims["entitled_by"].startswith("client_secret_basic/")


@SECRETS
async def test_requests_oauthlib_authenticates_in_the_body(classic: ClassicGateway, secret: str):
    claims = await requests_oauthlib_token(classic, client_secret=secret, include_client_id=True)
    assert claims["entitled_by"].startswith("client_secret_post/")


async def test_requests_oauthlib_may_repeat_the_client_id_beside_the_header(classic: ClassicGateway):
    claims = await requests_oauthlib_token(classic, auth=HTTPBasicAuth("batch", SECRET), include_client_id=True)
    assert claims["entitled_by"].startswith("client_secret_basic/")


async def test_requests_oauthlib_understands_that_its_secret_is_wrong(classic: ClassicGateway):
    with pytest.raises(InvalidClientError, match="Client authentication failed"):
        await requests_oauthlib_token(classic, client_id="batch", client_secret="not-it")


# ---------------------------------------------------------------- httpx-auth


def call_with_httpx_auth(classic: ClassicGateway, secret: str) -> httpx.Request:
    """The request to an API that the library put a token into; any page of the gateway stands for the API."""
    with httpx.Client(verify=classic.tls()) as client:
        auth = OAuth2ClientCredentials(classic.token_url, "batch", secret, scope="ledger:read", client=client)
        return httpx.get(f"{classic.url}/.well-known/jwks.json", auth=auth, verify=classic.tls()).request


@SECRETS
async def test_httpx_auth_gets_a_token_and_sends_it(classic: ClassicGateway, secret: str):
    request = await asyncio.to_thread(call_with_httpx_auth, classic, secret)
    scheme, _, token = request.headers["Authorization"].partition(" ")
    claims = await asyncio.to_thread(classic.claims, token)
    assert (scheme, claims["scope"]) == ("Bearer", "ledger:read")
    assert claims["entitled_by"].startswith("client_secret_basic/")


async def test_httpx_auth_understands_that_its_secret_is_wrong(classic: ClassicGateway):
    with pytest.raises(InvalidGrantRequest, match="invalid_client"):
        await asyncio.to_thread(call_with_httpx_auth, classic, "not-it")
