"""Why a request was granted or denied: every check in order, what it saw and what it wanted, the nearest rule first.

The decision itself is that of ``decide``; beside it stands what ``decide`` need not look at any more once it knows its
answer. Bounded in size and in work, whatever the claims and the policies are. For operators only. Pure.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from gateway.model import Check, Claims, Client, Decision, TokenRequest, TrustedIssuer, Workload
from gateway.policy.cel import Unknown
from gateway.policy.checks import claim_check, condition_check
from gateway.policy.conditions import Like, Match
from gateway.policy.decision import decide, decide_client
from gateway.policy.generation import Generation, ServiceAccount, TrustRule
from gateway.policy.near_miss import Hint, condition_hint, distinct, is_near, request_hints, rule_hints
from gateway.policy.problems import Path, Place
from gateway.policy.templates import Unnameable
from gateway.policy.wording import listed

MAX_ACCOUNTS = 5
"""Where no ``client_id`` was asked for and nothing fits, the rules of so many accounts are looked at."""
MAX_RULES = 20
"""The nearest rules are shown, so many of them."""
MAX_CHECKS_OF_RULE = 32
MAX_CHECKS = 200
"""Of all rules together."""
MAX_GATES = 32
MAX_RULES_COMPARED = 200_000
"""Of more rules that may be near, the first so many are compared."""
MAX_RULES_COMPARED_IN_BRIEF = 500
MAX_RULES_HINTED = 3


@dataclass(frozen=True, slots=True)
class Step:
    """A check, and where the policy says what it wants. ``place`` is None where no document does."""

    check: Check
    place: Place | None = None
    path: Path = ()


@dataclass(frozen=True, slots=True)
class ExplainedRule:
    """A trust rule with its checks in order."""

    label: str
    place: Place
    path: Path
    admits: bool
    steps: tuple[Step, ...]
    steps_left_out: int = 0


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision with everything that led to it."""

    decision: Decision
    request: TokenRequest
    issuer: str | None
    """The issuer's name in the policies; None for a client with a credential of its own."""
    subject: str
    gates: tuple[Step, ...]
    """The issuer's own condition, and every guardrail of it."""
    accounts: tuple[str, ...]
    """The service accounts in question."""
    rules: tuple[ExplainedRule, ...]
    """Their trust rules, the nearest first."""
    rules_left_out: int
    entitlement: tuple[Step, ...]
    """Resource, scopes, lifetime and further claims: what was asked, and what is there."""
    hints: tuple[Hint, ...]


def workload_of(issuer: TrustedIssuer, claims: Claims) -> Workload:
    """A workload whose claims are taken as verified, to ask what would become of it."""
    subject = claims.get("sub")
    return Workload(
        issuer=issuer,
        subject=subject if isinstance(subject, str) else "",
        claims=claims,
        expires_at=0,
        issued_at=None,
        token_id=None,
        token_sha256="",
        key_id=None,
    )


def explain(
    generation: Generation, workload: Workload, request: TokenRequest, *, in_brief: bool = False
) -> Explanation:
    """The decision of ``decide`` about a workload, with its complete trace and the near misses in it.

    Without ``client_id`` in the request, the service accounts in question are those that the workload may become, or
    else those whose rules come nearest. ``in_brief`` searches less far, and for no names that are near: for an
    explanation that nobody has asked for yet. Never raises.
    """
    decision = decide(generation, workload, request)
    limit = MAX_RULES_COMPARED_IN_BRIEF if in_brief else MAX_RULES_COMPARED
    accounts = _in_question(generation, workload, request, decision, limit)
    nearest, all_rules = _nearest_rules(generation, accounts, workload, decision, limit)
    rules = _explained(nearest, workload, decision)
    is_known = decision.service_account is not None or request.client_id is not None
    account = accounts[0] if is_known and accounts else None
    is_searched = decision.entitlement is None and not in_brief
    near_names = request_hints(generation, account, request) if is_searched else []
    return Explanation(
        decision=decision,
        request=request,
        issuer=workload.issuer.name,
        subject=workload.subject,
        gates=tuple(_gates(generation, workload)),
        accounts=tuple(one.name for one in accounts),
        rules=rules,
        rules_left_out=all_rules - len(rules),
        entitlement=_entitlement(generation, account, workload, request) if account is not None else (),
        hints=distinct((*near_names, *_trust_hints(generation, workload, decision, nearest))),
    )


