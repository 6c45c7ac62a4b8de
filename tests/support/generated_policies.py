"""Policies that hypothesis makes up, workloads and requests that meet them, and what a reader of the files answers.

``plain_answer`` looks at every rule of every account in the order of the file, at the conditions as they are written.
It shares no code with the index, the conditions or CEL.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from gateway.model import GrantType, TokenRequest
from gateway.policy.generation import Generation
from tests.support.policies import generation_of

ISSUERS = ("one", "two")
RESOURCES: dict[str, tuple[str, ...]] = {"ledger": ("read", "write", "audit"), "deploy": ("start", "stop")}
LIFETIMES = {"ledger": 900, "deploy": 600}

Truth = bool | None
"""What a condition comes to; None where it cannot be worked out."""


def _typed(value: Any) -> Any:
    """A value that equals another one only if that is of the same type."""
    if isinstance(value, dict):
        return {name: _typed(one) for name, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_typed(one) for one in value]
    return (type(value), value)


def _known(claims: dict[str, Any], *names: str) -> bool:
    return all(claims.get(name) is not None for name in names)


def _contains(value: Any, wanted: str) -> Truth:
    if isinstance(value, list):
        return any(one == wanted and isinstance(one, str) for one in value)
    return value.get(wanted) is not None if isinstance(value, dict) else None


WHENS: dict[str, Callable[[dict[str, Any], str], Truth]] = {
    'claims.a == "x"': lambda c, _: _typed(c["a"]) == _typed("x") if _known(c, "a") else None,
    'claims.a != "x"': lambda c, _: _typed(c["a"]) != _typed("x") if _known(c, "a") else None,
    "has(claims.b)": lambda c, _: _known(c, "b"),
    "!has(claims.c)": lambda c, _: not _known(c, "c"),
    "claims.b == claims.c": lambda c, _: _typed(c["b"]) == _typed(c["c"]) if _known(c, "b", "c") else None,
    "claims.a > 0": lambda c, _: c["a"] > 0 if type(c.get("a")) is int else None,
    '"x" in claims.b': lambda c, _: _contains(c["b"], "x") if _known(c, "b") else None,
    'claims.d.e == "x"': lambda c, _: (
        _typed(c["d"]["e"]) == _typed("x") if isinstance(c.get("d"), dict) and _known(c["d"], "e") else None
    ),
    'issuer == "one"': lambda _, issuer: issuer == "one",
    "true": lambda _, __: True,
}
"""Conditions, and what each comes to by the page on policies."""

SCALARS = st.sampled_from(["x", "y", "1", "a/b", "true", 1, 0, True, False, ""])
CLAIM_VALUES = SCALARS | st.none() | st.lists(SCALARS, max_size=2)
NESTED = st.dictionaries(st.sampled_from(["e", "f"]), SCALARS | st.none(), max_size=2)
WANTED = SCALARS | st.lists(SCALARS, min_size=2, max_size=4, unique_by=repr)
GLOBS = st.sampled_from(["x", "*", "**", "x*", "*1", "a/*", "*/*", "**b", "t*u*", "?"])
PATHS = ("a", "b", "c", "d")


@dataclass(frozen=True)
class Policy:
    """What the files say, as plain values, and the generation made from them."""

    accounts: tuple[dict[str, Any], ...]
    issuer_conditions: dict[str, str]
    guardrails: tuple[tuple[str | None, str], ...]
    """Issuer (None: all) and condition."""
    documents: tuple[str, ...]

    def generation(self, number: int = 1) -> Generation:
        return generation_of(*self.documents, base="", number=number)


@dataclass(frozen=True)
class Answer:
    """What a request comes to. ``wanted`` is None where the words depend on which rule is told as the nearest."""

    reason: str
    service_account: str | None = None
    rule: str | None = None
    audience: str | None = None
    scopes: tuple[str, ...] = ()
    lifetime_seconds: int | None = None
    candidates: tuple[str, ...] = ()
    wanted: str | None = None


# ---------------------------------------------------------------- making them up


def _conditions(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    nested = st.dictionaries(st.sampled_from(["e", "f"]), values, min_size=1, max_size=2)
    flat = st.dictionaries(st.sampled_from(PATHS), values, max_size=2)
    one = st.dictionaries(st.sampled_from(PATHS), values, max_size=1)
    return st.one_of(one, one, flat, st.builds(lambda d, rest: {**rest, "d": d}, nested, one))


@st.composite
def _rules(draw: st.DrawFn, access: dict[str, list[str]]) -> dict[str, Any]:
    rule: dict[str, Any] = {"issuer": draw(st.sampled_from(ISSUERS))}
    nothing: st.SearchStrategy[dict[str, Any]] = st.just({})
    match, like = draw(_conditions(WANTED)), draw(st.one_of(nothing, nothing, _conditions(GLOBS)))
    when = draw(st.one_of(st.none(), st.none(), st.sampled_from(tuple(WHENS))))
    if not match and not like and when is None:
        when = "true"
    rule |= {name: value for name, value in (("match", match), ("like", like), ("when", when)) if value}
    if narrowed := draw(st.lists(st.sampled_from([s for scopes in access.values() for s in scopes]), max_size=2)):
        rule["scopes"] = sorted(set(narrowed))
    if draw(st.booleans()):
        rule["token_lifetime"] = draw(st.sampled_from(["60s", "5m", "20m"]))
    return rule


@st.composite
def _accounts(draw: st.DrawFn, number: int) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(tuple(RESOURCES)), min_size=1, max_size=2, unique=True))
    access = {
        name: draw(st.lists(st.sampled_from(RESOURCES[name]), min_size=1, max_size=3, unique=True)) for name in names
    }
    account: dict[str, Any] = {
        "kind": "ServiceAccount",
        "name": f"app-{number}",
        "access": [{"resource": name, "scopes": scopes} for name, scopes in access.items()],
        "trust": draw(st.lists(_rules(access), min_size=min(number, 1), max_size=3)),
    }
    if draw(st.booleans()):
        account["token_lifetime"] = draw(st.sampled_from(["2m", "1h"]))
    return account


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Two issuers, two resources, up to six service accounts whose rules overlap, now and then a guardrail."""
    accounts = [draw(_accounts(number)) for number in range(draw(st.sampled_from([6, 1, 2, 3, 4, 5, 0])))]
    whens = st.sampled_from(tuple(WHENS))
    limited = draw(st.sampled_from(["", "", "", "", "by conditions", "by guardrails"]))
    conditions = {name: draw(whens) for name in ISSUERS} if limited == "by conditions" else {}
    guardrails = [
        (draw(st.none() | st.sampled_from(ISSUERS)), draw(whens)) for _ in range(2 if limited == "by guardrails" else 0)
    ]
    documents = [
        *(
            {"kind": "Issuer", "name": name, "url": f"https://{name}.example.com"}
            | ({"when": conditions[name]} if name in conditions else {})
            for name in ISSUERS
        ),
        *(
            {
                "kind": "Resource",
                "name": name,
                "identifier": f"https://{name}.example.com",
                "scopes": dict.fromkeys(scopes, ""),
                "token_lifetime": f"{LIFETIMES[name]}s",
            }
            for name, scopes in RESOURCES.items()
        ),
        *(
            {"kind": "Guardrail", "name": f"limit-{n}", "deny_when": when} | ({"issuer": issuer} if issuer else {})
            for n, (issuer, when) in enumerate(guardrails)
        ),
        *accounts,
    ]
    return Policy(tuple(accounts), conditions, tuple(guardrails), tuple(map(json.dumps, documents)))


