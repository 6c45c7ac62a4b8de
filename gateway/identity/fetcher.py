"""Outbound HTTP to issuers: one bounded GET of a small public document, and nothing that a peer could bend.

No redirects, no proxies from the environment, no cookies, no decompression; the address is checked at the moment of
dialling, so neither an IP literal nor a name that changes its mind gets through.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from gateway.identity.regular_file import stat_regular_file

MAX_BODY_BYTES = 100 * 1024
MAX_CREDENTIAL_BYTES = 16 * 1024
TOTAL_SECONDS = 5.0
CONNECT_SECONDS = 2.0
MAX_THREADS = 64

# Beyond what Python's own lists call not global: ways to write a private IPv4 address as an IPv6 one (6to4, NAT64,
# IPv4-compatible), and the old site-local range.
_NEVER_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in ("::/8", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/23", "2002::/16", "fec0::/10", "192.88.99.0/24")
)
_URL = re.compile(r"[\x21-\x7e]{1,2048}")
_BEARER_TOKEN = re.compile(r"[\x21-\x7e]+")
_ENTITY_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]{0,256}"')  # RFC 9110 §8.8.3
_MAX_AGE = re.compile(r"max-age=([0-9]{1,9})", re.IGNORECASE)
_NO_STORE = re.compile(r"no-store|no-cache", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A 200 with its body, or a 304 without one."""

    status: int
    body: bytes
    max_age_seconds: int | None = None
    """How long the answer says that it stays fresh; 0 where it must not be stored, None where it says nothing."""
    etag: str | None = None


class FetchError(Exception):
    """A document that could not be had. ``outcome`` is a metric label from the closed set ``FETCH_OUTCOMES``."""

    def __init__(self, outcome: str, detail: str) -> None:
        super().__init__(outcome, detail)
        self.outcome = outcome
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.outcome}: {self.detail}"


FETCH_OUTCOMES = (
    "ok", "not_modified", "url", "credentials", "dns", "forbidden_address", "connect", "tls", "timeout", "protocol",
    "redirect", "status", "encoding", "too_large", "content", "internal",
)  # fmt: skip
"""How a fetch can end. ``content`` is for whoever reads the document, ``internal`` for our own mistakes."""


class Fetcher(Protocol):
    """Gets one document."""

    async def get(
        self,
        url: str,
        *,
        ca_file: str | None = None,
        bearer_token_file: str | None = None,
        private_network: bool = False,
        insecure_http: bool = False,
        etag: str | None = None,
    ) -> Fetched:
        """The document at ``url``, at most 100 KiB; with ``etag``, a 304 if it is still that one.

        Files are read at each call. Raises ``FetchError`` for everything else, within seconds.
        """


class HttpFetcher:
    """``Fetcher`` over aiohttp, with a connection of its own for each document: fetches are rare.

    Names are looked up and files are read in threads of its own, so that a resolver that hangs holds up nothing else.
    """

    def __init__(
        self,
        *,
        resolver: AbstractResolver | None = None,
        total_seconds: float = TOTAL_SECONDS,
        connect_seconds: float = CONNECT_SECONDS,
    ) -> None:
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="fetcher")
        self._resolver = resolver or _Resolver(self._threads)
        self._total_seconds = total_seconds
        self._connect_timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds)
        self._public_roots: ssl.SSLContext | None = None

    async def get(
        self,
        url: str,
        *,
        ca_file: str | None = None,
        bearer_token_file: str | None = None,
        private_network: bool = False,
        insecure_http: bool = False,
        etag: str | None = None,
    ) -> Fetched:
        """As ``Fetcher.get``."""
        target = _parse_url(url, insecure_http=insecure_http)
        headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
        if etag is not None:
            headers["If-None-Match"] = etag
        dialler = _Dialler(private_network=private_network)
        try:
            async with asyncio.timeout(self._total_seconds):
                context, authorization = await self._credentials(ca_file, bearer_token_file)
                return await self._exchange(target, headers | authorization, context, dialler)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _fetch_error(error, dialler) from error

    async def _credentials(
        self, ca_file: str | None, bearer_token_file: str | None
    ) -> tuple[ssl.SSLContext, dict[str, str]]:
        """What to trust and what to present, as the files say now."""
        in_thread = partial(asyncio.get_running_loop().run_in_executor, self._threads)
        try:
            context = await in_thread(self._tls_context, ca_file)
            if bearer_token_file is None:
                return context, {}
            return context, {"Authorization": f"Bearer {await in_thread(_read_bearer_token, bearer_token_file)}"}
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise FetchError("credentials", str(error)) from error

    async def _exchange(
        self, target: URL, headers: dict[str, str], context: ssl.SSLContext, dialler: "_Dialler"
    ) -> Fetched:
        connector = aiohttp.TCPConnector(
            ssl=context, resolver=self._resolver, socket_factory=dialler, force_close=True, use_dns_cache=False
        )
        async with (
            aiohttp.ClientSession(
                connector=connector,
                timeout=self._connect_timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                max_headers=128,
                headers={"User-Agent": "workload-identity-gateway"},
            ) as session,
            session.get(target, headers=headers, allow_redirects=False) as response,
        ):
            _check_status(response, conditional="If-None-Match" in headers)
            return Fetched(
                status=response.status,
                body=await _read_body(response),
                max_age_seconds=parse_max_age(response.headers.get("Cache-Control", "")),
                etag=_entity_tag(response.headers.get("ETag")),
            )

    def _tls_context(self, ca_file: str | None) -> ssl.SSLContext:
        """A private CA is read anew each time, as it rotates; the machine's own roots are read once."""
        if ca_file is not None:
            stat_regular_file(ca_file)
            return ssl.create_default_context(cafile=ca_file)
        if self._public_roots is None:
            self._public_roots = ssl.create_default_context()
        return self._public_roots


