import asyncio
import contextlib
import gzip
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.identity.fetcher import (
    FETCH_OUTCOMES,
    MAX_BODY_BYTES,
    FetchError,
    HttpFetcher,
    is_public_address,
    parse_max_age,
)
from tests.support.issuer_server import IssuerServer, issuer_server
from tests.support.tokens import SigningIssuer

LOOPBACK: dict[str, Any] = {"private_network": True, "insecure_http": True}


@pytest.fixture
async def server() -> AsyncIterator[IssuerServer]:
    async with issuer_server(SigningIssuer("ES256")) as running:
        yield running


async def outcome_of(url: str, fetcher: HttpFetcher | None = None, **options: Any) -> str:
    with pytest.raises(FetchError) as failed:
        await (fetcher or HttpFetcher()).get(url, **LOOPBACK | options)
    assert failed.value.outcome in FETCH_OUTCOMES
    return failed.value.outcome


async def test_a_document_comes_with_its_freshness_and_its_entity_tag(server: IssuerServer) -> None:
    server.headers = {"Cache-Control": "public, max-age=3600", "ETag": '"one"'}
    fetched = await HttpFetcher().get(f"{server.base}/jwks", **LOOPBACK)
    assert (fetched.status, fetched.max_age_seconds, fetched.etag) == (200, 3600, '"one"')


async def test_an_unchanged_document_is_not_sent_again(server: IssuerServer) -> None:
    async def not_modified(request: web.Request) -> web.Response:
        return web.Response(status=304 if request.headers.get("If-None-Match") == '"one"' else 200)

    server.instead = not_modified
    fetched = await HttpFetcher().get(f"{server.base}/jwks", etag='"one"', **LOOPBACK)
    assert (fetched.status, fetched.body) == (304, b"")


async def test_an_uncalled_for_304_is_a_failure(server: IssuerServer) -> None:
    async def not_modified(_: web.Request) -> web.Response:
        return web.Response(status=304)

    server.instead = not_modified
    assert await outcome_of(f"{server.base}/jwks") == "redirect"


# ------------------------------------------------------------ where it may connect to


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "100.127.255.255", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1",
        "239.255.255.255", "240.0.0.1", "255.255.255.255", "192.88.99.1",
        "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "ff02::1", "fec0::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1",
        "2002:7f00:1::", "2001::1", "100::1", "", "example.com", "2130706433", "0x7f.1",
    ],
)  # fmt: skip
def test_an_address_that_is_not_plainly_of_the_internet_is_not_public(address: str) -> None:
    assert not is_public_address(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public_address(address)


async def test_an_ip_literal_of_loopback_is_refused_without_a_connection(server: IssuerServer) -> None:
    assert await outcome_of(f"{server.base}/jwks", private_network=False) == "forbidden_address"
    assert server.requests == []


@pytest.mark.parametrize("host", ["[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1"])
async def test_no_spelling_of_a_private_address_is_dialled(host: str) -> None:
    assert await outcome_of(f"http://{host}:9/jwks", private_network=False) == "forbidden_address"


class Rebinding(AbstractResolver):
    """A name whose address was public yesterday."""

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host="127.0.0.1", port=port, family=2, proto=0, flags=0),
        ]

    async def close(self) -> None:
        pass


async def test_a_name_that_resolves_to_loopback_is_refused_at_dial_time(server: IssuerServer) -> None:
    port = server.base.rpartition(":")[2]
    fetcher = HttpFetcher(resolver=Rebinding())
    url = f"http://issuer.example:{port}/jwks"
    assert await outcome_of(url, fetcher, private_network=False) == "forbidden_address"
    assert server.requests == []
    assert (await fetcher.get(url, **LOOPBACK)).status == 200


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example/jwks", "ftp://issuer.example/jwks", "file:///etc/passwd", "/jwks", "", "https://",
        "https://user@issuer.example/jwks", "https://issuer.example/jwks#a", "https://issuer.example/\r\nX: y",
        "https://issuer.example:99999/", "https://[::1/", "https://issuer.ex\u00e4mple/", "https://" + "a" * 3000,
    ],
)  # fmt: skip
async def test_only_a_plain_https_url_is_fetched(url: str) -> None:
    assert await outcome_of(url, insecure_http=False) == "url"


async def test_proxies_of_the_environment_are_not_used(server: IssuerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert (await HttpFetcher().get(f"{server.base}/jwks", **LOOPBACK)).status == 200


async def test_a_redirect_is_not_followed(server: IssuerServer) -> None:
    async def redirect(_: web.Request) -> web.Response:
        raise web.HTTPFound("http://169.254.169.254/latest/meta-data")

    server.instead = redirect
    assert await outcome_of(f"{server.base}/jwks") == "redirect"
    assert server.fetches == 1


async def test_a_name_is_looked_up_by_the_system(server: IssuerServer) -> None:
    port = server.base.rpartition(":")[2]
    assert (await HttpFetcher().get(f"http://localhost:{port}/jwks", **LOOPBACK)).status == 200
    assert await outcome_of(f"http://localhost:{port}/jwks", private_network=False) == "forbidden_address"


async def test_a_name_that_does_not_exist_is_a_failure() -> None:
    class Unknowing(Rebinding):
        async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
            raise OSError("no such name")

    assert await outcome_of("https://issuer.example/jwks", HttpFetcher(resolver=Unknowing())) == "dns"


async def test_a_resolver_that_hangs_runs_out_of_time() -> None:
    class Hanging(Rebinding):
        async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
            await asyncio.Event().wait()
            return []

    fetcher = HttpFetcher(resolver=Hanging(), total_seconds=0.02)
    assert await outcome_of("https://issuer.example/jwks", fetcher) == "timeout"


# ------------------------------------------------------------ what it may answer


@pytest.mark.parametrize("status", [201, 204, 206, 400, 401, 404, 429, 500, 503])
async def test_anything_but_200_is_a_failure(server: IssuerServer, status: int) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status)

    server.instead = answer
    assert await outcome_of(f"{server.base}/jwks") == "status"


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_beyond_the_limit_is_given_up(server: IssuerServer, chunked: bool) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if not chunked:
            response.content_length = 1 << 30
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b" " * 65536)
        return response

    server.instead = endless
    assert await outcome_of(f"{server.base}/jwks") == "too_large"


