"""``match`` and ``like``: what a claim must be. An absent claim, and one that is null, satisfies nothing.

Owns the lookup of a claim, the typed comparison, the globs, and their compilation from what a file says. Pure.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from gateway.model import ClaimPath, Claims
from gateway.policy.problems import Path, described

ScalarKey = str | tuple[type, int]
"""A scalar as a dictionary key that tells 1 from True and from "1"."""

MAX_LIKE_CHARACTERS = 1024
"""A longer claim is like nothing: it bounds the time that a glob can take."""
MAX_GLOB_CHARACTERS = 512
MAX_GLOB_STARS = 16
MAX_MATCH_CHARACTERS = 2048
VERIFIED_ELSEWHERE = frozenset({"exp", "iat", "nbf"})
"""Claims that verification alone judges, for it knows the clock."""

_Checked = TypeVar("_Checked")
_FEW = 8
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SEPARATOR = re.compile(r"[/:]")
_STARS = re.compile(r"(\*\*|\*)")
_WITHIN_SEGMENT = "[^/:]*?"


class ConditionError(ValueError):
    """A condition of a file that cannot be used. ``path`` is where in the condition."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path


class _Unusable(ValueError):
    """A value that no condition can want."""


def claim_at(claims: Claims, path: ClaimPath) -> Any:
    """The value of a claim, or None where there is none."""
    value: Any = claims.get(path[0])
    for key in path[1:]:
        if type(value) is not dict:
            return None
        value = value.get(key)
    return value


def scalar_key(value: Any) -> ScalarKey | None:
    """The key of a str, int or bool; None of anything else."""
    if type(value) is str:
        return value
    if type(value) is int or type(value) is bool:
        return (type(value), value)
    return None


@dataclass(frozen=True, slots=True)
class Match:
    """The claim is a scalar that equals one of ``wanted``, in type and value."""

    path: ClaimPath
    keys: Collection[ScalarKey]
    wanted: tuple[str | int | bool, ...]

    def holds(self, claims: Claims) -> bool:
        """Whether these claims satisfy it."""
        return scalar_key(claim_at(claims, self.path)) in self.keys


@dataclass(frozen=True, slots=True)
class OneStar:
    """A glob with one star, or with none: the usual ones, which need no regular expression."""

    prefix: str
    suffix: str
    star: str

    def fits(self, text: str) -> bool:
        """Whether the whole text fits."""
        if not self.star:
            return text == self.prefix
        end = len(text) - len(self.suffix)
        return (
            end >= len(self.prefix)
            and text.startswith(self.prefix)
            and text.endswith(self.suffix)
            and (self.star == "**" or _SEPARATOR.search(text, len(self.prefix), end) is None)
        )


@dataclass(frozen=True, slots=True)
class ManyStars:
    """A glob with several stars."""

    pattern: re.Pattern[str]

    def fits(self, text: str) -> bool:
        """Whether the whole text fits."""
        return self.pattern.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Like:
    """The claim is a string that fits one of ``wanted``, which are globs."""

    path: ClaimPath
    globs: tuple[OneStar | ManyStars, ...]
    wanted: tuple[str, ...]

    def holds(self, claims: Claims) -> bool:
        """Whether these claims satisfy it."""
        value = claim_at(claims, self.path)
        if type(value) is not str or len(value) > MAX_LIKE_CHARACTERS:
            return False
        return any(glob.fits(value) for glob in self.globs)


def parse_match(written: Mapping[str, Any]) -> tuple[list[Match], list[ConditionError]]:
    """The conditions of a ``match`` mapping in the order of the file, and what is wrong with it."""
    conditions: list[Match] = []
    errors: list[ConditionError] = []
    for path, value in _leaves(written, (), errors):
        found = _values(path, value, errors, _checked_scalar)
        if found:
            keys = tuple(dict.fromkeys(key for key in map(scalar_key, found) if key is not None))
            conditions.append(Match(path, keys if len(keys) <= _FEW else frozenset(keys), tuple(found)))
    return conditions, errors


def parse_like(written: Mapping[str, Any]) -> tuple[list[Like], list[ConditionError]]:
    """The conditions of a ``like`` mapping in the order of the file, and what is wrong with it."""
    conditions: list[Like] = []
    errors: list[ConditionError] = []
    for path, value in _leaves(written, (), errors):
        found = _values(path, value, errors, checked_glob)
        if found:
            conditions.append(Like(path, tuple(map(parse_glob, found)), tuple(found)))
    return conditions, errors


