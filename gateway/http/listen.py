"""Opens a listener: who is let in, within which limits, and how its sockets are closed in order."""

import asyncio
import contextlib
import errno
import logging
import resource
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aiohttp import http_parser, web

from gateway.http.admission import Admission, Bounds, NoPlaceError, Place
from gateway.http.connection import Listener
from gateway.http.protocol_log import LimitLog, protocol_logger
from gateway.http.source import Network
from gateway.metrics import ConnectionMeter

BACKLOG = 1024
MAX_LINE_BYTES = 8190
MAX_HEADERS = 64
RECEIVE_BUFFER_BYTES = 64 * 1024
"""What the system keeps of a connection that is not read. It bounds as well how much of a pipeline is read at once."""
RESERVED_DESCRIPTORS = 256
"""For everything but connections of the public listener: files, issuers, Redis, the admin listener."""
OVERSTAY_SECONDS = 1
"""What requests get that overstayed their grace, and connections that were being opened when the listener closed."""
_ACCEPTED_AT_ONCE = 64
_PAUSE_SECONDS = 1.0
"""Until the next look where the system has no descriptor left."""
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nCache-Control: no-store\r\n"
    b"Connection: close\r\n\r\n"
)

log = logging.getLogger("gateway.http")

Tls = Callable[[], ssl.SSLContext]
"""The context for a connection that begins now."""


class ListenError(OSError):
    """A listener cannot be opened; the text says why, and what to do about it."""

    def __init__(self, text: str, number: int | None = None) -> None:
        super().__init__(text)
        self.errno = number


@dataclass(frozen=True, slots=True)
class Door:
    """What one listener is called, where it is, and who may come in."""

    name: str
    """One of ``gateway.metrics.LISTENERS``."""
    address: str
    """``host:port``; port 0 takes a free one."""
    setting: str
    """The setting that the address is of."""
    bounds: Bounds
    proxies: Sequence[Network] = ()
    tls: Tls | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """A listener that takes requests. ``address`` is the one that it got, as ``host:port``."""

    address: str
    runners: tuple[web.BaseRunner, ...]
    """To be cleaned up in this order."""


def check_parser() -> None:
    """Raises ``ListenError`` where aiohttp would parse requests in Python: slowly, and not as strictly."""
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise ListenError(
            "aiohttp runs without its parser in C, and the one in Python takes requests that others read differently. "
            "Unset AIOHTTP_NO_EXTENSIONS, or install a wheel of aiohttp that was built for this system"
        )


def room_for(connections: int) -> int:
    """How many of so many connections this process has file descriptors for. Lifts its own limit as far as it may."""
    wanted = connections + RESERVED_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        lifted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):  # more than the system allows to anybody
            resource.setrlimit(resource.RLIMIT_NOFILE, (lifted, hard))
            soft = lifted
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, soft - RESERVED_DESCRIPTORS))


