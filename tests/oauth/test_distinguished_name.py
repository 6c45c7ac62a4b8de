"""Distinguished names: what is read of RFC 4514, and which two names are one (RFC 4517, RFC 4518)."""

import sys
import unicodedata

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from gateway.oauth.distinguished_name import (
    ATTRIBUTE_TYPES,
    MAX_CHARACTERS,
    check_subject_dn,
    compared_value,
    distinguished_name,
    parse_distinguished_name,
)

COMMON_NAME, ORGANIZATION, COUNTRY = "2.5.4.3", "2.5.4.10", "2.5.4.6"


def same(one: str, other: str) -> bool:
    return parse_distinguished_name(one) == parse_distinguished_name(other)


def test_the_text_is_the_certificates_order_turned_around():
    expected = distinguished_name([[(COUNTRY, "DE")], [(ORGANIZATION, "Example")], [(COMMON_NAME, "backup")]])
    assert parse_distinguished_name("CN=backup,O=Example,C=DE") == expected
    assert not same("CN=backup,O=Example,C=DE", "C=DE,O=Example,CN=backup")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CN=backup,O=Example", "cn=BACKUP,o=example"),
        ("CN=backup,O=Example", "2.5.4.3=backup,2.5.4.10=Example"),
        ("CN=backup,O=Example", "commonName=backup,organizationName=Example"),
        ("CN=backup,O=Example", "CN = backup , O = Example"),
        ("CN=back up", "CN=  back   up  "),
        ("CN=back up", r"CN=\ back \ up\ "),
        ("CN=a+OU=b,O=c", "OU=b+CN=a,O=c"),
        (r"CN=James \"Jim\" Smith\, III", r"CN=James \22Jim\22 Smith\2C III"),
        (r"CN=Lu\C4\8Di\C4\87", "CN=Lučić"),
        ("CN=LUČIĆ", "CN=Lučić"),
        ("CN=Lučić", "CN=" + unicodedata.normalize("NFD", "Lučić")),
        ("CN=backup", "CN=#0c066261636b7570"),
        ("CN=backup", "CN=#13066261636B7570 "),
        ("1.3.6.1.4.1.1466.0=#04024869".replace("0402", "0c02"), "1.3.6.1.4.1.1466.0=Hi"),
        (r"CN=\#1", r"CN=\231"),
        ("CN=a=b", r"CN=a\=b"),
    ],
)
def test_two_spellings_of_one_name_are_the_same(one: str, other: str):
    assert same(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CN=backup", "CN=backup,O=Example"),
        ("CN=backup,O=Example", "CN=backup"),
        ("CN=backup", "CN=backu"),
        ("CN=backup", "CN=back up"),
        ("CN=backup", "OU=backup"),
        ("CN=a+OU=b", "CN=a,OU=b"),
        (r"CN=a\,O=b", "CN=a,O=b"),
        ("CN=a+OU=b", "CN=a+OU=c"),
        ("CN=backup", "CN=bаckup"),  # Cyrillic
        ("CN=backup", "CN=ｂackup"),  # full width
        ("CN=fi", "CN=ﬁ"),  # a ligature
        ("CN=less", "CN=leſs"),  # a long s
        ("CN=strasse", "CN=straße"),
        ("CN=i", "CN=ı"),
        ("CN=1", "CN=¹"),
    ],
)
def test_what_differs_or_only_looks_alike_is_another_name(one: str, other: str):
    assert not same(one, other)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("/C=DE/O=Example/CN=backup", "not with slashes"),
        ("backup", "no attribute type and = at 'backup'"),
        ("CN=Example, Inc.", "a comma in a value is written"),
        ("CN=backup,", "ends with a separator"),
        ("CN=backup+", "ends with a separator"),
        (",CN=backup", "no attribute type"),
        ("emailAdress=a@b", "did you mean EMAILADDRESS?"),
        ("FOO=backup", "unknown attribute type 'FOO'"),
        ("2.5.04.3=backup", "is no OID"),
        ("2=backup", "is no OID"),
        ("CN=a;O=b", "unescaped ;"),
        ('CN="a, b"', 'unescaped "'),
        ("CN=<a>", "unescaped <"),
        ("CN=a\\", "a backslash before what needs none"),
        ("CN=a\\xb", "a backslash before what needs none"),
        (r"CN=\C4", "not UTF-8"),
        (r"CN=\ED\A0\80", "not UTF-8"),
        ("CN=\ud800", "not UTF-8"),
        ("CN=", "an attribute without a value"),
        (r"CN=\ ", "an attribute without a value"),
        ("CN=#", "in hex"),
        ("CN=#0c", "in hex"),
        ("CN=#0c0561", "in hex"),
        ("CN=#0c8161", "in hex"),
        ("CN=#040161", "in hex"),
        ("CN=#0c0161x", "text behind a value in hex"),
        ("CN=#0c01ff", "cannot be decoded"),
        ("CN=a+CN=A", "the same attribute twice"),
        ("CN=good\x00evil", "U+0000"),
        (r"CN=good\00evil", "U+0000"),
        ("CN=back\u200bup", "U+200B"),
        ("CN=back\u00adup", "U+00AD"),
        ("CN=back\u202eup", "U+202E"),
        ("CN=back\u00a0up", "U+00A0"),
        ("CN=bac\u212aup", "U+212A"),
        ("CN=" + "a" * MAX_CHARACTERS, "is longer than 1,024 characters"),
        (",".join(["CN=a"] * 65), "more than 64"),
    ],
)
def test_a_text_that_is_no_name_is_told_in_a_sentence(text: str, says: str):
    with pytest.raises(ValueError) as caught:
        check_subject_dn(text)
    assert says in str(caught.value)
    assert str(caught.value).isprintable()


