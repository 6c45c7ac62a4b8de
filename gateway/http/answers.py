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
_NEVER_STORED = CIMultiDict({
    "Cache-Control": "no-store",
    "Pragma": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Content-Type": JSON,
})  # fmt: skip


def token_answer(issued: Issued) -> web.Response:
    """RFC 6749 §5.1 with ``issued_token_type`` (RFC 8693 §2.2.1). The type demands that the record was written."""
    token = issued.access_token
    body = {
        "access_token": token.token,
        "issued_token_type": TOKEN_TYPE_ACCESS_TOKEN,
        "token_type": "Bearer",
        "expires_in": token.expires_at - token.issued_at,
        "scope": " ".join(token.entitlement.scopes),
    }
    return _json(200, body, issued.request_id)


def refusal_answer(refusal: Refusal, grant: GrantType | None, request_id: str, description: str = "") -> web.Response:
    """RFC 6749 §5.2 with ``reason`` and ``request_id``. ``description`` replaces the refusal's own public text."""
    reason = refusal.reason
    body = {
        "error": oauth_error(reason, grant),
        "error_description": error_description(description or refusal.public),
        "reason": reason.code,
        "request_id": request_id,
    }
    answer = _json(reason.status, body, request_id)
    if reason.status == 401:
        answer.headers["WWW-Authenticate"] = 'Basic realm="token endpoint"'  # RFC 6749 §5.2
    if reason.retry_after_seconds is not None:
        answer.headers["Retry-After"] = str(reason.retry_after_seconds)
    return answer


def _json(status: int, body: dict[str, Any], request_id: str) -> web.Response:
    headers = _NEVER_STORED.copy()
    headers["X-Request-Id"] = request_id
    return web.Response(status=status, body=orjson.dumps(body), headers=headers)
