"""One GET of a small public document with the standard library: bounded in time and size, never redirected."""

import http.client
import io
import re
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import SplitResult, urlsplit

MAX_BODY_BYTES = 100 * 1024
TOTAL_SECONDS = 5.0

_URL = re.compile(r"[\x21-\x7e]{1,2048}")
_ENTITY_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]{0,256}"')  # RFC 9110 §8.8.3
_MAX_AGE = re.compile(r"max-age=([0-9]{1,9})", re.IGNORECASE)
_NO_STORE = re.compile(r"no-store|no-cache", re.IGNORECASE)


class FetchError(Exception):
    """A document that could not be had; the text says why."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A 200 with its body, or a 304 without one."""

    status: int
    body: bytes
    max_age_seconds: int | None = None
    """How long the answer says that it stays fresh; 0 where it must not be stored, None where it says nothing."""
    etag: str | None = None


class Fetch(Protocol):
    """Gets one document, and may take seconds for it."""

    def __call__(self, url: str, etag: str | None) -> Fetched:
        """The document; with ``etag``, a 304 if it is still that one. Raises ``FetchError``."""


class HttpFetch:
    """``Fetch`` from servers that the operating system's certificate authorities vouch for, or only ``ca_file``'s.

    ``insecure_http`` allows ``http`` as well. No proxies, no cookies, no decompression.
    """

    def __init__(self, *, ca_file: str | None, insecure_http: bool, total_seconds: float = TOTAL_SECONDS) -> None:
        self._ca_file = ca_file
        self._insecure_http = insecure_http
        self._total_seconds = total_seconds

    def __call__(self, url: str, etag: str | None) -> Fetched:
        """As ``Fetch.__call__``."""
        target = check_url(url, insecure_http=self._insecure_http)
        deadline = time.monotonic() + self._total_seconds
        try:
            connection = self._connection(target)
        except OSError as error:  # ssl.SSLError, for a file without a certificate, is one
            raise FetchError(f"the CA file cannot be used: {error}") from error
        try:
            connection.connect()
            # The response counts this down as a whole (see _PromptResponse).
            connection.sock.settimeout(max(deadline - time.monotonic(), 0.001))
            query = f"?{target.query}" if target.query else ""
            connection.request("GET", (target.path or "/") + query, headers=_headers(etag))
            return _read(connection.getresponse(), conditional=etag is not None)
        except (OSError, http.client.HTTPException) as error:
            raise FetchError(f"no answer from {target.netloc}: {str(error) or type(error).__name__}") from error
        finally:
            connection.close()

    def _connection(self, target: SplitResult) -> http.client.HTTPConnection:
        host = target.hostname or ""
        if target.scheme == "http":
            return _PlainConnection(host, target.port, timeout=self._total_seconds)
        context = ssl.create_default_context(cafile=self._ca_file)  # read anew each time: a private CA rotates
        return _SecureConnection(host, target.port, timeout=self._total_seconds, context=context)


def check_url(url: str, *, insecure_http: bool) -> SplitResult:
    """The URL taken apart. Raises ``FetchError`` for one that keys must not be fetched from."""
    try:
        parts = urlsplit(url) if _URL.fullmatch(url) else None
        usable = parts is not None and parts.hostname and parts.port != 0
    except ValueError:
        parts, usable = None, False
    if parts is None or not usable or "@" in parts.netloc or parts.fragment:
        raise FetchError("the URL is not absolute, or holds a user or a fragment")
    if parts.scheme != "https" and not (insecure_http and parts.scheme == "http"):
        raise FetchError(f"{parts.netloc} is not to be asked over {parts.scheme} (insecure_http)")
    return parts


def _headers(etag: str | None) -> dict[str, str]:
    headers = {
        "Accept": "application/jwk-set+json, application/json",
        "Accept-Encoding": "identity",
        "User-Agent": "workload-identity-gateway-resource-server",
    }
    return headers if etag is None else {**headers, "If-None-Match": etag}


def _read(response: http.client.HTTPResponse, *, conditional: bool) -> Fetched:
    if response.status != 200 and not (response.status == 304 and conditional):
        raise FetchError(f"status {response.status}" + (": no redirects" if 300 <= response.status < 400 else ""))
    if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise FetchError("the body is compressed, which was not asked for")
    body = response.read(MAX_BODY_BYTES + 1)
    if len(body) > MAX_BODY_BYTES:
        raise FetchError(f"the body is larger than {MAX_BODY_BYTES} bytes")
    if response.length:
        raise http.client.IncompleteRead(body)
    etag = response.headers.get("ETag", "")
    return Fetched(
        status=response.status,
        body=body,
        max_age_seconds=_max_age(response.headers.get("Cache-Control", "")),
        etag=etag if _ENTITY_TAG.fullmatch(etag) else None,
    )


def _max_age(cache_control: str) -> int | None:
    if _NO_STORE.search(cache_control):
        return 0
    found = _MAX_AGE.search(cache_control)
    return int(found[1]) if found else None


class _PromptReader(io.RawIOBase):
    """Reads from a socket for as long as its timeout says altogether, where the socket means each single read."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock = sock
        self._raw = raw
        self._deadline = time.monotonic() + (sock.gettimeout() or TOTAL_SECONDS)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("it took too long")
        self._sock.settimeout(remaining)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _PromptResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_PromptReader(sock, self.fp.detach()))


class _PlainConnection(http.client.HTTPConnection):
    response_class = _PromptResponse


class _SecureConnection(http.client.HTTPSConnection):
    response_class = _PromptResponse
