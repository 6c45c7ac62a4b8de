"""The TLS client certificate of a request: that of the connection, or what a named proxy in front says of its own.

A proxy that ends TLS hands the certificate on in a header. The header is believed from the addresses that the settings
name and from nowhere else, in the one form that they name; what a client writes there on its own is never looked at.
"""

import base64
import binascii
import hashlib
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Literal
from urllib.parse import unquote_to_bytes

from aiohttp import web
from cryptography import x509
from multidict import CIMultiDictProxy

from gateway.http.source import is_within, parse_networks
from gateway.http.tls import ServerContext
from gateway.model import ClientCertificate
from gateway.oauth.errors import Refusal

ClientCertificateOf = Callable[[web.Request], ClientCertificate | None]

Header = Literal["nginx", "ingress-nginx", "envoy", "rfc9440"]
"""The forms in which proxies hand a certificate on."""

MAX_HEADER_CHARACTERS = 16 * 1024

_Headers = CIMultiDictProxy[str]
_Read = Callable[[_Headers], tuple[bytes, bool] | None]
"""The DER certificate that the headers hold, and whether the proxy says nothing against its chain."""

_PEM = re.compile(
    rb"-----BEGIN CERTIFICATE-----[ \r\n]([A-Za-z0-9+/= \r\n]*)-----END CERTIFICATE-----[ \r\n]*", re.ASCII
)
_ESCAPED = re.compile(r"(?:[A-Za-z0-9._~+/=-]|%[0-9A-Fa-f]{2})+")
_BYTE_SEQUENCE = re.compile(r":([A-Za-z0-9+/]+={0,2}):")  # RFC 8941 §3.3.5
_XFCC_PAIR = re.compile(r'([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^",;\\]*))(;|,|$)')


def client_certificate(
    proxies: Sequence[str] = (), header: Header = "nginx", *, chain_verified_by_proxy: bool = False
) -> ClientCertificateOf:
    """A function that finds the certificate of a request, or None where the client showed none.

    ``proxies`` are the networks (CIDR) of the proxies that end TLS; of a request from there, the header alone counts,
    for the connection's own certificate would be that of the proxy. ``chain_verified_by_proxy`` says that the proxy
    verifies what it hands on; nginx has to say so of each certificate as well. The function raises ``Refusal``
    (``invalid_client_certificate``) for a header of a proxy that is sent twice, too long or malformed.
    """
    networks = parse_networks(proxies)
    read = _READERS[header]

    def of(request: web.Request) -> ClientCertificate | None:
        if not is_within(networks, request.remote):
            return _of_connection(request)
        found = read(request.headers)
        if found is None:
            return None
        der, chain_verified = found
        return ClientCertificate(_checked(der), chain_verified and chain_verified_by_proxy)

    return of


def _of_connection(request: web.Request) -> ClientCertificate | None:
    """What the TLS handshake of this connection proved. A certificate that is trusted for itself has no chain."""
    tls = request.get_extra_info("ssl_object")
    if tls is None:
        return None
    der = tls.getpeercert(binary_form=True)
    if der is None:
        return None
    context = tls.context
    chain_verified = (
        isinstance(context, ServerContext) and context.verify_mode is not ssl.CERT_NONE and der not in context.pinned
    )
    return ClientCertificate(der, chain_verified)


# ---------------------------------------------------------------- headers of proxies


def _from_nginx(certificate_name: str, verify_name: str) -> _Read:
    def read(headers: _Headers) -> tuple[bytes, bool] | None:
        escaped, verify = _single(headers, certificate_name), _single(headers, verify_name)
        if not escaped and verify in {None, "", "NONE"}:
            return None
        if not escaped or not verify or verify == "NONE":
            raise _invalid(f"{certificate_name} and {verify_name} contradict each other")
        if verify != "SUCCESS" and not verify.startswith("FAILED"):
            raise _invalid(f"{verify_name} is none of SUCCESS, FAILED and NONE")
        return _from_escaped_pem(escaped), verify == "SUCCESS"

    return read


def _from_envoy(headers: _Headers) -> tuple[bytes, bool] | None:
    """``Hash`` and ``Cert`` of the one element. More than one may be forged: Envoy does not quote the names that a
    certificate holds, and appends to what a client sends where it is told to (``APPEND_FORWARD``).
    """
    text = _single(headers, "X-Forwarded-Client-Cert")
    if not text:
        return None
    element = parse_xfcc_element(text)
    if "cert" not in element:
        return None
    der = _from_escaped_pem(element["cert"])
    if element.get("hash", "").lower() != hashlib.sha256(der).hexdigest():
        raise _invalid("Hash of X-Forwarded-Client-Cert is not that of Cert")
    return der, True


def parse_xfcc_element(text: str) -> Mapping[str, str]:
    """``hash``, ``cert`` and whatever else there is but once, by its key in lower case, of an XFCC header with one
    element. Raises ``Refusal`` for more elements, and for text that could be read in two ways.
    """
    found: dict[str, str] = {}
    repeated: set[str] = set()
    position = 0
    while True:
        pair = _XFCC_PAIR.match(text, position)
        if pair is None:
            raise _invalid("X-Forwarded-Client-Cert is malformed")
        key, quoted, plain, separator = pair.groups()
        key = key.lower()
        if separator == ",":
            raise _invalid("X-Forwarded-Client-Cert has more than one element; let Envoy SANITIZE_SET it")
        repeated |= {key} & found.keys()
        found[key] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        position = pair.end()
        if not separator:
            break
    if repeated & {"hash", "cert"}:
        raise _invalid("X-Forwarded-Client-Cert has Hash or Cert twice")
    return {key: value for key, value in found.items() if key not in repeated}


def _from_rfc_9440(headers: _Headers) -> tuple[bytes, bool] | None:
    text = _single(headers, "Client-Cert")
    if not text:
        return None
    found = _BYTE_SEQUENCE.fullmatch(text.strip(" "))
    if found is None:
        raise _invalid("Client-Cert is no byte sequence (RFC 9440 section 2.1)")
    return _from_base64(found[1].encode()), True


_READERS: Mapping[Header, _Read] = {
    "nginx": _from_nginx("X-SSL-Client-Cert", "X-SSL-Client-Verify"),
    "ingress-nginx": _from_nginx("ssl-client-cert", "ssl-client-verify"),
    "envoy": _from_envoy,
    "rfc9440": _from_rfc_9440,
}


def _single(headers: _Headers, name: str) -> str | None:
    values = headers.getall(name, [])
    if len(values) > 1:
        raise _invalid(f"{name} was sent twice")
    if values and len(values[0]) > MAX_HEADER_CHARACTERS:
        raise _invalid(f"{name} is longer than {MAX_HEADER_CHARACTERS} characters")
    return values[0] if values else None


def _from_escaped_pem(text: str) -> bytes:
    """The DER of one percent-encoded PEM certificate, and nothing beside it."""
    if not _ESCAPED.fullmatch(text):
        raise _invalid("the certificate is not percent-encoded")
    found = _PEM.fullmatch(unquote_to_bytes(text))
    if found is None:
        raise _invalid("the certificate is not one PEM block")
    return _from_base64(re.sub(rb"[ \r\n]", b"", found[1]))


def _from_base64(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise _invalid("the certificate is not base64") from None


def _checked(der: bytes) -> bytes:
    try:
        x509.load_der_x509_certificate(der)
    except (ValueError, x509.InvalidVersion):
        raise _invalid("the certificate is not DER") from None
    return der


def _invalid(why: str) -> Refusal:
    return Refusal("invalid_client_certificate", internal=why)
