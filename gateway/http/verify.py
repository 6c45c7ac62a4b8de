"""``/verify``: what a proxy asks before it lets a request through to an API.

nginx ``auth_request``, Traefik ForwardAuth and Envoy HTTP ``ext_authz`` send the head of the client's request here.
``?resource=`` and ``?scope=`` are the proxy's own words, set by its configuration, and say what its location demands.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import orjson
from aiohttp import web

from gateway.http.answers import refusal_body
from gateway.http.client_certificate import ClientCertificateOf
from gateway.http.form import parse_form
from gateway.inspection import AccessCheck, Inspection, OriginalRequest, Passed, Scheme, Stopped
from gateway.jose.dpop import PROOF_ALGORITHMS
from gateway.oauth.errors import Refusal, error_description
from gateway.oauth.parameters import parse_scope, short_value
from gateway.oauth.reasons import TOKEN_FAULT
from gateway.tokens.own_token import OwnToken

MAX_HEADER_CHARACTERS = 8192

_AUTHORIZATION = re.compile(r"(bearer|dpop) +([^ ]*) *", re.IGNORECASE)
_SAFE_IN_ACTOR = ":/@"
"""Beside letters, digits and ``-._~``: nothing that separates anything in a header, a log or a query."""
_FAULTS_OF_TOKEN = frozenset({TOKEN_FAULT, "invalid_client"})
"""What RFC 6750 §3.1 calls ``invalid_token``; of a client certificate, too, only the token says what it must be."""
_REFUSED_WITH_CHALLENGE = frozenset({"invalid_token", "invalid_dpop_proof"})


class VerificationEndpoint:
    """The endpoint for proxies."""

    def __init__(
        self,
        inspection: Inspection,
        *,
        from_trusted_proxy: Callable[[web.Request], bool],
        client_certificate: ClientCertificateOf,
        new_request_id: Callable[[], str],
    ) -> None:
        self._inspection = inspection
        self._from_trusted_proxy = from_trusted_proxy
        self._client_certificate = client_certificate
        self._new_request_id = new_request_id

    async def any_method(self, request: web.Request) -> web.Response:
        """Answers 200 with who is calling in headers, or 401 or 403 with a challenge (RFC 6750 §3, RFC 9449 §7.1).

        400 is for a proxy that asks wrongly, 503 where nobody can know.
        """
        try:
            demands, target = parse_demands(request.raw_path)
        except Refusal as refusal:
            return _stopped(self._inspection.stop(refusal), None, self._new_request_id())
        scheme, token = parse_authorization(request.headers.get("Authorization"))
        try:
            asked = AccessCheck(
                demands.resource,
                demands.scopes,
                scheme,
                token,
                self._original(request, target) if scheme == "DPoP" else None,
                tuple(request.headers.getall("DPoP", ())),
                self._client_certificate(request),
            )
        except Refusal as refusal:
            return _stopped(self._inspection.stop(refusal, scheme), demands, self._new_request_id())
        outcome = await self._inspection.verify(asked)
        if isinstance(outcome, Stopped):
            return _stopped(outcome, demands, self._new_request_id())
        return _passed(outcome)

    def _original(self, request: web.Request, target: str | None) -> OriginalRequest | None:
        return original_request(request, target) if self._from_trusted_proxy(request) else None


# ---------------------------------------------------------------- what is asked


@dataclass(frozen=True, slots=True)
class Demands:
    """What a proxy's location demands."""

    resource: str
    scopes: tuple[str, ...]


def parse_demands(raw_path: str) -> tuple[Demands, str | None]:
    """What the query demands, and the target of the original request, where the query ends with ``original=``.

    Envoy writes the client's path and query behind a prefix. Whatever stands behind the first ``original=`` is the
    client's and never read as a demand. Raises ``Refusal``.
    """
    query = raw_path.partition("?")[2]
    demanded, separator, target = f"&{query}".partition("&original=")
    return _parse_demands(demanded.removeprefix("&")), target if separator else None


@lru_cache(maxsize=256)
def _parse_demands(query: str) -> Demands:
    """Proxies ask the same few things again and again.

    A demand that is empty, as by a variable without a value, or misspelt must not become a location that demands less.
    """
    form: dict[str, str] = {}
    for name, value in parse_form(query.encode("utf-8", "surrogateescape")):
        if name == "access_token":
            raise Refusal("parameter_in_query", "An access token has no place in a URL (RFC 6750 section 5.3).")
        if name not in {"resource", "scope"}:
            raise Refusal("invalid_parameter", "A location demands a resource and scopes, and nothing else.")
        if name in form:
            raise Refusal("duplicate_parameter", f"{name} was sent twice.")
        form[name] = value
    resource = short_value(form, "resource") if form.get("resource") else None
    if resource is None:
        raise Refusal("missing_parameter", "Say once which resource the location is: /verify?resource=NAME.")
    return Demands(resource, parse_scope(form["scope"]) if "scope" in form else ())


