"""``gateway serve`` as a process of its own, for whatever needs signals, disks or a death."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from gateway.clock import SteadyClock
from tests.faults.neighbourhood import Neighbourhood, neighbours
from tests.support.parts import eventually
from tests.support.running import ISSUER, RunningGateway

ROOT = Path(__file__).parent.parent.parent
STOP_SECONDS = 20

_SERVING = re.compile(r"serving issuer=\S+ public=(\S+) admin=(\S+)")


class Serving(RunningGateway):
    """A gateway process in a folder: its policies, keys, audit log and what it logs lie there."""

    def __init__(self, folder: Path, session: aiohttp.ClientSession, /, **settings: Any) -> None:
        self.session = session
        self.folder = folder
        self.url = self.admin_url = ""
        self.audit_file = folder / "audit.jsonl"
        self.log_file = folder / "gateway.log"
        self._settings = {
            "issuer": ISSUER,
            "listen": "127.0.0.1:0",
            "admin": {"listen": "127.0.0.1:0"},
            "policies": str(folder / "policies"),
            "keys": {"store": f"file://{folder}/keys"},
            "audit": {"sinks": [f"file://{self.audit_file}"], "key": f"file://{folder}/audit.pem"},
            "shutdown": {"delay": "0s", "grace": "5s"},
            "quotas": dict.fromkeys(("service_account", "workload", "failures_per_source"), "1000000/minute"),
        } | settings
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *, stdout: int = asyncio.subprocess.DEVNULL) -> None:
        """Starts the process and waits until it serves. It may be started again after it has ended."""
        (self.folder / "gateway.yaml").write_text(json.dumps(self._settings))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
        with self.log_file.open("ab") as log:
            begin = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway", "serve", "--insecure-http", "--config", self.folder / "gateway.yaml",
                cwd=ROOT, env=environment, stdout=stdout, stderr=log,
            )  # fmt: skip

        async def serves() -> bool:
            text = self.log_file.read_text()[begin:]
            assert self.process.returncode is None, text
            found = _SERVING.search(text)
            if found:
                self.url, self.admin_url = (f"http://{address}" for address in found.groups())
            return found is not None

        await eventually(serves)

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    def hang_up(self) -> None:
        """SIGHUP: reload policies, reopen the audit log."""
        self.process.send_signal(signal.SIGHUP)

    def terminate(self) -> None:
        """SIGTERM: drain, and end."""
        self.process.terminate()

    async def ended(self) -> int:
        """Waits for the end of the process; returns its exit code."""
        async with asyncio.timeout(STOP_SECONDS):
            return await self.process.wait()

    async def kill(self) -> None:
        """SIGKILL: no last words."""
        self.process.kill()
        await self.ended()

    async def close(self) -> None:
        """Ends the process if it still runs."""
        if self._process is not None and self._process.returncode is None:
            self.terminate()
            await self.ended()


@asynccontextmanager
async def serving(
    folder: Path, policies: str, /, *, stdout: int = asyncio.subprocess.DEVNULL, **settings: Any
) -> AsyncIterator[Serving]:
    """A started process with these policies in ``policies/policies.yaml``."""
    (folder / "policies").mkdir(exist_ok=True)
    (folder / "policies" / "policies.yaml").write_text(policies)
    async with aiohttp.ClientSession() as session:
        gateway = Serving(folder, session, **settings)
        try:
            await gateway.start(stdout=stdout)
            yield gateway
        finally:
            await gateway.close()


@asynccontextmanager
async def real_neighbours() -> AsyncIterator[Neighbourhood]:
    """Issuers that tell the real time, as a process of its own does."""
    async with neighbours(SteadyClock()) as around:
        yield around
