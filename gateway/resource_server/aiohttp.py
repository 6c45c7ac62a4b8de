"""For APIs on aiohttp: a middleware that asks every request for an access token, and a decorator for scopes.

``web.Application(middlewares=[access_token_middleware(verifier)])``; handlers find ``AccessTokenClaims`` in
``request[ACCESS_TOKEN]``. Needs aiohttp 3.14 or later.
"""

from collections.abc import Awaitable, Callable, Iterable
from functools import wraps
from typing import ParamSpec, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from gateway.resource_server.claims import AccessTokenClaims
from gateway.resource_server.denied import AccessDenied
from gateway.resource_server.logging import set_caller
from gateway.resource_server.request import ApiRequest, each
from gateway.resource_server.verifier import Verifier

P = ParamSpec("P")
R = TypeVar("R")

ACCESS_TOKEN = web.RequestKey("access_token", AccessTokenClaims)
"""Where the claims are in a request."""

Certificate = Callable[[web.Request], bytes | None]
"""Finds the TLS client certificate of a request, as DER."""


def connection_certificate(request: web.Request) -> bytes | None:
    """The certificate of the connection itself, where aiohttp ends TLS and asked for one."""
    connection = request.get_extra_info("ssl_object")
    return None if connection is None else connection.getpeercert(binary_form=True)


def access_token_middleware(
    verifier: Verifier,
    *,
    scopes: Iterable[str] = (),
    open_paths: Iterable[str] = (),
    certificate: Certificate = connection_certificate,
) -> Middleware:
    """The middleware. Each request needs a token with all of ``scopes``, but for the exact paths in ``open_paths``.

    ``certificate`` replaces where the TLS client certificate comes from: only behind a proxy that is trusted.
    """
    needed, open_to_all = each(scopes), each(open_paths)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.rel_url.raw_path not in open_to_all:
                claims = await verifier.verify_request_async(_api_request(request, certificate), scopes=needed)
                request[ACCESS_TOKEN] = claims
                # For the rest of the request's own task, which writes the access log when this is over.
                set_caller(claims)
            return await handler(request)
        except AccessDenied as denied:
            return web.Response(status=denied.status, headers=denied.headers, body=denied.body)

    return middleware


def requires_scope(*scopes: str) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
    """For a handler (a function, a method, or one of a ``web.View``): the token needs all of these scopes as well."""

    def decorate(handler: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        @wraps(handler)
        async def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            _claims(args[-1]).require(*scopes)
            return await handler(*args, **kwargs)

        return checked

    return decorate


def _claims(last: object) -> AccessTokenClaims:
    """The claims that the middleware put into the request, which is a handler's last argument, or its view's own."""
    request = last.request if isinstance(last, web.View) else last
    claims: AccessTokenClaims | None = request.get(ACCESS_TOKEN) if isinstance(request, web.BaseRequest) else None
    if claims is None:
        raise TypeError("requires_scope needs access_token_middleware, and a path that is not open")
    return claims


def _api_request(request: web.Request, certificate: Certificate) -> ApiRequest:
    return ApiRequest(
        method=request.method,
        path=request.rel_url.raw_path,
        query=request.rel_url.raw_query_string,
        authorization=tuple(request.headers.getall("Authorization", ())),
        dpop=tuple(request.headers.getall("DPoP", ())),
        certificate=certificate(request),
    )
