"""What a CEL expression can cost at most, told from its syntax tree before it ever runs. Pure.

The runtime counts the turns of loops (ten thousand in all), not what is done in one: comparing two lists of a token in
each turn of a loop over a third takes minutes, and collecting them fills the memory. So each expression has a bound on
the size of the claims that it is run with, such that the worst claims of that size cost no more than ``BUDGET``.

Sizes are in nodes: one for each value, and one for each 64 characters of a text. Costs are in steps, of some 30 ns: to
compare two short values is one.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.policy.protocol_buffers import fields

BUDGET = 1_000_000
LARGEST_CLAIMS = 6144
"""Nodes of claims: a token of 16 KiB has no more."""
LEAST_CLAIMS = 32
"""An expression that cannot be run with claims of so many nodes is of no use."""
MAX_NESTED_LOOPS = 4
"""So many loops within each other are looked into: the time to do so doubles with each."""

_TEXT_NODE = 64
_LONGEST_TEXT = 193
"""Nodes of a single text in such a token."""
_TURNS = 10_000
"""The runtime ends an expression after so many turns of its loops."""
_SUM = 4
"""Steps for each node of a sum: it is copied into new memory, which is held until the end."""
_GATHERED = 1.5
"""Steps for each member that ``map`` and ``filter`` have gathered so far: they copy all of them in each turn."""
_PATTERN = 1500
"""Steps to compile a regular expression, which is done at each run,"""
_INSTRUCTION = 8
"""for each instruction of its program,"""
_SCAN = 0.15
"""and for each character of the text and each instruction."""
_CLASS = 12
"""Instructions of a set of characters,"""
_UNICODE_CLASS = 3500
"""and of one that Unicode names."""
_PIECE = re.compile(
    r"""\{(?:[0-9]{0,4},)?(?P<count>[0-9]{1,4}),?\} | (?P<open>\() | (?P<close>\))
      | \[\^?\]?(?:\[:\^?[a-z]+:\]|\\.|[^\]\\])*+\] | \\[pP]\{[^}]*\} | \\[pP]. | \\. | .""",
    re.VERBOSE | re.DOTALL,
)
"""What a regular expression is made of: a count, a parenthesis, a set of characters, an escape, a character."""


class TooCostlyError(ValueError):
    """An expression that would cost too much even with few claims, or whose cost nobody can tell."""


@dataclass(frozen=True, slots=True)
class _Constant:
    text: str


@dataclass(frozen=True, slots=True)
class _Name:
    name: str


@dataclass(frozen=True, slots=True)
class _Part:
    """A member of a value."""

    of: "_Node"


@dataclass(frozen=True, slots=True)
class _Call:
    function: str
    arguments: tuple["_Node", ...]


@dataclass(frozen=True, slots=True)
class _Several:
    """A list or a mapping that is written out."""

    members: tuple["_Node", ...]


@dataclass(frozen=True, slots=True)
class _Loop:
    """What ``all``, ``exists``, ``exists_one``, ``filter`` and ``map`` become."""

    variable: str
    over: "_Node"
    accumulator: str
    first: "_Node"
    condition: "_Node"
    step: "_Node"
    result: "_Node"


_Node = _Constant | _Name | _Part | _Call | _Several | _Loop


@dataclass(frozen=True, slots=True)
class _Size:
    """The most nodes that a value has, and the most of any one text in it."""

    nodes: float
    text: float


@dataclass(frozen=True, slots=True)
class _Bound:
    """The most steps that it takes to work something out, and how large what comes out can be."""

    steps: float
    size: _Size


_ONE = _Size(1, 1)
_Sizes = Mapping[str, _Size]


def largest_claims(checked_expression: bytes) -> int:
    """How many nodes the claims may have that an expression is run with: as many as a token can hold, or fewer.

    ``checked_expression`` is a ``cel.expr.CheckedExpr`` in an ``Any``, as the runtime writes it. Raises
    ``TooCostlyError`` where it is too few to be of use.
    """
    tree = _tree(_expression(checked_expression))
    if _nested(tree) > MAX_NESTED_LOOPS:
        raise TooCostlyError(f"goes through lists within lists more than {MAX_NESTED_LOOPS} deep")
    if _steps(tree, LARGEST_CLAIMS) <= BUDGET:
        return LARGEST_CLAIMS
    if _steps(tree, LEAST_CLAIMS) > BUDGET:
        raise TooCostlyError("could take too long: loops in loops, comparisons of whole lists in loops, long patterns")
    fits, exceeds = LEAST_CLAIMS, LARGEST_CLAIMS
    while exceeds - fits > 1:
        middle = (fits + exceeds) // 2
        if _steps(tree, middle) <= BUDGET:
            fits = middle
        else:
            exceeds = middle
    return fits


def nodes_in(value: Any) -> int:
    """The size of a claim, or of all of them, in nodes."""
    if isinstance(value, str):
        return 1 + len(value) // _TEXT_NODE
    if isinstance(value, Mapping):
        return 1 + sum(len(name) // _TEXT_NODE + nodes_in(member) for name, member in value.items())
    if isinstance(value, list):
        return 1 + sum(map(nodes_in, value))
    return 1


# ---------------------------------------------------------------- the bound


def _steps(tree: _Node, claims: int) -> float:
    return _bound(tree, {"claims": _Size(claims, min(claims, _LONGEST_TEXT)), "issuer": _Size(3, 3)}).steps


def _bound(node: _Node, sizes: _Sizes) -> _Bound:
    match node:
        case _Constant(text):
            length = 1 + len(text) // _TEXT_NODE
            return _Bound(1, _Size(length, length))
        case _Name(name):
            return _Bound(1, sizes.get(name, _ONE))
        case _Part(of):
            whole = _bound(of, sizes)
            return _Bound(whole.steps + 1, whole.size)
        case _Several(members):
            found = [_bound(member, sizes) for member in members]
            nodes = 1 + sum(one.size.nodes for one in found)
            return _Bound(1 + sum(one.steps for one in found), _Size(nodes, _longest(one.size for one in found)))
        case _Call(function, arguments):
            found = [_bound(argument, sizes) for argument in arguments]
            own = _of_call(function, arguments, [one.size for one in found])
            return _Bound(own.steps + sum(one.steps for one in found), own.size)
        case _Loop():
            return _of_loop(node, sizes)


def _of_loop(loop: _Loop, sizes: _Sizes) -> _Bound:
    over, first = _bound(loop.over, sizes), _bound(loop.first, sizes)
    turns = min(over.size.nodes, _TURNS)

    def at_turn(nodes: float, accumulator: _Size) -> _Sizes:
        member = _Size(nodes, min(nodes, over.size.text))
        return {**sizes, loop.variable: member, loop.accumulator: accumulator}

    def turn(nodes: float) -> float:
        inner = at_turn(nodes, _ONE)
        return _bound(loop.condition, inner).steps + _bound(loop.step, inner).steps

    def added(nodes: float) -> float:
        return _bound(loop.step, at_turn(nodes, _Size(0, 0))).size.nodes

    steps = over.steps + first.steps + _over_all_turns(turn, over.size.nodes, turns)
    outcome = _ONE
    if isinstance(loop.first, _Several):  # a list, to which turns add
        steps += turns * turns / 2 * _GATHERED
        longest = _bound(loop.step, at_turn(over.size.nodes, _ONE)).size.text
        outcome = _Size(1 + _over_all_turns(added, over.size.nodes, turns), longest)
    result = _bound(loop.result, {**sizes, loop.accumulator: outcome})
    return _Bound(steps + result.steps, result.size)


def _over_all_turns(one_turn: Callable[[float], float], nodes: float, turns: float) -> float:
    """The most that all turns come to, when the list as a whole has so many nodes: many small members or one large.

    What a turn costs grows with its member at least as fast as the member does, or not at all.
    """
    return max(turns * one_turn(1), one_turn(nodes))


def _longest(sizes: Iterable[_Size]) -> float:
    return max((size.text for size in sizes), default=1)


_COMPARISONS = frozenset({"_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_"})
_READS_ALL = frozenset({
    "@in", "size", "startsWith", "endsWith", "bool", "int", "uint", "double", "timestamp", "duration",
})  # fmt: skip
"""What reads its arguments once and comes to one value."""
_CONVERTS = frozenset({"string", "bytes"})
_PICKS = frozenset({"dyn", "_[_]"})
_SCALAR = frozenset({
    "_&&_", "_||_", "!_", "@not_strictly_false", "-_", "_-_", "_*_", "_/_", "_%_", "type", "getFullYear", "getMonth",
    "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getHours", "getMinutes", "getSeconds",
    "getMilliseconds",
})  # fmt: skip


def _of_call(function: str, arguments: tuple[_Node, ...], sizes: list[_Size]) -> _Bound:
    """What a function costs by itself, given the sizes of its arguments."""
    nodes = sum(size.nodes for size in sizes)
    if function in _SCALAR:
        return _Bound(1, _ONE)
    if function in _COMPARISONS:
        return _Bound(1 + min(size.nodes for size in sizes), _ONE)
    if function in _READS_ALL:
        return _Bound(1 + nodes, _ONE)
    if function in _CONVERTS:
        return _Bound(_SUM * nodes, sizes[0])
    if function in _PICKS:
        return _Bound(1, sizes[0])
    if function == "_+_":
        return _Bound(_SUM * (1 + nodes), _Size(nodes, sum(size.text for size in sizes)))
    if function == "_?_:_":
        return _Bound(1, _Size(max(size.nodes for size in sizes[1:]), _longest(sizes[1:])))
    if function == "contains":
        return _Bound(1 + sizes[0].text + 2 * sizes[0].text * sizes[1].text, _ONE)
    if function == "matches":
        instructions = _instructions(arguments[-1])
        scan = _SCAN * _TEXT_NODE * sizes[0].text * instructions
        return _Bound(_PATTERN + _INSTRUCTION * instructions + scan, _ONE)
    raise TooCostlyError(f"calls {function}, which nobody can tell the cost of")


def _instructions(pattern: _Node) -> int:
    """How long the program of a regular expression (RE2's syntax) can be."""
    if not isinstance(pattern, _Constant):
        raise TooCostlyError("matches a pattern that is not written out: a claim could make it arbitrarily costly")
    groups, last = [0], 0  # what is counted in each open group, and what came last in the innermost
    for piece in _PIECE.finditer(pattern.text):
        if piece["count"] is not None:
            groups[-1] += last * max(0, int(piece["count"]) - 1)
            continue
        if piece["open"]:
            groups.append(0)
            last = 0
            continue
        last = 2 + groups.pop() if piece["close"] and len(groups) > 1 else _length(piece[0])
        groups[-1] += last
    return 1 + sum(groups)


def _length(piece: str) -> int:
    if r"\p" in piece.lower():
        return _UNICODE_CLASS
    return _CLASS if len(piece) > 1 or piece == "." else 2


def _nested(node: _Node) -> int:
    match node:
        case _Loop():
            inner = (node.condition, node.step)
            return max(_nested(node.over), _nested(node.result), 1 + max(map(_nested, inner)))
        case _Call(_, members) | _Several(members):
            return max(map(_nested, members), default=0)
        case _Part(of):
            return _nested(of)
        case _:
            return 0


# ---------------------------------------------------------------- the syntax tree, from its protocol buffer


def _expression(checked_expression: bytes) -> bytes:
    """``Any.value`` and in it ``CheckedExpr.expr``."""
    return _only(_fields(_only(_fields(checked_expression), 2)), 4)


def _tree(encoded: bytes) -> _Node:
    """From ``cel.expr.Expr`` (cel/expr/syntax.proto)."""
    for number, value in fields(encoded):
        if number in _READERS and isinstance(value, bytes):
            return _READERS[number](_fields(value))
    raise TooCostlyError("has a form that nobody can tell the cost of")


_Fields = list[tuple[int, int | bytes]]


def _fields(message: bytes) -> _Fields:
    return list(fields(message))


def _constant(message: _Fields) -> _Constant:
    text = next((value for number, value in message if number in {6, 7} and isinstance(value, bytes)), b"")
    return _Constant(text.decode("utf-8", "replace"))


def _name(message: _Fields) -> _Name:
    return _Name(_only(message, 1).decode())


def _part(message: _Fields) -> _Part:
    return _Part(_tree(_only(message, 1)))


def _call(message: _Fields) -> _Call:
    # The target, where there is one, is the first argument.
    arguments = [_tree(value) for number, value in message if number in {1, 3} and isinstance(value, bytes)]
    return _Call(_only(message, 2).decode(), tuple(arguments))


def _list(message: _Fields) -> _Several:
    return _Several(tuple(_tree(value) for number, value in message if number == 1 and isinstance(value, bytes)))


def _struct(message: _Fields) -> _Several:
    entries = [_fields(value) for number, value in message if number == 2 and isinstance(value, bytes)]
    members = [value for entry in entries for number, value in entry if number in {3, 4} and isinstance(value, bytes)]
    return _Several(tuple(map(_tree, members)))


def _loop(message: _Fields) -> _Loop:
    if any(number == 8 and value for number, value in message):
        raise TooCostlyError("has a loop of two variables, which nobody can tell the cost of")
    over, first, condition, step, result = (_tree(_only(message, number)) for number in (2, 4, 5, 6, 7))
    return _Loop(_only(message, 1).decode(), over, _only(message, 3).decode(), first, condition, step, result)


_READERS: Mapping[int, Callable[[_Fields], _Node]] = {
    3: _constant, 4: _name, 5: _part, 6: _call, 7: _list, 8: _struct, 9: _loop,
}  # fmt: skip


def _only(message: _Fields, number: int) -> bytes:
    found = next((value for field, value in message if field == number), None)
    if not isinstance(found, bytes):
        raise TooCostlyError("has a form that nobody can tell the cost of")
    return found
