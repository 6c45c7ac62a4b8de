"""Client certificates against what clients registered (RFC 8705 §2): what fits, and all that only nearly does."""

import datetime as dt
import hashlib
from base64 import urlsafe_b64encode
from dataclasses import replace
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity.clients.certificate import MAX_CERTIFICATE_BYTES, matching, method_of
from gateway.jose.thumbprint import certificate_thumbprint
from gateway.model import ClientCertificate, RegisteredCertificate
from tests.support.certificates import END, START, Issued, authority, common_name, issue, name, san

NOW = 1_793_610_000.0
CA = authority()
COUNTRY, ORGANIZATION, UNIT, COMMON_NAME = (
    NameOID.COUNTRY_NAME, NameOID.ORGANIZATION_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.COMMON_NAME,
)  # fmt: skip
BACKUP = name((COUNTRY, "DE"), (ORGANIZATION, "Example, Inc."), [(UNIT, "Storage"), (COMMON_NAME, "Backup")])
FULL = issue(
    BACKUP,
    san(
        dns=["backup.example.com", "*.wild.example.com"],
        uri=["spiffe://example.com/backup"],
        ip=["192.0.2.7", "2001:db8::7"],
        email=["Backup@example.com"],
    ),
    by=CA,
)


def fits(certificate: ClientCertificate | Issued, field: Any, value: str, now: float = NOW) -> bool:
    shown = certificate.shown() if isinstance(certificate, Issued) else certificate
    registered = RegisteredCertificate(field, value)
    found = matching(shown, [registered], now)
    assert found in {None, registered}
    return found is registered


# ---------------------------------------------------------------- tls_client_auth (RFC 8705 §2.1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("subject_dn", r"CN=Backup+OU=Storage,O=Example\, Inc.,C=DE"),
        ("subject_dn", r"ou=STORAGE+cn=backup, o=example\2C  inc., c=de"),
        ("subject_dn", r"2.5.4.3=backup+2.5.4.11=storage,2.5.4.10=Example\, Inc.,2.5.4.6=DE"),
        ("san_dns", "backup.example.com"),
        ("san_dns", "BACKUP.Example.com"),
        ("san_uri", "spiffe://example.com/backup"),
        ("san_ip", "192.0.2.7"),
        ("san_ip", "2001:DB8:0::7"),
        ("san_email", "Backup@EXAMPLE.com"),
    ],
)
def test_a_verified_certificate_with_the_registered_name_fits(field: str, value: str):
    assert fits(FULL, field, value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("subject_dn", r"CN=Backup,OU=Storage,O=Example\, Inc.,C=DE"),  # one relative name is not two
        ("subject_dn", r"C=DE,O=Example\, Inc.,CN=Backup+OU=Storage"),  # the other way round
        ("subject_dn", "CN=Backup"),
        ("subject_dn", r"CN=Backup+OU=Storage,O=Example\, Inc."),
        ("subject_dn", r"CN=Backup+OU=Storage,O=Example\, Inc.,C=DE,DC=com"),
        ("subject_dn", r"CN=Bаckup+OU=Storage,O=Example\, Inc.,C=DE"),  # a Cyrillic letter
        ("subject_dn", "no name at all"),
        ("subject_dn", ""),
        ("san_dns", "example.com"),
        ("san_dns", "www.backup.example.com"),
        ("san_dns", "backup.example.com."),
        ("san_dns", "*.example.com"),
        ("san_dns", "*"),
        ("san_dns", ""),
        ("san_dns", "one.wild.example.com"),
        ("san_dns", "*.wild.example.com"),
        ("san_dns", "bac\u212aup.example.com"),  # lower() would make a k of it
        ("san_dns", "192.0.2.7"),
        ("san_dns", "Backup"),
        ("san_uri", "spiffe://example.com/Backup"),
        ("san_uri", "spiffe://example.com/backup/"),
        ("san_uri", "spiffe://example.com/"),
        ("san_ip", "192.0.2.8"),
        ("san_ip", "192.0.2.0/24"),
        ("san_ip", "::ffff:192.0.2.7"),
        ("san_ip", "2001:db8::7%eth0"),
        ("san_ip", "not an address"),
        ("san_email", "backup@example.com"),
        ("san_email", "example.com"),
        ("san_email", "@example.com"),
        ("san_email", "Backup"),
    ],
)
def test_what_only_nearly_is_the_registered_name_does_not_fit(field: str, value: str):
    assert not fits(FULL, field, value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("subject_dn", r"CN=Backup+OU=Storage,O=Example\, Inc.,C=DE"),
        ("san_dns", "backup.example.com"),
        ("san_uri", "spiffe://example.com/backup"),
        ("san_ip", "192.0.2.7"),
        ("san_email", "Backup@example.com"),
    ],
)
def test_no_name_counts_in_a_certificate_that_no_ca_of_ours_signed(field: str, value: str):
    assert not fits(FULL.shown(chain_verified=False), field, value)


