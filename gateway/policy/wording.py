"""Decisions, checks and conditions in words, for operators: the one place where they are phrased. Pure."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from gateway.model import Check
from gateway.policy.generation import TrustRule
from gateway.policy.problems import path_text

SHOWN_CHARACTERS = 120


def conditions_in_words(rule: TrustRule) -> Iterator[str]:
    """Each condition of a trust rule: ``ref is refs/heads/main``, ``ref is like refs/heads/*``, CEL as it is."""
    for match in rule.match:
        yield f"{path_text(match.path)} is {_choice(match.wanted)}"
    for like in rule.like:
        yield f"{path_text(like.path)} is like {_choice(like.wanted)}"
    if rule.when is not None:
        yield rule.when.source


def sentence(check: Check) -> str:
    """One failing check in words, for operators."""
    note = f" ({check.note})" if check.note else ""
    if check.kind in {"when", "guardrail"}:
        verb = "wants" if check.kind == "when" else "refuses"
        seen = ", ".join(f"{name}: {seen_in_words(value)}" for name, value in check.seen.items())
        return f"{check.rule} {verb} {shown(check.wanted)}" + (f"; seen: {seen}" if seen else "") + note
    options = check.wanted if isinstance(check.wanted, list) else [check.wanted]
    how = "like" if check.kind == "like" else ""
    choice = _choice(options)
    wanted = " ".join(part for part in (path_text(check.path), how, choice) if part)
    return f"{check.rule} wants {wanted}; seen: {seen_in_words(check.seen)}{note}"


def type_in_words(value: object) -> str:
    """What kind of scalar a claim or a condition has."""
    return {bool: "a boolean", int: "a number", str: "text"}[type(value)]


def seen_in_words(value: Any) -> str:
    """The value of a claim, or that there is none."""
    return "absent" if value is None else shown(value)


def shown(value: Any) -> str:
    """A value on one line: texts as they are where that is unmistakable, anything else as JSON."""
    text = value if isinstance(value, str) and value and value.isprintable() else json.dumps(value, default=str)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


def listed(values: Sequence[Any], limit: int = 10) -> str:
    """Values one after the other, the first few of many."""
    more = f" and {len(values) - limit} more" if len(values) > limit else ""
    return ", ".join(map(shown, values[:limit])) + more


def _choice(options: Sequence[Any]) -> str:
    return f"one of {listed(options)}" if len(options) > 1 else shown(options[0])
