"""Issuers that stand in for the platforms on loopback: discovery documents, key sets and signed tokens.

A document's ``issuer`` is the platform's own, while the document and its ``jwks_uri`` lie here: point the gateway
to ``StandInIssuer.discovery_url``. For development and tests; nothing here is protected against anybody.
"""

import hmac
import json
import secrets
import ssl
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from gateway.model import Claims, Clock
from gateway.standin.keys import SigningKey, new_signing_key
from gateway.standin.platforms import Platform
from gateway.standin.shapes import ABSENT, AUDIENCE, Audience

DISCOVERY_PATH = "/.well-known/openid-configuration"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class StandInIssuer:
    """One issuer of a platform: its keys, its documents, its tokens.

    ``name`` is its path on the server (two clusters need two), ``issuer`` replaces the platform's own, ``algorithms``
    what it signs with. With ``bearer_token`` its documents are for holders of that token only, as a cluster's are.
    """

    def __init__(
        self,
        platform: Platform,
        *,
        clock: Clock,
        name: str | None = None,
        issuer: str | None = None,
        algorithms: tuple[str, ...] | None = None,
        bearer_token: str | None = None,
    ) -> None:
        self.platform = platform
        self.name = name or platform.name
        self.issuer = issuer or platform.issuer
        self.algorithms = algorithms or platform.algorithms
        self.bearer_token = bearer_token
        self.request_token = secrets.token_urlsafe(32)
        """What a job presents to be given a token of its own (``ACTIONS_ID_TOKEN_REQUEST_TOKEN``)."""
        self.job_claims: dict[str, Any] = {}
        """Overrides for the tokens that jobs ask for."""
        self.fetches: dict[str, int] = {"discovery": 0, "jwks": 0}
        """How often each document was asked for."""
        self.instead: Handler | None = None
        """Answers every request in the issuer's place, for the tests of outages."""
        self.url = ""
        """Where the server put it, once that has started."""
        self._clock = clock
        self._signing = self._new_keys()
        self._published = list(self._signing.values())

    @property
    def discovery_url(self) -> str:
        """For ``keys: {discovery_url: ...}``."""
        return self.url + DISCOVERY_PATH

    @property
    def jwks_uri(self) -> str:
        """For ``keys: {jwks_uri: ...}``, and as the discovery document has it."""
        return self.url + self.platform.jwks_path

    # ------------------------------------------------------------ documents

    def discovery(self) -> dict[str, Any]:
        """The document of OpenID Connect Discovery §3, with the members that the platform publishes."""
        return {
            "issuer": self.issuer,
            **{member: self.url + path for member, path in self.platform.discovery_paths.items()},
            "jwks_uri": self.jwks_uri,
            **self.platform.discovery,
            "id_token_signing_alg_values_supported": sorted({key.algorithm for key in self._published}),
        }

    def key_set(self) -> dict[str, Any]:
        """The published keys (RFC 7517 §5)."""
        return {"keys": [dict(key.jwk) for key in self._published]}

    # ------------------------------------------------------------ keys

    def signing_key(self, algorithm: str | None = None) -> SigningKey:
        """The key that signs now; without an algorithm that of the platform's first."""
        return self._signing[algorithm or self.algorithms[0]]

    def rotate(self, *, publish_old: bool = True, publish_new: bool = True) -> None:
        """Signs with fresh keys from now on.

        Without ``publish_old`` the keys so far leave the key set at once; without ``publish_new`` the fresh ones are
        not in it before ``publish`` is called.
        """
        self._signing = self._new_keys()
        if not publish_old:
            self._published = []
        if publish_new:
            self.publish()

    def publish(self) -> None:
        """Puts the keys that sign now into the key set, in front."""
        fresh = [key for key in self._signing.values() if key not in self._published]
        self._published = fresh + self._published

    def _new_keys(self) -> dict[str, SigningKey]:
        return {algorithm: new_signing_key(algorithm, self.platform.key_id) for algorithm in self.algorithms}

    # ------------------------------------------------------------ tokens

    def claims(self, audience: Audience = AUDIENCE, **overrides: Any) -> dict[str, Any]:
        """What the platform writes about its sample workload now, with overrides (see ``shapes``)."""
        return self.platform.claims(self._clock(), audience, **({"iss": self.issuer} | overrides))

    def token(self, audience: Audience = AUDIENCE, **overrides: Any) -> str:
        """``claims``, minted."""
        return self.mint(self.claims(audience, **overrides))

    def mint(
        self,
        claims: Claims | bytes,
        *,
        algorithm: str | None = None,
        key: SigningKey | None = None,
        header: Mapping[str, Any] | None = None,
    ) -> str:
        """A signed token with these claims, or with these bytes for a payload that no platform would write.

        ``key`` signs instead of the issuer's own; ``header`` replaces header members (``ABSENT`` takes one out).
        """
        key = key or self.signing_key(algorithm)
        members = {"alg": key.algorithm, "kid": key.key_id, **self.platform.header(key), **(header or {})}
        payload = claims if isinstance(claims, bytes) else json.dumps(dict(claims), separators=(",", ":")).encode()
        return key.sign({name: value for name, value in members.items() if value is not ABSENT}, payload)

    def job_environment(self) -> dict[str, str]:
        """The variables with which GitHub tells a job where to ask for its token."""
        return {
            "GITHUB_ACTIONS": "true",
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.url}{self.platform.request_path}?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": self.request_token,
        }

    # ------------------------------------------------------------ HTTP

    def routes(self) -> list[web.RouteDef]:
        """Its documents below ``/<name>``, and the endpoint for jobs where the platform has one."""
        base = f"/{self.name}"
        routes = [
            web.get(base + DISCOVERY_PATH, self._guarded(self._serve_discovery)),
            web.get(base + self.platform.jwks_path, self._guarded(self._serve_key_set)),
        ]
        if self.platform.request_path:
            routes.append(web.get(base + self.platform.request_path, self._replaceable(self._serve_job_token)))
        return routes

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if self.bearer_token is not None and not _presents(request, self.bearer_token):
                return web.json_response({"kind": "Status", "code": 401}, status=401)
            return await handler(request)

        return self._replaceable(guarded)

    def _replaceable(self, handler: Handler) -> Handler:
        async def replaceable(request: web.Request) -> web.StreamResponse:
            return await (self.instead or handler)(request)

        return replaceable

    async def _serve_discovery(self, _request: web.Request) -> web.StreamResponse:
        self.fetches["discovery"] += 1
        return self._document(self.discovery(), "application/json")

    async def _serve_key_set(self, _request: web.Request) -> web.StreamResponse:
        self.fetches["jwks"] += 1
        return self._document(self.key_set(), self.platform.jwks_content_type)

    async def _serve_job_token(self, request: web.Request) -> web.StreamResponse:
        if not _presents(request, self.request_token):
            return web.json_response({"message": "Unauthorized"}, status=401)
        sample = self.claims(**self.job_claims)
        audience = request.query.get("audience") or f"https://github.com/{sample['repository_owner']}"
        value = self.token(audience, **self.job_claims)
        return web.json_response({"count": len(value), "value": value})

    def _document(self, document: dict[str, Any], content_type: str) -> web.Response:
        answer = web.json_response(document, content_type=content_type)
        if self.platform.cache_control:
            answer.headers["Cache-Control"] = self.platform.cache_control
        return answer


class StandInServer:
    """Serves stand-in issuers on 127.0.0.1, each below a path of its own. An asynchronous context manager."""

    def __init__(self, *issuers: StandInIssuer, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.issuers = issuers
        self.url = ""
        self._port = port
        self._tls = tls
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listens, and tells the issuers where; again on the same port after ``close``.

        Raises ``OSError`` where the port is taken.
        """
        app = web.Application()
        for issuer in self.issuers:
            app.add_routes(issuer.routes())
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls).start()
        except OSError:
            await self.close()
            raise
        self._port = self._runner.addresses[0][1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"
        for issuer in self.issuers:
            issuer.url = f"{self.url}/{issuer.name}"

    async def close(self) -> None:
        """Stops listening. The issuers keep their URLs, at which now nobody answers."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _presents(request: web.Request, token: str) -> bool:
    presented = request.headers.get("Authorization", "")
    return hmac.compare_digest(presented.encode(errors="surrogateescape"), f"Bearer {token}".encode())
