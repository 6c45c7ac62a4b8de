"""What is wrong with a configuration file, told so that a person can repair it.

Owns the ``Problem`` value, its one-line rendering, the search for the nearest valid name, and the translation of
pydantic's errors. Serves the policies and ``gateway.yaml`` alike. Does no I/O.
"""

import difflib
import inspect
import json
import re
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

MAX_PROBLEMS = 200
MAX_COMPARED = 2000
"""So many valid names a misspelt one is compared with."""
NO_SUCH_FIELD = "no such field"

Path = tuple[str | int, ...]
"""Where in a document: keys and positions from the outside in."""

Locate = Callable[[Path], int]
"""From a path to the line, counted from 1, of the nearest thing that is there."""

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_UNION_MEMBER = re.compile(r"(?:function-|constrained-|lax-or-strict|nullable|tagged-union|\[key\]|\w+\[)")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong (or, in a list of warnings, dubious), and where.

    ``document`` is the position of the YAML document in its file, from 0.
    """

    file: str
    line: int
    path: Path
    message: str
    suggestion: str = ""
    document: int = 0

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        path = f"{path_text(self.path)}: " if self.path else ""
        hint = f" (did you mean {self.suggestion}?)" if self.suggestion else ""
        return visible(f"{where}{path}{self.message}{hint}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a document stands: its file, the line where it begins, and its position in the file, from 0."""

    file: str
    line: int
    number: int

    def problem(self, path: Path, message: str, suggestion: str = "") -> Problem:
        """What is wrong at a path of the document. Its line is that of the document until it is looked for."""
        return Problem(self.file, self.line, path, message, suggestion, self.number)


class ConfigurationProblems(Exception):
    """Raised when a file cannot be used. Holds every problem found, in the order of files and lines."""

    def __init__(self, problems: Iterable[Problem], left_out: int = 0, files: Iterable[str] = ()) -> None:
        """``left_out`` and ``files`` are those of the problems that are not among ``problems`` any more."""
        found = sorted(problems, key=lambda problem: (problem.file, problem.line))
        super().__init__(found)
        self.files = frozenset([*(problem.file for problem in found), *files])
        """The files that something is wrong with, those of problems that were left out included."""
        self.problems: tuple[Problem, ...] = tuple(found[:MAX_PROBLEMS])
        self.left_out = left_out + max(0, len(found) - MAX_PROBLEMS)

    def __str__(self) -> str:
        more = [f"... and {self.left_out} more"] if self.left_out else []
        return "\n".join([*map(str, self.problems), *more])


class PolicyProblems(ConfigurationProblems):
    """The policy files cannot become a generation."""