@st.composite
def workloads(draw: st.DrawFn) -> tuple[dict[str, Any], ...]:
    """The claims of 64 workloads: every combination of a few values of each claim, so that many come near a rule."""
    absent = object()
    values = [
        draw(st.lists(CLAIM_VALUES | st.just(absent), min_size=size, max_size=size))
        for size in (4, 4, 2)
    ] + [draw(st.lists(NESTED | SCALARS | st.just(absent), min_size=2, max_size=2))]  # fmt: skip
    return tuple(
        {name: value for name, value in zip(PATHS, chosen, strict=True) if value is not absent}
        for chosen in itertools.product(*values)
    )


@st.composite
def requests(draw: st.DrawFn) -> TokenRequest:
    """One that names its service account, resource and scopes, or leaves some of them open."""
    every = [scope for scopes in RESOURCES.values() for scope in scopes]
    return request_of(
        client_id=draw(st.none() | st.sampled_from([*(f"app-{n}" for n in range(4)), "nobody"])),
        resource=draw(st.none() | st.sampled_from(["ledger", "https://deploy.example.com", "payroll"])),
        scopes=draw(st.none() | st.lists(st.sampled_from(every), min_size=1, max_size=2, unique=True).map(tuple)),
        lifetime_seconds=draw(st.none() | st.sampled_from([30, 3600])),
    )


def request_of(**asked: Any) -> TokenRequest:
    """A token exchange that asks for this."""
    return TokenRequest(GrantType.TOKEN_EXCHANGE, "", "urn:ietf:params:oauth:token-type:jwt", **asked)


# ---------------------------------------------------------------- what the files say


def plain_answer(policy: Policy, issuer: str, claims: dict[str, Any], request: TokenRequest) -> Answer:
    """What the page on policies says under "what comes out"."""
    if issuer in policy.issuer_conditions and WHENS[policy.issuer_conditions[issuer]](claims, issuer) is not True:
        return Answer("issuer_condition_failed")
    for of_issuer, when in policy.guardrails:
        if of_issuer in {None, issuer} and WHENS[when](claims, issuer) is not False:
            return Answer("denied_by_guardrail")
    found = _account(policy, issuer, claims, request.client_id)
    if isinstance(found, Answer):
        return found
    account, admitting = found
    resource = _resource(account, request.resource)
    if isinstance(resource, Answer):
        return resource
    return _granted(account, admitting, resource, request)


