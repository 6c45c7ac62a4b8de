"""Reads the form of a token request from a hostile sender: bounded in size, count, time and encoding."""

import asyncio
from functools import lru_cache
from urllib.parse import unquote_plus

from aiohttp import web

from gateway.oauth.errors import Refusal
from gateway.oauth.parameters import check_query

FORM = "application/x-www-form-urlencoded"
MAX_BODY_BYTES = 64 * 1024
MAX_FIELDS = 32
MAX_REMEMBERED_PART = 128
_REMEMBERED = ("grant_type=", "subject_token_type=", "resource=", "audience=", "scope=", "client_id=",
               "client_assertion_type=")  # fmt: skip


async def read_form(request: web.Request, seconds: float) -> list[tuple[str, str]]:
    """The pairs of the form, decoded, in the order in which they were sent. The body has so many seconds to arrive.

    Raises ``Refusal`` for another content type, a compressed, oversized, late or ambiguous body.
    """
    if request.query_string:
        check_query(request.query)
    _check_content_type(request)
    return parse_form(await _read_body(request, seconds))


def parse_form(body: bytes) -> list[tuple[str, str]]:
    """Pairs from ``name=value&…`` in UTF-8 (WHATWG URL §5.1, strict). Raises ``Refusal``."""
    if body.count(b"&") >= MAX_FIELDS:
        raise Refusal("malformed_request", f"The form has more than {MAX_FIELDS} parameters.")
    try:
        text = body.decode("ascii")
        return [_pair(part) for part in text.split("&") if part]
    except UnicodeDecodeError:
        raise Refusal("malformed_request", "The form is not percent-encoded UTF-8.") from None


def _pair(part: str) -> tuple[str, str]:
    # Tokens hold no escapes, and these parameters of honest clients are the same over and over; no secret is kept.
    if len(part) <= MAX_REMEMBERED_PART and part.startswith(_REMEMBERED):
        return _decoded_short_pair(part)
    return _decoded_pair(part)


def _decoded_pair(part: str) -> tuple[str, str]:
    name, _, value = part.partition("=")
    return _decoded(name), _decoded(value)


_decoded_short_pair = lru_cache(maxsize=512)(_decoded_pair)


def _decoded(text: str) -> str:
    if "%" not in text and "+" not in text:
        return text
    return unquote_plus(text, errors="strict")


def _check_content_type(request: web.Request) -> None:
    headers = request.headers
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refusal("unsupported_encoding", "The request body is compressed; send it as it is.")
    if headers.get("Transfer-Encoding", "chunked").lower() != "chunked":  # a coding before it would be taken for none
        raise Refusal("unsupported_encoding", "The request body has another transfer coding than chunked.")
    declared = headers.getall("Content-Type", [])
    if len(declared) != 1:
        raise Refusal("malformed_request", f"Send one Content-Type: {FORM}.")
    media_type, _, parameters = declared[0].partition(";")
    media_type = media_type.strip().lower()
    if media_type == "application/json":
        raise Refusal("malformed_request", f"JSON is not read here; send the parameters as {FORM} (RFC 6749).")
    if media_type != FORM:
        raise Refusal("malformed_request", f"Send the parameters as {FORM}.")
    charset = parameters.strip().lower().replace('"', "")
    if charset not in {"", "charset=utf-8"}:
        raise Refusal("unsupported_encoding", "The form is UTF-8; no other charset is read.")


async def _read_body(request: web.Request, seconds: float) -> bytes:
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise Refusal("request_too_large")
    content = request.content
    # A request that arrived in one piece is already in the buffer: no timer, no task switch.
    if content.is_eof():
        body = content.read_nowait()
    else:
        try:
            async with asyncio.timeout(seconds):
                body = await _read_bounded(request)
        except TimeoutError:
            raise Refusal("request_timeout") from None
        except (ConnectionError, web.RequestPayloadError):
            raise Refusal("malformed_request", "The connection ended before the body did.") from None
    if len(body) > MAX_BODY_BYTES:
        raise Refusal("request_too_large")
    return body


async def _read_bounded(request: web.Request) -> bytes:
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise Refusal("request_too_large")
    return bytes(body)
