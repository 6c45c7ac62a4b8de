"""A real Redis on loopback, that a test can stop, kill, freeze and start again."""

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.parts import eventually, free_port, program


class RedisServer:
    """One server with a port and a Unix socket of its own, which stay the same from start to start.

    It keeps nothing on disk: what starts again is empty. ``options`` are further arguments of ``redis-server``.
    """

    def __init__(self, folder: Path, *options: str, tls: bool = False) -> None:
        self.port = free_port()
        self.socket = folder / "redis.sock"
        self.url = f"{'rediss' if tls else 'redis'}://127.0.0.1:{self.port}/0"
        self.socket_url = f"redis+unix://{self.socket}"
        self._command = [
            program("redis-server", "redis-server"),
            "--bind", "127.0.0.1", "--port", "0" if tls else str(self.port), "--dir", str(folder),
            "--unixsocket", str(self.socket), "--unixsocketperm", "700", "--logfile", str(folder / "redis.log"),
            "--save", "", "--appendonly", "no", "--databases", "16", *options,
        ]  # fmt: skip
        if tls:
            self._command += ["--tls-port", str(self.port)]
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Returns once it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        await eventually(self._answers)

    async def stop(self) -> None:
        """Shuts down in order."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """Ends it at once."""
        await self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Connections are still taken, and nothing is answered any more."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Goes on after ``freeze``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def command(self, *words: str | bytes) -> bytes:
        """Sends one command past everything that is tested; returns the reply as it is on the wire."""
        reader, writer = await asyncio.open_unix_connection(self.socket)
        try:
            encoded = [word if isinstance(word, bytes) else word.encode() for word in words]
            writer.write(b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded))
            head = await reader.readline()
            if head.startswith(b"$") and head != b"$-1\r\n":
                return head + await reader.readexactly(int(head[1:]) + 2)
            return head
        finally:
            writer.close()
            await writer.wait_closed()

    async def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "redis-server did not start"
        try:
            return (await self.command("PING")).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    async def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(how)
            await asyncio.to_thread(process.wait, 20)


@pytest.fixture
async def redis_server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    """A Redis that has started, empty; ended after the test whatever became of it."""
    server = RedisServer(tmp_path)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()