def explain_client(
    generation: Generation, client: Client, request: TokenRequest, *, in_brief: bool = False
) -> Explanation:
    """The same for a client with a credential of its own: what it may do is approved in advance, without trust rules.

    The decision is that of ``decide_client``. Never raises.
    """
    decision = decide_client(generation, client, request)
    account = generation.service_accounts.get(client.client_id) if decision.service_account is not None else None
    asked = replace(request, client_id=client.client_id)
    return Explanation(
        decision=decision,
        request=asked,
        issuer=None,
        subject=client.client_id,
        gates=(),
        accounts=(account.name,) if account is not None else (),
        rules=(),
        rules_left_out=0,
        entitlement=_entitlement(generation, account, None, request) if account is not None else (),
        hints=() if in_brief else distinct(request_hints(generation, account, asked)),
    )


# ---------------------------------------------------------------- before any trust rule


def _gates(generation: Generation, workload: Workload) -> Iterator[Step]:
    issuer, claims = workload.issuer.name, workload.claims
    condition = generation.issuer_conditions.get(issuer)
    if condition is not None:
        holds = condition.holds(claims, issuer)
        check = condition_check(f"issuer/{issuer}", condition, claims, issuer, passed=holds)
        yield Step(check, generation.issuer_places.get(issuer), ("when",))
    guardrails = generation.guardrails.get(issuer, ())
    # The first that refuses decides: it is among those shown, however many there are.
    refusing = [one for one in guardrails if not one.deny_when.is_false(claims, issuer)][:MAX_GATES]
    for guardrail in dict.fromkeys((*refusing, *guardrails[:MAX_GATES])):
        is_false = guardrail not in refusing
        label = f"guardrail/{guardrail.name}"
        check = condition_check(label, guardrail.deny_when, claims, issuer, kind="guardrail", passed=is_false)
        yield Step(check, guardrail.place, ("deny_when",))


# ---------------------------------------------------------------- which accounts, which rules


def _in_question(
    generation: Generation, workload: Workload, request: TokenRequest, decision: Decision, max_rules_compared: int
) -> tuple[ServiceAccount, ...]:
    names = decision.candidates[:MAX_ACCOUNTS]
    if decision.service_account is not None:
        names = (decision.service_account,)
    elif request.client_id is not None:
        names = (request.client_id,)
    if names:
        found = (generation.service_account(name) for name in names)
        return tuple(account for account in found if account is not None)
    rules = _near(_rules_that_may_be_near(generation, workload), workload.claims, max_rules_compared)
    near = dict.fromkeys(rule.service_account for rule in rules)
    return tuple(generation.service_accounts[name] for name in islice(near, MAX_ACCOUNTS))


def _rules_that_may_be_near(generation: Generation, workload: Workload) -> Iterator[TrustRule]:
    """The rules of the workload's issuer, those first that the index finds; and those of issuers with the same URL that
    would let it in.
    """
    here = workload.issuer
    for issuer in generation.issuers:
        index = generation.index.get(issuer.name)
        if index is not None and issuer.url == here.url and issuer.name != here.name:
            yield from (rule for rule in index.candidates(workload.claims) if rule.admits(workload.claims))
    index = generation.index.get(here.name)
    if index is None:
        return
    candidates = index.candidates(workload.claims)
    yield from candidates
    seen = {rule.ordinal for rule in candidates}
    for _, bucket in index.buckets:
        for filed in bucket.values():
            yield from (rule for rule in filed if rule.ordinal not in seen)


def _near(rules: Iterable[TrustRule], claims: Claims, limit: int) -> list[TrustRule]:
    """Those of which a condition holds, or nearly does, the nearest first."""
    compared = ((_distance(rule, claims), rule.ordinal, rule) for rule in islice(rules, limit))
    some = (one for one in compared if one[0][2] < 0)
    return [rule for _, _, rule in heapq.nsmallest(4 * MAX_RULES, some)]


def _distance(rule: TrustRule, claims: Claims) -> tuple[int, int, int]:
    """How many conditions of a rule fail, how many fail by a small difference, and, negative, how many hold at least
    nearly. CEL, which costs most, is not asked.
    """
    failing = nearly = 0
    conditions: tuple[Match | Like, ...] = (*rule.match, *rule.like)
    if not conditions:
        return 1, 0, -1
    for condition in conditions:
        if condition.holds(claims):
            continue
        if is_near(condition, claims):
            nearly += 1
        else:
            failing += 1
    return failing, nearly, failing - len(conditions)