def checked_glob(value: Any) -> str:
    """A glob that ``parse_glob`` can make ready. Raises ``ValueError`` that says what is wrong with it."""
    if not isinstance(value, str):
        raise _Unusable("a glob is text: only texts can be like something")
    if not value:
        raise _Unusable("an empty glob: to match the empty text, use match")
    _check_text(value)
    if "***" in value:
        raise _Unusable("*** means nothing: * stops at / and :, ** does not")
    if len(value) > MAX_GLOB_CHARACTERS:
        raise _Unusable(f"a glob has at most {MAX_GLOB_CHARACTERS} characters")
    if len(_STARS.findall(value)) > MAX_GLOB_STARS:
        raise _Unusable(f"a glob has at most {MAX_GLOB_STARS} stars")
    return value


def parse_glob(glob: str) -> OneStar | ManyStars:
    """A glob made ready. ``*`` fits any run without ``/`` and ``:``, ``**`` any run; all else is literal."""
    prefix, *rest = _STARS.split(glob)
    if not rest:
        return OneStar(prefix, "", "")
    if len(rest) == 2:
        return OneStar(prefix, rest[1], rest[0])
    return ManyStars(re.compile(glob_pattern(glob), re.DOTALL))


def glob_pattern(glob: str) -> str:
    """A regular expression for the whole of a text that fits the glob, with several stars.

    Every choice but the last is atomic, so that many stars cannot multiply. That loses no match. Between two ``*``,
    the first occurrence of a literal is as good as any later one: a literal without separator leaves the longest
    rest, one with a separator has but one place it can stand. After ``**``, the match of the following run that
    ends first is. So the steps are at most the square of the text's length times that of the longest literal.
    """
    runs = [_STARS.split(run) for run in glob.split("**")]
    first, *floating = runs
    if not floating:
        return _last_run(first)
    middle = "".join(f"(?>.*?{_run(run)})" for run in floating[:-1])
    return f"(?>{_run(first)}){middle}(?:.*?{_last_run(floating[-1])})"


def _run(parts: list[str]) -> str:
    """Literals with ``*`` between them, each found at its first place."""
    literals = [re.escape(part) for part in parts[::2]]
    return literals[0] + "".join(f"(?>{_WITHIN_SEGMENT}{literal})" for literal in literals[1:])


def _last_run(parts: list[str]) -> str:
    """As ``_run``, but the last literal stands at the end of the text."""
    literals = [re.escape(part) for part in parts[::2]]
    if len(literals) == 1:
        return rf"{literals[0]}\Z"
    inner = "".join(f"(?>{_WITHIN_SEGMENT}{literal})" for literal in literals[1:-1])
    return rf"{literals[0]}{inner}{_WITHIN_SEGMENT}{literals[-1]}\Z"


def _leaves(
    written: Mapping[str, Any], above: ClaimPath, errors: list[ConditionError]
) -> Iterator[tuple[ClaimPath, Any]]:
    for name, value in written.items():
        path = (*above, name)
        if not above and name in VERIFIED_ELSEWHERE:
            errors.append(ConditionError(path, "is judged by verification, with the clock: leave it out"))
        elif not isinstance(value, dict):
            yield path, value
        elif value:
            yield from _leaves(value, path, errors)
        else:
            errors.append(ConditionError(path, "an empty mapping says nothing: name a claim within, or leave it out"))


def _values(
    path: ClaimPath, value: Any, errors: list[ConditionError], checked: Callable[[Any], _Checked]
) -> list[_Checked]:
    if isinstance(value, list) and not value:
        errors.append(ConditionError(path, "an empty list never holds: name a value"))
    found: list[_Checked] = []
    for position, one in enumerate(value if isinstance(value, list) else [value]):
        try:
            found.append(checked(one))
        except _Unusable as error:
            errors.append(ConditionError((*path, position) if isinstance(value, list) else path, str(error)))
    return found


def _checked_scalar(value: Any) -> str | int | bool:
    if value is None:
        raise _Unusable("null never holds: a claim that is null satisfies nothing")
    if isinstance(value, float):
        raise _Unusable("a claim is never a fraction: write it in quotes")
    if isinstance(value, list | dict):
        raise _Unusable("a list holds texts, whole numbers, true and false only")
    if isinstance(value, str):
        _check_text(value)
        if len(value) > MAX_MATCH_CHARACTERS:
            raise _Unusable(f"is longer than {MAX_MATCH_CHARACTERS} characters")
    if not isinstance(value, str | int):
        raise _Unusable(f"cannot be compared with a claim: {described(value)}")
    return value


def _check_text(value: str) -> None:
    if _CONTROL.search(value):
        raise _Unusable("holds a control character")
    if value != value.strip():
        raise _Unusable("begins or ends with a blank")
