"""Changes to policy files that leave alone whatever they are not about: comments, order, indentation, quotes.

Each change names a place by document and path and is made in the text as it was written. Whether the text then says
what was meant is checked by reading it again: where it does not, the change is refused. Pure.
"""

import difflib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal, cast

from yaml import CSafeLoader, MappingNode, Node, ScalarNode, SequenceNode, YAMLError

from gateway.policy.problems import Path, Problem
from gateway.policy.yaml_reader import read_documents

MAX_FLOW_CHARACTERS = 100
"""A mapping that would be longer on one line is written on several."""

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*(?::[A-Za-z0-9_./-]+)?|[1-9][0-9]{0,8}[smhd]")
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
_STEP = 2


class EditError(ValueError):
    """A change that cannot be made in this text, in words."""


class YamlText:
    """A policy file, and the changes to it: first what is taken out or replaced, then what is added."""

    def __init__(self, text: str) -> None:
        """Raises ``EditError`` for a text that is no YAML, or begins with a byte order mark."""
        if text.startswith("\ufeff"):
            raise EditError("begins with a byte order mark")
        self._text = text
        self._newline = "\r\n" if "\r\n" in text else "\n"
        self._roots = _roots(text)
        self._said = _values(text)
        self._meant = deepcopy(self._said)
        self._gone: dict[tuple[int, Path], set[str | int]] = {}
        """By document and path of what holds them: the entries and items that are taken out."""
        self._edits: list[tuple[int, int, str]] = []

    def value(self, document: int) -> Any:
        """What a document said before any change."""
        return self._said[document]

    def value_at(self, document: int, path: Path) -> Any:
        """What stood at a place of it."""
        return _at(self._said[document], path)

    def replace(self, document: int, path: Path, value: Any) -> None:
        """Writes another value at a place. Raises ``EditError`` where nothing is there."""
        key, node = self._at(document, path)
        end = _end(node, self._text)
        if key is not None and self._is_too_long(document, path, value):
            self._edit(key.end_mark.index, end, self._below(key, value))
        elif key is not None and node.start_mark.line != key.end_mark.line:
            self._edit(key.end_mark.index, end, f": {flow(value)}")
        else:
            self._edit(node.start_mark.index, end, flow(value))
        _holder(self._meant[document], path)[path[-1]] = value

    def outgrows_its_line(self, document: int, path: Path, value: Any) -> bool:
        """Whether a mapping stands on one line, and this one in its place had better stand on several."""
        return _is_flow(self._at(document, path)[1]) and self._is_too_long(document, path, value)

    def remove(self, document: int, path: Path) -> None:
        """Takes out an entry of a mapping or an item of a list, which keeps others. Raises ``EditError``."""
        self._at(document, path)
        self._gone.setdefault((document, path[:-1]), set()).add(path[-1])
        holder = _holder(self._meant[document], path)
        if isinstance(holder, dict):
            del holder[path[-1]]
        else:  # positions of the others stay until all is done
            holder[path[-1]] = _GONE

    def rename(self, document: int, path: Path, name: str, value: Any) -> None:
        """Writes another entry in the place of one of a mapping. Raises ``EditError``."""
        key, node = self._at(document, path)
        if key is None:
            raise EditError("is not an entry of a mapping")
        too_long = self._is_too_long(document, path, value)
        written = self._below(key, value) if too_long else f": {flow(value)}"
        self._edit(key.start_mark.index, _end(node, self._text), flow(name) + written)
        holder = _holder(self._meant[document], path)
        del holder[path[-1]]
        holder[name] = value

    def add(self, document: int, path: Path, name: str, value: Any) -> None:
        """A new last entry of the mapping at a place. Raises ``EditError`` where no mapping is there."""
        node = self._at(document, path)[1]
        if not isinstance(node, MappingNode):
            raise EditError("is not a mapping")
        self._append(document, path, node, f"{flow(name)}: ", value)
        _at(self._meant[document], path)[name] = value

    def append(self, document: int, path: Path, value: Any) -> None:
        """A new last item of the list at a place. Raises ``EditError`` where no list is there."""
        node = self._at(document, path)[1]
        if not isinstance(node, SequenceNode):
            raise EditError("is not a list")
        self._append(document, path, node, "", value)
        _at(self._meant[document], path).append(value)

    def changed(self) -> str:
        """The text with all changes. Raises ``EditError`` unless it says what was meant, and nothing else."""
        for (document, path), steps in self._gone.items():
            self._take_out(self._at(document, path)[1], steps)
        pieces, position = [], 0
        for start, end, replacement in sorted(self._edits, key=lambda edit: edit[:2]):
            if start < position:
                raise EditError("two changes meet in one place")
            pieces += [self._text[position:start], replacement]
            position = end
        changed = "".join([*pieces, self._text[position:]])
        meant = [_without_gone(one) for one in self._meant]
        if not _same(_values(changed), meant):
            raise EditError("would not say what is meant")
        return changed

    # ---------------------------------------------------------------- where to write

    def _is_too_long(self, document: int, path: Path, value: Any) -> bool:
        key = self._at(document, path)[0]
        if key is None or not isinstance(value, dict) or _is_flow(self._at(document, path[:-1])[1]):
            return False
        return self._column(key.start_mark.index) + len(f"{path[-1]}: {flow(value)}") > MAX_FLOW_CHARACTERS

    def _below(self, key: Node, value: Mapping[str, Any]) -> str:
        """A mapping on lines of its own below its key."""
        lines = _mapping(value, self._column(key.start_mark.index) + _STEP)
        return ":" + "".join(self._newline + line for line in lines)

    def _take_out(self, holder: Node, steps: set[str | int]) -> None:
        entries = _entries(holder, self._text)
        kept = [one for one in entries if one.step not in steps]
        if not kept:
            raise EditError("would be empty")
        leading = entries[: entries.index(kept[0])]
        if leading and (_is_flow(holder) or isinstance(holder, MappingNode)):
            self._edit(leading[0].start, kept[0].start, "")  # it may stand behind the dash of a list
        for before, entry in itertools.pairwise(entries):
            if entry.step not in steps or entry in leading:
                continue
            if _is_flow(holder):
                self._edit(before.end, entry.end, "")
            else:
                self._take_out_lines(entry)
        if leading and not _is_flow(holder) and isinstance(holder, SequenceNode):
            self._edit(self._line_start(leading[0].start), self._line_start(kept[0].start), "")

    def _take_out_lines(self, entry: "_Entry") -> None:
        """With the line end before them and not the one behind, where something may have to be added."""
        start = self._line_start(entry.start)
        if start == 0:
            self._edit(0, self._line_end(entry.end), "")
        else:
            self._edit(self._line_end(start - 1, with_break=False), self._line_end(entry.end, with_break=False), "")

    def _append(self, document: int, path: Path, node: Node, name: str, value: Any) -> None:
        gone = self._gone.get((document, path), set())
        entries = [one for one in _entries(node, self._text) if one.step not in gone]
        if _is_flow(node):
            written = name + flow(value)
            if entries:
                self._edit(entries[-1].end, entries[-1].end, f", {written}")
            else:
                self._edit(node.start_mark.index + 1, node.start_mark.index + 1, written)
            return
        if not entries:
            raise EditError("has nothing to write behind")
        indent = self._column(entries[0].start)
        if isinstance(node, SequenceNode):
            indent = node.start_mark.column
            lines = [
                f"{' ' * indent}- {line}" if not number else line for number, line in enumerate(_item(value, indent))
            ]
        else:
            lines = _entry(name, value, indent)
        end = self._line_end(entries[-1].end, with_break=False)
        self._edit(end, end, "".join(self._newline + line for line in lines))

    def _edit(self, start: int, end: int, replacement: str) -> None:
        self._edits.append((start, end, replacement))

    def _line_start(self, index: int) -> int:
        start = self._text.rfind("\n", 0, index) + 1
        if self._text[start:index].strip(" -"):
            raise EditError("shares its line with something else")
        return start

    def _line_end(self, index: int, *, with_break: bool = True) -> int:
        end = self._text.find("\n", index)
        if end < 0:
            return len(self._text)
        if with_break:
            return end + 1
        return end - 1 if self._text[end - 1 : end] == "\r" else end

    def _column(self, index: int) -> int:
        return index - self._text.rfind("\n", 0, index) - 1

    def _at(self, document: int, path: Path) -> tuple[Node | None, Node]:
        """The key (in a mapping) and the value at a place."""
        key: Node | None = None
        node: Node = self._roots[document]
        for step in path:
            found = next((one for one in _entries(node, self._text) if one.step == step), None)
            if found is None:
                raise EditError("is not there")
            key, node = found.key, found.value
        return key, node


