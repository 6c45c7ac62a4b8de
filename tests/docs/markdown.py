"""Reads the project's pages: headings, links, code, fenced blocks and the tables that a test executes. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = tuple(
    page
    for page in (
        ROOT / name
        for name in (
            "README.md",
            "CHANGELOG.md",
            "policies/README.md",
            "policies/craft.md",
            "policies/lint.md",
            "deploy/README.md",
            "deploy/from-secrets-to-workload-identity.md",
        )
    )
    if page.exists()
)
"""Those of the project's pages that are there."""

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_LINK = re.compile(r"\[(?P<text>[^\]\n]+)\]\((?P<target>[^)\s]+)\)")
_EXECUTED = re.compile(r"^<!-- executed: (?P<name>[^\n]+?) -->\n\n?(?P<table>(?:\|[^\n]*\n)+)", re.MULTILINE)
_CELL_END = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, the words after it, its text, and the line where it begins."""

    language: str
    words: tuple[str, ...]
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its header and its rows, each cell as it is written, pipes unescaped."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def name_of(page: Path) -> str:
    """How a test calls a page."""
    return str(page.relative_to(ROOT))


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page."""
    return [_block(text, fence) for fence in _FENCE.finditer(text)]


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", text)


def without_output(text: str) -> str:
    """A page without what its commands print: of a ``console`` block only the lines that begin with ``$``."""

    def shortened(fence: re.Match[str]) -> str:
        if fence["info"] != "console":
            return fence[0]
        return "\n".join(line for line in fence["body"].splitlines() if line.startswith("$ "))

    return _FENCE.sub(shortened, text)


def inline_code(text: str) -> list[str]:
    """What stands between backticks, outside of fenced blocks."""
    return _INLINE.findall(prose(text))


def codes(cell: str) -> list[str]:
    """What a cell shows as code."""
    return _INLINE.findall(cell)


def anchors(text: str) -> set[str]:
    """The fragments of a page's headings, as GitHub and GitLab make them."""
    found: set[str] = set()
    for heading in _HEADING.findall(prose(text)):
        slug = anchor(heading)
        number = next(number for number in range(1000) if (f"{slug}-{number}" if number else slug) not in found)
        found.add(f"{slug}-{number}" if number else slug)
    return found


def anchor(heading: str) -> str:
    """The fragment of one heading."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


def links(text: str) -> list[str]:
    """The targets of a page's links."""
    return [link["target"] for link in _LINK.finditer(_INLINE.sub("code", prose(text)))]


def executed_tables(text: str, name: str) -> list[Table]:
    """The tables that stand below ``<!-- executed: NAME -->``."""
    return [_table(found["table"]) for found in _EXECUTED.finditer(text) if found["name"] == name]


def commands(text: str) -> Iterator[str]:
    """Every command line of ``gateway`` that a page shows, in fenced shell blocks and as inline code."""
    for block in blocks(text):
        if block.language in {"sh", "console", "shell", "bash"}:
            for line in block.text.replace("\\\n", " ").splitlines():
                yield from _commands_in(line)
    for found in inline_code(text):
        if re.match(r"gateway [a-z-]", found):
            yield found


def _commands_in(line: str) -> Iterator[str]:
    for part in re.split(r"\$\(|[;|&)]|(?<=\s)#.*", line.removeprefix("$ ")):
        found = re.search(r"(?:^|\s)(?:\.venv/bin/|python -m )?(gateway [a-z-].*)", part)
        if found is not None:
            yield found[1].strip().rstrip('"')


def _block(text: str, fence: re.Match[str]) -> Block:
    language, *words = fence["info"].split() or [""]
    indent = len(fence["indent"])
    body = "\n".join(line[indent:] for line in fence["body"].splitlines())
    return Block(language, tuple(words), body, text.count("\n", 0, fence.start()) + 1)


def _table(text: str) -> Table:
    lines = [_cells(line) for line in text.splitlines()]
    return Table(lines[0], tuple(lines[2:]))


def _cells(line: str) -> tuple[str, ...]:
    cells = _CELL_END.split(line.strip().removeprefix("|").removesuffix("|"))
    return tuple(cell.strip().replace("\\|", "|") for cell in cells)
