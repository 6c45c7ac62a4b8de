"""TLS on the public listener: whose client certificates are let in, and how its files are renewed while it serves.

OpenSSL ends a handshake whose client certificate it cannot verify, and Python's ``ssl`` has no way to overrule it: no
callback, no flag. So certificates that no CA of ours signed are let in one by one: each is an anchor for itself.
"""

import hashlib
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.identity.regular_file import stat_regular_file
from gateway.model import Clock

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2, those of RFC 9325 §4.2 and one for machines without AES in hardware; those of 1.3 are none of this."""
_MAX_FILE_BYTES = 1024 * 1024
_ATTEMPTS = 3
"""To read files that change meanwhile."""


class ServerContext(ssl.SSLContext):
    """A server's context that remembers which client certificates it trusts for themselves alone, as DER."""

    pinned: frozenset[bytes] = frozenset()


def tls_context(
    certificate: Path, key: Path, *, client_ca: Path | None = None, client_certificates: Path | None = None
) -> ServerContext:
    """A context for TLS 1.2 and later from PEM files.

    TLS 1.2 with forward secrecy and AEAD alone, no compression, no renegotiation, HTTP/1.1 (ALPN).
    With CAs or client certificates, a client is asked for a certificate, may go without one, and is turned away with
    any other. Raises ``OSError`` that names the file which cannot be used.
    """
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    try:
        for file in (certificate, key):
            stat_regular_file(file)
        context.load_cert_chain(certificate, key, _no_passphrase)
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


def _no_passphrase() -> bytes:
    """Without this OpenSSL asks on the terminal, and waits."""
    raise OSError("the key is encrypted with a passphrase; write it in plain, readable by the gateway alone")


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


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The PEM files of a listener with TLS."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    client_certificates: Path | None = None

    def present(self) -> tuple[Path, ...]:
        """Those that there are."""
        return tuple(
            one for one in (self.certificate, self.key, self.client_ca, self.client_certificates) if one is not None
        )

    def digest(self) -> tuple[str, ...]:
        """What stands in them. A file that cannot be read stands for itself: that is a content too."""
        return tuple(map(_digest_of, self.present()))

    def context(self) -> ServerContext:
        """A context from them, as ``tls_context``. Raises ``OSError``."""
        return tls_context(
            self.certificate, self.key, client_ca=self.client_ca, client_certificates=self.client_certificates
        )


@dataclass(frozen=True, slots=True)
class Validity:
    """When a chain of certificates is valid, in seconds since 1970: as long as all of it is."""

    begins_at: float
    ends_at: float

    @staticmethod
    def of(file: Path) -> "Validity":
        """That of a PEM file. Raises ``OSError``."""
        try:
            chain = x509.load_pem_x509_certificates(file.read_bytes())
        except ValueError as error:
            raise OSError(f"tls.certificate {file}: {error}") from error
        return Validity(
            max(one.not_valid_before_utc.timestamp() for one in chain),
            min(one.not_valid_after_utc.timestamp() for one in chain),
        )

    def fault(self, now: float) -> str | None:
        """What is wrong with it at this time, or None."""
        if now >= self.ends_at:
            return "has expired"
        return "is not valid yet" if now < self.begins_at else None


class RenewedTls:
    """The context of new connections, made anew from its files when they change: whole, or not at all.

    Connections that are there keep theirs. Nothing that was resumed outlives the files that it began under: a session
    is of the context that made it.
    """

    def __init__(self, files: TlsFiles, clock: Clock) -> None:
        self.files = files
        self._clock = clock
        self._context: ServerContext | None = None
        self._seen: tuple[str, ...] = ()
        """What stood in the files when they were looked at last, taken over or not."""
        self.validity = Validity(0.0, 0.0)
        self.failures = 0
        """Changed files that were refused."""
        self.last_error: str | None = None
        """Why, of the latest; None once files were taken over again."""

    def load(self) -> None:
        """Takes the files as they are; blocks. An expired certificate serves: some clients may take it. Raises
        ``OSError`` that names the file which cannot be used.
        """
        self._seen, self._context, self.validity = self._read()

    def context(self) -> ServerContext:
        """The context for a connection that begins now."""
        assert self._context is not None, "load comes first"
        return self._context

    @property
    def ends_at(self) -> float:
        """When the first certificate of the chain that serves expires, in seconds since 1970."""
        return self.validity.ends_at

    def warning(self) -> str | None:
        """What is wrong with the certificate that serves, or None."""
        fault = self.validity.fault(self._clock())
        return f"tls.certificate: {self.files.certificate} {fault}" if fault else None

    def have_changed(self) -> bool:
        """Whether something else stands in the files than when they were looked at last; blocks."""
        return self.files.digest() != self._seen

    def reload(self) -> Literal["unchanged", "loaded", "failed"]:
        """Takes changed files over; blocks. What cannot be used, and a certificate that has expired where the one that
        serves has not, changes nothing: ``last_error`` says why, once for each content.
        """
        before = self.files.digest()
        if before == self._seen:
            return "unchanged"
        try:
            seen, context, validity = self._read()
            fault = validity.fault(self._clock())
            if fault and not self.validity.fault(self._clock()):
                raise OSError(f"tls.certificate {self.files.certificate} {fault}")
        except OSError as error:
            self._seen = before  # what was written since is another content, and gets another look
            self.failures += 1
            self.last_error = str(error)
            return "failed"
        self._seen, self._context, self.validity, self.last_error = seen, context, validity, None
        return "loaded"

    def _read(self) -> tuple[tuple[str, ...], ServerContext, Validity]:
        """All files from one moment: what OpenSSL read is what stood in them before and after."""
        for _ in range(_ATTEMPTS):
            before = self.files.digest()
            context, validity = self.files.context(), Validity.of(self.files.certificate)
            if self.files.digest() == before:
                return before, context, validity
        raise OSError("the files of tls change while they are read")


def _digest_of(file: Path) -> str:
    try:
        if stat_regular_file(file).st_size > _MAX_FILE_BYTES:
            return "too large"
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        return str(error)
