"""Whether a TLS client certificate is one that a client registered (RFC 8705 §2).

Two methods in one place, for they differ in what is compared alone. ``tls_client_auth`` (§2.1) believes a subject
because a CA signed it; ``self_signed_tls_client_auth`` (§2.2) knows the one certificate and believes nothing in it.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hmac import compare_digest
from typing import Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.jose.thumbprint import certificate_thumbprint
from gateway.model import ClientCertificate, RegisteredCertificate
from gateway.oauth.distinguished_name import DistinguishedName, distinguished_name, parse_distinguished_name

CertificateMethod = Literal["tls_client_auth", "self_signed_tls_client_auth"]

MAX_CERTIFICATE_BYTES = 16 * 1024

_UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    Warning,  # of a dubious certificate, where the interpreter was told to raise them
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CLIENT_USAGES = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a certificate says of its holder. ``subject`` is None where it cannot be compared without doubt."""

    valid_from: float
    valid_until: float
    for_clients: bool
    subject: DistinguishedName | None
    names: tuple[x509.GeneralName, ...]


def method_of(registered: RegisteredCertificate) -> CertificateMethod:
    """The method that a registration is for, as RFC 8705 §2.1.1 and §2.2.1 name it."""
    return "self_signed_tls_client_auth" if registered.field == "thumbprint" else "tls_client_auth"


def matching(
    certificate: ClientCertificate, registered: Sequence[RegisteredCertificate], now: float
) -> RegisteredCertificate | None:
    """The first registration that the certificate fulfils, or None. Each names one field (RFC 8705 §2.1.2); several
    are alternatives, so that a client can be moved from one to the next.

    A certificate outside its validity fulfils none, nor does one that cannot be read without doubt: too large, not
    DER, an extension twice, a name with control characters. ``now`` is in seconds since the epoch. Raises nothing.
    """
    if not registered:
        return None
    shown = _read(certificate.der)
    if shown is None or not shown.valid_from <= now <= shown.valid_until:
        return None
    return next((one for one in registered if _fulfils(certificate, shown, one)), None)


def _fulfils(certificate: ClientCertificate, shown: _Shown, registered: RegisteredCertificate) -> bool:
    value = registered.value
    if registered.field == "thumbprint":
        return compare_digest(certificate_thumbprint(certificate.der).encode(), value.encode("utf-8", "surrogatepass"))
    if not certificate.chain_verified or not shown.for_clients:
        return False
    match registered.field:
        case "subject_dn":
            return _is_subject(shown.subject, value)
        case "san_dns":
            return any(_is_dns_name(name.value, value) for name in shown.names if isinstance(name, x509.DNSName))
        case "san_uri":
            uris = [name.value for name in shown.names if isinstance(name, x509.UniformResourceIdentifier)]
            return value in uris
        case "san_ip":
            return any(_is_address(name.value, value) for name in shown.names if isinstance(name, x509.IPAddress))
        case "san_email":
            return any(_is_email(name.value, value) for name in shown.names if isinstance(name, x509.RFC822Name))


def _is_subject(subject: DistinguishedName | None, wanted: str) -> bool:
    try:
        return subject is not None and subject == parse_distinguished_name(wanted)
    except ValueError:
        return False


def _is_dns_name(name: str, wanted: str) -> bool:
    """Whether two DNS names are the same in ASCII, case aside. A wildcard names no single client."""
    return name.isascii() and wanted.isascii() and "*" not in name and name.lower() == wanted.lower()


def _is_address(address: object, wanted: str) -> bool:
    try:
        return address == ipaddress.ip_address(wanted)
    except ValueError:
        return False


def _is_email(address: str, wanted: str) -> bool:
    """Whether two mailboxes are the same (RFC 5280 §7.5): the local part exactly, the domain case aside."""
    if not address.isascii() or not wanted.isascii():
        return False
    (local, at, domain), (wanted_local, _, wanted_domain) = address.rpartition("@"), wanted.rpartition("@")
    return at == "@" and bool(local) and local == wanted_local and domain.lower() == wanted_domain.lower()


def _read(der: bytes) -> _Shown | None:
    """What a certificate shows, or None where it cannot be read without doubt."""
    if len(der) > MAX_CERTIFICATE_BYTES:
        return None
    try:
        certificate = x509.load_der_x509_certificate(der)
        extensions = certificate.extensions
        names = _alternative_names(extensions)
        if _has_control_characters(certificate.subject, names):
            return None
        return _Shown(
            valid_from=certificate.not_valid_before_utc.timestamp(),
            valid_until=certificate.not_valid_after_utc.timestamp(),
            for_clients=_is_for_clients(extensions),
            subject=_subject(certificate.subject),
            names=names,
        )
    except _UNREADABLE:
        return None


def _alternative_names(extensions: x509.Extensions) -> tuple[x509.GeneralName, ...]:
    try:
        return tuple(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return ()


def _is_for_clients(extensions: x509.Extensions) -> bool:
    """Whether the issuer lets the holder be a TLS client with it (RFC 5280 §4.2.1.12); where it says nothing, yes."""
    try:
        usages = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return any(usage in usages for usage in _CLIENT_USAGES)


def _has_control_characters(subject: x509.Name, names: Iterable[x509.GeneralName]) -> bool:
    """Whether a text might end early for somebody else, as at a NUL."""
    texts = [attribute.value for attribute in subject] + [name.value for name in names]
    return any(isinstance(text, str) and _CONTROL.search(text) for text in texts)


def _subject(subject: x509.Name) -> DistinguishedName | None:
    relative_names = []
    for relative_name in subject.rdns:
        pairs = [(one.oid.dotted_string, one.value) for one in relative_name if isinstance(one.value, str)]
        if len(pairs) != len(list(relative_name)):
            return None  # a value that is no text
        relative_names.append(pairs)
    try:
        return distinguished_name(relative_names)
    except ValueError:
        return None
