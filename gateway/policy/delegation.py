"""What may be done with an access token of our own as the subject: narrow it, or pass a call on as its actor.

Pure. Narrowing gives less than the token has. Passing on gives what both whoever got the token and its actor may have,
and at the token's own resource no more than the token. Its end is for whoever mints to keep (``not_after``).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gateway.model import Decision, Entitlement, PassedOn, TokenRequest, Workload
from gateway.policy.decision import decide
from gateway.policy.generation import Generation, Resource, ServiceAccount

MAX_ACTORS = 3
"""How many actors a token names at most: the depth of ``act`` (RFC 8693 §4.1)."""


def decide_narrowing(generation: Generation, subject: PassedOn, request: TokenRequest) -> Decision:
    """Whether a token may become one for the same resource with fewer scopes.

    The policy in force counts, not the one under which the token was minted: what it no longer grants is not given.
    """
    account = generation.service_account(subject.service_account)
    resource = generation.resources_by_identifier.get(subject.audience)
    if account is None or request.client_id not in {None, subject.service_account}:
        return _denied("unknown_service_account", generation, subject)
    if resource is None or resource.name not in account.access:
        return _denied("resource_not_granted", generation, subject)
    if request.resource is not None and generation.resource(request.resource) is not resource:
        return _denied("narrowing_only", generation, subject)
    granted = tuple(scope for scope in account.access[resource.name] if scope in subject.scopes)
    return _entitle("narrowed", generation, account, resource, granted, request)


def decide_delegation(generation: Generation, subject: PassedOn, actor: Workload, request: TokenRequest) -> Decision:
    """Whether the workload ``actor``, called with the token ``subject``, may call on in its name (RFC 8693 §1.1).

    It may when it is (by its trust rules) a service account that serves the token's resource, and gets at the next
    resource no more than both of them may have there: of the first, as much as the rule gives that it got the token by.
    """
    account = generation.service_account(subject.service_account)
    called = generation.resources_by_identifier.get(subject.audience)
    if account is None or called is None:
        return _denied("unknown_service_account", generation, subject)
    if actors_in(subject.act) >= MAX_ACTORS:
        return _denied("delegation_too_deep", generation, subject)
    as_actor = decide(generation, actor, request)
    if as_actor.entitlement is None:
        return as_actor
    if as_actor.entitlement.service_account not in called.served_by:
        return _denied("actor_not_permitted", generation, subject)
    resource = generation.resources[as_actor.entitlement.resource]
    approved = _approved(account, subject).get(resource.name)
    if approved is None:
        return _denied("resource_not_granted", generation, subject)
    granted = tuple(scope for scope in approved if scope in as_actor.entitlement.scopes)
    if resource is called:
        granted = tuple(scope for scope in granted if scope in subject.scopes)
    decision = _entitle(as_actor.entitlement.rule, generation, account, resource, granted, request)
    if decision.entitlement is None:
        return decision
    lifetime = min(decision.entitlement.lifetime_seconds, as_actor.entitlement.lifetime_seconds)
    entitlement = replace(decision.entitlement, lifetime_seconds=lifetime)
    return replace(decision, entitlement=entitlement, looked_at=as_actor.looked_at)


def actors_in(act: Mapping[str, Any] | None) -> int:
    """How many actors an ``act`` claim holds, the current one included."""
    count = 0
    while act:
        count += 1
        act = act.get("act") or {}
    return count


def _approved(account: ServiceAccount, subject: PassedOn) -> Mapping[str, tuple[str, ...]]:
    """What whoever got the token may ask for: a workload by its rule, and nothing by one that is gone; a client with a
    credential of its own all that the account may.
    """
    issuer, _, how = subject.entitled_by.partition("/")
    if ":" in how:  # every credential has one in its name, and no rule
        return account.access
    return next((rule.grants for rule in account.rules if (rule.issuer, rule.name) == (issuer, how)), {})


def _entitle(
    rule: str | None,
    generation: Generation,
    account: ServiceAccount,
    resource: Resource,
    granted: tuple[str, ...],
    request: TokenRequest,
) -> Decision:
    if request.scopes is not None:
        if not set(request.scopes) <= set(granted):
            return Decision("scope_not_granted", None, generation.number, account.name)
        granted = tuple(scope for scope in granted if scope in request.scopes)
    if not granted:  # the policy has changed, or the two have nothing in common: a token for nothing opens doors, too
        return Decision("scope_not_granted", None, generation.number, account.name)
    bounds = (resource.token_lifetime_seconds, account.token_lifetime_seconds, request.lifetime_seconds)
    entitlement = Entitlement(
        service_account=account.name,
        rule=rule,
        resource=resource.name,
        audience=resource.identifier,
        scopes=granted,
        lifetime_seconds=min(bound for bound in bounds if bound is not None),
        claims={},
        sender_constraint=resource.sender_constraint,
        signing_algorithm=resource.signing_algorithm,
    )
    return Decision("granted", entitlement, generation.number, account.name)


def _denied(reason: str, generation: Generation, subject: PassedOn) -> Decision:
    return Decision(reason, None, generation.number, subject.service_account)