def _nearest_rules(
    generation: Generation,
    accounts: Sequence[ServiceAccount],
    workload: Workload,
    decision: Decision,
    max_rules_compared: int,
) -> tuple[list[tuple[ServiceAccount, TrustRule]], int]:
    """The rules of some accounts, the one that granted before the nearest, bounded; and how many there are.

    Of more than are compared, the one that granted and those that the index finds come first.
    """
    granting = _granting(decision)
    pairs = [(account, rule) for account in accounts for rule in account.rules]
    count = len(pairs)
    if count > max_rules_compared:
        index = generation.index.get(workload.issuer.name)
        found = {rule.ordinal for rule in index.candidates(workload.claims)} if index is not None else set()
        pairs.sort(key=lambda pair: (pair[1].name != granting, pair[1].ordinal not in found))
        del pairs[max_rules_compared:]

    def rank(pair: tuple[ServiceAccount, TrustRule]) -> tuple[Any, ...]:
        rule = pair[1]
        is_foreign = rule.issuer != workload.issuer.name
        return rule.name != granting, is_foreign, *_distance(rule, workload.claims), rule.ordinal

    return heapq.nsmallest(2 * MAX_RULES, pairs, key=rank), count


def _granting(decision: Decision) -> str | None:
    """The name of the rule that granted."""
    return decision.entitlement.rule if decision.entitlement is not None else None


# ---------------------------------------------------------------- the checks of each rule


def _explained(
    pairs: Sequence[tuple[ServiceAccount, TrustRule]], workload: Workload, decision: Decision
) -> tuple[ExplainedRule, ...]:
    """The rules with their checks: the one that granted first, then those that fail in the fewest."""
    granting = _granting(decision)
    ranked = []
    for account, rule in pairs:
        steps = tuple(_steps(account, rule, workload))
        failed = sum(not step.check.passed for step in steps)
        ranked.append(((failed > 0 or rule.name != granting, failed), account, rule, steps))
    ranked.sort(key=lambda one: one[0])
    found: list[ExplainedRule] = []
    left = MAX_CHECKS
    for (_, failed), account, rule, steps in ranked[:MAX_RULES]:
        shown = _most_telling(steps, min(left, MAX_CHECKS_OF_RULE))
        if not shown:
            break
        left -= len(shown)
        label, path = f"{account.name}/{rule.name}", ("trust", rule.position)
        found.append(ExplainedRule(label, account.place, path, not failed, shown, len(steps) - len(shown)))
    return tuple(found)


def _most_telling(steps: tuple[Step, ...], limit: int) -> tuple[Step, ...]:
    """Of too many checks the failing ones before the others, in their order."""
    if len(steps) <= limit:
        return steps
    kept = sorted(range(len(steps)), key=lambda position: (steps[position].check.passed, position))[:limit]
    return tuple(steps[position] for position in sorted(kept))


def _steps(account: ServiceAccount, rule: TrustRule, workload: Workload) -> Iterator[Step]:
    """Every check of a rule in the order in which it decides. All of them pass exactly if it lets the workload in."""
    place, path, claims = account.place, ("trust", rule.position), workload.claims
    label, here = f"{account.name}/{rule.name}", workload.issuer.name
    yield Step(Check(label, "issuer", (), rule.issuer, here, rule.issuer == here), place, (*path, "issuer"))
    conditions: tuple[Match | Like, ...] = (*rule.match, *rule.like)
    for condition in conditions:
        check = claim_check(label, condition, claims, passed=condition.holds(claims))
        yield Step(check, place, (*path, check.kind, *condition.path))
    if rule.when is not None:
        holds = rule.when.holds(claims, rule.issuer)
        check = condition_check(label, rule.when, claims, rule.issuer, passed=holds)
        yield Step(check, place, (*path, "when"))
    if account.template is not None:
        yield Step(_name_check(label, account, claims), place, ("name",))


def _name_check(label: str, account: ServiceAccount, claims: Claims) -> Check:
    """Whether the claims make the name of the account that is in question; any name, where it is left open."""
    assert account.template is not None
    name = account.template.name_for(claims)
    if isinstance(name, Unnameable):
        return Check(label, "name", (), account.name, None, passed=False, note=name.why)
    is_open = account.name == account.template.text
    return Check(label, "name", (), account.name, name, passed=is_open or name == account.name)


