"""The public listener: its routes, and the last net under every one of them."""

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from gateway.http.answers import refusal_answer
from gateway.http.authorize import AuthorizationEndpoint
from gateway.http.drain import Drain
from gateway.http.entra import TOKEN_PATH as ENTRA_TOKEN_PATH
from gateway.http.form import MAX_BODY_BYTES
from gateway.http.introspect import IntrospectionEndpoint
from gateway.http.revoke import RevocationEndpoint
from gateway.http.token import TokenEndpoint, only_post
from gateway.http.verify import VerificationEndpoint
from gateway.http.well_known import WellKnown
from gateway.oauth.errors import Refusal
from gateway.oauth.metadata import (
    AUTHORIZATION_SERVER,
    AUTHORIZE,
    INTROSPECT,
    JWKS,
    OPENID_CONFIGURATION,
    REVOKE,
    VERIFY,
    endpoint_paths,
    well_known_paths,
)

log = logging.getLogger("gateway.http")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def public_application(
    issuer: str,
    token: TokenEndpoint,
    introspection: IntrospectionEndpoint,
    revocation: RevocationEndpoint,
    verification: VerificationEndpoint,
    well_known: WellKnown,
    drain: Drain,
    new_request_id: Callable[[], str],
) -> web.Application:
    """Every route that the world may reach. Anything else is a 404 without a body to learn from."""

    def guarded(handler: Handler) -> Handler:
        """No middleware: aiohttp's own way to call them costs every request several times as much."""

        async def edge(request: web.Request) -> web.StreamResponse:
            headers = request.headers
            if len(headers.getall("Host", ())) != 1 or len(headers.getall("Authorization", ())) > 1:
                return _not_understood("Host or Authorization was sent twice, or Host is missing.", new_request_id())
            drain.begin()
            try:
                response = await handler(request)
            except web.HTTPException:
                raise
            except Exception:
                request_id = new_request_id()
                log.exception("unexpected error request_id=%s path=%s", request_id, request.path)
                response = refusal_answer(Refusal("internal_error"), None, request_id)
            finally:
                drain.end()
            drain.apply(response)
            return response

        return edge

    application = web.Application(client_max_size=MAX_BODY_BYTES)
    router = application.router
    for path in endpoint_paths(issuer, "/token"):
        router.add_post(path, guarded(token.post))
        router.add_route("*", path, guarded(only_post))
    for name, form in ((INTROSPECT, introspection.post), (REVOKE, revocation.post)):
        for path in endpoint_paths(issuer, name):
            router.add_post(path, guarded(form))
            router.add_route("*", path, guarded(only_post))
    for path in endpoint_paths(issuer, VERIFY):
        router.add_route("*", path, guarded(verification.any_method))
    for path in endpoint_paths(issuer, ENTRA_TOKEN_PATH):
        router.add_post(path, guarded(token.post_entra))
    for path in endpoint_paths(issuer, AUTHORIZE):
        router.add_route("*", path, guarded(AuthorizationEndpoint(new_request_id).refuse))
    for name in (AUTHORIZATION_SERVER, OPENID_CONFIGURATION):
        for path in well_known_paths(issuer, name):
            router.add_get(path, guarded(well_known.metadata))
    for path in endpoint_paths(issuer, JWKS):
        router.add_get(path, guarded(well_known.key_set))
    return application


def _not_understood(why: str, request_id: str) -> web.Response:
    """Refuses what two parsers may read in two ways, and closes: nobody knows what comes behind it."""
    answer = refusal_answer(Refusal("malformed_request", why), None, request_id)
    answer.force_close()
    return answer
