"""A TLS client certificate from the header of a proxy that ends TLS, for certificate-bound tokens (RFC 8705 §3).

Believe such a header only where nothing but that proxy can reach the API, and the proxy sets or removes it in every
request. No middleware reads one unless it is told to: ``certificate=lambda request: parse_client_cert(...)``.
"""

import base64
import re
import ssl
from urllib.parse import unquote

MAX_HEADER_LENGTH = 16 * 1024

_PEM = re.compile(r"\s*-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----\s*")


def parse_client_cert(header: str | None) -> bytes | None:
    """The DER in a ``Client-Cert`` header (RFC 9440 §2.1): base64 between colons. None for anything else."""
    if header is None or len(header) > MAX_HEADER_LENGTH or header[:1] != ":" or header[-1:] != ":":
        return None
    try:
        return base64.b64decode(header[1:-1], validate=True) or None
    except ValueError:
        return None


def parse_escaped_pem(header: str | None) -> bytes | None:
    """The DER in a percent-encoded PEM, as nginx's ``$ssl_client_escaped_cert`` has it. None for anything else."""
    return None if header is None or len(header) > MAX_HEADER_LENGTH else parse_pem(unquote(header))


def parse_pem(text: str) -> bytes | None:
    """The DER of one PEM certificate. None for anything else."""
    if not _PEM.fullmatch(text):
        return None
    try:
        return ssl.PEM_cert_to_DER_cert(text.strip()) or None
    except ValueError:
        return None
