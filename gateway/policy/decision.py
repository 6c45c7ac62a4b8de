"""What may this workload, or this client, do? Pure functions over a generation.

The order of the checks: the issuer's condition, guardrails, service account, resource, scopes, lifetime, claims.
Denied is the default. A denial is explained (``trace``, ``wanted``), a grant says what it looked at.
"""

from collections.abc import Sequence
from typing import Any

from gateway.model import Check, Claims, Client, Decision, Entitlement, TokenRequest, Workload
from gateway.oauth.reasons import GRANTED
from gateway.policy.cel import Mapped, Unknown
from gateway.policy.checks import claim_check, condition_check
from gateway.policy.conditions import Like, Match, claim_at
from gateway.policy.generation import Generation, Resource, ServiceAccount, TrustRule
from gateway.policy.problems import path_text
from gateway.policy.templates import Unnameable
from gateway.policy.wording import SHOWN_CHARACTERS, listed, seen_in_words, sentence, shown

MAX_TRACED_RULES = 20
MAX_RULES_EXPLAINED = 200
"""Of more rules that failed, the first so many are looked at again for the trace: a denial stays cheap."""
MAX_CANDIDATES = 20


def decide(generation: Generation, workload: Workload, request: TokenRequest) -> Decision:
    """Whether this workload gets what it asks for, and why (not). Reads no clock, does no I/O, never raises.

    ``lifetime_seconds`` of the entitlement is the least of resource, service account, rule and request; the rest of
    the subject token's life, where the issuer binds to it, is for whoever mints to mind.
    """
    identified = _identified(generation, workload, request.client_id)
    if isinstance(identified, Decision):
        return identified
    account, admitting = identified
    return _entitled(generation, account, admitting, workload, request)


def decide_identity(generation: Generation, workload: Workload, client_id: str | None) -> ServiceAccount | Decision:
    """Which service account a workload is that only authenticates, or the denial. Pure, as ``decide``."""
    identified = _identified(generation, workload, client_id)
    return identified if isinstance(identified, Decision) else identified[0]


def decide_client(generation: Generation, client: Client, request: TokenRequest) -> Decision:
    """What a client gets that authenticated with a credential of its own: its access and roles are approved in
    advance (RFC 6749 §4.4). Trust rules and guardrails are about workloads and say nothing here. Pure, as ``decide``.
    """
    account = generation.service_accounts.get(client.client_id)
    if account is None or account.template is not None:
        wanted = f"no service account is called {shown(client.client_id)}"
        return _denial(generation, "unknown_service_account", wanted=wanted)
    resource = _resource(generation, account, request)
    if not isinstance(resource, Resource):
        reason, wanted = resource
        return _denial(generation, reason, account, wanted=wanted)
    approved = account.access[resource.name]
    missing = [scope for scope in request.scopes or () if scope not in approved]
    if missing:
        wanted = f"{account.name} has {listed(approved)} at {resource.name}, not {listed(missing)}"
        return _denial(generation, "scope_not_granted", account, wanted=wanted)
    bounds = (resource.token_lifetime_seconds, account.token_lifetime_seconds, request.lifetime_seconds)
    return Decision(
        reason=GRANTED,
        entitlement=Entitlement(
            service_account=account.name,
            rule=None,
            resource=resource.name,
            audience=resource.identifier,
            scopes=tuple(scope for scope in approved if request.scopes is None or scope in request.scopes),
            lifetime_seconds=min(bound for bound in bounds if bound is not None),
            claims=account.constant_claims,
            sender_constraint=resource.sender_constraint,
            signing_algorithm=resource.signing_algorithm,
        ),
        generation=generation.number,
        service_account=account.name,
    )


def _identified(
    generation: Generation, workload: Workload, client_id: str | None
) -> Decision | tuple[ServiceAccount, Sequence[TrustRule]]:
    """The service account that a workload is, with the rules that say so in file order; or the denial."""
    issuer, claims = workload.issuer.name, workload.claims
    refused = _refused_before_trust(generation, issuer, claims)
    if refused is not None:
        return refused
    if client_id is not None:
        account = generation.service_account(client_id)
        if account is None:
            wanted = f"no service account is called {shown(client_id)}"
            return _denial(generation, "unknown_service_account", wanted=wanted)
        rules: Sequence[TrustRule] = [rule for rule in account.rules if rule.issuer == issuer]
        admitting = [rule for rule in rules if rule.admits(claims)]
        if admitting and account.template is not None and (other := _named_otherwise(account, claims)):
            return _denial(generation, other[0], account, wanted=other[1])
    else:
        index = generation.index.get(issuer)
        rules = index.candidates(claims) if index is not None else ()
        admitting = [rule for rule in rules if rule.admits(claims)]
        admitting.sort(key=_ordinal)
        unnamed = _names(generation, admitting, claims)
        if isinstance(unnamed, Unnameable):
            return _denial(generation, "unnameable_service_account", wanted=unnamed.why)
        names = unnamed
        if len(names) > 1:
            wanted = f"client_id: the workload may become {listed(names)}"
            return _denial(generation, "ambiguous_service_account", wanted=wanted, candidates=names[:MAX_CANDIDATES])
        account = generation.service_account(names[0]) if names else None
    if account is None or not admitting:
        return _no_trust(generation, workload, account, rules)
    return account, admitting


