"""Finding records by what stands in them. Lines that cannot fit are passed over before anything is parsed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from gateway.audit.lines import DAMAGED_ARCHIVE, MAX_LINE_BYTES, lines_of

_MAX_CONDITIONS = 64
_BLANKS = b" \t\r\n"


class Found(NamedTuple):
    """A record: where it stands, the line without its line feed, and what it says."""

    file: str
    line: int
    text: bytes
    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Condition:
    """``field`` is the name of a field, or a claim as JSON Pointer (RFC 6901), which begins with a slash.

    In ``value`` a star stands for any text. A list fits by one of its members; an empty value fits what is not there.
    """

    field: str
    value: str

    def holds(self, document: dict[str, Any]) -> bool:
        """Whether a record fits."""
        found = _claim(document.get("claims"), self.field) if self.field.startswith("/") else document.get(self.field)
        if self.value == "":
            return found is None
        members = found if isinstance(found, list) else [found]
        return any(member is not None and _fits(self.value.split("*"), _text(member)) for member in members)

    def needle(self) -> bytes:
        """What stands in every line that fits, as the gateway writes it; empty where there is no such thing."""
        plain = (piece for piece in self.value.split("*") if piece.isascii() and orjson.dumps(piece) == _quoted(piece))
        return max(plain, key=len, default="").encode()


def parse_condition(text: str) -> Condition:
    """``reason=token_expired`` or ``/repository_id=1296269``. Raises ``ValueError``."""
    field, equals, value = text.partition("=")
    if not equals or not field or len(text) > MAX_LINE_BYTES:
        raise ValueError("is field=value, or /claim=value")
    return Condition(field, value)


def search(
    files: Iterable[str | Path],
    conditions: Sequence[Condition],
    within: Callable[[float], bool] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[Found]:
    """The records that fit all conditions, and whose time (seconds since the epoch) is ``within``.

    What is no record, or behind the damage of a compressed file, is passed over. Raises ``ValueError`` for more
    conditions than anybody has, and ``OSError``.
    """
    if len(conditions) > _MAX_CONDITIONS:
        raise ValueError(f"more than {_MAX_CONDITIONS} conditions")
    needles = sorted((one.needle() for one in conditions), key=len, reverse=True)
    for file in files:
        try:
            yield from _search_file(str(file), conditions, needles, within, on_bytes)
        except DAMAGED_ARCHIVE:
            continue


def _search_file(
    file: str,
    conditions: Sequence[Condition],
    needles: Sequence[bytes],
    within: Callable[[float], bool] | None,
    on_bytes: Callable[[int], None] | None,
) -> Iterator[Found]:
    for number, line in enumerate(lines_of(file, on_bytes), 1):
        if len(line) > MAX_LINE_BYTES or not all(needle in line for needle in needles):
            continue
        text = line.strip(_BLANKS)
        try:
            document = orjson.loads(text)
        except orjson.JSONDecodeError:
            continue
        if not isinstance(document, dict) or not all(one.holds(document) for one in conditions):
            continue
        if within is None or within(_time(document.get("time"))):
            yield Found(file, number, text, document)


def _quoted(text: str) -> bytes:
    return b'"' + text.encode() + b'"'


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _fits(pieces: Sequence[str], text: str) -> bool:
    """Whether a text is these pieces with anything between them. In one go: the first place of a piece is the best."""
    first, last = pieces[0], pieces[-1]
    if len(pieces) == 1:
        return text == first
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in pieces[1:-1]:
        found = text.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def _claim(claims: Any, pointer: str) -> Any:
    """What a record says of a claim: under the pointer itself, or within a claim that holds it."""
    if not isinstance(claims, dict):
        return None
    head, rest = pointer, list[str]()
    while head:
        if head in claims:
            return _within(claims[head], rest)
        head, _, name = head.rpartition("/")
        rest.insert(0, name.replace("~1", "/").replace("~0", "~"))
    return None


def _within(value: Any, path: Sequence[str]) -> Any:
    for name in path:
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and name.isascii() and name.isdigit() and int(name[:9]) < len(value):
            value = value[int(name[:9])]
        else:
            return None
    return value


def _time(value: Any) -> float:
    """RFC 3339 as seconds since the epoch; before all times for what is none."""
    try:
        return datetime.fromisoformat(value).timestamp()
    except (TypeError, ValueError, OverflowError):
        return float("-inf")
