"""A small gateway on loopback that answers as it is told, and a clock that only moves when somebody sleeps."""

import asyncio
import json
import os
import re
from collections import deque
from dataclasses import dataclass, field
from urllib.parse import parse_qs

import pytest
from aiohttp import web

from gateway.client.timing import Timing
from gateway.oauth.metadata import AUTHORIZATION_SERVER
from gateway.oauth.parameters import TOKEN_TYPE_ACCESS_TOKEN

NOW = 1_793_610_000.0


@dataclass
class Stopwatch:
    """Time that passes only in ``sleep``, and chance that is always the same."""

    now: float = NOW
    chance: float = 0.5
    pauses: list[float] = field(default_factory=list)

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds

    @property
    def timing(self):
        return Timing(clock=lambda: self.now, monotonic=lambda: self.now, sleep=self.sleep, random=lambda: self.chance)


class SmallGateway:
    """Metadata and a token endpoint. ``answers`` are given in turn; without any left, the next token is issued."""

    def __init__(self):
        self.url = ""
        self.metadata = {}
        self.answers = deque()
        self.forms = []
        self.paths = []
        self.headers = []
        self.expires_in = 600
        self.asked = asyncio.Condition()
        self._runner = None

    async def start(self, tls=None):
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=tls).start()
        self.port = self._runner.addresses[0][1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.metadata = {"issuer": self.url, "token_endpoint": f"{self.url}/token"}

    async def close(self):
        await self._runner.cleanup()

    def issued(self, number, **changes):
        return {
            "access_token": f"at.{number}",
            "issued_token_type": TOKEN_TYPE_ACCESS_TOKEN,
            "token_type": "Bearer",
            "expires_in": self.expires_in,
            "scope": "backup:read",
        } | changes

    def refuse(self, status, **members):
        headers = members.pop("headers", {})
        self.answers.append(web.json_response(members, status=status, headers=headers))

    def answer(self, **changes):
        self.answers.append(web.json_response(self.issued(len(self.forms) + 1, **changes)))

    async def until_asked(self, times):
        async with self.asked:
            await self.asked.wait_for(lambda: len(self.forms) >= times)

    async def _serve(self, request):
        self.paths.append(f"{request.method} {request.path}")
        if request.path.startswith(AUTHORIZATION_SERVER):
            return web.json_response(self.metadata)
        async with self.asked:
            self.forms.append({name: values[0] for name, values in parse_qs(await request.text()).items()})
            self.headers.append(request.headers)
            self.asked.notify_all()
        return self.answers.popleft() if self.answers else web.json_response(self.issued(len(self.forms)))


class RawServer:
    """Sends the same bytes to everybody, or piece by piece for ever."""

    def __init__(self, content, *, drip=False):
        self._content = content
        self._drip = drip
        self.connections = 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        self.connections += 1
        try:
            if not self._drip:
                # All of it: closing with something unread would reset the connection under the answer.
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head.lower())
                await reader.readexactly(int(length[1]) if length else 0)
            writer.write(self._content)
            while self._drip:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


def json_answer(document, *extra_headers, status="200 OK"):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *extra_headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    """No test sees the proxies, jobs and settings of the machine that it runs on."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(
            ("GATEWAY_", "ACTIONS_", "GITHUB_", "GITLAB_", "KUBERNETES_")
        ):
            monkeypatch.delenv(name)


@pytest.fixture
def stopwatch():
    return Stopwatch()


@pytest.fixture
async def small_gateway():
    server = SmallGateway()
    await server.start()
    yield server
    await server.close()


@pytest.fixture
async def start_gateway():
    """Starts a small gateway with TLS."""
    started = []

    async def start(tls):
        server = SmallGateway()
        await server.start(tls)
        started.append(server)
        return server

    yield start
    for server in started:
        await server.close()


@pytest.fixture
def raw_server():
    return RawServer


@pytest.fixture
def raw_json():
    return json_answer
