import contextlib
import json
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.jose.strict_json import parse_json_object

PRINTABLE = st.characters(exclude_categories=("Cc", "Cs"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.text(PRINTABLE, max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(PRINTABLE, max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(PRINTABLE, max_size=8), VALUES, max_size=4), st.booleans())
def test_plain_json_means_what_it_means_everywhere(value: dict[str, Any], ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert parse_json_object(text.encode(), max_depth=100) == value


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_an_object_or_a_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert type(parse_json_object(data)) is dict


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_other_encodings_and_byte_order_marks_are_refused(encoding: str) -> None:
    """RFC 8725 §3.7."""
    with pytest.raises(ValueError):
        parse_json_object('{"a":1}'.encode(encoding))


@pytest.mark.parametrize(
    "data",
    [b'{"a":"\xff"}', b'{"a":"\xc0\xaf"}', b'{"a":"\xed\xa0\x80"}', b'{"a":"\xf4\x90\x80\x80"}', b'{"a":"\xe2\x82"}'],
)
def test_bytes_that_are_no_strict_utf_8_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="UTF-8"):
        parse_json_object(data)


@pytest.mark.parametrize(
    "data",
    [b'{"a":1,"a":1}', b'{"a":{"b":1,"b":2}}', b'{"a":[{"b":1,"b":2}]}', b'{"a":1,"\\u0061":2}', b'{"":1,"":2}'],
)
def test_a_name_that_occurs_twice_is_refused_at_every_level(data: bytes) -> None:
    """RFC 7515 §4, RFC 7519 §4."""
    with pytest.raises(ValueError, match="twice"):
        parse_json_object(data)


def test_names_that_look_alike_are_different_names() -> None:
    assert parse_json_object('{"sub":1,"Sub":2,"\u017fub":3}'.encode()) == {"sub": 1, "Sub": 2, "\u017fub": 3}


@pytest.mark.parametrize(
    "number",
    [
        "NaN", "Infinity", "-Infinity", "1.0", "0.5", "1e3", "1E2", "1e400", "-0", "-0.0", "1" * 21, "9" * 5000,
        "01", "+1", "0x10", "1_000", "\u0661", ".5", "1.", "--1",
    ],
)  # fmt: skip
def test_a_number_that_is_no_plain_integer_is_refused(number: str) -> None:
    with pytest.raises(ValueError):
        parse_json_object(f'{{"a":{number}}}'.encode())


def test_an_integer_keeps_its_value_up_to_twenty_digits() -> None:
    assert parse_json_object(b'{"a":' + b"9" * 20 + b"}") == {"a": 10**20 - 1}


@pytest.mark.parametrize("escape", ["\\ud800", "\\udc00", "\\udc00\\ud800", "\\ud800x", "\\ud83d\\ud83d"])
@pytest.mark.parametrize("template", ['{"a":"%s"}', '{"%s":1}', '{"a":[{"b":"%s"}]}'])
def test_a_lone_surrogate_is_refused_wherever_it_stands(escape: str, template: str) -> None:
    with pytest.raises(ValueError, match="surrogate"):
        parse_json_object((template % escape).encode())


def test_a_surrogate_pair_is_one_character() -> None:
    assert parse_json_object(b'{"a":"\\ud83d\\ude00"}') == {"a": "\U0001f600"}


@pytest.mark.parametrize(
    "character", ["\\u0000", "\\n", "\\t", "\\u001f", "\\u007f", "\\u0085", "\x7f", "\x85", "\x00", "\n", "\x1f"]
)
def test_a_control_character_in_a_string_is_refused_escaped_or_raw(character: str) -> None:
    with pytest.raises(ValueError):
        parse_json_object(f'{{"a":"x{character}"}}'.encode())


@pytest.mark.parametrize("data", [b"", b" ", b"[]", b"1", b'"a"', b"null", b"true", b"[1]"])
def test_anything_but_an_object_is_refused(data: bytes) -> None:
    """RFC 7519 §7.2."""
    with pytest.raises(ValueError):
        parse_json_object(data)


@pytest.mark.parametrize("data", [b"{}{}", b"{}x", b"{} null", b"{}\x00", b'{"a":1,}', b"{'a':1}", b"{a:1}", b"{}//"])
def test_bytes_behind_the_object_and_sloppy_json_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json_object(data)


def test_space_around_the_object_is_json() -> None:
    assert parse_json_object(b' \t\r\n{"a": 1} \n') == {"a": 1}


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_the_depth_limit_holds_exactly(opening: str) -> None:
    closing = {"[": "]", '{"a":': "}"}[opening]

    def nested(levels: int) -> bytes:
        return ('{"a":' + opening * (levels - 1) + "1" + closing * (levels - 1) + "}").encode()

    assert parse_json_object(nested(8))
    with pytest.raises(ValueError, match="deeper than 8"):
        parse_json_object(nested(9))


def test_brackets_within_strings_do_not_nest() -> None:
    assert parse_json_object(b'{"a":"[[[[[[[[[[{{{{{{{\\"[[[["}')
    assert parse_json_object(b'{"a":[' + b'"[",' * 20 + b"[]]}")


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000, b'{"a":' * 100_000, b"[{" * 50_000, b'"' * 100_000, b'{"a":"' + b'\\"' * 50_000,
        b'{"a":[' + b"[]," * 30_000 + b"1]}", b'"\\' * 50_000, b"{" + b'"a":"",' * 14_000,
    ],
)  # fmt: skip
def test_a_hostile_text_costs_little_and_overflows_nothing(data: bytes) -> None:
    started = perf_counter()
    with contextlib.suppress(ValueError):
        parse_json_object(data)
    assert perf_counter() - started < 0.5


def test_the_error_repeats_nothing_of_the_input() -> None:
    with pytest.raises(ValueError) as refused:
        parse_json_object(b'{"secret":"hunter2" hunter2}')
    assert "hunter2" not in str(refused.value)
