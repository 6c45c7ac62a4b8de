"""Whether the gateway takes a secret: told from every answer that a token endpoint may give."""

import base64
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import pytest
from aiohttp import web

from gateway.rotation.probe import SecretProbe
from gateway.rotation.rotation import GatewayUnavailableError
from tests.rotation.conftest import listening
from tests.support.parts import free_port

SECRET = "wigs_secret"


class Gateway:
    """Answers as it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.body: Any = {"access_token": "t", "token_type": "Bearer", "expires_in": 600}
        self.asked: list[tuple[str, dict[str, str], str]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.asked.append((request.path, form, request.headers["Authorization"]))
        if isinstance(self.body, bytes):
            return web.Response(body=self.body, status=self.status)
        return web.json_response(self.body, status=self.status)

    def endpoint(self) -> SecretProbe:
        return SecretProbe(self.url + "/", insecure_http=True)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    application = web.Application()
    application.router.add_post("/{path:.*}", gateway.answer)
    async with listening(application) as gateway.url:
        yield gateway


async def test_a_token_is_a_yes_and_was_asked_for_with_client_secret_basic(gateway: Gateway):
    assert await gateway.endpoint().authenticates("nightly-backup", SECRET)
    ((path, form, authorization),) = gateway.asked
    assert (path, form) == ("/token", {"grant_type": "client_credentials"})
    scheme, _, credentials = authorization.partition(" ")
    client_id, _, secret = base64.b64decode(credentials).decode().partition(":")
    assert (scheme, unquote(client_id), unquote(secret)) == ("Basic", "nightly-backup", SECRET)


async def test_an_invalid_client_is_a_no(gateway: Gateway):
    gateway.status = 401
    gateway.body = {"error": "invalid_client", "reason": "client_authentication_failed"}
    assert not await gateway.endpoint().authenticates("nightly-backup", SECRET)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("invalid_target", "ambiguous_resource"),
        ("invalid_target", "resource_not_granted"),
        ("invalid_scope", "scope_not_granted"),
        ("invalid_request", "sender_constraint_missing"),
    ],
)
async def test_a_client_that_is_refused_for_something_else_has_proven_itself(gateway: Gateway, error: str, reason: str):
    gateway.status, gateway.body = 400, {"error": error, "reason": reason}
    assert await gateway.endpoint().authenticates("nightly-backup", SECRET)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (429, {"error": "temporarily_unavailable", "reason": "quota_exceeded"}),
        (503, {"error": "temporarily_unavailable", "reason": "state_unavailable"}),
        (500, b"<html>"),
        (400, {"error": "unsupported_grant_type", "reason": "unsupported_grant_type"}),
        (400, {"error": "invalid_request", "reason": ["a", "list"]}),
        (404, b"[]"),
        (302, b""),
    ],
)
async def test_any_other_answer_says_neither(gateway: Gateway, status: int, body: Any):
    gateway.status, gateway.body = status, body
    with pytest.raises(GatewayUnavailableError) as told:
        await gateway.endpoint().authenticates("nightly-backup", SECRET)
    assert SECRET not in str(told.value)


async def test_nobody_there_says_neither():
    endpoint = SecretProbe(f"http://127.0.0.1:{free_port()}", insecure_http=True)
    with pytest.raises(GatewayUnavailableError, match="No answer"):
        await endpoint.authenticates("nightly-backup", SECRET)