class _Gone:
    """Stands where an item of a list was."""


_GONE = _Gone()


class _Entry:
    """An entry of a mapping or an item of a list, and from where to where it stands."""

    def __init__(self, step: str | int, key: Node | None, value: Node, text: str) -> None:
        self.step = step
        self.key = key
        self.value = value
        self.start: int = (key or value).start_mark.index
        self.end = _end(value, text)


def _entries(node: Node, text: str) -> list[_Entry]:
    if isinstance(node, MappingNode):
        return [_Entry(key.value, key, value, text) for key, value in node.value if isinstance(key, ScalarNode)]
    if isinstance(node, SequenceNode):
        return [_Entry(position, None, value, text) for position, value in enumerate(node.value)]
    return []


def _is_flow(node: Node) -> bool:
    return isinstance(node, MappingNode | SequenceNode) and bool(node.flow_style)


def _end(node: Node, text: str) -> int:
    """Where a node ends. A block ends with the last thing in it, not where the next one begins."""
    if isinstance(node, MappingNode) and not _is_flow(node) and node.value:
        return _end(node.value[-1][1], text)
    if isinstance(node, SequenceNode) and not _is_flow(node) and node.value:
        return _end(node.value[-1], text)
    end: int = node.end_mark.index
    if isinstance(node, ScalarNode) and node.style in {"|", ">"}:
        return node.start_mark.index + len(text[node.start_mark.index : end].rstrip())
    return end


