"""A CEL condition taken apart: comparisons, presence tests, calls and what joins them. Pure.

Reads the expression as the runtime itself has parsed and type-checked it (``cel.expr.CheckedExpr``, the published form
of CEL), so that quotes, escapes, blanks and comments are no matter. What needs no name here is ``Other``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.model import ClaimPath
from gateway.policy.cel import Condition
from gateway.policy.protocol_buffers import fields

MAX_DEPTH = 100
"""What is nested deeper is ``Other``: the runtime reads no deeper itself."""

_SIGN_BIT = 1 << 63
_ANY_VALUE = 2  # google.protobuf.Any
_CHECKED_EXPRESSION = 4  # cel.expr.CheckedExpr
_CONSTANT, _IDENTIFIER, _SELECT, _CALL, _LIST = 3, 4, 5, 6, 7  # cel.expr.Expr


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim that is read; with an empty path all of them."""

    path: ClaimPath


@dataclass(frozen=True, slots=True)
class IssuerName:
    """``issuer``: the name of the Issuer document."""


@dataclass(frozen=True, slots=True)
class Has:
    """Whether a claim is there."""

    path: ClaimPath


@dataclass(frozen=True, slots=True)
class Literal:
    """A text, a whole number, true or false."""

    value: str | int | bool


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list as written."""

    items: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Call:
    """An operator (``_==_``, ``_&&_``, ``!_``, ``@in``) or a function, what it is called on coming first."""

    function: str
    arguments: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Other:
    """Anything else, and the claims that are read in it are not told."""


Node = Claim | IssuerName | Has | Literal | ListOf | Call | Other


_NAMES: Mapping[str, Node] = {"claims": Claim(()), "issuer": IssuerName()}


def syntax_of(condition: Condition) -> Node:
    """The tree of a condition."""
    for field, value in fields(condition.checked_expression()):
        if field == _ANY_VALUE and isinstance(value, bytes):
            for inner, expression in fields(value):
                if inner == _CHECKED_EXPRESSION and isinstance(expression, bytes):
                    return _node(expression, 0)
    return Other()


def walk(node: Node) -> Iterator[Node]:
    """A node and all below it, from the left."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        yield one
        if isinstance(one, Call):
            waiting += reversed(one.arguments)
        elif isinstance(one, ListOf):
            waiting += reversed(one.items)


def demanded(node: Node, *, holds: bool = True) -> Iterator[tuple[Node, bool]]:
    """The questions that a condition asks, each with the answer that it asks for on the way to being true."""
    match node:
        case Call("!_", (inner,)):
            yield from demanded(inner, holds=not holds)
        case Call("_&&_" | "_||_", (left, right)):
            yield from demanded(left, holds=holds)
            yield from demanded(right, holds=holds)
        case Call("_?_:_", (asked, yes, no)):
            yield asked, True
            yield from demanded(yes, holds=holds)
            yield from demanded(no, holds=holds)
        case _:
            yield node, holds


def _node(message: bytes, depth: int) -> Node:
    if depth > MAX_DEPTH:
        return Other()
    for field, value in fields(message):
        if not isinstance(value, bytes):
            continue
        if field == _CONSTANT:
            return _constant(value)
        if field == _IDENTIFIER:
            return _NAMES.get(_text(value, 1), Other())
        if field == _SELECT:
            return _select(value, depth)
        if field == _CALL:
            return _call(value, depth)
        if field == _LIST:
            return ListOf(tuple(_node(item, depth + 1) for item in _all(value, 1)))
    return Other()


def _constant(message: bytes) -> Node:
    for field, value in fields(message):
        if field == 2 and isinstance(value, int):
            return Literal(bool(value))
        if field == 3 and isinstance(value, int):
            return Literal(value - 2 * _SIGN_BIT if value & _SIGN_BIT else value)
        if field == 6 and isinstance(value, bytes):
            return Literal(value.decode())
    return Other()


def _select(message: bytes, depth: int) -> Node:
    """``operand.field``, or ``has(operand.field)``."""
    operands = _all(message, 1)
    operand = _node(operands[0], depth + 1) if operands else Other()
    if not isinstance(operand, Claim):
        return Other()
    path = (*operand.path, _text(message, 2))
    return Has(path) if any(field == 3 and value for field, value in fields(message)) else Claim(path)


def _call(message: bytes, depth: int) -> Node:
    function = _text(message, 2)
    arguments = tuple(_node(one, depth + 1) for one in (*_all(message, 1), *_all(message, 3)))
    match function, arguments:
        case "_[_]", (Claim(path), Literal(str(key))):
            return Claim((*path, key))
        case "@in", (Literal(str(key)), Claim(path)) if not path:  # "environment" in claims
            return Has((key,))
    return Call(function, arguments)


def _all(message: bytes, wanted: int) -> list[bytes]:
    return [value for field, value in fields(message) if field == wanted and isinstance(value, bytes)]


def _text(message: bytes, wanted: int) -> str:
    return next((value.decode() for value in _all(message, wanted)), "")