def parse_authorization(authorization: str | None) -> tuple[Scheme, str | None]:
    """How a token was sent, and the token; None where none was sent in a way that is known here."""
    found = _AUTHORIZATION.fullmatch(authorization or "")
    if found is None:
        return "Bearer", None
    return ("DPoP" if found[1].lower() == "dpop" else "Bearer"), found[2]


def original_request(request: web.Request, target: str | None) -> OriginalRequest | None:
    """The request that a proxy asks about: from Envoy's ``target``, from ``X-Original-Method`` and
    ``X-Original-URL``, or from ``X-Forwarded-Method``, ``-Proto``, ``-Host`` and ``-Uri``.

    A proxy hands on what clients write under other names than its own. So only one of the three may be there, whole.
    Raises ``Refusal``.
    """
    headers = request.headers
    found: list[OriginalRequest] = []
    if target is not None:
        url = f"{_sole(request, 'X-Forwarded-Proto')}://{_sole(request, 'Host')}{target}"
        found.append(OriginalRequest(request.method, url))
    if "X-Original-URL" in headers or "X-Original-Method" in headers:
        found.append(OriginalRequest(_sole(request, "X-Original-Method"), _sole(request, "X-Original-URL")))
    if "X-Forwarded-Uri" in headers or "X-Forwarded-Method" in headers:
        url = "{}://{}{}".format(*(_sole(request, f"X-Forwarded-{part}") for part in ("Proto", "Host", "Uri")))
        found.append(OriginalRequest(_sole(request, "X-Forwarded-Method"), url))
    if len(found) > 1:
        raise Refusal("confirmation_failed", internal="the original request is said in two ways")
    return found[0] if found else None


def _sole(request: web.Request, name: str) -> str:
    values = request.headers.getall(name, [])
    if len(values) != 1 or len(values[0]) > MAX_HEADER_CHARACTERS:
        raise Refusal("confirmation_failed", internal=f"{name} is missing, sent twice or too long")
    return values[0]


# ---------------------------------------------------------------- what is answered


def _passed(passed: Passed) -> web.Response:
    own = passed.token
    headers = {
        "X-Client-Id": own.service_account,
        "X-Subject": own.service_account,
        "X-Scope": " ".join(own.scopes),
        "X-Actor": actor_of(own),  # also where it is empty, so that it replaces what a client wrote
        "Cache-Control": "no-store",
    }
    return web.Response(headers=headers)


def actor_of(own: OwnToken) -> str:
    """Who acts with a token: ``iss sub`` of the workload, then of those before it, each percent-encoded.

    A workload chooses much of its subject: no character of it separates anything.
    """
    words: list[str] = []
    act: Mapping[str, Any] | None = own.act
    while act:
        words += (quote(str(act.get(name, "")), _SAFE_IN_ACTOR, errors="replace") for name in ("iss", "sub"))
        act = act.get("act")
    return " ".join(words)


def _stopped(stopped: Stopped, demands: Demands | None, request_id: str) -> web.Response:
    refusal = stopped.refusal
    reason = refusal.reason
    error = "invalid_token" if reason.error in _FAULTS_OF_TOKEN else reason.error
    body = refusal_body(refusal, error, request_id)
    headers = {"Cache-Control": "no-store", "Content-Type": "application/json", "X-Request-Id": request_id}
    status = 401 if error in _REFUSED_WITH_CHALLENGE else reason.status
    if status in {401, 403} and demands is not None:
        headers["WWW-Authenticate"] = _challenge(stopped, error, demands)
    if refusal.retry_after_seconds is not None:
        headers["Retry-After"] = str(refusal.retry_after_seconds)
    return web.Response(status=status, body=orjson.dumps(body), headers=headers)


def _challenge(stopped: Stopped, error: str, demands: Demands) -> str:
    """RFC 6750 §3: without a token nothing is said of an error. No quote is left in what is quoted."""
    parameters = {"realm": error_description(demands.resource)}
    if stopped.refusal.reason.code != "access_token_missing":
        parameters["error"] = error
        parameters["error_description"] = error_description(stopped.refusal.public)
    if error == "insufficient_scope":
        parameters["scope"] = " ".join(demands.scopes)
    if stopped.scheme == "DPoP":
        parameters["algs"] = " ".join(PROOF_ALGORITHMS)
    return f"{stopped.scheme} " + ", ".join(f'{name}="{value}"' for name, value in parameters.items())
