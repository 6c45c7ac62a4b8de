"""Strict YAML: from text to plain values, without surprises.

Only str, int, bool, null, list, map. Refused: duplicate keys, anchors, aliases, tags, merge keys, keys that are not
text, numbers that parsers read differently, deep nesting. ``yes``, ``on`` and dates are text. Works on libyaml's
events without recursion, and remembers no lines: a document with an error is read again to find them. No I/O.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from sys import intern
from typing import Any

from yaml import CSafeLoader, MarkedYAMLError, YAMLError
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from yaml.reader import ReaderError

from gateway.policy.problems import ConfigurationProblems, Locate, Path, Problem, described

MAX_SCALAR_CHARACTERS = 64 * 1024
MAX_DEPTH = 32
MAX_CONTAINERS = 100_000
"""Lists and mappings in one document."""
MAX_DIGITS = 20

_WORDS: dict[str, bool | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_NOT_KEYS = frozenset({*_WORDS, "<<"})
_NUMBER_STARTS = frozenset("+-.0123456789")
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FRACTION = re.compile(
    r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|[-+]?\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_AMBIGUOUS = re.compile(
    r"[-+]?(?:0b[01_]+|0o?[0-7_]+|0[0-9_]+|0x[0-9a-fA-F_]+|[1-9][0-9]*+_[0-9_]*+|[1-9][0-9_]*+(?::[0-5]?[0-9])++(?:\.[0-9_]*+)?)"
)
_TAG_DIRECTIVE = re.compile(r"(?:\A|[\n\r\x85\u2028\u2029])%TAG")
"""libyaml compares each of them with all before it, and holds the interpreter while it does."""


class _NoKey:
    """Stands where a mapping waits for its next key."""


_NO_KEY = _NoKey()


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """One document of a file: its value, the line where it begins, and its position among the file's documents."""

    value: Any
    line: int
    number: int


