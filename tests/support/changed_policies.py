"""Policies and their edits that hypothesis makes up, with every workload that can tell their rules apart."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from gateway.policy.decision import decide
from gateway.policy.generation import Generation
from tests.support.generated_policies import request_of
from tests.support.policies import generation_of, workload

ISSUERS = ("cluster", "github")
SCALARS = ("a", "b", "ab", "a/b", 1)
GLOBS = ("a*", "b*", "*", "**", "a/**", "a*b")
WHENS = ('claims.p == "a"', "has(claims.q)", "true")
ACCESS = {"ledger-api": ["ledger:read", "ledger:write"], "deploy-api": ["deploy:write"]}
SCOPES = [scope for scopes in ACCESS.values() for scope in scopes]
WORKLOADS: tuple[dict[str, Any], ...] = tuple(
    {name: value for name, value in (("p", p), ("q", q)) if value is not None}
    for p, q in itertools.product((*SCALARS, "b/a", None), repeat=2)
)
"""Every workload that there can be, as far as the rules below can tell them apart."""

Rule = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """Two generations, of which one was made from the other by a few edits."""

    old: Generation
    new: Generation


def some_of(values: Sequence[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique_by=repr)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    names = st.sampled_from(["p", "q"])
    rule = {
        "issuer": draw(st.sampled_from(ISSUERS)),
        "match": draw(st.dictionaries(names, some_of(SCALARS), max_size=2)),
        "like": draw(st.dictionaries(names, some_of(GLOBS), max_size=1)),
        "when": draw(st.sampled_from([None, None, None, *WHENS])),
        "scopes": draw(st.none() | some_of(SCOPES)),
    }
    if not rule["match"] and not rule["like"] and rule["when"] is None:
        rule["when"] = "true"
    return {name: value for name, value in rule.items() if value}


def grown(wanted: dict[str, list[Any]], more: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Conditions with further values in their lists."""
    return wanted | {name: sorted({*values, *wanted.get(name, ())}, key=repr) for name, values in more.items()}


@st.composite
def edited(draw: st.DrawFn, rule: Rule) -> Rule:
    """The rule with something in it changed, so that it is wider, narrower, or gives something else."""
    other = draw(rules())
    changed = dict(rule)
    field = draw(st.sampled_from(["match", "like", "when", "scopes", "name"]))
    if field == "name":
        changed["name"] = "renamed"
    elif field in {"match", "like"} and rule.get(field) and draw(st.booleans()):
        values = grown(rule[field], other.get(field, {}))
        changed[field] = values if draw(st.booleans()) else {name: some[:1] for name, some in values.items()}
    elif field in other:
        changed[field] = other[field]
    else:
        changed.pop(field, None)
    if not any(changed.get(name) for name in ("match", "like", "when")):
        changed["when"] = "true"
    return changed


@st.composite
def changes(draw: st.DrawFn) -> Change:
    before = draw(st.lists(st.lists(rules(), min_size=1, max_size=3), min_size=1, max_size=2))
    after = []
    for trust in before:
        kept = list(trust)
        for _ in range(draw(st.integers(0, 2))):
            where = draw(st.integers(0, len(kept)))
            how = draw(st.sampled_from(["edit", "edit", "edit", "add", "drop", "move"]))
            if how == "add":
                kept.insert(where, draw(rules()))
            elif how == "edit" and where < len(kept):
                kept[where] = draw(edited(kept[where]))
            elif how == "move" and where < len(kept):
                kept.append(kept.pop(where))
            elif how == "drop":
                del kept[where : where + 1]
        after.append(kept)
    accesses = st.sampled_from([ACCESS, ACCESS, ACCESS, {"deploy-api": ["deploy:write"]}])
    old, new = (
        generation_of(*(account(number, trust, draw(accesses)) for number, trust in enumerate(some)))
        for some in (before, after)
    )
    return Change(old, new)


def account(number: int, trust: list[Rule], access: dict[str, list[str]]) -> str:
    """A service account as YAML. What its rules narrow to is as much as it has."""
    scopes = {scope for some in access.values() for scope in some}
    trust = [rule for n, rule in enumerate(trust) if "name" not in rule or all("name" not in one for one in trust[:n])]
    fitting = [{**rule, "scopes": sorted({*rule["scopes"]} & scopes)} if "scopes" in rule else rule for rule in trust]
    document = {
        "kind": "ServiceAccount",
        "name": f"app-{number}",
        "access": [{"resource": name, "scopes": some} for name, some in access.items()],
        "trust": [rule for rule in fitting if rule.get("scopes") != []],
    }
    return json.dumps(document)


def may(generation: Generation, issuer: str, claims: dict[str, Any]) -> set[tuple[str, str, str]]:
    """Every account, resource and scope that a workload gets when it asks for it by name."""
    calling = workload(generation, issuer, claims)
    found = set()
    for name, account in generation.service_accounts.items():
        if not any(rule.issuer == issuer and rule.admits(claims) for rule in account.rules):
            continue
        for resource, scopes in account.access.items():
            for scope in scopes:
                request = request_of(client_id=name, resource=resource, scopes=(scope,))
                if decide(generation, calling, request).entitlement is not None:
                    found.add((name, resource, scope))
    return found
