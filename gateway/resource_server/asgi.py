"""For APIs on ASGI (Starlette, FastAPI, ...): a middleware that asks every request for an access token.

``app.add_middleware(AccessTokenMiddleware, verifier=verifier)``; the application finds ``AccessTokenClaims`` in
``scope["state"]["access_token"]``, which is ``request.state.access_token`` in Starlette and FastAPI. Imports neither.
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import quote

from gateway.resource_server.certificates import parse_pem
from gateway.resource_server.denied import AccessDenied
from gateway.resource_server.logging import set_caller
from gateway.resource_server.request import ApiRequest, each
from gateway.resource_server.verifier import Verifier

ACCESS_TOKEN = "access_token"

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Certificate = Callable[[Scope], bytes | None]
"""Finds the TLS client certificate of a request, as DER."""

_PATH_CHARACTERS = "/:@!$&'()*+,;=~"  # RFC 3986 §3.3
_POLICY_VIOLATION = 1008  # RFC 6455 §7.4.1


def connection_certificate(scope: Scope) -> bytes | None:
    """The certificate of the connection itself, from a server that has ASGI's TLS extension."""
    tls = (scope.get("extensions") or {}).get("tls") or {}
    chain: Iterable[str] = tls.get("client_cert_chain") or ()
    return next((parse_pem(certificate) for certificate in chain), None)


class AccessTokenMiddleware:
    """Each request, and each WebSocket, needs a token with all of ``scopes``, but for the exact ``open_paths``.

    ``certificate`` replaces where the TLS client certificate comes from: only behind a proxy that is trusted.
    """

    def __init__(
        self,
        app: Application,
        *,
        verifier: Verifier,
        scopes: Iterable[str] = (),
        open_paths: Iterable[str] = (),
        certificate: Certificate = connection_certificate,
    ) -> None:
        self._app = app
        self._verifier = verifier
        self._scopes = each(scopes)
        self._open_paths = each(open_paths)
        self._certificate = certificate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. ``AccessDenied`` from the application is answered too, until it has begun to answer."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        answering = False

        async def sending(message: Message) -> None:
            nonlocal answering
            answering = True
            await send(message)

        set_caller(None)
        try:
            await self._app(await self._identified(scope), receive, sending)
        except AccessDenied as denied:
            if answering:
                raise
            await _answer(denied, scope, receive, send)
        finally:
            set_caller(None)

    async def _identified(self, scope: Scope) -> Scope:
        """The scope with the claims of its token. Raises ``AccessDenied``."""
        if scope["path"] in self._open_paths:
            return scope
        request = _api_request(scope, self._certificate(scope))
        claims = await self._verifier.verify_request_async(request, scopes=self._scopes)
        set_caller(claims)
        return {**scope, "state": {**scope.get("state", {}), ACCESS_TOKEN: claims}}


def _api_request(scope: Scope, certificate: bytes | None) -> ApiRequest:
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    named = [(name.lower(), value.decode("latin-1")) for name, value in headers]
    raw_path: bytes | None = scope.get("raw_path")
    return ApiRequest(
        method=scope.get("method", "GET"),  # a WebSocket begins with one
        path=quote(scope["path"], safe=_PATH_CHARACTERS) if raw_path is None else raw_path.decode("latin-1"),
        query=scope.get("query_string", b"").decode("latin-1"),
        authorization=tuple(value for name, value in named if name == b"authorization"),
        dpop=tuple(value for name, value in named if name == b"dpop"),
        certificate=certificate,
    )


async def _answer(denied: AccessDenied, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()  # its beginning, which is to be taken before it is refused
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": denied.reason})
        return
    headers = [(name.lower().encode(), value.encode()) for name, value in denied.headers.items()]
    length = (b"content-length", str(len(denied.body)).encode())
    await send({"type": "http.response.start", "status": denied.status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": denied.body})
