"""Certificates as tests need them: self-signed or of a CA, of any name, by default valid from 2020 to 2120."""

import datetime as dt
import ipaddress
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gateway.model import ClientCertificate

START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
END = dt.datetime(2120, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True)
class Issued:
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @cached_property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @cached_property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @cached_property
    def pem_with_key(self) -> bytes:
        return self.pem + self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def shown(self, *, chain_verified: bool = True) -> ClientCertificate:
        return ClientCertificate(self.der, chain_verified)

    def written(self, folder: Path) -> Path:
        """A file with certificate and key."""
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".pem", delete=False) as file:
            file.write(self.pem_with_key)
        return Path(file.name)


def name(*attributes: tuple[x509.ObjectIdentifier, str] | Sequence[tuple[x509.ObjectIdentifier, str]]) -> x509.Name:
    """A name from relative names in their order; a list of pairs is one relative name of several values."""
    relative_names = [[one] if isinstance(one, tuple) else one for one in attributes]
    return x509.Name([
        x509.RelativeDistinguishedName([x509.NameAttribute(oid, value, _validate=False) for oid, value in pairs])
        for pairs in relative_names
    ])  # fmt: skip


def common_name(text: str) -> x509.Name:
    return name((NameOID.COMMON_NAME, text))


def san(*, dns: Sequence[str] = (), uri: Sequence[str] = (), ip: Sequence[str] = (), email: Sequence[str] = ()) -> Any:
    """Alternative names of the subject."""
    return x509.SubjectAlternativeName([
        *map(x509.DNSName, dns),
        *map(x509.UniformResourceIdentifier, uri),
        *[x509.IPAddress(ipaddress.ip_address(one)) for one in ip],
        *map(x509.RFC822Name, email),
    ])  # fmt: skip


def issue(
    subject: x509.Name | None = None,
    *extensions: x509.ExtensionType,
    by: Issued | None = None,
    ca: bool | None = False,
    start: dt.datetime = START,
    end: dt.datetime = END,
    key: ec.EllipticCurvePrivateKey | None = None,
) -> Issued:
    """A certificate for a new key, by its own key unless ``by`` signs it. ``ca=None`` leaves basicConstraints out."""
    subject = common_name("client") if subject is None else subject
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder(extensions=[])
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return Issued(builder.sign(by.key if by else key, hashes.SHA256()), key)


def authority(text: str = "Test CA") -> Issued:
    return issue(common_name(text), ca=True)
