"""TLS on the public listener, and whose client certificates are let in.

OpenSSL ends a handshake whose client certificate it cannot verify, and Python's ``ssl`` has no way to overrule it: no
callback, no flag. So certificates that no CA of ours signed are let in one by one: each is an anchor for itself.
"""

import ssl
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding


class ServerContext(ssl.SSLContext):
    """A server's context that remembers which client certificates it trusts for themselves alone, as DER."""

    pinned: frozenset[bytes] = frozenset()


def tls_context(
    certificate: Path, key: Path, *, client_ca: Path | None = None, client_certificates: Path | None = None
) -> ServerContext:
    """A context for TLS 1.2 and later from PEM files.

    With CAs or client certificates, a client is asked for a certificate, may go without one, and is turned away with
    any other. Raises ``OSError`` that names the file which cannot be used.
    """
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM")  # of TLS 1.2 what RFC 9325 §4.2 recommends; those of 1.3 are none of this
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        raise OSError(f"tls.certificate {certificate} with tls.key {key}: {error}") from error
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except OSError as error:
            raise OSError(f"tls.client_ca {client_ca}: {error}") from error
    if client_certificates is not None:
        context.pinned = _read_pinned(client_certificates)
        context.load_verify_locations(cadata=b"".join(context.pinned))
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an anchor need not be signed by itself
    if client_ca is not None or client_certificates is not None:
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _read_pinned(file: Path) -> frozenset[bytes]:
    try:
        certificates = x509.load_pem_x509_certificates(file.read_bytes())
        _check_no_authority(certificates)
    except (OSError, ValueError, x509.DuplicateExtension) as error:
        raise OSError(f"tls.client_certificates {file}: {error}") from error
    return frozenset(certificate.public_bytes(Encoding.DER) for certificate in certificates)


def _check_no_authority(certificates: Iterable[x509.Certificate]) -> None:
    """An anchor that may sign would let its holder in under every name: whoever has one could write any other."""
    for number, certificate in enumerate(certificates, 1):
        try:
            is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except x509.ExtensionNotFound:
            is_authority = True  # OpenSSL takes some of these for a CA
        if is_authority:
            raise ValueError(
                f"certificate {number} may sign others; make one with basicConstraints=critical,CA:FALSE "
                "(openssl req -x509 -addext)"
            )
