"""``# lint: ignore RULE reason``: comments in policy files that silence a rule on their line, or on the line below.

Reads comments as YAML does, so that a ``#`` in quotes or in a block of text is none. Pure.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from yaml import CSafeLoader, YAMLError
from yaml.tokens import ScalarToken

MARK = "lint:"
_COMMENT = re.compile(r"#[ \t]*lint:")
_IGNORE = re.compile(r"[ \t]*ignore[ \t]+(?P<rule>\S+)(?:[ \t]+(?P<reason>\S.*?))?[ \t]*")
_BLOCKS = frozenset({"|", ">"})
_LINE_BREAK = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Ignore:
    """A comment that silences a rule. ``covers`` is the line, counted from 1, whose findings it silences: its own, or
    for a comment alone on its line the next one with something else on it.

    ``rule`` is empty where the comment cannot be read.
    """

    line: int
    covers: int
    rule: str
    reason: str


def ignores_in(text: str) -> Iterator[Ignore]:
    """The comments of a file that begin with ``lint:``. There are none in a file with a text that has no end."""
    if MARK not in text:
        return
    begins, ends = _scalars(text)
    lines = [0, *(found.end() for found in _LINE_BREAK.finditer(text))]
    following = _next_with_content(text, lines)
    marks = [found for found in _COMMENT.finditer(text) if not _is_inside(found.start(), begins, ends)]
    last_line = covered = 0
    for position, mark in enumerate(marks):
        line = bisect_right(lines, mark.start())
        if line != last_line:
            is_alone = not text[lines[line - 1] : mark.start()].strip()
            last_line, covered = line, following[line - 1] if is_alone else line
        end = lines[line] if line < len(lines) else len(text)
        if position + 1 < len(marks):
            end = min(end, marks[position + 1].start())
        written = _IGNORE.fullmatch(text[mark.end() : end].rstrip())
        yield Ignore(
            line=line,
            covers=covered,
            rule=written["rule"] if written is not None else "",
            reason=(written["reason"] or "") if written is not None else "",
        )


def _is_inside(at: int, begins: list[int], ends: list[int]) -> bool:
    around = bisect_right(begins, at) - 1
    return around >= 0 and at < ends[around]


def _next_with_content(text: str, lines: list[int]) -> list[int]:
    """For each line the number of the first one below it that is neither blank nor a comment."""
    found = [0] * len(lines)
    following = len(lines) + 1
    for number in range(len(lines), 0, -1):
        found[number - 1] = following
        end = lines[number] if number < len(lines) else len(text)
        content = text[lines[number - 1] : end].strip()
        if content and not content.startswith("#"):
            following = number
    return found


def _scalars(text: str) -> tuple[list[int], list[int]]:
    """Where the texts of a file begin and end, each with its quotes; those of a block behind its first line."""
    begins, ends = [], []
    loader = CSafeLoader(text)
    try:
        while (token := loader.get_token()) is not None:
            if isinstance(token, ScalarToken):
                begin, end = token.start_mark.index, token.end_mark.index
                if token.style in _BLOCKS:
                    line_break = _LINE_BREAK.search(text, begin, end)
                    begin = line_break.end() if line_break is not None else end
                begins.append(begin)
                ends.append(end)
    except YAMLError:
        return [0], [len(text)]
    return begins, ends
