"""An explanation as JSON: for scripts, for the admin API, and for whoever prints it.

``document_of`` makes it of plain values, bounded in size; the lines of the files are looked for by ``located``, later
and by whoever may read files. Both are handed what they need, and do no I/O.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gateway.model import Check, Decision
from gateway.oauth.reasons import GRANTED, REASONS
from gateway.policy.explanation import ExplainedRule, Explanation, Step
from gateway.policy.near_miss import Hint
from gateway.policy.problems import Path, Place, Problem
from gateway.policy.rewriting import Change, rewritten

Document = dict[str, Any]

LocateProblems = Callable[[Iterable[Problem]], list[Problem]]
TextOf = Callable[[str], str | None]
"""The text of a policy file by its name; None where it cannot be read."""

MAX_VALUE_BYTES = 240
"""Of one value in JSON; a longer one is cut, and then text."""
MAX_NOTE_CHARACTERS = 160
MAX_SENTENCE_CHARACTERS = 600
MAX_PATH_STEPS = 40
MAX_MAPPED_CLAIMS = 64
MAX_LINE_CHARACTERS = 4096
"""A longer line is for no person to change by hand."""
_LARGEST_INTEGER = 2**63


def document_of(
    explanation: Explanation, *, reason: str | None = None, identity: Sequence[Check] = (), hints: Sequence[Hint] = ()
) -> Document:
    """The document: ``granted``, ``reason`` and everything that led there.

    ``reason`` is what came of the request, where that is not what the policy said: a token that proved nothing, a
    quota. ``identity`` are the checks of the token itself, ``hints`` the near misses in it.
    """
    decision, request = explanation.decision, explanation.request
    reason = reason or decision.reason
    return {
        "granted": reason == GRANTED,
        "reason": reason,
        "advice": REASONS[reason].advice if reason in REASONS else "",
        "decision": decision.reason,
        "wanted": _cut(decision.wanted, MAX_SENTENCE_CHARACTERS),
        "generation": decision.generation,
        "issuer": explanation.issuer,
        "subject": bounded(explanation.subject),
        "asked": {
            "client_id": bounded(request.client_id),
            "resource": bounded(request.resource),
            "scopes": None if request.scopes is None else [bounded(scope) for scope in request.scopes],
            "lifetime_seconds": bounded(request.lifetime_seconds),
        },
        "identity": [_check(Step(check)) for check in identity],
        "gates": [_check(step) for step in explanation.gates],
        "accounts": list(explanation.accounts),
        "rules": [_rule(rule) for rule in explanation.rules],
        "rules_left_out": explanation.rules_left_out,
        "entitlement": [_check(step) for step in explanation.entitlement],
        "result": _result(decision),
        "hints": [_hint(hint) for hint in (*hints, *explanation.hints)],
    }


def denial_document(decision: Decision, hints: Sequence[Hint] = ()) -> Document:
    """All there is to tell where no trust rule was looked at, or where the policies are gone: what the decision itself
    noted.
    """
    return {
        "granted": decision.reason == GRANTED,
        "reason": decision.reason,
        "advice": REASONS[decision.reason].advice if decision.reason in REASONS else "",
        "decision": decision.reason,
        "wanted": _cut(decision.wanted, MAX_SENTENCE_CHARACTERS),
        "generation": decision.generation,
        "issuer": None,
        "subject": "",
        "asked": {"client_id": None, "resource": None, "scopes": None, "lifetime_seconds": None},
        "identity": [],
        "gates": [],
        "accounts": [decision.service_account] if decision.service_account else list(decision.candidates),
        "rules": [
            {"rule": check.rule, "admits": False, "place": None, "checks": [_check(Step(check))], "checks_left_out": 0}
            for check in decision.trace
        ],
        "rules_left_out": 0,
        "entitlement": [],
        "result": _result(decision),
        "hints": [_hint(hint) for hint in hints],
    }


def located(document: Document, locate: LocateProblems, text_of: TextOf) -> Document:
    """The document with ``file`` and ``line`` in the place of every ``place``, and with the lines to change as they are
    and as they would be. ``locate`` finds the lines of all places at once, ``text_of`` reads a file.
    """
    places = list(_places_in(document))
    lines = {problem: found.line for problem, found in zip(places, locate(places), strict=True)}
    texts: dict[str, str | None] = {}

    def text(file: str) -> str | None:
        if file not in texts:
            texts[file] = text_of(file)
        return texts[file]

    def checks(found: list[Document]) -> list[Document]:
        return [_with_line(check, lines) for check in found]

    def rule(found: Document) -> Document:
        inner = [{name: value for name, value in check.items() if name != "file"} for check in checks(found["checks"])]
        return {**_with_line(found, lines), "checks": inner}

    return {
        **document,
        "identity": checks(document["identity"]),
        "gates": checks(document["gates"]),
        "rules": [rule(found) for found in document["rules"]],
        "entitlement": checks(document["entitlement"]),
        "hints": [_with_change(hint, lines, text) for hint in document["hints"]],
    }


def bounded(value: Any) -> Any:
    """A value as JSON of a bounded size: cut to text where it is longer."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if abs(value) < _LARGEST_INTEGER else str(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    encoded = text.encode(errors="replace")
    if len(encoded) > MAX_VALUE_BYTES:
        return encoded[:MAX_VALUE_BYTES].decode(errors="ignore") + "..."
    return text.encode(errors="replace").decode() if isinstance(value, str) else _plain(value)


