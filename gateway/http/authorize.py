"""``/authorize``: named in the metadata, because some clients do not start without it, and good for nothing else."""

from collections.abc import Callable

from aiohttp import web

from gateway.http.answers import refusal_answer
from gateway.oauth.errors import Refusal


class AuthorizationEndpoint:
    """The authorization endpoint of a server without people (RFC 6749 §3.1)."""

    def __init__(self, new_request_id: Callable[[], str]) -> None:
        self._new_request_id = new_request_id

    async def refuse(self, _request: web.Request) -> web.Response:
        """Answers 400 whatever was asked, and redirects to nowhere."""
        return refusal_answer(Refusal("unsupported_response_type"), None, self._new_request_id())
