"""Distinguished names as text, and when two of them are the same: for the ``subject_dn`` of a client (RFC 8705 §2.1.2).

Read by RFC 4514, compared by caseIgnoreMatch (RFC 4517 §4.2.11) with the insignificant spaces of RFC 4518 §2.6.1, but
stricter than RFC 4518 where it takes one character for another: what is compatible (full-width letters, ligatures, the
Kelvin sign) is not the same, and invisible characters are refused rather than skipped. A CA that looks at the
characters of a name must not hand out the name of somebody else.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import lru_cache

DistinguishedName = tuple[frozenset[tuple[str, str]], ...]
"""Relative names in the order of the certificate (that of the text turned around), each a set of pairs of OID and
compared value."""

MAX_CHARACTERS = 1024
MAX_RELATIVE_NAMES = 64

ATTRIBUTE_TYPES = {
    "cn": "2.5.4.3", "commonname": "2.5.4.3",
    "sn": "2.5.4.4", "surname": "2.5.4.4",
    "serialnumber": "2.5.4.5",
    "c": "2.5.4.6", "countryname": "2.5.4.6",
    "l": "2.5.4.7", "localityname": "2.5.4.7",
    "st": "2.5.4.8", "stateorprovincename": "2.5.4.8",
    "street": "2.5.4.9", "streetaddress": "2.5.4.9",
    "o": "2.5.4.10", "organizationname": "2.5.4.10",
    "ou": "2.5.4.11", "organizationalunitname": "2.5.4.11",
    "title": "2.5.4.12",
    "businesscategory": "2.5.4.15",
    "postalcode": "2.5.4.17",
    "name": "2.5.4.41",
    "gn": "2.5.4.42", "givenname": "2.5.4.42",
    "initials": "2.5.4.43",
    "generationqualifier": "2.5.4.44",
    "dnqualifier": "2.5.4.46",
    "pseudonym": "2.5.4.65",
    "organizationidentifier": "2.5.4.97",
    "uid": "0.9.2342.19200300.100.1.1", "userid": "0.9.2342.19200300.100.1.1",
    "dc": "0.9.2342.19200300.100.1.25", "domaincomponent": "0.9.2342.19200300.100.1.25",
    "emailaddress": "1.2.840.113549.1.9.1",
}  # fmt: skip
"""Names of attribute types in lower case (RFC 4514 §3, RFC 4519 §2, RFC 2985 §5.2, X.520) and their OIDs."""

_OID = re.compile(r"[0-2](\.(0|[1-9][0-9]{0,19})){1,20}")
_TYPE = re.compile(r" *([A-Za-z0-9.-]*) *=")
_SPECIAL = '"+,;<>\\ #='  # RFC 4514 §3: what may stand behind a backslash
_HEX_PAIR = re.compile(r"[0-9A-Fa-f]{2}")
_HEX_STRING = re.compile(r"#((?:[0-9A-Fa-f]{2})+)")
_SPACES = re.compile(r" +")
_NOT_IN_A_NAME = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_STRING_TAGS = {
    0x0C: "utf-8",
    0x12: "ascii",  # NumericString
    0x13: "ascii",  # PrintableString
    0x16: "ascii",  # IA5String
    0x1A: "ascii",  # VisibleString
    0x1C: "utf-32-be",  # UniversalString
    0x1E: "utf-16-be",  # BMPString
}


def check_subject_dn(text: str) -> None:
    """Raises ``ValueError`` with a sentence that says what is wrong, for a text that is no distinguished name."""
    parse_distinguished_name(text)


@lru_cache(maxsize=1024)
def parse_distinguished_name(text: str) -> DistinguishedName:
    """The name that a text stands for (RFC 4514 §3); spaces around ``,``, ``+`` and ``=`` are overlooked.

    Raises ``ValueError`` with a sentence that says what is wrong.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"is longer than {MAX_CHARACTERS:,} characters")
    if text.startswith("/"):
        raise ValueError("is written as CN=backup,O=Example,C=DE (RFC 4514), not with slashes")
    if not text.strip(" "):
        raise ValueError("is empty; it would fit every certificate without a subject")
    relative_names: list[list[tuple[str, str]]] = [[]]
    position = 0
    while True:
        oid, position = _attribute_type(text, position)
        value, position = _attribute_value(text, position)
        relative_names[-1].append((oid, value))
        if position == len(text):
            return distinguished_name(reversed(relative_names))
        if text[position] == ",":
            relative_names.append([])
        position += 1


def distinguished_name(relative_names: Iterable[Sequence[tuple[str, str]]]) -> DistinguishedName:
    """The name that a certificate holds: its relative names in their order, each as pairs of OID and value.

    Raises ``ValueError`` for what cannot be compared without doubt: characters that nobody sees, values that are empty,
    an attribute twice in one relative name.
    """
    name = tuple(_relative_name(pairs) for pairs in relative_names)
    if len(name) > MAX_RELATIVE_NAMES:
        raise ValueError(f"has more than {MAX_RELATIVE_NAMES} relative names")
    return name


