"""One connection of a peer, as aiohttp has it, but for one thing: what the peer sent is never repeated to it."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from aiohttp import web

MALFORMED = "400: Bad Request\n"


class Connection(web.RequestHandler):
    """Answers bytes that are no HTTP without quoting them.

    There may be a token in them, and behind a proxy that misjudged where a request ends, that of somebody else.
    """

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """As aiohttp's own; the message of a protocol error holds what was received."""
        return super().handle_error(request, status, exc, MALFORMED if status == 400 else message)


async def _refuse_expectation() -> web.StreamResponse:
    return web.Response(status=417, text="417: Expectation Failed")


class Listener(web.Server):
    """Takes on connections for an application that has been set up. ``limits`` are those of ``Connection``."""

    def __init__(self, application: web.Server, **limits: Any) -> None:
        handle = application.request_handler

        def handle_expected(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
            # For every path, known or not: aiohttp's own refusal quotes the header, and fails over one that is no text.
            if request.headers.get("Expect", "100-continue").lower() != "100-continue":
                return _refuse_expectation()
            return handle(request)

        super().__init__(handle_expected, request_factory=application.request_factory)
        self._limits = limits

    def __call__(self) -> Connection:
        """A connection, for the event loop."""
        return Connection(self, loop=asyncio.get_running_loop(), **self._limits)
