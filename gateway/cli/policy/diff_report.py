"""What a diff of policies looks like: as JSON for scripts, as text for people, as Markdown for a pull request."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from gateway.cli.policy.markdown import code
from gateway.policy.diff import AccessChange, PolicyDiff, TestChange
from gateway.policy.documents import duration_text
from gateway.policy.files import locate_problems
from gateway.policy.problems import Problem, visible
from gateway.policy.setting_changes import SettingChange

if TYPE_CHECKING:
    from gateway.cli.policy.diff import Side

MAX_MARKDOWN_CHARACTERS = 65_000
"""A comment on GitHub has at most 65,536."""

Document = dict[str, Any]

_SECTIONS = ("everybody", "gains", "losses", "settings", "tests")
_TITLES = {
    "everybody": "Everybody at an issuer",
    "gains": "Gains",
    "losses": "Losses",
    "settings": "Changes beside scopes",
    "tests": "Tests that come out otherwise",
}
_SIGNS = {"gain": "+", "loss": "-", "wider": "+", "narrower": "-", "other": "~"}
_COLOURS = {"+": "green", "-": "red", "~": "yellow"}
_ABOUT = {
    "issuer": "issuer",
    "guardrail": "guardrail",
    "resource": "resource",
    "role": "role",
    "service_account": "service account",
    "credentials": "credentials of",
    "lifetime": "service account",
    "token_claims": "service account",
    "order": "service account",
}

# ---------------------------------------------------------------- the document


def document_of(found: PolicyDiff, sides: tuple["Side", "Side"], limit: int) -> Document:
    """A diff as JSON: at most ``limit`` entries of each sort, and how many are left out. Reads lines of the files."""
    old, new = sides
    everybody = [change for change in found.access if change.everybody and change.direction == "gain"]
    gains = [change for change in found.access if change.direction == "gain" and not change.everybody]
    losses = [change for change in found.access if change.direction == "loss"]
    loosened = [change for change in found.settings if change.everybody]
    settings = [change for change in found.settings if not change.everybody]
    sorts: dict[str, tuple[int, list[Document]]] = {
        "everybody": (
            len(everybody) + len(loosened),
            (_accesses(everybody[:limit], new) + _settings(loosened[:limit], sides))[:limit],
        ),
        "gains": (len(gains), _accesses(gains[:limit], new)),
        "losses": (len(losses), _accesses(losses[:limit], old)),
        "settings": (len(settings), _settings(settings[:limit], sides)),
        "tests": (len(found.tests), _tests(found.tests[:limit], sides)),
    }
    return {
        "changed": not found.is_empty,
        "old": old.name,
        "new": new.name,
        "counts": {name: count for name, (count, _) in sorts.items()},
        "totals": [
            {"direction": direction, "resource": resource, "scope": scope, "service_accounts": count}
            for (direction, resource, scope), count in list(found.totals().items())[:limit]
        ],
        **{name: shown for name, (_, shown) in sorts.items()},
        "left_out": {name: count - len(shown) for name, (count, shown) in sorts.items()},
    }


def _accesses(changes: Sequence[AccessChange], side: "Side") -> list[Document]:
    places = _located([change.place for change in changes], side)
    return [
        {
            "direction": change.direction,
            "sentence": change.sentence,
            "service_account": change.service_account,
            "issuer": change.issuer,
            "conditions": list(change.conditions),
            "access": [
                {
                    "resource": one.resource,
                    "scopes": list(one.scopes),
                    "lifetime_seconds": one.lifetime_seconds,
                    "sender_constraint": one.sender_constraint,
                    "roles": list(one.roles),
                }
                for one in change.access
            ],
            "rule": change.rule,
            "identity": change.is_identity,
            "compared": change.compared,
            **place,
        }
        for change, place in zip(changes, places, strict=True)
    ]


def _settings(changes: Sequence[SettingChange], sides: tuple["Side", "Side"]) -> list[Document]:
    places: dict[Problem, Document] = {}
    for side, is_old in zip(sides, (True, False), strict=True):
        own = [change.place for change in changes if _is_old(change.place.file, sides) is is_old]
        places |= zip(own, _located(own, side), strict=True)
    return [
        {
            "direction": change.direction,
            "about": change.about,
            "name": change.name,
            "sentence": change.sentence,
            **places[change.place],
        }
        for change in changes
    ]


def _is_old(file: str, sides: tuple["Side", "Side"]) -> bool:
    """Whether it is one of the old files: what is gone stands there."""
    is_old, is_new = (Path(file).is_relative_to(side.files.folder) for side in sides)
    return is_old and not is_new


def _tests(changes: Sequence[TestChange], sides: tuple["Side", "Side"]) -> list[Document]:
    told = []
    for change in changes:
        (place,) = _located([change.place], sides[0] if change.of == "old" else sides[1])
        told.append(
            {
                "service_account": change.service_account,
                "name": change.name,
                "before": change.before,
                "after": change.after,
                "passes_before": change.passes_before,
                "passes_after": change.passes_after,
                "of": change.of,
                **place,
            }
        )
    return told


def _located(places: Sequence[Problem], side: "Side") -> list[Document]:
    """File and line of each place, the file as whoever asked knows it."""
    numbered = [replace(place, message=str(number)) for number, place in enumerate(places)]
    lines = {int(problem.message): problem for problem in locate_problems(numbered)}
    return [{"file": side.file_name(lines[n].file), "line": lines[n].line} for n in range(len(places))]


# ---------------------------------------------------------------- text


def print_text(document: Document) -> None:
    """Prints a diff for people, in colour where the terminal has some."""
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    if not document["changed"]:
        console.print(Text("No change of effect.", "green"))
        return
    for name in _present(document):
        console.print(Text(f"{_TITLES[name]}: {document['counts'][name]:,}", "bold"))
        for entry in document[name]:
            sign, sentence, details = _parts(name, entry)
            line = Text("  ")
            line.append(f"{sign} ", f"bold {_COLOURS[sign]}")
            line.append(visible(sentence), "bold" if name == "everybody" else "")
            console.print(line)
            console.print(Text(f"      {visible(details)}", "dim"))
        if left := document["left_out"][name]:
            console.print(Text(f"  ... and {left:,} more", "dim"))
        console.print()
    if any(document["left_out"].values()):
        for total in _totals(document):
            console.print(Text(visible(total), "dim"))


def _present(document: Document) -> Iterator[str]:
    return (name for name in _SECTIONS if document["counts"][name])


def _parts(section: str, entry: Mapping[str, Any]) -> tuple[str, str, str]:
    """The sign of an entry, its sentence, and what stands below it."""
    where = f"{entry['file']}:{entry['line']}" if entry["line"] else str(entry["file"])
    if section == "tests":
        sign = "~" if entry["passes_before"] == entry["passes_after"] else "+" if entry["passes_after"] else "-"
        sentence = f"{entry['service_account']}, {entry['name']!r}: {entry['after']}; before: {entry['before']}"
        passes = {True: "passes", False: "fails"}
        verdict = f"{passes[entry['passes_before']]} before, {passes[entry['passes_after']]} after"
        of = {"old": "a test of the old files; ", "new": "a test of the new files; ", "both": ""}[entry["of"]]
        return sign, sentence, f"{where}, {of}{verdict}"
    sign = _SIGNS[entry["direction"]]
    if "about" in entry:
        return sign, f"{_ABOUT[entry['about']]} {entry['name']}: {entry['sentence']}", where
    return sign, str(entry["sentence"]), ", ".join((where, *_access_details(entry)))


def _access_details(entry: Mapping[str, Any]) -> Iterator[str]:
    if entry["rule"] is not None:
        yield f"rule {entry['rule']}"
    lives = sorted({one["lifetime_seconds"] for one in entry["access"]})
    if lives:
        yield f"tokens live {' or '.join(map(duration_text, lives))}"
    bound = sorted({one["sender_constraint"] for one in entry["access"]} - {"none"})
    if bound:
        yield f"bound by {' or '.join(bound)}"
    roles = sorted({role for one in entry["access"] for role in one["roles"]})
    if roles:
        yield f"by role {', '.join(roles)}"
    if entry["compared"]:
        yield str(entry["compared"])


def _totals(document: Document) -> Iterator[str]:
    """How many gain and lose what: for where not every one of them is shown."""
    for one in document["totals"]:
        verb = "gain" if one["direction"] == "gain" else "lose"
        yield f"{one['service_accounts']:,} service accounts {verb} {one['scope']} at {one['resource']}"


# ---------------------------------------------------------------- Markdown


def print_markdown(document: Document) -> None:
    """Prints a diff for a comment: as many entries as fit into one."""
    print(_fitting(lambda limit: _markdown_lines(document, limit)))


def print_markdown_of_problems(which: str, name: str, problems: Sequence[Problem], left_out: int) -> None:
    """Prints why there is no diff."""
    heading = [
        "### What changes in the policies",
        "",
        f"**Cannot be told: the {which} policies ({code(name)}) do not load.**",
        "",
    ]

    def lines(limit: int) -> Iterator[str]:
        yield from heading
        yield from (f"- {code(str(problem))}" for problem in problems[:limit])
        if left := left_out + max(0, len(problems) - limit):
            yield f"- and {left:,} more"

    print(_fitting(lines))


def _fitting(lines: Callable[[int], Iterable[str]]) -> str:
    """The text of these lines, for the largest limit of entries with which it is short enough."""
    text = ""
    for limit in (1000, 200, 100, 50, 20, 10, 5, 2):
        text = "\n".join(lines(limit))
        if len(text) <= MAX_MARKDOWN_CHARACTERS:
            break
    return text


def _markdown_lines(document: Document, limit: int) -> Iterator[str]:
    yield "### What changes in the policies"
    yield ""
    if not document["changed"]:
        yield "No change of effect."
        return
    counts = (_counted(name, document["counts"][name]) for name in _present(document))
    yield f"From {code(document['old'])} to {code(document['new'])}: {', '.join(counts)}."
    for name in _present(document):
        yield ""
        yield f"#### {_TITLES[name]}"
        yield ""
        for entry in document[name][:limit]:
            sign, sentence, details = _parts(name, entry)
            yield f"- {_MARKS[sign]} {code(sentence)}<br>{code(details)}"
        left = document["counts"][name] - min(limit, len(document[name]))
        if left:
            yield f"- and {left:,} more"
    if any(document["counts"][name] > limit for name in _SECTIONS) or any(document["left_out"].values()):
        yield ""
        yield "#### In all"
        yield ""
        yield from (f"- {code(line)}" for line in list(_totals(document))[:limit])


def _counted(section: str, count: int) -> str:
    one, many = _COUNTED[section]
    return f"{count:,} {one if count == 1 else many}"


_COUNTED = {
    "everybody": ("change for everybody at an issuer", "changes for everybody at an issuer"),
    "gains": ("gain", "gains"),
    "losses": ("loss", "losses"),
    "settings": ("change beside scopes", "changes beside scopes"),
    "tests": ("test that comes out otherwise", "tests that come out otherwise"),
}
_MARKS = {"+": "**+**", "-": "**−**", "~": "**~**"}
