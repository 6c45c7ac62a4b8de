"""Other text for one place of a policy file: the lines as they are, and as they would be. Pure.

Works on the text as it was written, so that comments, order and indentation stay. Only what stands on one line is
rewritten: a change that a person is to make by hand has to be plain.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from yaml import CollectionNode, CSafeLoader, MappingNode, Node, ScalarNode, SequenceNode, YAMLError

from gateway.policy.problems import Path

Scalar = str | int | bool

_BEGINS_PLAIN = re.compile(r"[A-Za-z_/]")
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


@dataclass(frozen=True, slots=True)
class Change:
    """What to write at a place, instead of the value ``replaced`` that is expected there.

    ``values`` stand in its place, several of them as a list; or else ``entries`` in the place of the whole entry of the
    mapping.
    """

    replaced: Scalar
    values: tuple[Scalar, ...] = ()
    entries: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rewritten:
    """The line of a file, counted from 1, as it is now, and what to write there: one line or several."""

    line: int
    now: str
    write: str


def rewritten(text: str, document: int, path: Path, change: Change) -> Rewritten | None:
    """What a change makes of a line. None where the place does not hold what it replaces, or not on one line."""
    found = _Found.at(text, document, path, change.replaced)
    if found is None:
        return None
    if change.entries:
        return found.entries_written(change.entries)
    return found.values_written(change.values)


@dataclass(frozen=True, slots=True)
class _Found:
    """A scalar in a text, with what it stands in."""

    text: str
    value: ScalarNode
    parent: CollectionNode
    """The mapping or the list that holds it."""
    key: Node | None
    """Where it stands in a mapping."""

    @classmethod
    def at(cls, text: str, document: int, path: Path, expected: Scalar) -> "_Found | None":
        node = _root(text, document)
        parent: Node | None = None
        key: Node | None = None
        for step in path:
            parent = node
            key, node = _step_into(node, step)
        if isinstance(node, SequenceNode):  # of a list the one item that is meant
            parent, key = node, None
            node = next((item for item in node.value if _holds(item, expected)), None)
        if not isinstance(parent, CollectionNode) or not isinstance(node, ScalarNode) or not _holds(node, expected):
            return None
        begins = key if key is not None else node
        if begins.start_mark.line != node.end_mark.line:
            return None
        return cls(text, node, parent, key)

    def values_written(self, values: tuple[Scalar, ...]) -> Rewritten | None:
        in_flow = bool(self.parent.flow_style) or len(values) > 1
        spelled = [_spelled(value, style=self.value.style, in_flow=in_flow) for value in values]
        if len(spelled) == 1:
            return self._written(self.value, spelled[0])
        if self.key is not None:
            return self._written(self.value, f"[{', '.join(spelled)}]")
        if self.parent.flow_style:
            return self._written(self.value, ", ".join(spelled))
        indent = " " * (self.value.start_mark.column - 2)
        return self._written(self.value, f"\n{indent}- ".join(spelled))

    def entries_written(self, entries: Mapping[str, Scalar]) -> Rewritten | None:
        if self.key is None:
            return None
        in_flow = bool(self.parent.flow_style)
        spelled = [f"{_spelled(name)}: {self._entry_spelled(name, value, in_flow)}" for name, value in entries.items()]
        between = ", " if in_flow else "\n" + " " * self.key.start_mark.column
        return self._written(self.key, between.join(spelled))

    def _entry_spelled(self, name: str, value: Scalar, in_flow: bool) -> str:
        is_same = isinstance(self.key, ScalarNode) and self.key.value == name
        return _spelled(value, style=self.value.style if is_same else None, in_flow=in_flow)

    def _written(self, begins: Node, replacement: str) -> Rewritten:
        """The line, with what stands from the beginning of a node to the end of the value replaced."""
        start, end = begins.start_mark, self.value.end_mark
        first = start.index - start.column
        line_end = self.text.find("\n", end.index)
        last = len(self.text) if line_end < 0 else line_end
        before, after = self.text[first : start.index], self.text[end.index : last].rstrip("\r")
        now = self.text[first:last].rstrip("\r")
        return Rewritten(start.line + 1, now, before + replacement + after)


def _root(text: str, document: int) -> Node | None:
    loader = CSafeLoader(text)
    try:
        number = -1
        while loader.check_node():
            node: Node | None = loader.get_node()
            number += 1
            if number == document:
                return node
    except YAMLError:
        pass
    return None


def _step_into(node: Node | None, step: str | int) -> tuple[Node | None, Node | None]:
    """The key (in a mapping) and the value that a step of a path leads to; None where it leads nowhere."""
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if isinstance(key, ScalarNode) and key.value == step:
                return key, value
    if isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
        return None, node.value[step]
    return None, None


def _holds(node: Any, expected: Scalar) -> bool:
    """Whether a node is this value: in the words of the file, where a number and a boolean stand without quotes."""
    if not isinstance(node, ScalarNode):
        return False
    if isinstance(expected, bool):
        return not node.style and node.value.lower() == str(expected).lower()
    if isinstance(expected, int):
        return not node.style and node.value.removeprefix("+") == str(expected)
    text: str = node.value
    return text == expected


def _spelled(value: Scalar, *, style: str | None = None, in_flow: bool = True) -> str:
    """A value as YAML, on one line: in the quotes that stood there before (``style``), without any where none did."""
    if not isinstance(value, str):
        return json.dumps(value)
    if not value.isprintable():
        return json.dumps(value)
    if style == "'":
        return "'" + value.replace("'", "''") + "'"
    if not style and _is_plain(value, in_flow=in_flow):
        return value
    if not style and '"' in value and "'" not in value:
        return f"'{value}'"
    return json.dumps(value, ensure_ascii=False)


def _is_plain(text: str, *, in_flow: bool) -> bool:
    """Whether a text needs no quotes, and no reader could take it for something else."""
    if not _BEGINS_PLAIN.match(text) or text.lower() in _WORDS:
        return False
    loader = CSafeLoader(f"{{k: {text}}}" if in_flow else f"k: {text}")
    try:
        node = loader.get_single_node()
    except YAMLError:
        return False
    if not isinstance(node, MappingNode) or len(node.value) != 1:
        return False
    value = node.value[0][1]
    return isinstance(value, ScalarNode) and value.value == text and not value.style