# ---------------------------------------------------------------- what comes out


def _entitlement(
    generation: Generation, account: ServiceAccount, workload: Workload | None, request: TokenRequest
) -> tuple[Step, ...]:
    """Resource, scopes, lifetime and claims, as far as they can be told: for a workload by the rules that admit it."""
    resource = generation.resource(request.resource) if request.resource is not None else None
    if request.resource is None and len(account.access) == 1:
        resource = generation.resources[next(iter(account.access))]
    has = resource is not None and resource.name in account.access
    note = "" if has else "no such resource" if resource is None and request.resource is not None else "say which one"
    if resource is not None and not has:
        note = f"{account.name} has no access to it"
    asked = request.resource if request.resource is not None else resource.name if resource is not None else None
    wanted = list(account.access)
    steps = [Step(Check(account.name, "resource", (), wanted, asked, has, note), account.place, ("access",))]
    if resource is None or not has:
        return tuple(steps)
    if workload is None:
        approved = account.access[resource.name]
        steps.append(Step(_scope_check(account.name, approved, request), account.place, ("access",)))
        if steps[-1].check.passed:
            bounds = (resource.token_lifetime_seconds, account.token_lifetime_seconds, request.lifetime_seconds)
            steps.append(_lifetime_step(account.name, bounds, account.place, ("token_lifetime",)))
        return tuple(steps)
    admitting = [rule for rule in account.rules if rule.issuer == workload.issuer.name and rule.admits(workload.claims)]
    for rule in admitting:
        label, path = f"{account.name}/{rule.name}", ("trust", rule.position)
        check = _scope_check(label, rule.grants.get(resource.name), request)
        if len(steps) <= MAX_RULES or check.passed:
            steps.append(Step(check, account.place, (*path, "scopes")))
        if check.passed:
            bounds = (resource.token_lifetime_seconds, rule.token_lifetime_seconds, request.lifetime_seconds)
            steps.append(_lifetime_step(label, bounds, account.place, (*path, "token_lifetime")))
            steps += _mapped_claims(account, rule, workload)
            break
    return tuple(steps)


def _scope_check(label: str, granted: Sequence[str] | None, request: TokenRequest) -> Check:
    missing = [scope for scope in request.scopes or () if scope not in (granted or ())]
    passed = granted is not None and not missing
    note = "" if passed else f"does not grant {listed(missing)}" if missing else "grants nothing there"
    asked = list(request.scopes) if request.scopes is not None else None
    return Check(label, "scope", (), list(granted or ()), asked, passed, note)


def _lifetime_step(label: str, bounds: tuple[int | None, int | None, int | None], place: Place, path: Path) -> Step:
    """The bounds are those of the resource, of the service account and its rule, and of the request."""
    wanted = dict(zip(("resource", "service_account", "request"), bounds, strict=True))
    least = min(bound for bound in bounds if bound is not None)
    return Step(Check(label, "lifetime", (), wanted, least, passed=True), place, path)


def _mapped_claims(account: ServiceAccount, rule: TrustRule, workload: Workload) -> Iterator[Step]:
    for mapping in rule.token_claims:
        value = mapping.value(workload.claims, rule.issuer)
        known = not isinstance(value, Unknown)
        note = value.why if isinstance(value, Unknown) else ""
        label = f"{account.name}/{rule.name}"
        check = Check(label, "token_claims", (mapping.name,), mapping.source, value if known else None, known, note)
        yield Step(check, account.place, ("trust", rule.position, "token_claims", mapping.name))


# ---------------------------------------------------------------- near misses


def _trust_hints(
    generation: Generation,
    workload: Workload,
    decision: Decision,
    nearest: Sequence[tuple[ServiceAccount, TrustRule]],
) -> Iterator[Hint]:
    if decision.reason == "issuer_condition_failed":
        place = generation.issuer_places.get(workload.issuer.name)
        condition = generation.issuer_conditions[workload.issuer.name]
        hint = condition_hint(condition, place, ("when",), workload) if place is not None else None
        if hint is not None:
            yield hint
    if decision.reason == "no_matching_trust":
        for account, rule in nearest[:MAX_RULES_HINTED]:
            yield from rule_hints(generation, account, rule, workload)