def _roots(text: str) -> list[Node]:
    loader = CSafeLoader(text)
    roots: list[Node] = []
    try:
        while loader.check_node():
            roots.append(cast("Node", loader.get_node()))
    except YAMLError as error:
        raise EditError(f"is not YAML: {error}") from None
    return roots


def _values(text: str) -> list[Any]:
    """The value of every document of a text, None for an empty one."""
    problems: list[Problem] = []
    found = {one.number: one.value for one in read_documents(text, "", problems)}
    if problems:
        raise EditError(str(problems[0]))
    return [found.get(number) for number in range(max(found, default=-1) + 1)]


def _at(value: Any, path: Path) -> Any:
    for step in path:
        value = value[step]
    return value


def _holder(value: Any, path: Path) -> Any:
    return _at(value, path[:-1])


def _without_gone(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_gone(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_without_gone(one) for one in value if one is not _GONE]
    return value


def _same(left: Any, right: Any) -> bool:
    """Equal in type as well: 1, true and "1" are three values."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(member, right[name]) for name, member in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return type(left) is type(right) and bool(left == right)


# ---------------------------------------------------------------- how to write


def flow(value: Any) -> str:
    """A value as YAML on one line, in the strict form that every parser reads alike: texts in quotes wherever they
    could be taken for something else, and whatever has no plain shape escaped.
    """
    if isinstance(value, str):
        return _scalar(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(name)}: {flow(member)}" for name, member in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(flow, value)) + "]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(int(value))


def _scalar(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return '"' + "".join(map(_character, text)) + '"'


def _character(one: str) -> str:
    if one in '"\\':
        return "\\" + one
    if " " <= one <= "~":
        return one
    code = ord(one)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _entry(name: str, value: Any, indent: int) -> list[str]:
    """An entry of a mapping in block style; ``name`` ends with its colon and a blank."""
    on_one_line = " " * indent + name + flow(value)
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        inner = indent + _STEP
        items = [_item(one, inner) for one in value]
        lines = [f"{' ' * inner}- {line}" if not number else line for item in items for number, line in enumerate(item)]
        return [" " * indent + name.rstrip(), *lines]
    if isinstance(value, dict) and len(on_one_line) > MAX_FLOW_CHARACTERS:
        return [" " * indent + name.rstrip(), *_mapping(value, indent + _STEP)]
    return [on_one_line]


def _item(value: Any, indent: int) -> list[str]:
    """An item of a list in block style: its first line without what stands before it."""
    if not isinstance(value, dict) or len(" " * indent + "- " + flow(value)) <= MAX_FLOW_CHARACTERS:
        return [flow(value)]
    first, *others = _mapping(value, indent + _STEP)
    return [first.lstrip(), *others]


def _mapping(value: Mapping[str, Any], indent: int) -> list[str]:
    return [line for name, member in value.items() for line in _entry(f"{_scalar(name)}: ", member, indent)]


# ---------------------------------------------------------------- as a patch


def unified_diff(name: str, before: str, after: str) -> str:
    """What ``patch -p1`` and ``git apply`` take, for one file; empty where nothing differs.

    Raises ``EditError`` for a name that cannot stand in a patch.
    """
    if before == after:
        return ""
    if not name.isprintable() or '"' in name or "\\" in name:
        raise EditError("a file of that name cannot be patched")
    end = "\t" if " " in name else ""
    lines = [f"--- a/{name}{end}\n", f"+++ b/{name}{end}\n"]
    lines += _hunks(_lines(before), _lines(after))
    return "".join(lines)


def _lines(text: str) -> list[str]:
    """By line feeds alone, as patches count; the rest of Unicode's line ends is text."""
    lines = text.split("\n")
    return [f"{line}\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _hunks(before: list[str], after: list[str]) -> Iterator[str]:
    for changes in _ByDocument(before, after).get_grouped_opcodes(3):
        (_, start, _, new_start, _), (_, _, end, _, new_end) = changes[0], changes[-1]
        yield f"@@ -{_range(start, end)} +{_range(new_start, new_end)} @@\n"
        for tag, first, last, new_first, new_last in changes:
            if tag == "equal":
                yield from (_line(" ", line) for line in before[first:last])
                continue
            yield from (_line("-", line) for line in before[first:last])
            yield from (_line("+", line) for line in after[new_first:new_last])


def _range(start: int, end: int) -> str:
    length = end - start
    return f"{start + 1}" if length == 1 else f"{start + 1 if length else start},{length}"


def _line(mark: str, line: str) -> str:
    return f"{mark}{line}" if line.endswith("\n") else f"{mark}{line}\n\\ No newline at end of file\n"


class _ByDocument(difflib.SequenceMatcher[str]):
    """Compares a file document by document: within one, every line counts, however many documents have the same one."""

    def __init__(self, before: list[str], after: list[str]) -> None:
        super().__init__(None, before, after)
        self._before = before
        self._after = after

    def get_opcodes(self) -> list[tuple[Literal["replace", "delete", "insert", "equal"], int, int, int, int]]:
        """What leads from the one to the other, as of every ``SequenceMatcher``."""
        found: list[tuple[Literal["replace", "delete", "insert", "equal"], int, int, int, int]] = []
        old, new = _documents(self._before), _documents(self._after)
        if len(old) != len(new):
            return super().get_opcodes()
        at = new_at = 0
        for lines, new_lines in zip(old, new, strict=True):
            matcher = difflib.SequenceMatcher(None, lines, new_lines, autojunk=False)
            for tag, first, last, new_first, new_last in matcher.get_opcodes():
                moved = (at + first, at + last, new_at + new_first, new_at + new_last)
                if tag == "equal" and found and found[-1][0] == "equal":
                    found[-1] = (tag, found[-1][1], moved[1], found[-1][3], moved[3])
                else:
                    found.append((tag, *moved))
            at, new_at = at + len(lines), new_at + len(new_lines)
        return found


def _documents(lines: Sequence[str]) -> list[list[str]]:
    found: list[list[str]] = [[]]
    for line in lines:
        if line.startswith("---"):
            found.append([])
        found[-1].append(line)
    return found