def visible(text: str) -> str:
    """The text with everything that has no shape escaped: it goes to terminals, logs and JSON, which controls, marks
    that turn the direction of writing and file names that are no Unicode would confuse or break.
    """
    return text if text.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def path_text(path: Path) -> str:
    """``("trust", 0, "match", "kubernetes.io")`` reads ``trust[0].match["kubernetes.io"]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part[:80], ensure_ascii=False)}]"
    return text


def nearest(name: object, valid: Collection[str]) -> str:
    """The valid name that ``name`` was probably meant to be, or the empty string."""
    if not isinstance(name, str) or not name:
        return ""
    for candidate in valid:
        if candidate.lower() == name.lower():
            return candidate
    # Of very many names only those of like length can be near: the search stays short.
    like = valid if len(valid) <= MAX_COMPARED else [one for one in valid if one[:2] == name[:2]][:MAX_COMPARED]
    found = difflib.get_close_matches(name, like, n=1, cutoff=0.6)
    return found[0] if found else ""


def problems_of(
    error: ValidationError,
    file: str,
    locate: Locate,
    model: type[BaseModel],
    document: int = 0,
    suggest: Callable[[object, Collection[str]], str] = nearest,
) -> list[Problem]:
    """Pydantic's errors as problems: path, line, words that a person can act on, and the nearest valid name.

    ``model`` is the model that was validated: its fields are the names to suggest.
    """
    first = error.errors(include_url=False)[:MAX_PROBLEMS]
    found = [_problem(details, file, locate, model, document, suggest) for details in first]
    return [one for one in found if not _follows_from_another(one, found)]


def _follows_from_another(problem: Problem, found: list[Problem]) -> bool:
    """A missing field that is there misspelt; a list that is short only for its bad entries."""
    if problem.message == _MISSING:
        return any((*one.path[:-1], one.suggestion) == problem.path for one in found)
    if problem.message.startswith(_TOO_FEW):
        return any(one.path[: len(problem.path)] == problem.path and one is not problem for one in found)
    return False


def _problem(
    details: ErrorDetails,
    file: str,
    locate: Locate,
    model: type[BaseModel],
    document: int,
    suggest: Callable[[object, Collection[str]], str],
) -> Problem:
    path = tuple(part for part in details["loc"] if isinstance(part, int) or not _UNION_MEMBER.match(part))
    suggestion = ""
    if details["type"] == "extra_forbidden":
        # The last part is a key of the file, whatever it looks like.
        *above, name = details["loc"]
        path = (*(part for part in above if isinstance(part, int) or not _UNION_MEMBER.match(part)), name)
        suggestion = suggest(name, _field_names(model, path[:-1]))
    elif details["type"] in {"literal_error", "enum"}:
        suggestion = suggest(details["input"], _expected(details))
    return Problem(file, locate(path), path, _words(details), suggestion, document)


def _words(details: ErrorDetails) -> str:
    kind, given, context = details["type"], details["input"], details.get("ctx", {})
    if kind in _TEXT_EXPECTED and not isinstance(given, str):
        return f"expected text, got {described(given)}" + _quote_it(given)
    match kind:
        case "extra_forbidden":
            return NO_SUCH_FIELD
        case "missing":
            return _MISSING
        case "bool_type":
            return f"expected true or false, got {described(given)}"
        case "int_type":
            return f"expected a whole number, got {described(given)}"
        case "list_type" | "tuple_type":
            return f"expected a list, got {described(given)}"
        case "dict_type" | "model_type" | "model_attributes_type" | "mapping_type":
            return f"expected a mapping, got {described(given)}"
        case "literal_error" | "enum":
            return f"must be one of {', '.join(_expected(details))}, not {described(given)}"
        case "too_short":
            return f"{_TOO_FEW} {_entries(context['min_length'])}"
        case "too_long":
            return f"may have at most {_entries(context['max_length'])}"
        case "string_too_short":
            return "must not be empty"
        case "string_too_long":
            return f"is longer than {context['max_length']} characters"
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "less_than_equal":
            return f"must be at most {context['le']}"
        case "value_error":
            return str(context["error"])
        case _:
            return details["msg"]


_MISSING = "is missing"
_TOO_FEW = "needs at least"
_TEXT_EXPECTED = frozenset({"string_type", "wording"})


def described(value: object) -> str:
    """A value of a file in a message: short, on one line, never the whole of it."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _quote_it(value: object) -> str:
    return ": write it in quotes" if isinstance(value, bool | int | float) else ""


def _entries(count: int) -> str:
    return "one entry" if count == 1 else f"{count} entries"


def _expected(details: ErrorDetails) -> list[str]:
    return re.findall(r"'([^']*)'", details.get("ctx", {}).get("expected", ""))


def _field_names(model: type[BaseModel], path: Path) -> list[str]:
    models: list[type[BaseModel]] = [model]
    for part in path:
        if isinstance(part, int):
            continue
        models = [inner for one in models for inner in _models_of_field(one, part)]
    return [field.alias or name for one in models for name, field in one.model_fields.items()]


def _models_of_field(model: type[BaseModel], name: str) -> Iterator[type[BaseModel]]:
    for field_name, field in model.model_fields.items():
        if name in {field_name, field.alias}:
            yield from _models_in(field.annotation)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models_in(inner)
