"""Renders what leaves the token endpoint: RFC 6749 §5.1 and §5.2, and nothing that was not decided elsewhere."""

from typing import Any

import orjson
from aiohttp import web
from multidict import CIMultiDict

from gateway.exchange import Issued
from gateway.model import GrantType
from gateway.oauth.errors import Refusal, error_description, oauth_error
from gateway.oauth.parameters import TOKEN_TYPE_ACCESS_TOKEN

JSON = "application/json"
NEVER_STORED = {"Cache-Control": "no-store", "Pragma": "no-cache", "X-Content-Type-Options": "nosniff"}
"""The headers of an answer that holds a token or speaks of one (RFC 6749 §5.1)."""
_HEADERS = CIMultiDict({**NEVER_STORED, "Content-Type": JSON})


def token_answer(issued: Issued) -> web.Response:
    """RFC 6749 §5.1 with ``issued_token_type`` (RFC 8693 §2.2.1). The type demands that the record was written."""
    token = issued.access_token
    body = {
        "access_token": token.token,
        "issued_token_type": TOKEN_TYPE_ACCESS_TOKEN,
        "token_type": "DPoP" if token.confirmation is not None and "jkt" in token.confirmation else "Bearer",
        "expires_in": token.expires_at - token.issued_at,
        "scope": " ".join(token.entitlement.scopes),
    }
    return _json(200, body, issued.request_id)


def refusal_answer(
    refusal: Refusal, grant: GrantType | None, request_id: str, *, challenge: bool = False
) -> web.Response:
    """RFC 6749 §5.2 with ``reason`` and ``request_id``.

    ``challenge`` makes a 401 of ``invalid_client``, for whoever tried the ``Authorization`` header. Who sent nothing
    gets it as well, but who authenticated in the body gets 400: some clients look at a challenge and at no body.
    """
    reason, error = refusal.reason, oauth_error(refusal, grant)
    status = reason.status
    if error == "invalid_client":
        status = 401 if challenge or reason.code == "client_authentication_missing" else 400
    answer = _json(status, refusal_body(refusal, error, request_id), request_id)
    if status == 401:
        answer.headers["WWW-Authenticate"] = 'Basic realm="token endpoint"'  # RFC 6749 §5.2
    if refusal.retry_after_seconds is not None:
        answer.headers["Retry-After"] = str(refusal.retry_after_seconds)
    return answer


def refusal_body(refusal: Refusal, error: str, request_id: str) -> dict[str, str]:
    """What every refusal says (RFC 6749 §5.2), with the reason that is stable and the id to look it up by."""
    return {
        "error": error,
        "error_description": error_description(refusal.public),
        "reason": refusal.reason.code,
        "request_id": request_id,
    }


def _json(status: int, body: dict[str, Any], request_id: str) -> web.Response:
    headers = _HEADERS.copy()
    headers["X-Request-Id"] = request_id
    return web.Response(status=status, body=orjson.dumps(body), headers=headers)
