"""A real nginx on loopback, below a folder of the test's own, with whatever the test puts into its ``http`` block."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.parts import eventually, program

_CONFIGURATION = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 256; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{http}
}}
"""


@dataclass(frozen=True)
class NginxServer:
    """A started nginx: where it writes."""

    access_log: Path
    error_log: Path


@asynccontextmanager
async def nginx_server(folder: Path, http: str, *, port: int) -> AsyncIterator[NginxServer]:
    """Runs nginx until the block ends; ready once ``port``, which ``http`` lets it listen on, takes connections.

    Needs no privileges. A configuration that nginx refuses fails the test with what nginx says.
    """
    nginx = program("nginx", "nginx")
    folder.mkdir(exist_ok=True)
    configuration, error_log = folder / "nginx.conf", folder / "error.log"
    configuration.write_text(_CONFIGURATION.format(folder=folder, http=http))
    process = await asyncio.create_subprocess_exec(
        nginx, "-p", str(folder), "-c", str(configuration), "-e", str(error_log),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip

    async def ready() -> bool:
        assert process.returncode is None, f"nginx ended: {error_log.read_text()}"
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True

    try:
        await eventually(ready, what="nginx listens")
        yield NginxServer(folder / "access.log", error_log)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
