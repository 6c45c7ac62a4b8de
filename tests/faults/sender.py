"""A token request that is sent by hand, piece by piece."""

import asyncio
from urllib.parse import urlencode

from tests.support.running import JWT_BEARER, RunningGateway

_SENT_AT_ONCE = 20


class Sender:
    """Sends the head of a request and the beginning of its body, and the rest when it likes."""

    def __init__(self, gateway: RunningGateway, token: str) -> None:
        self._host, _, self._port = gateway.url.removeprefix("http://").partition(":")
        form = {"grant_type": JWT_BEARER, "assertion": token, "resource": "ledger-api"}
        self.body = urlencode(form).encode()

    async def connect(self) -> None:
        """Opens the connection and says nothing. Raises ``OSError``."""
        self._reader, self._writer = await asyncio.open_connection(self._host, int(self._port))

    async def begin(self) -> None:
        """Returns when the gateway works on the request: it has asked for the body (RFC 9110 §10.1.1)."""
        await self.connect()
        head = (
            f"POST /token HTTP/1.1\r\nHost: {self._host}\r\nConnection: close\r\nExpect: 100-continue\r\n"
            f"Content-Length: {len(self.body)}\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n"
        )
        await self.send(head.encode())
        async with asyncio.timeout(10):
            assert await self._reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await self.send(self.body[:_SENT_AT_ONCE])

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def finish(self) -> bytes:
        """Sends the rest of the body; returns the answer."""
        await self.send(self.body[_SENT_AT_ONCE:])
        return await self.answer()

    async def answer(self) -> bytes:
        """All that comes until the gateway closes the connection."""
        try:
            async with asyncio.timeout(10):
                return await self._reader.read()
        finally:
            self.hang_up()

    def hang_up(self) -> None:
        """Ends the connection at once, with a reset."""
        self._writer.transport.abort()
