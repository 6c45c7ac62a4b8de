"""Trades a workload token for an access token: RFC 8693 §2 or RFC 7523 §2.1, found by RFC 8414."""

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from gateway.client.errors import Denied, Misuse, Unavailable, UntrustedAnswer
from gateway.client.fetch import Answer, Fetcher, check_url, retry_after_seconds
from gateway.client.retry import retry
from gateway.client.sources import LiteralToken, TokenSource
from gateway.client.timing import REAL, Timing
from gateway.client.token import Token
from gateway.model import GrantType
from gateway.oauth.metadata import AUTHORIZATION_SERVER
from gateway.oauth.parameters import TOKEN_TYPE_ACCESS_TOKEN, TOKEN_TYPE_JWT

TOTAL_SECONDS = 60.0
"""How long one exchange may take with all its tries."""
MAX_LIFETIME_SECONDS = 10 * 365 * 86400

_RETRIED = frozenset({429, 502, 503, 504})
_ACCESS_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{1,65536}=*")  # RFC 6750 §2.1
_NOT_SHOWN = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to ask, and for whom a workload token must have been made."""

    url: str
    audience: str


def exchange(
    gateway_url: str,
    token: str | TokenSource,
    *,
    audience: str | None = None,
    client_id: str | None = None,
    resource: str | None = None,
    scope: str | None = None,
    lifetime_seconds: int | None = None,
    grant: GrantType = GrantType.TOKEN_EXCHANGE,
    token_endpoint: str | None = None,
    ca_file: str | None = None,
    insecure_http: bool = False,
    timeout_seconds: float = TOTAL_SECONDS,
    timing: Timing = REAL,
) -> Token:
    """An access token for the workload whose token this is, or comes from this source.

    ``gateway_url`` is the gateway's issuer URL, whose metadata names the token endpoint; give ``token_endpoint`` where
    the gateway is reached by another name. ``audience`` is what the source is asked for (default: the gateway's
    issuer). ``scope`` holds names with a space between them. ``ca_file`` replaces the system's certificate authorities.

    Tries again for at most ``timeout_seconds`` where that may help, asking the source anew each time. Raises the
    errors of ``gateway.client.errors``: ``Denied`` with the gateway's reason when the answer is no.
    """
    check_url(gateway_url, insecure_http=insecure_http)
    fetcher = Fetcher(ca_file=ca_file, insecure_http=insecure_http)
    source = LiteralToken(token) if isinstance(token, str) else token
    optional = {
        "client_id": client_id,
        "resource": resource,
        "scope": scope,
        "requested_expires_in": None if lifetime_seconds is None else str(lifetime_seconds),
    }
    form = {name: value for name, value in optional.items() if value}
    until = timing.monotonic() + timeout_seconds

    def find(seconds: float) -> Endpoint:
        return discover(gateway_url, fetcher, timeout_seconds=seconds, insecure_http=insecure_http, timing=timing)

    if token_endpoint is None:
        endpoint = retry(find, until=until, timing=timing)
    else:
        check_url(token_endpoint, insecure_http=insecure_http)
        endpoint = Endpoint(token_endpoint, gateway_url)

    def ask(seconds: float) -> Token:
        presented = source.fetch(audience or endpoint.audience)
        body = urlencode(_presenting(grant, presented) | form).encode()
        asked_at = timing.clock()
        answer = fetcher.send("POST", endpoint.url, timeout_seconds=seconds, headers=_FORM_HEADERS, body=body)
        return parse_token_answer(answer, grant=grant, scope=scope, asked_at=asked_at, timing=timing)

    return retry(ask, until=until, timing=timing)


def discover(
    gateway_url: str, fetcher: Fetcher, *, timeout_seconds: float, insecure_http: bool = False, timing: Timing = REAL
) -> Endpoint:
    """The token endpoint from the gateway's metadata (RFC 8414 §3).

    A document that names another issuer is refused (§3.3): a token sent on its word could end up anywhere.
    """
    parts = check_url(gateway_url, insecure_http=insecure_http)
    if parts.query:
        raise Misuse("The gateway's URL must not hold a query (RFC 8414 section 2).")
    url = f"{parts.scheme}://{parts.netloc}{AUTHORIZATION_SERVER}{parts.path.rstrip('/')}"
    answer = fetcher.send("GET", url, timeout_seconds=timeout_seconds, headers={"Accept": "application/json"})
    _check_available(answer, timing)
    document = _json_object(answer) if answer.status == 200 else {}
    issuer, token_endpoint = document.get("issuer"), document.get("token_endpoint")
    if not isinstance(issuer, str) or not isinstance(token_endpoint, str):
        raise UntrustedAnswer(f"{url} (status {answer.status}) is no metadata of a token service.")
    if issuer.rstrip("/") != gateway_url.rstrip("/"):
        raise UntrustedAnswer(
            f"{parts.netloc} says that its name is {_shown(issuer)}. Use that as the gateway's URL, "
            "or name the token endpoint yourself."
        )
    try:
        check_url(token_endpoint, insecure_http=insecure_http)
    except Misuse as fault:
        raise UntrustedAnswer(f"The metadata of {parts.netloc} names an unusable token endpoint. {fault}") from None
    return Endpoint(token_endpoint, issuer)


def parse_token_answer(
    answer: Answer, *, grant: GrantType, scope: str | None, asked_at: float, timing: Timing
) -> Token:
    """The token of RFC 6749 §5.1 (RFC 8693 §2.2.1). Its life counts from ``asked_at``, the moment of the request.

    Raises ``Denied`` for §5.2, ``Unavailable`` where the server asks for patience, ``UntrustedAnswer`` for the rest.
    """
    _check_available(answer, timing)
    document = _json_object(answer)
    if answer.status != 200:
        raise _denied(answer.status, document)
    lifetime = document.get("expires_in")
    access_token = document.get("access_token")
    if not isinstance(access_token, str) or not _ACCESS_TOKEN.fullmatch(access_token):
        raise UntrustedAnswer("The answer holds no access token.")
    if type(lifetime) is not int or not 0 < lifetime <= MAX_LIFETIME_SECONDS:
        raise UntrustedAnswer("The answer does not say for how long its token is good (expires_in).")
    if str(document.get("token_type")).lower() != "bearer":
        raise UntrustedAnswer("The token is not of the type Bearer: this client could not use it.")
    if grant is GrantType.TOKEN_EXCHANGE and document.get("issued_token_type") != TOKEN_TYPE_ACCESS_TOKEN:
        raise UntrustedAnswer("What was issued is not an access token (issued_token_type).")
    granted = document.get("scope", scope or "")
    if not isinstance(granted, str):
        raise UntrustedAnswer("The answer's scope is not a text.")
    return Token(access_token=access_token, expires_at=int(asked_at) + lifetime, scope=_shown(granted))


_FORM_HEADERS = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}


def _presenting(grant: GrantType, presented: str) -> dict[str, str]:
    if grant is GrantType.JWT_BEARER:
        return {"grant_type": grant.value, "assertion": presented}
    return {"grant_type": grant.value, "subject_token": presented, "subject_token_type": TOKEN_TYPE_JWT}


def _check_available(answer: Answer, timing: Timing) -> None:
    if answer.status not in _RETRIED:
        return
    try:
        document = _json_object(answer)
    except UntrustedAnswer:  # a proxy in front of the gateway answers in HTML
        document = {}
    named = " ".join(filter(None, (_member(document, "reason"), _member(document, "error_description"))))
    raise Unavailable(
        f"The gateway answered {answer.status}{f': {named}' if named else '.'}",
        retry_after_seconds=retry_after_seconds(answer.headers, timing.clock),
    )


def _denied(status: int, document: dict[str, Any]) -> Denied:
    if not _member(document, "error"):
        raise UntrustedAnswer(f"The answer (status {status}) is not one of a token endpoint.")
    return Denied(
        status=status,
        error=_member(document, "error"),
        description=_member(document, "error_description"),
        reason=_member(document, "reason"),
        request_id=_member(document, "request_id"),
    )


def _json_object(answer: Answer) -> dict[str, Any]:
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise UntrustedAnswer(f"The answer (status {answer.status}) is not JSON. Is this the gateway?")
    return document


def _member(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    return _shown(value) if isinstance(value, str) else ""


def _shown(text: str, limit: int = 1024) -> str:
    # What a server says goes to terminals and logs: no control characters, no endless text.
    return _NOT_SHOWN.sub("?", text[:limit])
