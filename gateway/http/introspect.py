"""``POST /introspect`` (RFC 7662 §2, RFC 9701): what an API is told of a token that was sent to it."""

import re

import orjson
from aiohttp import web

from gateway.callers import Caller
from gateway.http.answers import JSON, NEVER_STORED
from gateway.http.inquiry import InquiryForms
from gateway.inspection import Inquiry, Inspection

INTROSPECTION_JWT = "application/token-introspection+jwt"  # RFC 9701 §4
MAX_ACCEPT_CHARACTERS = 1024
MAX_ACCEPT_RANGES = 16

_QUALITY = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")  # RFC 9110 §12.4.2


class IntrospectionEndpoint:
    """The introspection endpoint."""

    def __init__(self, inspection: Inspection, forms: InquiryForms) -> None:
        self._inspection = inspection
        self._forms = forms

    async def post(self, request: web.Request) -> web.Response:
        """Answers 200 with what the asker may know of the token, or an error of RFC 6749 §5.2."""
        as_jwt = prefers_jwt(", ".join(request.headers.getall("Accept", ())))

        async def introspect(inquiry: Inquiry, caller: Caller) -> web.Response:
            introspected = await self._inspection.introspect(inquiry, caller, signed=as_jwt)
            headers = {**NEVER_STORED, "X-Request-Id": caller.request_id}
            if introspected.jwt is not None:
                return web.Response(
                    body=introspected.jwt.encode(), headers={**headers, "Content-Type": INTROSPECTION_JWT}
                )
            return web.Response(body=orjson.dumps(introspected.members), headers={**headers, "Content-Type": JSON})

        return await self._forms.answered(request, "introspection", introspect)


def prefers_jwt(accept: str) -> bool:
    """Whether an ``Accept`` header asks for the JWT of RFC 9701 by its name, and for JSON no more than for that.

    What cannot be read, or is longer than anybody needs, asks for nothing special.
    """
    accept = accept.lower()
    if INTROSPECTION_JWT not in accept or len(accept) > MAX_ACCEPT_CHARACTERS:
        return False
    ranges = [_parse_range(text) for text in accept.split(",", MAX_ACCEPT_RANGES)[:MAX_ACCEPT_RANGES]]
    qualities = dict(reversed(ranges))  # the first of two alike counts
    jwt = qualities.get(INTROSPECTION_JWT, 0.0)
    json = next((qualities[one] for one in (JSON, "application/*", "*/*") if one in qualities), 0.0)
    return jwt > 0 and jwt >= json


def _parse_range(text: str) -> tuple[str, float]:
    """A media range and its quality (RFC 9110 §12.5.1); 0 for a quality that is none."""
    media_range, *parameters = (part.strip() for part in text.split(";"))
    for parameter in parameters:
        name, _, quality = (part.strip() for part in parameter.partition("="))
        if name == "q":
            return media_range, float(quality) if _QUALITY.fullmatch(quality) else 0.0
    return media_range, 1.0