def _relative_name(pairs: Sequence[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    relative_name = frozenset((oid, compared_value(value)) for oid, value in pairs)
    if len(relative_name) != len(pairs):
        raise ValueError("has the same attribute twice between two commas")
    return relative_name


def compared_value(value: str) -> str:
    """What is compared of a value: case, composed characters and insignificant spaces are levelled.

    Raises ``ValueError`` for an empty value and for characters that nobody sees or that stand for another.
    """
    for character in value:
        category = unicodedata.category(character)
        if category in _NOT_IN_A_NAME or (category == "Zs" and character != " "):
            raise ValueError(f"holds the character U+{ord(character):04X}, which nobody sees in a name")
        if not character.isascii() and unicodedata.normalize("NFC", character).isascii():
            raise ValueError(f"holds the character U+{ord(character):04X}, which stands for one of ASCII")
    composed = unicodedata.normalize("NFC", value)
    # Again: the lower case of a composed character may be several that compose.
    folded = unicodedata.normalize("NFC", "".join(map(_folded, composed)))
    spaced = _SPACES.sub(" ", folded.strip(" "))
    if not spaced:
        raise ValueError("has an attribute without a value")
    return spaced


def _folded(character: str) -> str:
    """Its lower case, but never an ASCII letter for a character that is none: U+017F is no s."""
    folded = character.casefold()
    return folded if character.isascii() or not any(map(str.isascii, folded)) else character


def _attribute_type(text: str, position: int) -> tuple[str, int]:
    """The OID of the attribute type at a position, and where its value begins."""
    found = _TYPE.match(text, position)
    if found is None or not found[1]:
        rest = text[position : position + 20].strip()
        raise ValueError(
            f"has no attribute type and = at {_shown(rest)}; a comma in a value is written \\," if rest
            else "ends with a separator"
        )  # fmt: skip
    name = found[1].lower()
    if name[0].isdigit():
        if not _OID.fullmatch(name):
            raise ValueError(f"has an attribute type that is no OID: {_shown(name)}")
        return name, found.end()
    if name not in ATTRIBUTE_TYPES:
        near = get_close_matches(name, ATTRIBUTE_TYPES, n=1)
        hint = f"did you mean {near[0].upper()}? " if near else ""
        raise ValueError(f"has an unknown attribute type {_shown(found[1])} ({hint}others are written as an OID)")
    return ATTRIBUTE_TYPES[name], found.end()


def _attribute_value(text: str, position: int) -> tuple[str, int]:
    """The value at a position, and where the comma or plus stands that ends it (or the end of the text)."""
    while text.startswith(" ", position):
        position += 1
    if text.startswith("#", position):
        return _hex_value(text, position)
    value = bytearray()
    while position < len(text) and text[position] not in ",+":
        character = text[position]
        if character == "\\":
            escaped, position = _escaped(text, position + 1)
            value += escaped
            continue
        if character in '";<>':
            raise ValueError(f"has an unescaped {character}; in a value it is written \\{character}")
        value += character.encode("utf-8", "surrogatepass")
        position += 1
    try:
        return value.decode(), position
    except UnicodeDecodeError:
        raise ValueError("has escapes that are not UTF-8") from None


def _escaped(text: str, position: int) -> tuple[bytes, int]:
    """What stands for the characters behind a backslash: a special character itself, or a byte in hex."""
    if position < len(text) and text[position] in _SPECIAL:
        return text[position].encode(), position + 1
    pair = _HEX_PAIR.match(text, position)
    if pair is None:
        raise ValueError("has a backslash before what needs none; a backslash itself is written \\\\")
    return bytes.fromhex(pair[0]), pair.end()


def _hex_value(text: str, position: int) -> tuple[str, int]:
    """A value in hex of its BER form (RFC 4514 §2.4): one string type in the short, definite form of its length."""
    found = _HEX_STRING.match(text, position)
    encoded = bytes.fromhex(found[1]) if found else b""
    if len(encoded) < 2 or encoded[0] not in _STRING_TAGS or encoded[1] > 0x7F or len(encoded) != 2 + encoded[1]:
        raise ValueError("has a value in hex (#...) that is no encoded string; a # in a value is written \\#")
    assert found is not None
    end = found.end()
    while text.startswith(" ", end):
        end += 1
    if end < len(text) and text[end] not in ",+":
        raise ValueError("has text behind a value in hex")
    try:
        return encoded[2:].decode(_STRING_TAGS[encoded[0]]), end
    except UnicodeDecodeError:
        raise ValueError("has a value in hex (#...) that cannot be decoded") from None


def _shown(text: str) -> str:
    """A piece of the text as ASCII, for a message."""
    return ascii(text[:40])
