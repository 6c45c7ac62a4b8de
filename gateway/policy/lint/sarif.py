"""Findings as SARIF 2.1.0 (OASIS), which GitHub and others show on the lines of a pull request. Pure."""

from collections.abc import Callable, Iterable
from typing import Any

from gateway.policy.lint.base import Finding, LintRule, Severity
from gateway.policy.problems import path_text, visible

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}


def sarif_log(
    findings: Iterable[Finding], rules: Iterable[LintRule], version: str, uri_of: Callable[[str], str]
) -> dict[str, Any]:
    """The log of one run, as JSON. ``uri_of`` makes a file's URI, relative to where the repository begins."""
    rules = list(rules)
    numbers = {rule.id: number for number, rule in enumerate(rules)}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {"name": "gateway policy lint", "version": version, "rules": list(map(_rule, rules))}
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(finding, numbers[finding.id], uri_of) for finding in findings],
            }
        ],
    }


def _rule(rule: LintRule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.why},
        "help": {"text": f"{rule.why}\n\n{rule.fix}"},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        "properties": {"tags": ["security"]},
    }


def _result(finding: Finding, number: int, uri_of: Callable[[str], str]) -> dict[str, Any]:
    problem = finding.problem
    where: dict[str, Any] = {"artifactLocation": {"uri": uri_of(problem.file)}}
    if problem.line:
        where["region"] = {"startLine": problem.line}
    return {
        "ruleId": finding.id,
        "ruleIndex": number,
        "level": _LEVELS[finding.severity],
        "message": {"text": plain(f"{what(finding)}. {finding.fix}")},
        "locations": [{"physicalLocation": where}],
    }


def what(finding: Finding) -> str:
    """What was found, without file and line."""
    problem = finding.problem
    path = f"{path_text(problem.path)}: " if problem.path else ""
    hint = f" (did you mean {problem.suggestion}?)" if problem.suggestion else ""
    return visible(f"{path}{problem.message}{hint}")


def plain(text: str) -> str:
    """A text that has no links in it: SARIF makes some of ``[words](target)`` even in plain text (section 3.11.6)."""
    return text.replace("](", "\\](")
