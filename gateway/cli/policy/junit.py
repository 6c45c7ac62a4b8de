"""The results of policy tests as JUnit XML, as GitLab, Jenkins and the report actions of GitHub read it."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import typer

if TYPE_CHECKING:
    from gateway.cli.policy.test import Played
    from gateway.policy.problems import Problem


def write_junit(file: Path, results: Sequence["Played"]) -> None:
    """Writes a suite for each service account, a case for each test. Raises ``typer.BadParameter``."""
    from gateway.policy.files import locate_problems

    root = Element("testsuites", {"name": "gateway policy test", **_counts(results)})
    placed = list(zip(results, locate_problems(one.place for one in results), strict=True))
    placed.sort(key=lambda one: one[0].case.service_account)
    for service_account, of_account in groupby(placed, key=lambda one: one[0].case.service_account):
        members = list(of_account)
        suite = SubElement(root, "testsuite", {"name": service_account, **_counts([one for one, _ in members])})
        for one, place in members:
            _add_case(suite, one, place)
    indent(root)
    try:
        ElementTree(root).write(file, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="--junit") from None


def _add_case(suite: Element, one: "Played", place: "Problem") -> None:
    case = SubElement(
        suite,
        "testcase",
        classname=one.case.service_account,
        name=_text(one.case.test.name),
        file=_text(place.file),
        line=str(place.line),
    )
    if not one.differences:
        return
    told = [f"expected {difference.expected}, got {difference.got}" for difference in one.differences]
    failure = SubElement(case, "failure", message=_text(told[0]), type=str(one.differences[0].path[-1]))
    lines = [f"{place.file}:{place.line}", *told, *([one.decision.wanted] if one.decision.wanted else [])]
    failure.text = "\n".join(map(_text, lines))


def _counts(results: Sequence["Played"]) -> dict[str, str]:
    failed = sum(bool(one.differences) for one in results)
    return {"tests": str(len(results)), "failures": str(failed), "errors": "0", "skipped": "0"}


def _text(text: str) -> str:
    """Text that may stand in XML: control characters, lone surrogates and the like may not (XML 1.0 section 2.2)."""
    from gateway.policy.problems import visible

    return visible(text)
