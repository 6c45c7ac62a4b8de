"""A whole gateway in this process, on loopback, with policies written for the test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from gateway.app import Gateway
from gateway.model import Clock
from gateway.settings import Settings, embedded_settings

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
JWT = "urn:ietf:params:oauth:token-type:jwt"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
ISSUER = "https://sts.example.com"


def settings(folder: Path, **overrides: Any) -> Settings:
    """Settings of a gateway that keeps everything below ``folder`` and listens on free ports."""
    values: dict[str, Any] = {
        "issuer": ISSUER,
        "listen": "127.0.0.1:0",
        "admin": {"listen": "127.0.0.1:0"},
        "policies": folder / "policies",
        "keys": {"store": f"file://{folder}/keys"},
        "audit": {"sinks": [f"file://{folder}/audit.jsonl"]},
        "shutdown": {"delay": "0s", "grace": "5s"},
    }
    return embedded_settings({**values, **overrides})


@asynccontextmanager
async def running(
    settings: Settings, *, clock: Clock | None = None, insecure_http: bool = True
) -> AsyncIterator["RunningGateway"]:
    """Starts the gateway and a client; stops both."""
    gateway = Gateway(settings, insecure_http=insecure_http, clock=clock)
    await gateway.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield RunningGateway(gateway, session)
    finally:
        await gateway.stop()


class RunningGateway:
    """A started gateway as its clients see it."""

    def __init__(self, gateway: Gateway, session: aiohttp.ClientSession) -> None:
        self.gateway = gateway
        self.session = session
        self.url = f"http://{gateway.public_address}"
        self.admin_url = f"http://{gateway.admin_address}"

    async def post(self, form: Any, **request: Any) -> tuple[int, dict[str, Any], Any]:
        """Status, JSON body and headers of ``POST /token``."""
        async with self.session.post(f"{self.url}/token", data=form, **request) as answer:
            return answer.status, await answer.json(), answer.headers

    async def exchange(self, token: str, **parameters: str) -> tuple[int, dict[str, Any]]:
        """A token exchange of a workload token."""
        form = {"grant_type": TOKEN_EXCHANGE, "subject_token": token, "subject_token_type": JWT, **parameters}
        status, body, _ = await self.post(form)
        return status, body

    async def assertion(self, token: str, **parameters: str) -> tuple[int, dict[str, Any]]:
        """A workload token as an assertion (RFC 7523)."""
        status, body, _ = await self.post({"grant_type": JWT_BEARER, "assertion": token, **parameters})
        return status, body

    async def get(self, url: str) -> str:
        """The text of a document."""
        async with self.session.get(url) as answer:
            return await answer.text()
