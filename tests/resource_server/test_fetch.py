"""One document over real sockets: bounded, never redirected, https unless told."""

import asyncio
import gzip
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from gateway.resource_server.fetch import MAX_BODY_BYTES, Fetched, FetchError, HttpFetch
from tests.support.issuer_server import IssuerServer, issuer_server
from tests.support.tokens import SigningIssuer


@pytest.fixture
async def server() -> AsyncIterator[IssuerServer]:
    async with issuer_server(SigningIssuer("ES256")) as running:
        yield running


async def fetched(url: str, etag: str | None = None, **options: Any) -> Fetched:
    fetch = HttpFetch(**{"ca_file": None, "insecure_http": True} | options)
    return await asyncio.to_thread(fetch, url, etag)


async def why(url: str, **options: Any) -> str:
    with pytest.raises(FetchError) as failed:
        await fetched(url, **options)
    return str(failed.value)


async def test_a_document_comes_with_its_freshness_and_its_entity_tag(server: IssuerServer) -> None:
    server.headers = {"Cache-Control": "public, max-age=3600", "ETag": '"one"'}
    document = await fetched(f"{server.base}/jwks?a=b")
    assert (document.status, document.max_age_seconds, document.etag) == (200, 3600, '"one"')
    assert document.body.startswith(b'{"keys"')


@pytest.mark.parametrize(
    ("header", "seconds"), [("no-store", 0), ("no-cache, max-age=5", 0), ("", None), ("max-age=x", None)]
)
async def test_what_must_not_be_stored_is_stale_at_once(server: IssuerServer, header: str, seconds: int | None) -> None:
    server.headers = {"Cache-Control": header, "ETag": "no tag"}
    document = await fetched(f"{server.base}/jwks")
    assert (document.max_age_seconds, document.etag) == (seconds, None)


async def test_an_unchanged_document_is_not_sent_again(server: IssuerServer) -> None:
    async def not_modified(request: web.Request) -> web.Response:
        return web.Response(status=304 if request.headers.get("If-None-Match") == '"one"' else 200)

    server.instead = not_modified
    document = await fetched(f"{server.base}/jwks", '"one"')
    assert (document.status, document.body) == (304, b"")


def answering(**answer: Any) -> Any:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(**answer)

    return handler


@pytest.mark.parametrize(
    ("handler", "text"),
    [
        (answering(status=304), "status 304"),
        (answering(status=302, headers={"Location": "http://127.0.0.1:1/"}), "no redirects"),
        (answering(status=404), "status 404"),
        (answering(status=500), "status 500"),
        (answering(status=206), "status 206"),
        (answering(body=b"x" * (MAX_BODY_BYTES + 1)), "larger than"),
        (answering(body=gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"}), "compressed"),
    ],
)
async def test_anything_but_the_document_is_a_failure(server: IssuerServer, handler: Any, text: str) -> None:
    server.instead = handler
    assert text in await why(f"{server.base}/jwks")


async def test_a_broken_connection_is_a_failure(server: IssuerServer) -> None:
    server.down = True
    assert await why(f"{server.base}/jwks")
    assert await why("http://127.0.0.1:1/jwks")


async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(head)
    try:
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)
    except ConnectionError:
        pass
    finally:
        writer.close()


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"])
async def test_a_slow_answer_is_given_up_however_it_drips(head: bytes) -> None:
    server = await asyncio.start_server(lambda reader, writer: dripping(reader, writer, head), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        started = time.monotonic()
        assert await why(f"http://127.0.0.1:{port}/", total_seconds=0.2)
        assert time.monotonic() - started < 3


async def test_an_answer_that_ends_early_is_a_failure() -> None:
    async def short(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_server(short, "127.0.0.1", 0)
    async with server:
        assert await why(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "file:///etc/passwd", "ftp://127.0.0.1/", "https://", "https://u@127.0.0.1/", "//x", "",
        "https://127.0.0.1/ x", "https://127.0.0.1/#x", "https://127.0.0.1:0/", "https://127.0.0.1:x/", "https://[::1",
    ],
)  # fmt: skip
async def test_a_url_that_is_not_for_keys_is_not_asked(url: str) -> None:
    assert await why(url, insecure_http=False)


async def test_a_certificate_is_checked_against_the_given_authority(tmp_path: Path) -> None:
    authority, ca_file = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    async with issuer_server(SigningIssuer("ES256"), tls=context, host="localhost") as server:
        assert (await fetched(f"{server.base}/jwks", ca_file=str(ca_file), insecure_http=False)).status == 200
        assert "CERTIFICATE_VERIFY_FAILED" in await why(f"{server.base}/jwks")
        assert "127.0.0.1" in await why(server.base.replace("localhost", "127.0.0.1"), ca_file=str(ca_file))
    assert "CA file" in await why("https://localhost/", ca_file=str(tmp_path / "missing.pem"))
