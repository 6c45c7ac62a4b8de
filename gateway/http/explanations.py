"""``GET /api/explanations/{request_id}``: why a recent request was granted or denied, for operators."""

import re

import orjson
from aiohttp import web

from gateway.explanations import Explanations
from gateway.http.answers import JSON, NEVER_STORED
from gateway.http.operators import Operators

MAX_WAITING = 4
"""Explanations made at once; beyond it, 503: whoever asks in a loop does not keep the server from its work."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ExplanationEndpoint:
    """The explanations of this process."""

    def __init__(self, explanations: Explanations, operators: Operators) -> None:
        self._explanations = explanations
        self._operators = operators
        self._free = MAX_WAITING

    def routes(self) -> list[web.RouteDef]:
        """Its route, for the admin listener."""
        return [web.get("/api/explanations/{request_id}", self.get)]

    async def get(self, request: web.Request) -> web.Response:
        """200 with the explanation, 404 where the request is not kept (any more), or what ``Operators`` answers."""
        refused = await self._operators.refuse(request)
        if refused is not None:
            return refused
        request_id = request.match_info["request_id"]
        if self._free <= 0:
            return _answer(503, {"error": "temporarily_unavailable", "error_description": "Ask again in a moment."})
        self._free -= 1
        try:
            found = await self._explanations.of(request_id) if _REQUEST_ID.fullmatch(request_id) else None
        finally:
            self._free += 1
        if found is None:
            words = (
                "This process keeps no decision on such a request. It keeps the latest ones alone, of callers whose "
                "token or credential was good; the audit log has all."
            )
            return _answer(404, {"error": "not_found", "error_description": words})
        return _answer(200, found)


def _answer(status: int, body: object) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(body), headers={**NEVER_STORED, "Content-Type": JSON})