def _names(generation: Generation, admitting: Sequence[TrustRule], claims: Claims) -> tuple[str, ...] | Unnameable:
    """The service accounts that these rules lead to, each once; or why a template makes no name, where none has one."""
    if not generation.templates:
        return tuple(dict.fromkeys([rule.service_account for rule in admitting]))
    names: dict[str, None] = {}
    unnameable = None
    for rule in admitting:
        template = generation.service_accounts[rule.service_account].template
        name = template.name_for(claims) if template is not None else rule.service_account
        if isinstance(name, Unnameable):
            unnameable = unnameable or name
        else:
            names[name] = None
    return unnameable if unnameable is not None and not names else tuple(names)


def _named_otherwise(account: ServiceAccount, claims: Claims) -> tuple[str, str] | None:
    """Why a workload that a template's rules admit is not this account of it, as reason and in words; None if it is."""
    assert account.template is not None
    name = account.template.name_for(claims)
    if isinstance(name, Unnameable):
        return "unnameable_service_account", name.why
    if name != account.name:
        return "no_matching_trust", f"{account.template.text} is {name} for this workload, not {account.name}"
    return None


def _refused_before_trust(generation: Generation, issuer: str, claims: Claims) -> Decision | None:
    condition = generation.issuer_conditions.get(issuer)
    if condition is not None and not condition.holds(claims, issuer):
        check = condition_check(f"issuer/{issuer}", condition, claims, issuer, passed=False)
        return _denial(generation, "issuer_condition_failed", wanted=sentence(check), trace=(check,))
    for guardrail in generation.guardrails.get(issuer, ()):
        # An error is a denial, too: a guardrail that cannot be worked out protects nobody.
        if not guardrail.deny_when.is_false(claims, issuer):
            label = f"guardrail/{guardrail.name}"
            check = condition_check(label, guardrail.deny_when, claims, issuer, kind="guardrail", passed=False)
            return _denial(generation, "denied_by_guardrail", wanted=sentence(check), trace=(check,))
    return None


def _entitled(
    generation: Generation,
    account: ServiceAccount,
    admitting: Sequence[TrustRule],
    workload: Workload,
    request: TokenRequest,
) -> Decision:
    """The answer for a workload that is this service account by these rules, in file order."""
    resource = _resource(generation, account, request)
    if not isinstance(resource, Resource):
        reason, wanted = resource
        return _denial(generation, reason, account, wanted=wanted)
    for rule in admitting:
        granted = rule.grants.get(resource.name)
        if granted is not None and (request.scopes is None or all(scope in granted for scope in request.scopes)):
            return _grant(generation, account, resource, rule, granted, workload=workload, request=request)
    return _not_granted(generation, account, admitting[0], resource, request)


def _resource(generation: Generation, account: ServiceAccount, request: TokenRequest) -> Resource | tuple[str, str]:
    """The resource in question, or the reason why there is none, and what was wanted."""
    if request.resource is None:
        if len(account.access) == 1:
            return generation.resources[next(iter(account.access))]
        if not account.access:
            return "resource_not_granted", f"{account.name} has no access to any resource"
        return "ambiguous_resource", f"{account.name} has the resources {listed(tuple(account.access))}"
    resource = generation.resource(request.resource)
    if resource is None:
        return "unknown_resource", f"no resource has the identifier or name {shown(request.resource)}"
    if resource.name not in account.access:
        has = f"it has {listed(tuple(account.access))}" if account.access else "it has none"
        return "resource_not_granted", f"{account.name} has no access to {resource.name}; {has}"
    return resource