async def test_a_body_at_the_limit_is_read(server: IssuerServer) -> None:
    server.jwks = b" " * MAX_BODY_BYTES
    assert len((await HttpFetcher().get(f"{server.base}/jwks", **LOOPBACK)).body) == MAX_BODY_BYTES


async def test_a_compressed_bomb_is_not_unpacked(server: IssuerServer) -> None:
    bomb = gzip.compress(b" " * 50_000_000)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})

    server.instead = answer
    assert await outcome_of(f"{server.base}/jwks") == "encoding"


async def test_a_slow_body_runs_out_of_time(server: IssuerServer) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"{")
        await asyncio.Event().wait()
        return response

    server.instead = drip
    assert await outcome_of(f"{server.base}/jwks", HttpFetcher(total_seconds=0.05)) == "timeout"


async def test_a_flood_of_headers_is_refused(server: IssuerServer) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(headers={f"X-{number}": "x" for number in range(200)})

    server.instead = answer
    assert await outcome_of(f"{server.base}/jwks") == "protocol"


async def test_a_broken_connection_is_a_failure(server: IssuerServer) -> None:
    server.down = True
    assert await outcome_of(f"{server.base}/jwks") in {"protocol", "connect"}


async def test_a_closed_port_is_a_failure() -> None:
    async with issuer_server(SigningIssuer("ES256")) as gone:
        url = f"{gone.base}/jwks"
    assert await outcome_of(url) == "connect"


async def test_cookies_are_not_kept(server: IssuerServer) -> None:
    seen: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Cookie"))
        return web.Response(headers={"Set-Cookie": "a=b"})

    server.instead = answer
    fetcher = HttpFetcher()
    await fetcher.get(f"{server.base}/jwks", **LOOPBACK)
    await fetcher.get(f"{server.base}/jwks", **LOOPBACK)
    assert seen == [None, None]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("max-age=600", 600), ("public, max-age=3600, must-revalidate", 3600), ("Max-Age=5", 5), ("no-store", 0),
        ("no-cache, max-age=60", 0), ("", None), ("max-age=x", None), ("max-age=-1", None), ("s-maxage", None),
    ],
)  # fmt: skip
def test_freshness_is_read_from_cache_control(header: str, seconds: int | None) -> None:
    assert parse_max_age(header) == seconds


# ------------------------------------------------------------ credentials


async def test_the_bearer_token_is_read_again_for_each_fetch(server: IssuerServer, tmp_path: Path) -> None:
    file = tmp_path / "token"
    for token in ("first", "second"):
        file.write_text(f"{token}\n")
        await HttpFetcher().get(f"{server.base}/jwks", bearer_token_file=str(file), **LOOPBACK)
    assert server.authorization == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize("content", [b"", b"two words", b"line\r\nX-Injected: yes", b"\xff", b"x" * 20_000])
async def test_a_file_without_a_bearer_token_is_a_failure(server: IssuerServer, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    assert await outcome_of(f"{server.base}/jwks", bearer_token_file=str(file)) == "credentials"
    assert server.requests == []


async def test_a_missing_file_is_a_failure(server: IssuerServer, tmp_path: Path) -> None:
    assert await outcome_of(f"{server.base}/jwks", bearer_token_file=str(tmp_path / "none")) == "credentials"
    assert await outcome_of(f"{server.base}/jwks", ca_file=str(tmp_path / "none")) == "credentials"


async def test_tls_is_verified_against_the_ca_file_as_it_is_now(tmp_path: Path) -> None:
    old, new = trustme.CA(), trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    new.issue_cert("127.0.0.1").configure_cert(context)
    ca_file = tmp_path / "ca.crt"
    old.cert_pem.write_to_path(ca_file)
    async with issuer_server(SigningIssuer("ES256"), tls=context) as server:
        fetcher, url = HttpFetcher(), f"{server.base}/jwks"
        assert await outcome_of(url, fetcher, insecure_http=False) == "tls"
        assert await outcome_of(url, fetcher, insecure_http=False, ca_file=str(ca_file)) == "tls"
        new.cert_pem.write_to_path(ca_file)
        assert (await fetcher.get(url, private_network=True, ca_file=str(ca_file))).status == 200


async def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("issuer.example").configure_cert(context)
    ca_file = tmp_path / "ca.crt"
    authority.cert_pem.write_to_path(ca_file)
    async with issuer_server(SigningIssuer("ES256"), tls=context) as server:
        assert await outcome_of(f"{server.base}/jwks", ca_file=str(ca_file)) == "tls"