def test_the_common_name_is_no_dns_name():
    assert not fits(issue(common_name("backup.example.com"), by=CA), "san_dns", "backup.example.com")


def test_a_certificate_without_a_subject_fits_no_subject_dn():
    assert not fits(issue(x509.Name([]), san(dns=["a.example"]), by=CA), "subject_dn", "CN=a")


def test_a_subject_in_which_an_attribute_comes_twice_is_not_taken_for_it_once():
    twice = issue(name([(COMMON_NAME, "a"), (COMMON_NAME, "A")]), by=CA)
    assert not fits(twice, "subject_dn", "CN=a")


def test_a_subject_with_a_value_that_is_no_text_is_not_taken_for_the_rest_of_it():
    unique = x509.NameAttribute(NameOID.X500_UNIQUE_IDENTIFIER, b"\x00\x01", x509.name._ASN1Type.BitString)
    common = x509.NameAttribute(COMMON_NAME, "a")
    for subject in (
        x509.Name([common, unique]),
        x509.Name([x509.RelativeDistinguishedName([common, unique])]),
    ):
        assert not fits(issue(subject, by=CA), "subject_dn", "CN=a")


def test_a_look_alike_in_the_certificate_is_not_the_registered_name():
    for look_alike in ("bаckup", "bac\u212aup", "ｂackup", "back\u200bup"):
        assert not fits(issue(common_name(look_alike), by=CA), "subject_dn", "CN=backup")


@pytest.mark.parametrize(
    ("usages", "expected"),
    [
        ([ExtendedKeyUsageOID.CLIENT_AUTH], True),
        ([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH], True),
        ([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE], True),
        ([ExtendedKeyUsageOID.SERVER_AUTH], False),
        ([ExtendedKeyUsageOID.EMAIL_PROTECTION], False),
    ],
)
def test_a_certificate_that_was_issued_for_another_use_is_no_clients(
    usages: list[x509.ObjectIdentifier], expected: bool
):
    certificate = issue(common_name("a"), x509.ExtendedKeyUsage(usages), by=CA)
    assert fits(certificate, "subject_dn", "CN=a") is expected


def test_certificates_of_trustme_fit():
    leaf = trustme.CA().issue_cert("backup.example.com").cert_chain_pems[0].bytes()
    der = x509.load_pem_x509_certificate(leaf).public_bytes(Encoding.DER)
    assert fits(ClientCertificate(der, chain_verified=True), "san_dns", "backup.example.com")


# ---------------------------------------------------------------- self_signed_tls_client_auth (RFC 8705 §2.2)


def test_the_thumbprint_is_that_of_rfc_8705():
    expected = urlsafe_b64encode(hashlib.sha256(FULL.der).digest()).decode().rstrip("=")
    assert certificate_thumbprint(FULL.der) == expected


def test_a_registered_certificate_fits_whoever_signed_it():
    own = issue()
    for chain_verified in (True, False):
        assert fits(own.shown(chain_verified=chain_verified), "thumbprint", certificate_thumbprint(own.der))
    assert fits(FULL, "thumbprint", certificate_thumbprint(FULL.der))


def test_another_certificate_of_the_same_key_and_name_does_not_fit():
    own = issue()
    again = issue(own.certificate.subject, key=own.key)
    assert not fits(again, "thumbprint", certificate_thumbprint(own.der))


@pytest.mark.parametrize("value", ["", "é", "\ud800", "a" * 43, hashlib.sha256(FULL.der).hexdigest()])
def test_what_is_no_thumbprint_fits_nothing(value: str):
    assert not fits(FULL, "thumbprint", value)


# ---------------------------------------------------------------- both


def test_each_registration_has_its_method():
    assert method_of(RegisteredCertificate("thumbprint", "x")) == "self_signed_tls_client_auth"
    for field in ("subject_dn", "san_dns", "san_uri", "san_ip", "san_email"):
        assert method_of(RegisteredCertificate(field, "x")) == "tls_client_auth"


def test_several_registrations_are_alternatives():
    other, right = RegisteredCertificate("san_dns", "other.example"), RegisteredCertificate("san_ip", "192.0.2.7")
    assert matching(FULL.shown(), [other, right], NOW) is right
    assert matching(FULL.shown(), [other], NOW) is None
    assert matching(FULL.shown(), [], NOW) is None