# ---------------------------------------------------------------- the parts


def _rule(rule: ExplainedRule) -> Document:
    return {
        "rule": rule.label,
        "admits": rule.admits,
        "place": _place(rule.place, rule.path),
        "checks": [_check(step) for step in rule.steps],
        "checks_left_out": rule.steps_left_out,
    }


def _check(step: Step) -> Document:
    check = step.check
    return {
        "of": check.rule,
        "kind": check.kind,
        "path": [bounded(name) for name in check.path[:MAX_PATH_STEPS]],
        "wanted": bounded(check.wanted),
        "seen": bounded(check.seen),
        "passed": check.passed,
        "note": _cut(check.note, MAX_NOTE_CHARACTERS),
        "place": _place(step.place, step.path),
    }


def _hint(hint: Hint) -> Document:
    return {
        "id": hint.id,
        "sentence": _cut(hint.sentence, MAX_SENTENCE_CHARACTERS),
        "warning": _cut(hint.warning, MAX_SENTENCE_CHARACTERS),
        "ask_for": {name: bounded(value) for name, value in hint.ask_for.items()},
        "place": _place(hint.place, hint.path),
        "change": _change(hint.change),
    }


def _change(change: Change | None) -> Document | None:
    if change is None:
        return None
    return {"replaced": change.replaced, "values": list(change.values), "entries": dict(change.entries)}


def _result(decision: Decision) -> Document | None:
    given = decision.entitlement
    if given is None:
        return None
    return {
        "service_account": given.service_account,
        "rule": given.rule,
        "resource": given.resource,
        "audience": given.audience,
        "scopes": list(given.scopes),
        "lifetime_seconds": given.lifetime_seconds,
        "claims": {name: bounded(value) for name, value in list(given.claims.items())[:MAX_MAPPED_CLAIMS]},
        "sender_constraint": given.sender_constraint,
    }


def _place(place: Place | None, path: Path) -> Document | None:
    if place is None:
        return None
    if len(path) > MAX_PATH_STEPS or sum(len(str(step)) for step in path) > 4 * MAX_VALUE_BYTES:
        path = path[:2]
    return {"file": place.file, "line": place.line, "document": place.number, "path": list(path)}


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _plain(value: Any) -> Any:
    """A value of which nothing is larger than JSON readers take."""
    if isinstance(value, Mapping):
        return {str(name): _plain(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    return bounded(value)


# ---------------------------------------------------------------- where it stands


def _places_in(document: Document) -> Iterable[Problem]:
    rules = document["rules"]
    for part in (document["identity"], document["gates"], rules, document["entitlement"], document["hints"]):
        for one in part:
            if one["place"] is not None:
                yield _problem(one["place"])
    for rule in rules:
        for check in rule["checks"]:
            if check["place"] is not None:
                yield _problem(check["place"])


def _problem(place: Document) -> Problem:
    return Problem(place["file"], place["line"], tuple(place["path"]), "", document=place["document"])


def _with_line(part: Document, lines: Mapping[Problem, int]) -> Document:
    rest = {name: value for name, value in part.items() if name != "place"}
    place = part["place"]
    if place is None:
        return {**rest, "file": None, "line": None}
    return {**rest, "file": place["file"], "line": lines[_problem(place)]}


def _with_change(hint: Document, lines: Mapping[Problem, int], text: TextOf) -> Document:
    """A hint with its line; the line to change is there only while the file holds what the change is for."""
    found = _with_line(hint, lines)
    place, change = hint["place"], hint["change"]
    if place is None or change is None:
        return {**found, "change": None}
    content = text(place["file"])
    wanted = Change(change["replaced"], tuple(change["values"]), change["entries"])
    made = None if content is None else rewritten(content, place["document"], tuple(place["path"]), wanted)
    if made is None or len(made.now) > MAX_LINE_CHARACTERS:
        return {**found, "change": None}
    return {**found, "line": made.line, "change": {"now": made.now, "write": made.write}}