def test_no_character_outside_ascii_is_taken_for_one_of_ascii():
    for number in range(0x80, sys.maxunicode + 1):
        try:
            compared = compared_value(f"a{chr(number)}b")
        except ValueError:
            continue
        assert not compared.isascii(), hex(number)


OIDS = sorted(set(ATTRIBUTE_TYPES.values()) - {COUNTRY})  # cryptography wants two letters of a country
ATTRIBUTES = st.tuples(st.sampled_from(OIDS), st.text(min_size=1, max_size=12))
NAMES = st.lists(st.lists(ATTRIBUTES, min_size=1, max_size=3, unique_by=lambda pair: pair[0]), min_size=1, max_size=5)


def _is_comparable(value: str) -> bool:
    try:
        compared_value(value)
    except ValueError:
        return False
    return True


@given(NAMES.filter(lambda names: all(_is_comparable(value) for pairs in names for _, value in pairs)))
def test_what_cryptography_writes_of_a_name_is_read_as_that_name(names: list[list[tuple[str, str]]]):
    written = x509.Name([
        x509.RelativeDistinguishedName([
            x509.NameAttribute(x509.ObjectIdentifier(oid), value, _validate=False) for oid, value in pairs
        ])
        for pairs in names
    ]).rfc4514_string()  # fmt: skip
    assert parse_distinguished_name(written) == distinguished_name(names)


@given(st.text(max_size=60) | st.text(alphabet='CNO=,+\\#" ab0c2.5;<', max_size=40))
def test_any_text_is_a_name_or_a_value_error(text: str):
    why = ""
    try:
        parsed = parse_distinguished_name(text)
    except ValueError as error:
        parsed, why = (), str(error)
    assert parsed or (why and why.isprintable())


@given(st.text(max_size=30).filter(_is_comparable))
def test_comparing_is_settled_after_one_step(value: str):
    assert compared_value(compared_value(value)) == compared_value(value)


@given(st.text(alphabet=st.characters(max_codepoint=0x7E, min_codepoint=0x20), min_size=1).filter(_is_comparable))
def test_ascii_values_are_the_same_exactly_when_case_and_spaces_alone_differ(value: str):
    assert compared_value(value) == " ".join(value.lower().split())
