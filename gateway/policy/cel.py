"""CEL: conditions (``when``, ``deny_when``) and claim mappings, type-checked when they are loaded.

An expression sees ``claims`` (map of string to dyn, without what is null) and ``issuer`` (the name of the Issuer
document). Whatever goes wrong while it runs is an ``Unknown``, which is neither true nor false. Pure.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cel_expr_python import cel

from gateway.model import ClaimPath, Claims
from gateway.policy.cel_cost import LARGEST_CLAIMS, TooCostlyError, largest_claims, nodes_in
from gateway.policy.problems import nearest

MAX_SOURCE_CHARACTERS = 2048
MAX_REPETITIONS = 1000
"""The sum of the counts in the regular expressions of one expression, which are compiled at each run."""
MAX_CLAIM_DEPTH = 32
MAX_REMEMBERED_CHARACTERS = 64
MAX_MAPPED_CHARACTERS = 1024
MAX_MAPPED_ENTRIES = 64

_ENVIRONMENT = cel.NewEnv(variables={"claims": cel.Type.Map(cel.Type.STRING, cel.Type.DYN), "issuer": cel.Type.STRING})
_FAULTS = (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError, MemoryError)
"""What the C++ runtime raises: spent budgets, texts that are not Unicode, numbers out of range."""

_MENTION = re.compile(r"(?<![A-Za-z0-9_])claims(?![A-Za-z0-9_])")
_STEP = re.compile(
    r"""\s*+(?: \.\s*+ (?P<field>[A-Za-z_][A-Za-z0-9_]*+) (?!\s*+(?:\(|//))
            | \[\s*+ (?: "(?P<double>[^"\\\r\n]*+)" | '(?P<single>[^'\\\r\n]*+)' ) \s*+\] )""",
    re.VERBOSE,
)
_REPETITION = re.compile(r"\{(?:[0-9]{1,4},)?([0-9]{1,4})\}")
_UNDECLARED = re.compile(r"undeclared reference to '([A-Za-z_][A-Za-z0-9_]*)([^']*)'")
_LOCATED = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): (.*)")


class CelError(ValueError):
    """An expression that cannot be used."""

    def __init__(self, message: str, suggestion: str = "") -> None:
        super().__init__(message)
        self.suggestion = suggestion


@dataclass(frozen=True, slots=True)
class Unknown:
    """What came of an expression that could not be worked out, and why. Never equal to a result."""

    why: str


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """A CEL condition. Both questions are answered no when it cannot be worked out."""

    source: str
    paths: tuple[ClaimPath, ...]
    """The claim paths that it mentions."""
    roots: tuple[str, ...] | None
    """The top-level claims that suffice to run it; None where it may look at any of them."""
    largest_claims: int
    """How many nodes (``gateway.policy.cel_cost``) these claims may have, lest it take too long."""
    _program: cel.Expression

    def holds(self, claims: Claims, issuer: str) -> bool:
        """Whether it is the boolean true."""
        return self._verdict(claims, issuer) is True

    def is_false(self, claims: Claims, issuer: str) -> bool:
        """Whether it is the boolean false."""
        return self._verdict(claims, issuer) is False

    def why_unknown(self, claims: Claims, issuer: str) -> str:
        """Why it cannot be worked out; empty where it can."""
        value = self._verdict(claims, issuer)
        return value.why if isinstance(value, Unknown) else ""

    def _verdict(self, claims: Claims, issuer: str) -> Any:
        """Of a few short claims, which are the same from token to token (events, branches), it is remembered: an
        expression reads nothing but what it is given.
        """
        if self.roots is not None:
            values = [claims.get(root) for root in self.roots]
            if _are_short(values):
                return _remembered_verdict(self, issuer, *values)
        return self.work_out(claims, issuer)

    def work_out(self, claims: Claims, issuer: str) -> Any:
        """True or false, or why it is neither; without looking at what is remembered."""
        return _value_of(self._program, _visible(claims, self.roots), issuer, self.largest_claims)

    def checked_expression(self) -> bytes:
        """The expression as the runtime understood it: a ``cel.expr.CheckedExpr`` in a ``google.protobuf.Any``."""
        return bytes(self._program.serialize())


_SCALARS = frozenset({str, int, bool, type(None)})


def _are_short(values: list[Any]) -> bool:
    for value in values:
        if type(value) not in _SCALARS or (type(value) is str and len(value) > MAX_REMEMBERED_CHARACTERS):
            return False
    return True


@lru_cache(maxsize=4096, typed=True)  # typed: 1 and true are equal, and not the same claim
def _remembered_verdict(condition: Condition, issuer: str, *values: str | int | bool | None) -> Any:
    return condition.work_out(dict(zip(condition.roots or (), values, strict=True)), issuer)


@dataclass(frozen=True, slots=True, eq=False)
class Mapped:
    """A CEL expression whose result goes into the access token under ``name``."""

    name: str
    source: str
    paths: tuple[ClaimPath, ...]
    _roots: tuple[str, ...] | None
    _largest_claims: int
    _program: cel.Expression

    @property
    def is_constant(self) -> bool:
        """Whether it looks at no workload: neither at its claims nor at its issuer."""
        return self._roots == () and "issuer" not in self.source

    @property
    def names_what_it_reads(self) -> bool:
        """Whether ``paths`` are all the claims that it looks at."""
        return self._roots is not None

    def value(self, claims: Claims, issuer: str) -> str | int | bool | list[str] | Unknown:
        """A text, a whole number, a boolean or a list of texts; ``Unknown`` for anything else."""
        return _mappable(_value_of(self._program, _visible(claims, self._roots), issuer, self._largest_claims))


def parse_condition(source: str) -> Condition:
    """A condition from its source. Raises ``CelError`` unless it type-checks to bool."""
    program = _compiled(source)
    found = _type_of(program)
    if found != cel.Type.BOOL:
        example = f"{source} == true" if found == cel.Type.DYN and len(source) <= 60 else ""
        raise CelError(f"is of type {found.name().lower()}, not bool: a condition is true or false", example)
    return Condition(source, claims_read(source), _roots_read(source), _largest_claims(program), program)


def parse_mapped(name: str, source: str) -> Mapped:
    """A claim mapping from its source. Raises ``CelError`` where its type cannot be a claim."""
    program = _compiled(source)
    found = _type_of(program)
    mappable = (cel.Type.DYN, cel.Type.STRING, cel.Type.INT, cel.Type.BOOL)
    if found not in mappable and not found.name().startswith("LIST"):
        raise CelError(f"is of type {found.name().lower()}: a claim is a string, an int, a bool or a list of strings")
    return Mapped(name, source, claims_read(source), _roots_read(source), _largest_claims(program), program)


def parse_claim_path(source: str) -> ClaimPath:
    """The claim that an expression is, and nothing more: ``claims["kubernetes.io"].namespace``. Raises ``CelError``."""
    mention = _MENTION.match(source)
    path, end = _path_at(source, mention.end()) if mention is not None else ((), 0)
    if not path or source[end:].strip():
        raise CelError('is not a claim alone, such as claims.sub or claims["kubernetes.io"].namespace')
    return path


def claims_read(source: str) -> tuple[ClaimPath, ...]:
    """The claim paths that an expression mentions: ``claims.a.b`` and ``claims["x"].y``, each once."""
    return tuple(dict.fromkeys(path for path in _mentions(source) if path))


def _roots_read(source: str) -> tuple[str, ...] | None:
    """The top-level claims that suffice to run it; None where it may look at any of them.

    Errs to None: every mention of the word counts, in texts and comments too, and one that is not followed by a
    plain name is taken to mean all claims.
    """
    paths = _mentions(source)
    return tuple(dict.fromkeys(path[0] for path in paths)) if all(paths) else None


def _mentions(source: str) -> list[ClaimPath]:
    return [_path_at(source, mention.end())[0] for mention in _MENTION.finditer(source)]


def _path_at(source: str, position: int) -> tuple[ClaimPath, int]:
    """The steps that follow a mention of the claims, and where they end."""
    path = []
    while step := _STEP.match(source, position):
        path.append(next(part for part in step.groups() if part is not None))
        position = step.end()
    return tuple(path), position


def _compiled(source: str) -> cel.Expression:
    if len(source) > MAX_SOURCE_CHARACTERS:
        raise CelError(f"a CEL expression has at most {MAX_SOURCE_CHARACTERS} characters")
    if "\0" in source:  # the runtime would stop reading there
        raise CelError("holds a NUL character")
    try:
        program = _ENVIRONMENT.compile(source)
    except _FAULTS as fault:
        raise _in_words(str(fault)) from None
    if sum(int(times) for times in _REPETITION.findall(source)) > MAX_REPETITIONS:
        raise CelError(f"its regular expressions repeat something more than {MAX_REPETITIONS} times in all")
    return program


def _type_of(program: cel.Expression) -> cel.Type:
    try:
        return program.return_type()
    except _FAULTS as fault:  # of a mapping whose keys are lists, for one: it compiles, and has no type
        raise _in_words(str(fault)) from None


def _largest_claims(program: cel.Expression) -> int:
    try:
        return largest_claims(program.serialize())
    except TooCostlyError as error:
        raise CelError(str(error)) from None


def _in_words(fault: str) -> CelError:
    located = _LOCATED.search(fault)
    if located is None:
        return CelError(f"is not a CEL expression: {fault.removesuffix(']').rpartition(' [')[0] or fault}")
    line, column, words = located.groups()
    words = words.replace(" (in container '')", "").removesuffix(" [INVALID_ARGUMENT]")
    where = f" at character {column}" + (f" of line {line}" if line != "1" else "") if int(column) > 0 else ""
    suggestion = ""
    if "token recognition error at: '= '" in words or "token recognition error at: '=" in words:
        suggestion = "=="
    if undeclared := _UNDECLARED.search(words):
        near = nearest(undeclared[1], ("claims", "issuer"))
        suggestion = f"{near}{undeclared[2]}" if near else ""
    return CelError(f"does not type-check{where}: {words}", suggestion)


def _value_of(program: cel.Expression, claims: dict[str, Any] | Unknown, issuer: str, largest_claims: int) -> Any:
    if isinstance(claims, Unknown):
        return claims
    if largest_claims < LARGEST_CLAIMS and nodes_in(claims) > largest_claims:
        return Unknown("would take too long with claims as large as these")
    try:
        result = program.eval(data={"claims": claims, "issuer": issuer})
        value = result.plain_value()
        if value is True or value is False:
            return value
        return Unknown(str(value)) if result.type() == cel.Type.ERROR else value
    except _FAULTS as fault:
        return Unknown(str(fault))


def _visible(claims: Claims, roots: tuple[str, ...] | None) -> dict[str, Any] | Unknown:
    """What an expression sees: only claims that it names (converting all of them is most of the time it takes)."""
    try:
        if roots is None:
            return _cleaned(claims, 0)
        seen = {}
        for root in roots:
            value = claims.get(root)
            if value is not None:
                seen[root] = _cleaned_value(value, 1)
        return seen
    except _Unfit as unfit:
        return Unknown(str(unfit))


class _Unfit(ValueError):
    """The runtime would misread these claims."""


def _cleaned(value: Mapping[str, Any], depth: int) -> dict[str, Any]:
    # A null claim is to be as absent, or claims.x != "y" would hold of it.
    cleaned = {}
    for name, member in value.items():
        if "\0" in name:
            raise _Unfit("a claim's name holds a NUL character")
        if member is not None:
            cleaned[name] = _cleaned_value(member, depth + 1)
    return cleaned


def _cleaned_value(value: Any, depth: int) -> Any:
    if type(value) is str:
        if "\0" in value:  # the runtime cuts a text there: "prod\0x" would equal "prod"
            raise _Unfit("a claim holds a NUL character")
        return value
    if depth > MAX_CLAIM_DEPTH:  # the runtime recurses, and would run out of stack
        raise _Unfit("claims are nested too deep")
    if type(value) is dict:
        return _cleaned(value, depth)
    if type(value) is list:
        return [_cleaned_value(one, depth + 1) for one in value]
    return value


def _mappable(value: Any) -> str | int | bool | list[str] | Unknown:
    match value:
        case Unknown():
            return value
        case bool() | int():
            return value
        case str() if _is_short(value):
            return value
        case list() if len(value) <= MAX_MAPPED_ENTRIES and all(
            isinstance(one, str) and _is_short(one) for one in value
        ):
            return value
        case _:
            return Unknown(f"a {type(value).__name__} that cannot be a claim")


def _is_short(text: str) -> bool:
    return len(text) <= MAX_MAPPED_CHARACTERS and text.isprintable()