@pytest.mark.parametrize("field", ["subject_dn", "thumbprint"])
def test_a_certificate_fits_in_its_validity_alone(field: str):
    certificate = issue(common_name("a"), by=CA)
    value = "CN=a" if field == "subject_dn" else certificate_thumbprint(certificate.der)
    start, end = START.timestamp(), END.timestamp()
    assert [fits(certificate, field, value, now) for now in (start - 1, start, end, end + 1)] == [
        False, True, True, False,
    ]  # fmt: skip


def test_a_certificate_that_ends_with_the_calendar_is_read():
    endless = issue(common_name("a"), end=dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC))
    assert fits(endless, "thumbprint", certificate_thumbprint(endless.der))


def every_way(der: bytes) -> list[bool]:
    """Whether it fits by its thumbprint, or by any name that it has."""
    shown = ClientCertificate(der, chain_verified=True)
    return [
        fits(shown, "thumbprint", certificate_thumbprint(der)),
        fits(shown, "subject_dn", "CN=a"),
        fits(shown, "san_dns", "a.example"),
    ]


def test_a_certificate_with_an_extension_twice_is_refused():
    first, second = x509.ObjectIdentifier("1.2.3.4.51"), x509.ObjectIdentifier("1.2.3.4.52")
    certificate = issue(
        common_name("a"),
        san(dns=["a.example"]),
        x509.UnrecognizedExtension(first, b"\x05\x00"),
        x509.UnrecognizedExtension(second, b"\x05\x00"),
    )
    assert every_way(certificate.der) == [True, True, True]
    assert certificate.der.count(b"\x2a\x03\x04\x34") == 1
    assert every_way(certificate.der.replace(b"\x2a\x03\x04\x34", b"\x2a\x03\x04\x33")) == [False, False, False]


def test_a_certificate_of_absurd_size_is_refused():
    large = issue(
        common_name("a"),
        san(dns=["a.example"]),
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x04\x82\x40\x00" + b"x" * MAX_CERTIFICATE_BYTES),
    )
    assert every_way(large.der) == [False, False, False]


@pytest.mark.parametrize("place", ["subject", "another attribute", "another name"])
@pytest.mark.parametrize("character", ["\x00", "\n", "\x7f"])
def test_a_certificate_with_a_control_character_in_a_name_is_refused(place: str, character: str):
    text = f"good{character}evil"
    certificate = {
        "subject": lambda: issue(name((COMMON_NAME, text)), san(dns=["a.example"])),
        "another attribute": lambda: issue(name((ORGANIZATION, text), (COMMON_NAME, "a")), san(dns=["a.example"])),
        "another name": lambda: issue(common_name("a"), san(dns=["a.example", f"{text}.example"])),
    }[place]()
    assert every_way(certificate.der) == [False, False, False]


@pytest.mark.parametrize(
    "der",
    [b"", b"\x30", b"\x30\x00", b"\x30\x80\x00\x00", b"-----BEGIN CERTIFICATE-----", FULL.pem, FULL.der + b"\x00",
     FULL.der[:-1], b"\x30" * 5000, b"\x30\x84\xff\xff\xff\xff"],
)  # fmt: skip
def test_what_is_no_certificate_is_refused(der: bytes):
    assert every_way(der) == [False, False, False]


SMALL = issue(common_name("a"), san(dns=["a.example"]), by=CA)


@pytest.mark.filterwarnings("default")  # of cryptography, which warns of dubious certificates
@given(st.lists(st.tuples(st.integers(0, len(SMALL.der) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_certificate_of_which_bytes_were_changed_never_raises(changes: list[tuple[int, int]]):
    changed = bytearray(SMALL.der)
    for position, value in changes:
        changed[position] = value
    der = bytes(changed)
    every_way(der)
    assert bool(der == SMALL.der) == fits(
        ClientCertificate(der, chain_verified=True), "thumbprint", certificate_thumbprint(SMALL.der)
    )


@given(st.binary(max_size=200))
def test_any_bytes_at_all_never_raise(der: bytes):
    assert every_way(der) == [False, False, False]


@given(st.text(max_size=30), st.sampled_from(["subject_dn", "san_dns", "san_uri", "san_ip", "san_email", "thumbprint"]))
def test_any_registered_text_at_all_never_raises(value: str, field: Any):
    matching(replace(FULL.shown(), chain_verified=True), [RegisteredCertificate(field, value)], NOW)
