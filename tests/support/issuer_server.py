"""A real issuer on loopback: discovery and key set over HTTP, and every way for them to go wrong."""

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from gateway.model import KeySource, TrustedIssuer
from tests.support.tokens import SigningIssuer

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class IssuerServer:
    """Serves a ``SigningIssuer``; ``instead`` answers in its place, ``down`` breaks every connection."""

    def __init__(self, signer: SigningIssuer) -> None:
        self.signer = signer
        self.jwks: Any = signer.jwks()
        self.discovery: dict[str, Any] = {}
        """Members that replace those of the discovery document."""
        self.headers: dict[str, str] = {}
        self.instead: Handler | None = None
        self.down = False
        self.requests: list[str] = []
        """The path of each request."""
        self.authorization: list[str | None] = []
        self.base = ""

    @property
    def fetches(self) -> int:
        """How often the key set was asked for."""
        return self.requests.count("/jwks")

    def source(self, **overrides: Any) -> KeySource:
        """The key source for this server, by ``jwks_uri`` unless ``discovery_url`` is given."""
        if "discovery_url" not in overrides:
            overrides.setdefault("jwks_uri", f"{self.base}/jwks")
        return KeySource(**{"private_network": True, "insecure_http": True} | overrides)

    def issuer(self, *, discovery: bool = False, **overrides: Any) -> TrustedIssuer:
        """The issuer as configured to be fetched from here."""
        where = {"discovery_url": f"{self.base}/.well-known/openid-configuration"} if discovery else {}
        return self.signer.issuer(**{"keys": self.source(**where)} | overrides)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.path)
        self.authorization.append(request.headers.get("Authorization"))
        if self.down:
            assert request.transport is not None
            request.transport.abort()
        if self.instead is not None:
            return await self.instead(request)
        document = self.jwks
        if request.path == "/.well-known/openid-configuration":
            document = {"issuer": self.signer.url, "jwks_uri": f"{self.base}/jwks"} | self.discovery
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return web.Response(body=body, content_type="application/json", headers=self.headers)


@asynccontextmanager
async def issuer_server(
    signer: SigningIssuer, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[IssuerServer]:
    """Runs an ``IssuerServer`` on a free port of loopback."""
    server = IssuerServer(signer)
    application = web.Application()
    application.router.add_get("/{path:.*}", server.answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, 0, ssl_context=tls)
        await site.start()
        server.base = f"{'https' if tls else 'http'}://{host}:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()