class _Fault(Exception):
    """The rest of the file cannot be read."""

    def __init__(self, line: int, path: Path, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.path = path
        self.message = message


def decoded(content: bytes, file: str, problems: list[Problem]) -> str:
    """The text of a file; of one that is not UTF-8 none, and a problem."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problems.append(Problem(file, line, (), "is not UTF-8"))
        return ""


def read_documents(text: str, file: str, problems: list[Problem]) -> Iterator[YamlDocument]:
    """The documents of a file, one by one; empty ones are left out.

    What is wrong is added to ``problems``; a document with a problem is not yielded, and after a syntax error
    nothing more is.
    """
    reading = _Reading(text, file, problems)
    try:
        _check_directives(text)
        yield from reading.documents()
    except _Fault as fault:
        problems.append(Problem(file, fault.line, fault.path, fault.message, document=reading.number))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        problems.append(Problem(file, line, (), f"not YAML: {_syntax(error)}", document=reading.number))
    except ReaderError as error:
        character = f"U+{error.character:04X}" if isinstance(error.character, int) else "a character"
        problems.append(Problem(file, _line_of_control(text), (), f"not YAML: {character} may not stand in a file"))
    except YAMLError as error:
        problems.append(Problem(file, 0, (), f"not YAML: {error}"))


def parse_yaml_document(text: str, file: str) -> tuple[Any, Locate]:
    """The one document of a text (an empty text is an empty mapping), and a function that finds lines in it.

    Raises ``ConfigurationProblems``.
    """
    problems: list[Problem] = []
    documents = list(read_documents(text, file, problems))
    if not problems and len(documents) > 1:
        problems.append(Problem(file, documents[1].line, (), "more than one document: remove the line ---"))
    if problems:
        raise ConfigurationProblems(problems)
    if not documents:
        return {}, lambda _path: 1
    number = documents[0].number
    found: dict[Path, int] = {}

    def locate(path: Path) -> int:
        if not found:
            found.update(lines_of(text, {number})[number])
        return nearest_line(found, path)

    return documents[0].value, locate


def nearest_line(lines: dict[Path, int], path: Path) -> int:
    """The line of a path, or of the innermost thing around it that is there."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def lines_of(text: str, numbers: set[int]) -> dict[int, dict[Path, int]]:
    """For each of these documents of a text, the line of every path in it. Reads on until the first syntax error."""
    found: dict[int, dict[Path, int]] = {number: {} for number in numbers}
    with contextlib.suppress(YAMLError):
        _trace(text, found)
    return found


class _Reading:
    """One pass over the events of one file."""

    def __init__(self, text: str, file: str, problems: list[Problem]) -> None:
        self.number = -1
        self._file = file
        self._problems = problems
        self._next_event = _events(text)

    def documents(self) -> Iterator[YamlDocument]:
        while (event := self._next_event()) is not None:
            if type(event) is not DocumentStartEvent:
                continue
            self.number += 1
            before = len(self._problems)
            if event.tags:
                self._problem(event, (), "tags are not accepted")
            line, value = self._document()
            if value is not None and len(self._problems) == before:
                yield YamlDocument(value, line, self.number)

    def _document(self) -> tuple[int, Any]:
        """Builds the value of one document. Hot: about 60 events for each service account."""
        next_event = self._next_event
        stack: list[tuple[Any, Any]] = []
        top: Any = []  # the root is the only item of this list
        root = top
        key: Any = None
        first_line = containers = 0
        while True:
            event = next_event()
            kind = type(event)
            if kind is ScalarEvent:
                value = event.value
                if event.anchor is not None or event.tag is not None or len(value) > MAX_SCALAR_CHARACTERS:
                    self._check_node(event, _path(stack, top, key))
                if key is _NO_KEY:
                    if event.implicit[0] and (value in _NOT_KEYS or value[0] in _NUMBER_STARTS):
                        self._check_plain_key(event, _path(stack, top, key))
                    if value in top:
                        self._problem(event, (*_path(stack, top, key), value), "stands here twice")
                    key = intern(value)
                    continue
                if event.implicit[0]:
                    if value in _WORDS:
                        value = _WORDS[value]
                    elif value[0] in _NUMBER_STARTS:
                        value = self._number(event, _path(stack, top, key))
            elif kind is MappingStartEvent or kind is SequenceStartEvent:
                if key is _NO_KEY:
                    raise _Fault(event.start_mark.line + 1, _path(stack, top, key), "a key must be plain text")
                if len(stack) >= MAX_DEPTH:
                    raise _Fault(event.start_mark.line + 1, _path(stack, top, key), f"nested deeper than {MAX_DEPTH}")
                if event.anchor is not None or event.tag is not None:
                    self._check_node(event, _path(stack, top, key))
                first_line = first_line or event.start_mark.line + 1
                containers += 1
                if containers > MAX_CONTAINERS:
                    raise _Fault(event.start_mark.line + 1, (), f"more than {MAX_CONTAINERS} lists and mappings")
                stack.append((top, key))
                top, key = ({}, _NO_KEY) if kind is MappingStartEvent else ([], None)
                continue
            elif kind is MappingEndEvent or kind is SequenceEndEvent:
                value = top
                top, key = stack.pop()
            elif kind is AliasEvent:
                self._problem(event, _path(stack, top, key), "aliases (*) are not accepted: write the value out")
                if key is _NO_KEY:
                    key = f"*{event.anchor}"
                    continue
                value = None
            elif kind is DocumentEndEvent:
                return first_line or event.start_mark.line + 1, root[0]
            else:
                raise _Fault(0, (), "not YAML: the text ends within a document")
            if key is None:
                if not stack:
                    first_line = first_line or event.start_mark.line + 1
                top.append(value)
            else:
                top[key] = value
                key = _NO_KEY

    def _check_node(self, event: Any, path: Path) -> None:
        if event.anchor is not None:
            self._problem(event, path, "anchors (&) are not accepted")
        if event.tag is not None:
            self._problem(event, path, "tags (!) are not accepted")
        if type(event) is ScalarEvent and len(event.value) > MAX_SCALAR_CHARACTERS:
            self._problem(event, path, f"is longer than {MAX_SCALAR_CHARACTERS} characters")

    def _check_plain_key(self, event: Any, path: Path) -> None:
        text = event.value
        if text == "<<":
            self._problem(event, path, "merge keys (<<) are not accepted")
        elif text in _NOT_KEYS or _DECIMAL.fullmatch(text) or _FRACTION.fullmatch(text) or _AMBIGUOUS.fullmatch(text):
            self._problem(event, path, f"the key {text or 'nothing'} is not text: write it in quotes")

    def _number(self, event: Any, path: Path) -> Any:
        text: str = event.value
        if _DECIMAL.fullmatch(text):
            if len(text) > MAX_DIGITS:
                self._problem(event, path, f"a number of more than {MAX_DIGITS} digits: write it in quotes")
                return None
            return int(text)
        if _AMBIGUOUS.fullmatch(text):
            words = f"{described(text)[1:-1]} is read as different numbers by different parsers"
            self._problem(event, path, f"{words}: write it in quotes, or in plain decimal")
            return None
        if _FRACTION.fullmatch(text):
            # Nothing takes a fraction; as a float it meets whoever says what is wanted instead.
            return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan")) if len(text) < 64 else 0.5
        return text

    def _problem(self, event: Any, path: Path, message: str) -> None:
        self._problems.append(Problem(self._file, event.start_mark.line + 1, path, message, document=self.number))


def _check_directives(text: str) -> None:
    if found := _TAG_DIRECTIVE.search(text):
        raise _Fault(text.count("\n", 0, found.end()) + 1, (), "tags are not accepted")


def _events(text: str) -> Callable[[], Any]:
    """The events of a text as libyaml sees them, one at each call, None after the last."""
    get_event: Callable[[], Any] = CSafeLoader(text).get_event
    return get_event


def _path(stack: list[tuple[Any, Any]], top: Any, key: Any) -> Path:
    frames = [*stack[1:], (top, key)] if stack else []
    parts = [len(container) if key is None else key for container, key in frames]
    return tuple(part for part in parts if part is not _NO_KEY)


def _trace(text: str, found: dict[int, dict[Path, int]]) -> None:
    """Notes the line of every path of the documents in ``found``."""
    number = -1
    lines: dict[Path, int] | None = None
    path: list[Any] = []
    next_event = _events(text)
    while found and number <= max(found) and (event := next_event()) is not None:
        kind = type(event)
        if kind is DocumentStartEvent:
            number += 1
            lines = found.get(number)
            path = []
        elif lines is None:
            continue
        elif kind is ScalarEvent and path and path[-1] is _NO_KEY:
            path[-1] = event.value
            lines.setdefault(tuple(path), event.start_mark.line + 1)
        elif kind in {ScalarEvent, AliasEvent, MappingStartEvent, SequenceStartEvent}:
            lines.setdefault(tuple(path), event.start_mark.line + 1)
            if kind is MappingStartEvent:
                path.append(_NO_KEY)
            elif kind is SequenceStartEvent:
                path.append(0)
            else:
                _step(path)
            if len(path) > MAX_DEPTH:
                return
        elif kind in {MappingEndEvent, SequenceEndEvent}:
            path.pop()
            _step(path)


def _step(path: list[Any]) -> None:
    if path:
        path[-1] = path[-1] + 1 if isinstance(path[-1], int) else _NO_KEY


def _syntax(error: MarkedYAMLError) -> str:
    return ", ".join(part for part in (error.context, error.problem) if part) or "cannot be read"


def _line_of_control(text: str) -> int:
    for position, character in enumerate(text):
        if not (character in "\t\n\r\x85" or "\x20" <= character <= "\x7e" or character >= "\xa0"):
            return text.count("\n", 0, position) + 1
    return 0