def _account(
    policy: Policy, issuer: str, claims: dict[str, Any], client_id: str | None
) -> Answer | tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]:
    admitted = {
        account["name"]: [
            (f"rule-{position}", rule)
            for position, rule in enumerate(account["trust"], 1)
            if rule["issuer"] == issuer and admits(rule, claims, issuer)
        ]
        for account in policy.accounts
    }
    if client_id is not None:
        if client_id not in admitted:
            return Answer("unknown_service_account", wanted=f"no service account is called {client_id}")
        names = [client_id] if admitted[client_id] else []
    else:
        names = [name for name, rules in admitted.items() if rules]
    if len(names) > 1:
        wanted = f"client_id: the workload may become {', '.join(names)}"
        return Answer("ambiguous_service_account", candidates=tuple(names), wanted=wanted)
    if not names:
        return Answer("no_matching_trust", client_id)
    account = next(account for account in policy.accounts if account["name"] == names[0])
    return account, admitted[names[0]]


def _resource(account: dict[str, Any], asked: str | None) -> Answer | str:
    name, has = account["name"], [access["resource"] for access in account["access"]]
    if asked is None:
        if len(has) == 1:
            return str(has[0])
        return Answer("ambiguous_resource", name, wanted=f"{name} has the resources {', '.join(has)}")
    found = asked.removeprefix("https://").removesuffix(".example.com")
    if found not in RESOURCES:
        return Answer("unknown_resource", name, wanted=f"no resource has the identifier or name {asked}")
    if found not in has:
        wanted = f"{name} has no access to {found}; it has {', '.join(has)}"
        return Answer("resource_not_granted", name, wanted=wanted)
    return found


def _granted(
    account: dict[str, Any], admitting: list[tuple[str, dict[str, Any]]], resource: str, request: TokenRequest
) -> Answer:
    name = account["name"]
    approved = next(access["scopes"] for access in account["access"] if access["resource"] == resource)
    asked = request.scopes
    for label, rule in admitting:
        scopes = [one for one in RESOURCES[resource] if one in approved and one in rule.get("scopes", approved)]
        if scopes and (asked is None or set(asked) <= set(scopes)):
            bounds = (LIFETIMES[resource], _seconds(rule), _seconds(account), request.lifetime_seconds)
            return Answer(
                "granted",
                name,
                label,
                f"https://{resource}.example.com",
                tuple(one for one in scopes if asked is None or one in asked),
                min(bound for bound in bounds if bound is not None),
                wanted="",
            )
    label, rule = admitting[0]
    first = [one for one in RESOURCES[resource] if one in approved and one in rule.get("scopes", approved)]
    if not first:
        wanted = f"{name}/{label} grants nothing at {resource}"
        return Answer("scope_not_granted" if asked else "resource_not_granted", name, wanted=wanted)
    missing = [one for one in asked or () if one not in first]
    wanted = f"{name}/{label} grants {', '.join(first)} at {resource}, not {', '.join(missing)}"
    return Answer("scope_not_granted", name, wanted=wanted)


def admits(rule: dict[str, Any], claims: dict[str, Any], issuer: str) -> bool:
    """Whether a rule, as it is written, holds of these claims."""
    for path, wanted in _leaves(rule.get("match", {})):
        seen, options = _at(claims, path), wanted if isinstance(wanted, list) else [wanted]
        if seen is None or not any(type(seen) is type(one) and seen == one for one in options):
            return False
    for path, glob in _leaves(rule.get("like", {})):
        seen = _at(claims, path)
        if not isinstance(seen, str) or not fits(glob, seen):
            return False
    return "when" not in rule or WHENS[rule["when"]](claims, issuer) is True


def fits(glob: str, text: str) -> bool:
    """Whether a text fits a glob: tries every way."""
    if glob.startswith("**"):
        return any(fits(glob[2:], text[end:]) for end in range(len(text) + 1))
    if glob.startswith("*"):
        run = next((end for end, one in enumerate(text) if one in "/:"), len(text))
        return any(fits(glob[1:], text[end:]) for end in range(run + 1))
    if not glob or not text:
        return glob == text
    return glob[0] == text[0] and fits(glob[1:], text[1:])


def _leaves(written: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in written.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*above, name))
        else:
            yield (*above, name), value


def _at(claims: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if not isinstance(claims, dict):
            return None
        claims = claims.get(name)
    return claims


def _seconds(written: dict[str, Any]) -> int | None:
    text = written.get("token_lifetime")
    return None if text is None else int(text[:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1]]
