"""One HTTP request with the standard library: bounded in time and size, never redirected, https unless told.

Raises ``Unavailable`` for what may pass and ``UntrustedAnswer`` for what will not.
"""

import base64
import http.client
import io
import re
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from email.utils import mktime_tz, parsedate_tz
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from gateway.client.errors import Misuse, Unavailable, UntrustedAnswer
from gateway.model import Clock

MAX_ANSWER_BYTES = 256 * 1024
USER_AGENT = "workload-identity-gateway-client"

_URL = re.compile(r"[\x21-\x7e]{1,4096}")
_SECONDS = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer of at most ``MAX_ANSWER_BYTES``."""

    status: int
    headers: Message
    body: bytes


class Fetcher:
    """Sends requests to servers that the operating system's certificate authorities vouch for, or only ``ca_file``'s.

    ``insecure_http`` allows ``http`` as well. A proxy is used for https where the environment names one
    (``HTTPS_PROXY``, ``NO_PROXY``): through a tunnel, so that it sees no token.
    """

    def __init__(self, *, ca_file: str | None = None, insecure_http: bool = False) -> None:
        self._ca_file = ca_file
        self._insecure_http = insecure_http
        self._context: ssl.SSLContext | None = None

    def send(
        self, method: str, url: str, *, timeout_seconds: float, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        """The answer, of whatever status but a redirect."""
        target = check_url(url, insecure_http=self._insecure_http)
        deadline = time.monotonic() + timeout_seconds
        connection = self._connection(target, timeout_seconds)
        try:
            connection.connect()
            # The response counts this down as a whole (see _PromptResponse); so does socket.sendall.
            connection.sock.settimeout(max(deadline - time.monotonic(), 0.001))
            connection.request(method, _path(target), body, {"User-Agent": USER_AGENT, **headers})
            return _read(connection.getresponse(), target)
        except ssl.SSLCertVerificationError as fault:
            raise UntrustedAnswer(
                f"The certificate of {target.netloc} cannot be trusted: {fault.verify_message}. "
                "If it was issued by your own authority, name its file as the CA file."
            ) from None
        except (OSError, http.client.HTTPException) as fault:
            raise Unavailable(f"No answer from {target.netloc}: {_cause(fault)}.") from None
        finally:
            connection.close()

    def _connection(self, target: SplitResult, timeout_seconds: float) -> http.client.HTTPConnection:
        host = target.hostname or ""
        if target.scheme == "http":
            return _PlainConnection(host, target.port, timeout=timeout_seconds)
        proxy = _proxy_for(target)
        if proxy is None:
            return _SecureConnection(host, target.port, timeout=timeout_seconds, context=self._tls())
        tunnel = _SecureConnection(proxy.hostname or "", proxy.port or 80, timeout=timeout_seconds, context=self._tls())
        tunnel.set_tunnel(host, target.port or 443, _proxy_credentials(proxy))
        return tunnel

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            try:
                self._context = ssl.create_default_context(cafile=self._ca_file)
            except OSError as fault:  # ssl.SSLError, for a file without a certificate, is one
                raise Misuse(f"The CA file {self._ca_file} cannot be used: {fault.strerror or fault}.") from None
        return self._context


def check_url(url: str, *, insecure_http: bool) -> SplitResult:
    """The URL taken apart. Raises ``Misuse`` for one that a secret must not be sent to."""
    try:
        parts = urlsplit(url) if _URL.fullmatch(url) else None
        usable = parts is not None and parts.hostname and parts.port != 0
    except ValueError:
        parts, usable = None, False
    if parts is None or not usable or parts.scheme not in {"https", "http"}:
        raise Misuse("A URL is needed that starts with https:// and names a host.")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise Misuse(f"The URL of {parts.hostname} must hold neither a user, nor a password, nor a fragment.")
    if parts.scheme == "http" and not insecure_http:
        raise Misuse(
            f"http://{parts.netloc} would show the token to the network: use https (or --insecure-http in a test)."
        )
    return parts


def retry_after_seconds(headers: Message, clock: Clock) -> float | None:
    """How long the server asks to wait (RFC 9110 §10.2.3); None where it does not say.

    A date is read against the server's own ``Date`` where it sends one, because its clock and ours may differ.
    """
    text = (headers.get("Retry-After") or "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    then = _http_date(text)
    if then is None:
        return None
    now = _http_date(headers.get("Date") or "")
    return max(then - (clock() if now is None else now), 0.0)


def _read(response: http.client.HTTPResponse, target: SplitResult) -> Answer:
    if 300 <= response.status < 400:
        raise UntrustedAnswer(f"{target.netloc} redirects elsewhere; a token is never sent after a redirect.")
    if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise UntrustedAnswer(f"{target.netloc} sent a compressed answer that was not asked for.")
    body = response.read(MAX_ANSWER_BYTES + 1)
    if len(body) > MAX_ANSWER_BYTES:
        raise UntrustedAnswer(f"{target.netloc} sent more than {MAX_ANSWER_BYTES // 1024} KiB.")
    if response.length:
        raise http.client.IncompleteRead(body)
    return Answer(response.status, response.headers, body)


def _path(target: SplitResult) -> str:
    return (target.path or "/") + (f"?{target.query}" if target.query else "")


def _cause(fault: BaseException) -> str:
    # Only texts that cannot repeat what was sent.
    if isinstance(fault, TimeoutError):
        return "it took too long"
    if isinstance(fault, OSError) and fault.strerror:
        return fault.strerror
    return type(fault).__name__


def _http_date(text: str) -> float | None:
    parsed = parsedate_tz(text[:64])
    try:
        return None if parsed is None else float(mktime_tz(parsed))
    except (ValueError, OverflowError):
        return None


def _proxy_for(target: SplitResult) -> SplitResult | None:
    named = getproxies().get("https")
    if not named or proxy_bypass(target.netloc):
        return None
    try:
        proxy = urlsplit(named if "://" in named else f"http://{named}")
        if proxy.scheme == "http" and proxy.hostname and proxy.port != 0:
            return proxy
    except ValueError:
        pass
    raise Misuse("HTTPS_PROXY names no proxy of the form http://host:port.")


def _proxy_credentials(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


class _PromptReader(io.RawIOBase):
    """Reads from a socket for as long as its timeout says altogether, where the socket means each single read."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock = sock
        self._raw = raw
        timeout_seconds = sock.gettimeout()
        self._deadline = time.monotonic() + (10.0 if timeout_seconds is None else timeout_seconds)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
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