def _grant(
    generation: Generation,
    account: ServiceAccount,
    resource: Resource,
    rule: TrustRule,
    granted: tuple[str, ...],
    *,
    workload: Workload,
    request: TokenRequest,
) -> Decision:
    claims = workload.claims
    mapped: dict[str, Any] = {}
    for mapping in rule.token_claims:
        value = mapping.value(claims, rule.issuer)
        if isinstance(value, Unknown):
            return _unmappable(generation, account, rule, mapping, value)
        mapped[mapping.name] = value
    asked = request.scopes
    lifetime = resource.token_lifetime_seconds
    if rule.token_lifetime_seconds is not None and rule.token_lifetime_seconds < lifetime:
        lifetime = rule.token_lifetime_seconds
    if request.lifetime_seconds is not None and request.lifetime_seconds < lifetime:
        lifetime = request.lifetime_seconds
    return Decision(
        reason=GRANTED,
        entitlement=Entitlement(
            service_account=account.name,
            rule=rule.name,
            resource=resource.name,
            audience=resource.identifier,
            scopes=granted if asked is None else tuple([scope for scope in granted if scope in asked]),
            lifetime_seconds=lifetime,
            claims=mapped,
            sender_constraint=resource.sender_constraint,
            signing_algorithm=resource.signing_algorithm,
        ),
        generation=generation.number,
        service_account=account.name,
        looked_at=tuple([(path, claim_at(claims, path)) for path in rule.paths]),
    )


def _ordinal(rule: TrustRule) -> int:
    return rule.ordinal


# ---------------------------------------------------------------- saying no


def _denial(
    generation: Generation,
    reason: str,
    account: ServiceAccount | None = None,
    *,
    wanted: str,
    trace: tuple[Check, ...] = (),
    candidates: tuple[str, ...] = (),
) -> Decision:
    return Decision(
        reason=reason,
        entitlement=None,
        generation=generation.number,
        service_account=account.name if account is not None else None,
        candidates=candidates,
        trace=trace,
        wanted=wanted,
    )


def _no_trust(
    generation: Generation, workload: Workload, account: ServiceAccount | None, rules: Sequence[TrustRule]
) -> Decision:
    trace = _nearest_checks(rules, workload.claims)
    if trace:
        wanted = sentence(trace[0])
    elif account is not None:
        wanted = f"{account.name} has no trust rule for the issuer {workload.issuer.name}"
    else:
        wanted = _nothing_near(generation, workload)
    return _denial(generation, "no_matching_trust", account, wanted=wanted, trace=trace)


def _not_granted(
    generation: Generation, account: ServiceAccount, rule: TrustRule, resource: Resource, request: TokenRequest
) -> Decision:
    granted = rule.grants.get(resource.name, ())
    if not granted:
        wanted = f"{rule.label} grants nothing at {resource.name}"
        return _denial(
            generation, "scope_not_granted" if request.scopes else "resource_not_granted", account, wanted=wanted
        )
    missing = [scope for scope in request.scopes or () if scope not in granted]
    wanted = f"{rule.label} grants {listed(granted)} at {resource.name}, not {listed(missing)}"
    return _denial(generation, "scope_not_granted", account, wanted=wanted)


def _unmappable(
    generation: Generation, account: ServiceAccount, rule: TrustRule, mapping: Mapped, value: Unknown
) -> Decision:
    wanted = f"{rule.label} maps {mapping.source} to the claim {mapping.name}: {value.why}"
    return _denial(generation, "unmappable_claim", account, wanted=wanted[: 4 * SHOWN_CHARACTERS])


def _nothing_near(generation: Generation, workload: Workload) -> str:
    index = generation.index.get(workload.issuer.name)
    if index is None:
        return f"no trust rule names the issuer {workload.issuer.name}"
    looked_up = ", ".join(
        f"{path_text(path)}: {seen_in_words(claim_at(workload.claims, path))}" for path, _ in index.buckets[:5]
    )
    return f"no trust rule for the issuer {workload.issuer.name} names these claims; seen: {looked_up}"


# ---------------------------------------------------------------- explaining


def _nearest_checks(rules: Sequence[TrustRule], claims: Claims) -> tuple[Check, ...]:
    """The first failing check of each rule, those of the rules that passed most checks first."""
    failed = [_first_failing(rule, claims) for rule in sorted(rules, key=_ordinal)[:MAX_RULES_EXPLAINED]]
    failed.sort(key=lambda passed_and_check: -passed_and_check[0])
    return tuple(check for _, check in failed[:MAX_TRACED_RULES])


def _first_failing(rule: TrustRule, claims: Claims) -> tuple[int, Check]:
    """How many checks of a rule that did not admit these claims passed, and the next one."""
    passed = 0
    conditions: tuple[Match | Like, ...] = (*rule.match, *rule.like)
    for condition in conditions:
        if not condition.holds(claims):
            return passed, claim_check(rule.label, condition, claims, passed=False)
        passed += 1
    assert rule.when is not None
    return passed, condition_check(rule.label, rule.when, claims, rule.issuer, passed=False)
