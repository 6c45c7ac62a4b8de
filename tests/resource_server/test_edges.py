"""What is each framework's own: certificates of the connection, WebSockets, bare ASGI and WSGI, decorators."""

import asyncio
import base64
import logging
import ssl
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
import trustme
from aiohttp import web

from gateway.jose.thumbprint import certificate_thumbprint
from gateway.resource_server import AccessDenied, asgi, wsgi
from gateway.resource_server import aiohttp as for_aiohttp
from gateway.resource_server.certificates import MAX_HEADER_LENGTH, parse_client_cert, parse_escaped_pem, parse_pem
from tests.resource_server.apis import (
    aiohttp_application,
    fastapi_application,
    flask_application,
    on_aiohttp,
    on_uvicorn,
    on_werkzeug,
    records,
)
from tests.resource_server.minting import AUDIENCE, Mint, bound
from tests.support.proofs import ProvingClient

AUTHORITY = trustme.CA()
CLIENT_CERTIFICATE = AUTHORITY.issue_cert("invoicer.example.com")
PEM = CLIENT_CERTIFICATE.cert_chain_pems[0].bytes().decode()
DER = ssl.PEM_cert_to_DER_cert(PEM)
MINT = Mint()
BOUND = MINT.token(cnf={"x5t#S256": certificate_thumbprint(DER)})


# ------------------------------------------------------------ MT-06: the certificate of the connection


