"""The form of an audit record: one line of JSON, bounded whatever went into it.

Field names are those of ``AuditRecord``. Fields that are not known are left out. ``claims`` is an object from JSON
Pointer (RFC 6901) to value: with ``claims_complete`` every claim of the token as it was signed, without it those that
the deciding rule looked at, where null says that it found nothing, or whatever was left after a cut.
"""

from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any

import orjson

from gateway.model import AuditRecord, ClaimPath, Claims

MAX_LINE_BYTES = 16 * 1024
MAX_TEXT_BYTES = 1024
"""The most that one text takes in the line, escapes counted, quotes not."""

_TIGHTER_TEXT_BYTES = (256, 64)
_MAX_CLAIMS_WHEN_TIGHT = 16
_MAX_DEPTH_WHEN_CUT = 16
_SURELY_SHORT = MAX_TEXT_BYTES // 6  # the longest escape, \u0000, has six bytes
_LAST = frozenset({"claims", "claims_complete", "detail"})
_FIELDS = tuple(field.name for field in fields(AuditRecord) if field.name not in {"time", *_LAST})
_values_of = attrgetter(*_FIELDS)


def to_json_line(record: AuditRecord) -> bytes:
    """The record as a line with its line feed, at most ``MAX_LINE_BYTES`` long. Never raises.

    A text beyond ``MAX_TEXT_BYTES`` is cut, and says so at its end; control characters are escaped.
    """
    document = _document(record)
    try:
        line = _dump(document)
    except TypeError:  # a lone surrogate, a number beyond 64 bits: only the careful way can write it
        return _cut_to_fit(document)
    if len(line) <= MAX_TEXT_BYTES or (len(line) <= MAX_LINE_BYTES and _are_short(document)):
        return line
    return _cut_to_fit(document)


def _document(record: AuditRecord) -> dict[str, Any]:
    document: dict[str, Any] = {"time": _rfc3339(record.time)}
    document.update([pair for pair in zip(_FIELDS, _values_of(record), strict=True) if pair[1] is not None])
    if record.claims:
        document["claims"] = _by_pointer(record.claims)
    if record.claims_complete:
        document["claims_complete"] = True
    if record.detail:
        document["detail"] = record.detail
    return document


def _dump(document: object) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def _rfc3339(seconds: float) -> str:
    whole, microseconds = divmod(round(seconds * 1_000_000), 1_000_000)
    return f"{_rfc3339_second(whole)}.{microseconds:06d}Z"


@lru_cache(maxsize=2)
def _rfc3339_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _by_pointer(claims: Claims | tuple[tuple[ClaimPath, Any], ...]) -> dict[str, Any]:
    if isinstance(claims, tuple):
        return {_pointer(path): value for path, value in claims}
    return dict(zip(_pointers(tuple(claims)), claims.values(), strict=True))


@lru_cache(maxsize=256)
def _pointers(names: tuple[str, ...]) -> tuple[str, ...]:
    """The pointers of top-level claims. The tokens of a platform have the same ones in the same order."""
    return tuple(map(_step, names))


@lru_cache(maxsize=4096)
def _pointer(path: ClaimPath) -> str:
    """The paths come from the policies, so that they are few."""
    return "".join(map(_step, path))


def _step(name: str) -> str:
    """RFC 6901 §3."""
    return "/" + name.replace("~", "~0").replace("/", "~1")


def _are_short(members: dict[str, Any]) -> bool:
    """Whether no text in an object takes more than ``MAX_TEXT_BYTES``. Hot: some sixty members in each record."""
    for name, value in members.items():
        if len(name) > _SURELY_SHORT and not _is_short(name):
            return False
        kind = type(value)
        if kind is str:
            if len(value) > _SURELY_SHORT and not _is_short(value):
                return False
        elif kind is not int and kind is not bool and not _is_short(value):
            return False
    return True


def _is_short(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= _SURELY_SHORT or _written_bytes(value) <= MAX_TEXT_BYTES
    if isinstance(value, dict):
        return _are_short(value)
    if isinstance(value, (list, tuple)):
        return all(map(_is_short, value))
    return True


def _cut_to_fit(document: dict[str, Any]) -> bytes:
    """The document with its texts cut, ever shorter until the line fits. The last length always does.

    Claims of which anything was cut are not complete any more.
    """
    cut = _cut_members(document, MAX_TEXT_BYTES)
    if cut.get("claims") != document.get("claims"):
        cut.pop("claims_complete", None)
    line = _dump(cut)
    for limit in _TIGHTER_TEXT_BYTES:
        if len(line) <= MAX_LINE_BYTES:
            break
        line = _dump(_flatten(document, limit))
    return line


def _cut(value: object, limit: int, depth: int = 0) -> object:
    if isinstance(value, str):
        return _cut_text(value, limit)
    if isinstance(value, (Mapping, list, tuple)) and depth == _MAX_DEPTH_WHEN_CUT:
        return "[cut: nested deeper]"
    if isinstance(value, Mapping):
        return _cut_members(value, limit, depth)
    if isinstance(value, (list, tuple)):
        return [_cut(member, limit, depth + 1) for member in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return _cut_text(f"{hex(value)} [cut: beyond 64 bits]", limit)  # no text of the token: replay is not to take it
    return value if value is None or isinstance(value, int) else _cut_text(repr(value), limit)


def _cut_members(members: Mapping[Any, object], limit: int, depth: int = 0) -> dict[str, object]:
    return {_cut_text(str(name), limit): _cut(member, limit, depth + 1) for name, member in members.items()}


def _flatten(document: dict[str, Any], limit: int) -> dict[str, Any]:
    """Every field as one short text or number, and of the claims the first few."""
    claims = dict(document.get("claims", {}))
    kept = dict(list(claims.items())[:_MAX_CLAIMS_WHEN_TIGHT])
    others = {name: value for name, value in document.items() if name not in {"claims", "claims_complete"}}
    flat: dict[str, Any] = {name: _as_scalar(value, limit) for name, value in others.items()}
    flat["claims"] = {_cut_text(name, limit): _as_scalar(value, limit) for name, value in kept.items()}
    flat["claims_left_out"] = len(claims) - len(kept)
    return flat


def _as_scalar(value: object, limit: int) -> object:
    scalar = _cut(value, limit)
    return _cut_text(orjson.dumps(scalar).decode(), limit) if isinstance(scalar, (dict, list)) else scalar


def _cut_text(text: str, limit: int) -> str:
    text = text.encode("utf-8", "replace").decode()
    if _written_bytes(text) <= limit:
        return text
    mark = f" [cut: {len(text)} characters]"
    head = text[: limit - len(mark)]
    while _written_bytes(head) > limit - len(mark):
        head = head[: len(head) * 3 // 4]
    return head + mark


def _written_bytes(text: str) -> int:
    try:
        return len(orjson.dumps(text)) - len('""')
    except TypeError:  # a lone surrogate
        return MAX_LINE_BYTES
