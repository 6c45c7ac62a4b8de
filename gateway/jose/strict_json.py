"""JSON as a security token may hold it: one meaning, or none.

RFC 8259 leaves open what a duplicate name, a huge number or a lone surrogate means; two parsers that answer
differently are an attack. Whatever is open there is refused here (RFC 8725 §3.7, §3.10).
"""

import json
import re
from collections.abc import Iterable
from typing import Any, NoReturn

import orjson

MAX_INTEGER_DIGITS = 20

_SCALARS = frozenset({str, int, bool, type(None)})

_CONTROL_OR_SURROGATE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_DECIMAL_FRACTION = re.compile(r"[0-9]{1,20}\.[0-9]{1,20}")
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)


def parse_json_object(
    data: bytes, *, max_depth: int = 8, unread: frozenset[str] = frozenset(), cut_fractions: bool = False
) -> dict[str, Any]:
    """One JSON object as str, int, bool, None, list and dict.

    ``unread`` are members that nobody looks into: their strings may hold anything. With ``cut_fractions`` a decimal
    fraction is its whole part (a ``NumericDate`` may be one, RFC 7519 §2).

    Raises ``ValueError`` with a short reason that repeats nothing of the input: not UTF-8 (a byte order mark and
    UTF-16 included), not one object, a name that occurs twice in an object, a number that is no integer of at most
    20 digits, a control character or lone surrogate in a string, deeper than ``max_depth``.
    """
    value = _parse_plain(data, max_depth)
    if value is not None:
        return value
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    _check_depth(text, max_depth)
    try:
        value = (_CUTTING_DECODER if cut_fractions else _DECODER).decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON at character {error.pos}") from None
    if type(value) is not dict:
        raise ValueError("is not a JSON object")
    # The scanner itself refuses raw control characters below U+0020, and strict UTF-8 has no surrogates: what is
    # left to look for stands behind a backslash or is no ASCII.
    if "\\" in text or "\x7f" in text or not text.isascii():
        _check_strings({name: member for name, member in value.items() if name not in unread})
    return value


def _parse_plain(data: bytes, max_depth: int) -> dict[str, Any] | None:
    """The short way for what honest issuers send: plain ASCII without escapes or white space.

    orjson reads it several times faster than the standard library, but lets the last of two equal names win. Written
    out again it is the same text to the byte only if nothing was dropped, rounded or spelled in another way. None
    where that cannot be said: then the long way decides.
    """
    if b"\\" in data or b"\x7f" in data or not data.isascii():
        return None
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    if type(value) is not dict or not _is_plain(value.values(), max_depth - 1) or orjson.dumps(value) != data:
        return None
    return value


def _is_plain(members: Iterable[Any], deeper: int) -> bool:
    """Whether there is no fraction among them, and nothing nested more than ``deeper`` levels."""
    for member in members:
        kind = type(member)
        if kind in _SCALARS:
            continue
        if deeper == 0 or kind is float:
            return False
        if not _is_plain(member.values() if kind is dict else member, deeper - 1):
            return False
    return True


def _check_depth(text: str, max_depth: int) -> None:
    """Before parsing, because the scanner recurses. Few brackets cannot nest deeply: the common case is two counts."""
    if text.count("{") + text.count("[") <= max_depth:
        return
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(text):
        first = text[token.start()]
        if first in "{[":
            depth += 1
            if depth > max_depth:
                raise ValueError(f"nests deeper than {max_depth} levels")
        elif first in "}]":
            depth -= 1


def _check_strings(value: Any) -> None:
    if type(value) is str:
        if _CONTROL_OR_SURROGATE.search(value):
            raise ValueError("holds a control character or a lone surrogate")
    elif type(value) is dict:
        for name, member in value.items():
            _check_strings(name)
            _check_strings(member)
    elif type(value) is list:
        for member in value:
            _check_strings(member)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("has a name twice in one object")
    return value


def _integer(digits: str) -> int:
    if len(digits) > MAX_INTEGER_DIGITS or digits == "-0":
        raise ValueError(f"has a number that is not a plain integer of at most {MAX_INTEGER_DIGITS} digits")
    return int(digits)


def _refuse_number(_: str) -> NoReturn:
    raise ValueError("has a number that is not an integer")


def _whole_part(number: str) -> int:
    if not _DECIMAL_FRACTION.fullmatch(number):
        _refuse_number(number)
    return _integer(number.partition(".")[0])


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_refuse_number, parse_constant=_refuse_number
)
_CUTTING_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_whole_part, parse_constant=_refuse_number
)