def server_context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
    AUTHORITY.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def client_context(certificate: trustme.LeafCert | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    if certificate is not None:
        certificate.configure_cert(context)
    return context


@pytest.mark.parametrize(
    ("application", "served"), [(aiohttp_application, on_aiohttp), (flask_application, on_werkzeug)]
)
async def test_mt_06_the_certificate_is_that_of_the_connection(
    application: Callable[..., Any], served: Callable[..., Any]
) -> None:
    statuses = []
    async with served(application(MINT.verifier()), server_context()) as base, aiohttp.ClientSession() as session:
        for certificate in (CLIENT_CERTIFICATE, None, AUTHORITY.issue_cert("other.example.com")):
            headers = {"Authorization": f"Bearer {BOUND}", "Connection": "close"}
            context = client_context(certificate)
            async with session.get(f"{base}/entries", headers=headers, ssl=context) as answer:
                statuses.append(answer.status)
    assert statuses == [200, 401, 401]


@pytest.mark.parametrize("header", ["Client-Cert", "X-SSL-Client-Cert"])
@pytest.mark.parametrize("framework", ["aiohttp", "fastapi", "flask"])
async def test_mt_05_a_proxys_header_counts_where_the_api_says_so(framework: str, header: str) -> None:
    parse = parse_client_cert if header == "Client-Cert" else parse_escaped_pem
    value = f":{base64.b64encode(DER).decode()}:" if header == "Client-Cert" else quote(PEM)
    environ_name = f"HTTP_{header.upper().replace('-', '_')}"

    def in_scope(scope: Any) -> bytes | None:
        return parse(dict(scope["headers"]).get(header.lower().encode(), b"").decode())

    application, served, certificate = {
        "aiohttp": (aiohttp_application, on_aiohttp, lambda request: parse(request.headers.get(header))),
        "fastapi": (fastapi_application, on_uvicorn, in_scope),
        "flask": (flask_application, on_werkzeug, lambda environ: parse(environ.get(environ_name))),
    }[framework]
    async with aiohttp.ClientSession() as session:
        statuses = []
        for options in ({"certificate": certificate}, {}):
            async with served(application(MINT.verifier(), **options)) as base:
                headers = {"Authorization": f"Bearer {BOUND}", header: value}
                async with session.get(f"{base}/entries", headers=headers) as answer:
                    statuses.append(answer.status)
        assert statuses == [200, 401]


@pytest.mark.parametrize("value", [
    None, "", ":", "::", "x", ":x:", ":ü:", ":" + "A" * MAX_HEADER_LENGTH + ":", base64.b64encode(DER).decode(),
    f":{base64.urlsafe_b64encode(bytes([255] * 30)).decode()}:", f":{base64.b64encode(DER).decode()}:,:eA==:",
])  # fmt: skip
def test_a_client_cert_header_of_another_form_is_no_certificate(value: str | None) -> None:
    """RFC 9440 §2.1."""
    assert parse_client_cert(value) is None


@pytest.mark.parametrize("value", [
    None, "", "x", quote(PEM + PEM), quote("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----"),
    quote(PEM.replace("CERTIFICATE", "PRIVATE KEY")),
    quote("-----BEGIN CERTIFICATE-----\n=\n-----END CERTIFICATE-----"),
    "%00" * 10, "A" * (MAX_HEADER_LENGTH + 1),
])  # fmt: skip
def test_an_escaped_pem_of_another_form_is_no_certificate(value: str | None) -> None:
    assert parse_escaped_pem(value) is None


def test_a_certificate_is_read_from_either_header() -> None:
    assert parse_client_cert(f":{base64.b64encode(DER).decode()}:") == DER
    assert parse_escaped_pem(quote(PEM)) == DER
    assert parse_pem(PEM) == DER


# ------------------------------------------------------------ bare ASGI


class Asgi:
    """An application that notes its scope, behind the middleware."""

    def __init__(self, app: Any = None, **options: Any) -> None:
        self.scopes: list[Any] = []
        self.sent: list[Any] = []
        self.received = 0
        self._app = asgi.AccessTokenMiddleware(app or self._note, verifier=MINT.verifier(), **options)

    async def _note(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)

    async def ask(self, token: str | None = None, **scope: Any) -> Any:
        headers = [] if token is None else [(b"Authorization", f"Bearer {token}".encode())]
        request = {"type": "http", "method": "GET", "path": "/entries", "query_string": b"", "headers": headers}
        await self._app({**request, **scope}, self._receive, self._send)
        return self.sent

    async def _receive(self) -> Any:
        self.received += 1
        return {"type": "websocket.connect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)


async def test_the_claims_are_in_the_state_of_the_scope_and_of_no_other() -> None:
    app, state = Asgi(), {"pool": "of the application"}
    await app.ask(MINT.token(), state=state)
    await app.ask(MINT.token())
    assert app.scopes[0]["state"]["access_token"].client_id == "invoicer"
    assert app.scopes[0]["state"]["pool"] == "of the application"
    assert app.scopes[1]["state"].keys() == {"access_token"}
    assert state == {"pool": "of the application"}


async def test_a_server_that_gives_requests_no_task_of_their_own_still_tells_them_apart() -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        logging.getLogger("ledger").info("inside")

    with records() as kept:
        await Asgi(app).ask(MINT.token())
        logging.getLogger("ledger").info("after it")
    assert [client for client, _, _ in kept.of("ledger")] == ["invoicer", "-"]


async def test_a_websocket_needs_a_token_as_well() -> None:
    app = Asgi()
    await app.ask(MINT.token(), type="websocket")
    assert app.scopes[0]["state"]["access_token"].client_id == "invoicer"
    assert (app.received, app.sent) == (0, [])
    closed = {"type": "websocket.close", "code": 1008, "reason": "access_token_missing"}
    assert await app.ask(type="websocket") == [closed]
    assert len(app.scopes) == 1
    assert app.received == 1


async def test_the_lifespan_passes() -> None:
    app = Asgi()
    await app.ask(type="lifespan")
    assert len(app.scopes) == 1


async def test_a_kind_of_request_that_nobody_knows_needs_a_token() -> None:
    app = Asgi()
    await app.ask(type="webtransport")
    assert app.scopes == []


async def test_a_denial_after_the_answer_has_begun_is_the_servers_to_end() -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        MINT.verifier().verify("no token")

    running = Asgi(app)
    with pytest.raises(AccessDenied):
        await running.ask(MINT.token())
    assert len(running.sent) == 1


async def test_dp_06_the_path_of_a_proof_is_the_raw_one_where_the_server_has_it() -> None:
    client = ProvingClient()
    token = bound(MINT, client)
    url = f"{AUDIENCE}/files/a%2Fb%20c"
    for scope in ({"raw_path": b"/files/a%2Fb%20c"}, {"raw_path": None, "path": "/files/a b"}):
        app = Asgi()
        proof = client.proof("GET", url if scope["raw_path"] else f"{AUDIENCE}/files/a%20b", access_token=token)
        headers = [(b"authorization", f"DPoP {token}".encode()), (b"dpop", proof.encode())]
        await app.ask(headers=headers, **{"path": "/files/a/b c", **scope})
        assert len(app.scopes) == 1


async def test_mt_06_the_tls_extension_of_asgi_names_the_certificate() -> None:
    for extensions, opened in (
        ({"tls": {"client_cert_chain": [PEM, AUTHORITY.cert_pem.bytes().decode()]}}, 1),
        ({"tls": {"client_cert_chain": [AUTHORITY.cert_pem.bytes().decode(), PEM]}}, 0),
        ({"tls": {"client_cert_chain": []}}, 0), ({"tls": None}, 0), (None, 0), ({}, 0),
    ):  # fmt: skip
        app = Asgi()
        await app.ask(BOUND, extensions=extensions)
        assert len(app.scopes) == opened


# ------------------------------------------------------------ bare WSGI


def environ(**members: Any) -> dict[str, Any]:
    return {"REQUEST_METHOD": "GET", "PATH_INFO": "/entries", "SCRIPT_NAME": "", **members}


def call(app: Any, environment: dict[str, Any], **options: Any) -> tuple[str, list[bytes]]:
    started: list[str] = []
    middleware = wsgi.AccessTokenMiddleware(app, verifier=MINT.verifier(), **options)
    body: Any = middleware(environment, lambda status, headers: started.append(status))
    sent = list(body)
    if hasattr(body, "close"):
        body.close()
    return "".join(started), sent


def test_no_client_sends_the_claims_itself() -> None:
    forged = environ(**{"gateway.access_token": "forged"})
    seen: list[Any] = []

    def app(environment: Any, start: Any) -> list[bytes]:
        seen.append(environment.get("gateway.access_token"))
        start("200 OK", [])
        return []

    call(app, {**forged, "PATH_INFO": "/healthz"}, open_paths=["/healthz"])
    assert seen == [None]


def test_an_answer_that_is_sent_piece_by_piece_is_closed_at_its_end() -> None:
    closed = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield from (b"a", b"b")

        def close(self) -> None:
            closed.append(True)

    middleware = wsgi.AccessTokenMiddleware(lambda *_: Body(), verifier=MINT.verifier())
    body: Any = middleware(environ(HTTP_AUTHORIZATION=f"Bearer {MINT.token()}"), lambda *_: None)
    assert list(body) == [b"a", b"b"]
    body.close()
    assert closed == [True]


def test_a_denial_that_leaves_the_application_is_answered() -> None:
    def app(environment: Any, _start: Any) -> list[bytes]:
        environment["gateway.access_token"].require("ledger:write")
        return []

    status, body = call(app, environ(HTTP_AUTHORIZATION=f"Bearer {MINT.token()}"))
    assert status == "403 Forbidden"
    assert b"insufficient_scope" in body[0]


def test_any_other_error_of_the_application_is_its_own() -> None:
    def app(_environment: Any, _start: Any) -> list[bytes]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        call(app, environ(HTTP_AUTHORIZATION=f"Bearer {MINT.token()}"))


@pytest.mark.parametrize(
    ("script", "path", "url"),
    [
        ("", "/entries", "/entries"),
        ("/ledger", "/entries", "/ledger/entries"),
        ("", "/a b/\xc3\xa4:@", "/a%20b/%C3%A4:@"),
    ],
)
def test_dp_06_the_path_of_a_proof_begins_with_where_the_application_is_mounted(
    script: str, path: str, url: str
) -> None:
    client = ProvingClient()
    token = bound(MINT, client)
    proof = client.proof("GET", f"{AUDIENCE}{url}", access_token=token)
    environment = environ(SCRIPT_NAME=script, PATH_INFO=path, HTTP_AUTHORIZATION=f"DPoP {token}", HTTP_DPOP=proof)
    status, _ = call(lambda _, start: start("200 OK", []) or [], environment)
    assert status == "200 OK"


# ------------------------------------------------------------ aiohttp's decorator


async def test_the_decorator_fits_functions_methods_and_views() -> None:
    class Entries:
        @for_aiohttp.requires_scope("ledger:write")
        async def add(self, request: web.Request) -> web.Response:
            return web.Response(text=request[for_aiohttp.ACCESS_TOKEN].client_id)

    class View(web.View):
        @for_aiohttp.requires_scope("ledger:write")
        async def get(self) -> web.Response:
            return web.Response(text=self.request[for_aiohttp.ACCESS_TOKEN].client_id)

    @for_aiohttp.requires_scope("ledger:write")
    async def function(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    application = web.Application(middlewares=[for_aiohttp.access_token_middleware(MINT.verifier())])
    application.add_routes([
        web.get("/method", Entries().add), web.view("/view", View), web.get("/function", function),
    ])  # fmt: skip
    async with on_aiohttp(application) as base, aiohttp.ClientSession() as session:
        for path in ("/method", "/view", "/function"):
            statuses = []
            for scope in ("ledger:read", "ledger:read ledger:write"):
                headers = {"Authorization": f"Bearer {MINT.token(scope=scope)}"}
                async with session.get(f"{base}{path}", headers=headers) as answer:
                    statuses.append(answer.status)
            assert statuses == [403, 200], path


async def test_a_decorator_without_the_middleware_opens_nothing() -> None:
    @for_aiohttp.requires_scope("ledger:read")
    async def handler(_: web.Request) -> web.Response:
        return web.Response(text="open")

    application = web.Application()
    application.add_routes([web.get("/", handler)])
    headers = {"Authorization": f"Bearer {MINT.token()}"}
    async with (
        on_aiohttp(application) as base,
        aiohttp.ClientSession() as session,
        session.get(base, headers=headers) as answer,
    ):
        assert answer.status == 500


@pytest.mark.parametrize("option", ["scopes", "open_paths"])
def test_a_string_where_names_belong_is_told_at_once(option: str) -> None:
    verifier = MINT.verifier()
    for make in (
        lambda: for_aiohttp.access_token_middleware(verifier, **{option: "/"}),
        lambda: asgi.AccessTokenMiddleware(lambda *_: asyncio.sleep(0), verifier=verifier, **{option: "/"}),
        lambda: wsgi.AccessTokenMiddleware(lambda *_: [], verifier=verifier, **{option: "/"}),
    ):
        with pytest.raises(TypeError):
            make()