async def open_listener(application: web.Application, door: Door, meter: ConnectionMeter) -> Opened:
    """Opens one listener. Raises ``ListenError``."""
    check_parser()
    sockets = await _bound(door)
    loop = asyncio.get_running_loop()
    limit_log = LimitLog(door.name, loop.time)

    def note(limit: str, peer: str) -> None:
        meter.count_ended(door.name, limit)
        limit_log.note(limit, peer)

    inner = web.AppRunner(application, handle_signals=False)
    await inner.setup()
    assert inner.server is not None
    listener = Listener(
        inner.server,
        door.bounds,
        note,
        access_log=None,
        max_line_size=MAX_LINE_BYTES,
        max_field_size=MAX_LINE_BYTES,
        max_headers=MAX_HEADERS,
        lingering_time=1,
        auto_decompress=False,
        logger=protocol_logger(),
    )
    runner = web.ServerRunner(listener, handle_signals=False, shutdown_timeout=OVERSTAY_SECONDS)
    await runner.setup()
    admission = Admission(door.bounds, door.proxies, listener.end_idle)
    meter.watch(door.name, lambda: admission.taken)
    site = _Site(runner, listener, sockets, admission, door, note)
    await site.start()
    host, port = sockets[0].getsockname()[:2]
    return Opened(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", (runner, inner))


class _Site(web.BaseSite):
    """Accepts connections itself: what is too much ends before it costs a handshake, a parser or a task."""

    def __init__(
        self,
        runner: web.BaseRunner,
        listener: Listener,
        sockets: Sequence[socket.socket],
        admission: Admission,
        door: Door,
        note: Callable[[str, str], None],
    ) -> None:
        super().__init__(runner)
        self._listener = listener
        self._sockets = sockets
        self._admission = admission
        self._door = door
        self._note = note
        self._opening: set[asyncio.Task[None]] = set()
        self._is_open = False

    @property
    def name(self) -> str:
        """The address as a URL."""
        return f"{'https' if self._door.tls else 'http'}://{self._door.address}"

    async def start(self) -> None:
        """Takes connections in from now on."""
        await super().start()
        self._is_open = True
        for one in self._sockets:
            self._listen(one)

    async def stop(self) -> None:
        """Takes no more; those that were being opened get a moment."""
        self._is_open = False
        for one in self._sockets:
            asyncio.get_running_loop().remove_reader(one)
            one.close()
        if self._opening:
            _, late = await asyncio.wait(self._opening, timeout=OVERSTAY_SECONDS)
            for task in late:
                task.cancel()
        await super().stop()

    def _listen(self, listening: socket.socket) -> None:
        if self._is_open:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, peer = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:  # it went away while it waited
                continue
            except OSError as error:
                self._pause(listening, error)
                return
            self._take_in(connection, peer[0])

    def _pause(self, listening: socket.socket, error: OSError) -> None:
        """The system has no descriptor or no memory left: to ask again at once would turn in a circle."""
        log.error("no connections are accepted for a moment listener=%s: %s", self._door.name, error)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        loop.call_later(_PAUSE_SECONDS, self._listen, listening)

    def _take_in(self, connection: socket.socket, peer: str) -> None:
        connection.setblocking(False)
        try:
            place = self._admission.admit(peer)
        except NoPlaceError as refused:
            self._note(refused.limit, peer)
            if self._door.tls is None:
                with contextlib.suppress(OSError):
                    connection.send(_FULL)
            connection.close()
            return
        task = asyncio.get_running_loop().create_task(self._open(connection, place, peer))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, accepted: socket.socket, place: Place, peer: str) -> None:
        """Hands a connection to aiohttp, after the handshake where there is TLS."""
        loop = asyncio.get_running_loop()
        connection = self._listener()
        connection.place = place
        bounds = self._door.bounds
        handed_over = False
        try:
            if self._door.tls is None:
                await loop.connect_accepted_socket(lambda: connection, accepted)
            else:
                begun = loop.time()
                try:
                    await loop.connect_accepted_socket(
                        lambda: connection,
                        accepted,
                        ssl=self._door.tls(),
                        ssl_handshake_timeout=bounds.head_seconds,
                        ssl_shutdown_timeout=bounds.answer_seconds,
                    )
                except OSError:  # what peers say that speak no TLS, or have no certificate that is let in
                    if loop.time() - begun >= bounds.head_seconds:
                        self._note("head_time", peer)
                    return
            handed_over = True
        finally:
            if not handed_over:
                place.give_back()
                accepted.close()


async def _bound(door: Door) -> list[socket.socket]:
    """A socket for every address that the host stands for: localhost is two."""
    host, _, port = door.address.rpartition(":")
    found: list[socket.socket] = []
    try:
        loop = asyncio.get_running_loop()
        addresses = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        for family, (name, wanted, *more) in dict.fromkeys((one[0], one[4]) for one in addresses):
            number = found[0].getsockname()[1] if found else wanted  # what port 0 got is that of both
            one = socket.create_server((name, number, *more), family=family, backlog=BACKLOG)
            found.append(one)
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    except OSError as error:
        for one in found:
            one.close()
        raise ListenError(_why(door, error), error.errno) from error
    return found


def _why(door: Door, error: OSError) -> str:
    variable = f"GATEWAY_{door.setting.upper().replace('.', '__')}"
    where = f"{door.setting}: {door.address}"
    if error.errno == errno.EADDRINUSE:
        port = door.address.rpartition(":")[2]
        return (
            f"{where} is taken by another program (ss -ltnp 'sport = :{port}' names it); end that one, or set "
            f"{door.setting} or {variable} to a free address"
        )
    if error.errno == errno.EACCES:
        return f"{where} is for privileged users; set {door.setting} or {variable} to a port above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{where} is no address of this machine; 0.0.0.0 stands for all that it has"
    return f"{where} cannot be listened on: {error.strerror}"
