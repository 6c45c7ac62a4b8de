"""The same small API four times, on real servers on loopback: aiohttp, Starlette, FastAPI, Flask."""

import asyncio
import contextlib
import logging
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import flask
import uvicorn
from aiohttp import web
from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from werkzeug.serving import make_server

from gateway.resource_server import AccessDenied, AccessTokenClaims, Verifier, asgi, wsgi
from gateway.resource_server import aiohttp as for_aiohttp
from gateway.resource_server.logging import CallerFilter

log = logging.getLogger("ledger.entries")

OPTIONS: dict[str, Any] = {"scopes": ["ledger:read"], "open_paths": ["/healthz"]}


def shown(claims: AccessTokenClaims) -> dict[str, Any]:
    log.info("listing entries")
    return {"client_id": claims.client_id, "sub": claims.subject, "act": claims.act, "scopes": list(claims.scopes)}


# ------------------------------------------------------------ one application for each framework


def aiohttp_application(verifier: Verifier, **options: Any) -> web.Application:
    async def entries(request: web.Request) -> web.Response:
        return web.json_response(shown(request[for_aiohttp.ACCESS_TOKEN]))

    @for_aiohttp.requires_scope("ledger:write")
    async def add(request: web.Request) -> web.Response:
        return web.json_response(shown(request[for_aiohttp.ACCESS_TOKEN]), status=201)

    async def health(_: web.Request) -> web.Response:
        log.info("healthy")
        return web.Response(text="ok")

    application = web.Application(middlewares=[for_aiohttp.access_token_middleware(verifier, **options)])
    application.add_routes([
        web.get("/entries", entries), web.post("/entries", add), web.get("/healthz", health),
    ])  # fmt: skip
    return application


def starlette_application(verifier: Verifier, **options: Any) -> Starlette:
    async def entries(request: StarletteRequest) -> JSONResponse:
        return JSONResponse(shown(request.state.access_token))

    async def add(request: StarletteRequest) -> JSONResponse:
        request.state.access_token.require("ledger:write")
        return JSONResponse(shown(request.state.access_token), status_code=201)

    async def health(_: StarletteRequest) -> PlainTextResponse:
        log.info("healthy")
        return PlainTextResponse("ok")

    application = Starlette(routes=[
        Route("/entries", entries), Route("/entries", add, methods=["POST"]), Route("/healthz", health),
    ])  # fmt: skip
    application.add_middleware(asgi.AccessTokenMiddleware, verifier=verifier, **options)
    return application


def fastapi_application(verifier: Verifier, **options: Any) -> FastAPI:
    application = FastAPI()
    application.add_middleware(asgi.AccessTokenMiddleware, verifier=verifier, **options)

    @application.get("/entries")
    def entries(request: Request) -> dict[str, Any]:  # in a thread, as FastAPI runs plain functions
        return shown(request.state.access_token)

    @application.post("/entries", status_code=201)
    async def add(request: Request) -> dict[str, Any]:
        request.state.access_token.require("ledger:write")
        return shown(request.state.access_token)

    @application.get("/healthz")
    async def health() -> str:
        log.info("healthy")
        return "ok"

    return application


def flask_application(verifier: Verifier, **options: Any) -> flask.Flask:
    application = flask.Flask("ledger")
    application.wsgi_app = wsgi.AccessTokenMiddleware(application.wsgi_app, verifier=verifier, **options)

    @application.get("/entries")
    def entries() -> Any:
        return shown(flask.request.environ["gateway.access_token"])

    @application.post("/entries")
    def add() -> Any:
        claims = flask.request.environ["gateway.access_token"]
        claims.require("ledger:write")
        return shown(claims), 201

    @application.errorhandler(AccessDenied)
    def deny(denied: AccessDenied) -> Any:
        return denied.body, denied.status, denied.headers

    @application.get("/healthz")
    def health() -> str:
        log.info("healthy")
        return "ok"

    return application


# ------------------------------------------------------------ on real servers


@asynccontextmanager
async def on_aiohttp(application: web.Application, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def on_uvicorn(application: Any) -> AsyncIterator[str]:
    server = uvicorn.Server(uvicorn.Config(application, "127.0.0.1", 0, log_config=None, lifespan="on", ws="none"))
    with contextlib.ExitStack() as stack:
        server.capture_signals = stack.enter_context(contextlib.nullcontext(contextlib.nullcontext))
        serving = asyncio.create_task(server.serve())
        try:
            async with asyncio.timeout(10):
                while not server.started:
                    await asyncio.sleep(0.005)
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


@asynccontextmanager
async def on_werkzeug(application: Any, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    server = make_server("127.0.0.1", 0, application, threaded=True, ssl_context=tls)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        await asyncio.to_thread(server.shutdown)
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Framework:
    """How an API is written, how it is served, and who writes its access log."""

    application: Callable[..., Any]
    served: Callable[..., Any]
    access_log: str


FRAMEWORKS = {
    "aiohttp": Framework(aiohttp_application, on_aiohttp, "aiohttp.access"),
    "starlette": Framework(starlette_application, on_uvicorn, "uvicorn.access"),
    "fastapi": Framework(fastapi_application, on_uvicorn, "uvicorn.access"),
    "flask": Framework(flask_application, on_werkzeug, "werkzeug"),
}


class Records(logging.Handler):
    """Keeps what is logged, with who called."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(CallerFilter())
        self.kept: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record)

    def of(self, logger: str) -> list[tuple[Any, Any, Any]]:
        """Client, subject and actor of each record of a logger."""
        return [(record.client_id, record.sub, record.act) for record in self.kept if record.name == logger]


@contextmanager
def records() -> Iterator[Records]:
    """Every record of every logger, from INFO on."""
    handler, root = Records(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