class _Resolver(AbstractResolver):
    """The system's resolver, in threads that nothing else waits for."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """All addresses of a name. Raises ``OSError``."""
        look_up = partial(socket.getaddrinfo, host, port, family=family, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        return [
            ResolveResult(
                hostname=host, host=str(address[0]), port=port, family=kind, proto=protocol, flags=socket.AI_NUMERICHOST
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        """Nothing is held open."""


class _Dialler:
    """The last word before a connection: sees the very address that is about to be dialled."""

    def __init__(self, *, private_network: bool) -> None:
        self._private_network = private_network
        self.refused: list[str] = []

    def __call__(self, addr_info: tuple[Any, Any, int, str, tuple[Any, ...]]) -> socket.socket:
        family, kind, protocol, _, address = addr_info
        host = str(address[0])
        if not self._private_network and not is_public_address(host):
            self.refused.append(host)
            raise OSError(f"{host} is not a public address")
        return socket.socket(family=family, type=kind, proto=protocol)


def is_public_address(host: str) -> bool:
    """Whether an address belongs to the Internet: not loopback, private, link-local, shared (CGNAT), multicast or
    reserved, and no IPv6 spelling of such an IPv4 address (mapped, compatible, NAT64, 6to4).
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return False
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(address in network for network in _NEVER_PUBLIC)
    )


def parse_max_age(cache_control: str) -> int | None:
    """Seconds of freshness in a ``Cache-Control`` header (RFC 9111 §5.2.2)."""
    if _NO_STORE.search(cache_control):
        return 0
    found = _MAX_AGE.search(cache_control)
    return int(found[1]) if found else None


def _parse_url(url: str, *, insecure_http: bool) -> URL:
    try:
        target = URL(url)
    except ValueError as error:
        raise FetchError("url", str(error)) from error
    if not _URL.fullmatch(url) or not target.host or target.user is not None or target.fragment:
        raise FetchError("url", "is not an absolute URL without user name and fragment")
    if target.scheme != "https" and not (insecure_http and target.scheme == "http"):
        raise FetchError("url", f"is not https but {target.scheme}")
    return target


def _read_bearer_token(path: str) -> str:
    stat_regular_file(path)
    with Path(path).open("rb") as file:
        text = file.read(MAX_CREDENTIAL_BYTES + 1).strip().decode("ascii")
    if len(text) > MAX_CREDENTIAL_BYTES or not _BEARER_TOKEN.fullmatch(text):
        raise ValueError(f"{path} holds no bearer token")
    return text


def _check_status(response: aiohttp.ClientResponse, *, conditional: bool) -> None:
    if response.status == 200 or (response.status == 304 and conditional):
        return
    if 300 <= response.status < 400:
        raise FetchError("redirect", f"status {response.status}: redirects are not followed")
    raise FetchError("status", f"status {response.status}")


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise FetchError("encoding", "the body is compressed, which was not asked for")
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise FetchError("too_large", f"the body is larger than {MAX_BODY_BYTES} bytes")
    return bytes(body)


def _entity_tag(text: str | None) -> str | None:
    return text if text is not None and _ENTITY_TAG.fullmatch(text) else None


def _fetch_error(error: Exception, dialler: _Dialler) -> FetchError:
    if dialler.refused:
        return FetchError("forbidden_address", f"{', '.join(dialler.refused)}: no public address (private_network)")
    outcomes: tuple[tuple[type[Exception], str], ...] = (
        (aiohttp.ClientConnectorDNSError, "dns"),
        (aiohttp.ClientSSLError, "tls"),
        (TimeoutError, "timeout"),
        (aiohttp.ClientConnectorError, "connect"),
        (aiohttp.InvalidURL, "url"),
        (aiohttp.ClientError, "protocol"),
        (OSError, "connect"),
    )
    outcome = next((name for kind, name in outcomes if isinstance(error, kind)), "protocol")
    return FetchError(outcome, str(error) or type(error).__name__)
