"""Who may use the admin API: whoever has a token of this gateway for the resource ``gateway-admin``, or, where the
settings say so, whoever calls from this machine itself.
"""

import re

import orjson
from aiohttp import web

from gateway.http.answers import JSON, NEVER_STORED
from gateway.http.source import is_within, parse_networks
from gateway.http.verify import parse_authorization
from gateway.inspection import AccessCheck, Inspection, Stopped
from gateway.oauth.errors import error_description
from gateway.oauth.reasons import TOKEN_FAULT

ADMIN_RESOURCE = "gateway-admin"
"""The name of the ``Resource`` that tokens for the admin API are for."""
READ_SCOPE = "admin:read"

_LOOPBACK = parse_networks(("127.0.0.0/8", "::1/128"))
_THIS_MACHINE = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
_NO_RESOURCE = f"The policies have no Resource called {ADMIN_RESOURCE}: nobody has a token for this."
_OF_PROXIES = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")
_OF_THE_TOKEN = frozenset({TOKEN_FAULT, "invalid_client", "invalid_target"})
"""What RFC 6750 §3.1 calls ``invalid_token``: no token is good where the policies have no such resource."""


class Operators:
    """Lets operators through to the admin API, and nobody else."""

    def __init__(self, inspection: Inspection, *, allow_loopback: bool) -> None:
        self._inspection = inspection
        self._allow_loopback = allow_loopback

    async def refuse(self, request: web.Request, scope: str = READ_SCOPE) -> web.Response | None:
        """The answer to whoever may not (RFC 6750 §3: 401, 403; 503 where nobody can know); None for an operator.

        A token that is sent is looked at, wherever it comes from. One that is bound to a key is none here: the listener
        speaks plain HTTP, and nobody in front of it vouches for what the client sent.
        """
        authorization = request.headers.get("Authorization")
        if authorization is None and self._allow_loopback and is_from_this_machine(request):
            return None
        scheme, token = parse_authorization(authorization)
        outcome = await self._inspection.verify(AccessCheck(ADMIN_RESOURCE, (scope,), scheme, token))
        return _refused(outcome, scope) if isinstance(outcome, Stopped) else None


def is_from_this_machine(request: web.Request) -> bool:
    """Whether a program on this machine asks, for itself: not a proxy for others, and no page in a browser that had its
    own name point here (DNS rebinding): its ``Host`` is that of the page.
    """
    headers = request.headers
    if any(name in headers for name in _OF_PROXIES) or "Origin" in headers:
        return False
    if headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
        return False
    hosts = headers.getall("Host", ())
    return is_within(_LOOPBACK, request.remote) and len(hosts) == 1 and _THIS_MACHINE.fullmatch(hosts[0]) is not None


def _refused(stopped: Stopped, scope: str) -> web.Response:
    refusal = stopped.refusal
    reason = refusal.reason
    error = "invalid_token" if reason.error in _OF_THE_TOKEN else reason.error
    status = 401 if error == "invalid_token" else reason.status
    words = _NO_RESOURCE if reason.code == "unknown_resource" else refusal.public
    body = {"error": error, "error_description": error_description(words), "reason": reason.code}
    answer = web.Response(status=status, body=orjson.dumps(body), headers={**NEVER_STORED, "Content-Type": JSON})
    if status in {401, 403}:
        parameters = [f'realm="{ADMIN_RESOURCE}"', f'scope="{scope}"']
        if reason.code != "access_token_missing":
            parameters.insert(1, f'error="{error}"')
        answer.headers["WWW-Authenticate"] = f"{stopped.scheme} {', '.join(parameters)}"
    return answer
