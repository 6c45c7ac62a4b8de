"""One connection of a peer, as aiohttp has it, but for what a hostile peer would do with it: it ends in bounded time
however slowly the peer sends or reads, what the peer sent is never repeated to it, and nothing says what runs here.
"""

import asyncio
import functools
import heapq
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from aiohttp import StreamReader, web

from gateway.http.admission import Bounds, Limit, Place
from gateway.http.framing import MAX_HEAD_BYTES, framing_fault, head_bytes

MALFORMED = "400: Bad Request\n"
_HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_ENDED_AT_ONCE = 16
"""One in so many idle connections is ended where there is no place left."""
_LOOK_AGAIN_SECONDS = 1.0

Note = Callable[[Limit, str], None]
"""Is told of a connection that ends for a limit: which, and the peer's address."""


class Connection(web.RequestHandler):
    """A connection that knows its bounds.

    Bytes that are no HTTP are answered without quoting them: there may be a token in them, and behind a proxy that
    misjudged where a request ends, that of somebody else.
    """

    __slots__ = (
        "_answer_timer",
        "_answered",
        "_body",
        "_bounds",
        "_head_bytes",
        "_head_timer",
        "_is_ending",
        "_note",
        "_wire",
        "head_may_be_large",
        "idle_since",
        "place",
    )

    def __init__(self, manager: web.Server, bounds: Bounds, note: Note, **options: Any) -> None:
        super().__init__(manager, keepalive_timeout=bounds.idle_seconds, **options)
        self._bounds = bounds
        self._note = note
        self._wire: asyncio.Transport | None = None
        self._body: StreamReader | None = None
        """Of the request that arrived last."""
        self._answered = 0
        self._is_ending = False
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._answer_timer: asyncio.TimerHandle | None = None
        self.place: Place | None = None
        """Is given back when the connection is lost."""
        self.idle_since = self._loop.time()
        self.head_may_be_large = False
        """Whether a request came with so much that its head has to be measured."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being worked on: no request came since the last answer, or half of one."""
        return self._waiter is not None and not self._waiter.done()

    # ------------------------------------------------------------ what arrives

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As aiohttp's own."""
        super().connection_made(transport)
        self._wire = self.transport

    def data_received(self, data: bytes) -> None:
        """As aiohttp's own; the time and the size of a head that does not end are bounded."""
        requests, body = self._request_count, self._body
        is_head = body is None or body.is_eof()
        super().data_received(data)
        if self._request_count != requests:
            self._take_head(data)
        elif is_head and data and not self._close and not self._force_close:
            self._wait_for_head(data)

    def _take_head(self, data: bytes) -> None:
        if self._messages:
            self._body = self._messages[-1][1]
        if self._head_bytes + len(data) > MAX_HEAD_BYTES:
            self.head_may_be_large = True
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _wait_for_head(self, data: bytes) -> None:
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._tell("head_size")
            if self.is_idle and self._wire is not None:
                self._wire.write(_HEAD_TOO_LARGE)
                self.force_close()
            else:
                self.close()  # after the answer that is on its way
        elif self._head_timer is None:
            self._head_timer = self._loop.call_later(self._bounds.head_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.is_idle:
            self._tell("head_time")
            self.force_close()
        elif self._wire is not None and not self._wire.is_closing():  # an answer is on its way
            self._head_timer = self._loop.call_later(self._bounds.head_seconds, self._head_is_late)

    # ------------------------------------------------------------ what leaves

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """As aiohttp's own, for every answer; after so many of them the connection ends."""
        self._answered += 1
        if self._answered >= self._bounds.requests_per_connection:
            resp.force_close()
        if not request.keep_alive or resp.keep_alive is False:
            self._is_ending = True
            self._await_peer()
        self.idle_since = self._loop.time()
        return super().finish_response(request, resp, start_time)

    def pause_writing(self) -> None:
        """As aiohttp's own; the peer has so long to read."""
        super().pause_writing()
        self._await_peer()

    def resume_writing(self) -> None:
        """As aiohttp's own."""
        super().resume_writing()
        if self._answer_timer is not None and not self._is_ending:
            self._answer_timer.cancel()
            self._answer_timer = None

    def _await_peer(self) -> None:
        if self._answer_timer is None:
            self._answer_timer = self._loop.call_later(self._bounds.answer_seconds, self._answer_is_not_taken)

    def _answer_is_not_taken(self) -> None:
        self._answer_timer = None
        if self._wire is not None:
            self._tell("answer_time")
            self._wire.abort()

    # ------------------------------------------------------------ the end

    def force_close(self) -> None:
        """As aiohttp's own; what was not sent yet has so long to be taken."""
        if self._wire is not None and not self._is_ending:
            self._is_ending = True
            self._await_peer()
        super().force_close()

    def make_way(self) -> None:
        """Ends an idle connection, and gives its place to another at once."""
        self._tell("connections")
        self.force_close()
        if self.place is not None:
            self.place.give_back()

    def connection_lost(self, exc: BaseException | None) -> None:
        """As aiohttp's own; gives the place back."""
        self._wire = None
        for timer in (self._head_timer, self._answer_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._answer_timer = None
        if self.place is not None:
            self.place.give_back()
        super().connection_lost(exc)

    def _tell(self, limit: Limit) -> None:
        peer = self._wire.get_extra_info("peername") if self._wire is not None else None
        self._note(limit, peer[0] if peer else "unknown")

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """As aiohttp's own; the message of a protocol error holds what was received."""
        return super().handle_error(request, status, exc, MALFORMED if status == 400 else message)


class _Request(web.Request):
    """A request whose answer does not name the software that made it."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        await super()._prepare_hook(response)
        del response.headers["Server"]  # aiohttp sets it a moment before


class Listener(web.Server):
    """Takes on connections for an application that has been set up. ``options`` are those of ``Connection``."""

    def __init__(self, application: web.Server, bounds: Bounds, note: Note, **options: Any) -> None:
        handle = application.request_handler

        def handle_framed(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
            # For every path, known or not: aiohttp's own refusal quotes the header, and fails over one that is no text.
            if request.headers.get("Expect", "100-continue").lower() != "100-continue":
                return _refuse(417, "417: Expectation Failed")
            if framing_fault(request) is not None:
                return _refuse(400, MALFORMED, close=True)
            connection = request.protocol
            is_large = isinstance(connection, Connection) and connection.head_may_be_large
            if is_large and head_bytes(request) > MAX_HEAD_BYTES:
                return _refuse(431, "431: Request Header Fields Too Large\n", close=True)
            return handle(request)

        make_request: Callable[..., web.BaseRequest] = application.request_factory
        factory = functools.partial(make_request, _cls=_Request)
        super().__init__(handle_framed, request_factory=factory)
        self._bounds = bounds
        self._note = note
        self._options = options
        self._no_idle_until = 0.0

    def __call__(self) -> Connection:
        """A connection, for the event loop."""
        return Connection(self, self._bounds, self._note, loop=asyncio.get_running_loop(), **self._options)

    def end_idle(self) -> None:
        """Ends some of the connections that are idle, the oldest first; none where all are at work.

        To look through all of them takes a millisecond or two: where nothing was found, not again at once.
        """
        now = asyncio.get_running_loop().time()
        if now < self._no_idle_until:
            return
        idle = [one for one in self._connections if isinstance(one, Connection) and one.is_idle]
        if not idle:
            self._no_idle_until = now + _LOOK_AGAIN_SECONDS
        for one in heapq.nsmallest(len(idle) // _ENDED_AT_ONCE + 1, idle, key=lambda one: one.idle_since):
            one.make_way()


async def _refuse(status: int, text: str, *, close: bool = False) -> web.StreamResponse:
    answer = web.Response(status=status, text=text)
    if close:
        answer.force_close()
    return answer
