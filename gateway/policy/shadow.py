"""Where the policies in the shadow answer otherwise than those in force, and how to say it. Pure."""

from collections.abc import Iterator
from typing import Any

from gateway.model import Decision, Entitlement, Workload
from gateway.policy.documents import duration_text
from gateway.policy.generation import Generation
from gateway.policy.wording import listed, shown

DIFFERENCES = (
    "reason",
    "service_account",
    "rule",
    "resource",
    "scopes",
    "lifetime",
    "token_claims",
    "sender_constraint",
    "signing_algorithm",
)
"""What two decisions are compared in, the weightiest first."""


def differences(live: Decision, shadow: Decision) -> tuple[str, ...]:
    """What of ``DIFFERENCES`` is not the same in both, in that order; where the reasons differ, that alone.

    A resource is compared by its identifier, which is what clients and tokens know. What is only said to operators
    (trace, ``wanted``) is no difference.
    """
    if live.reason != shadow.reason:
        return ("reason",)
    if live.entitlement is None or shadow.entitlement is None:
        same = live.service_account == shadow.service_account and live.candidates == shadow.candidates
        return () if same else ("service_account",)
    return tuple(_differences(live.entitlement, shadow.entitlement))


def _differences(live: Entitlement, shadow: Entitlement) -> Iterator[str]:
    if live.service_account != shadow.service_account:
        yield "service_account"
    if live.rule != shadow.rule:
        yield "rule"
    if live.audience != shadow.audience:
        yield "resource"
    if live.scopes != shadow.scopes and set(live.scopes) != set(shadow.scopes):
        yield "scopes"
    if live.lifetime_seconds != shadow.lifetime_seconds:
        yield "lifetime"
    if (live.claims or shadow.claims) and (live.claims != shadow.claims or _types(live) != _types(shadow)):
        yield "token_claims"
    if live.sender_constraint != shadow.sender_constraint:
        yield "sender_constraint"
    if live.signing_algorithm != shadow.signing_algorithm:
        yield "signing_algorithm"


def _types(entitlement: Entitlement) -> dict[str, type[Any]]:
    """1 equals true, and is another claim."""
    return {name: type(value) for name, value in entitlement.claims.items()}


def refused_before_policy(generation: Generation, workload: Workload) -> Decision | None:
    """The refusal of a workload that was verified under the issuers in force, and would not be under these: no issuer
    has that name and URL, or it takes other audiences. None where the policy has to say.

    Keys, algorithms and ages are not looked at again.
    """
    live = workload.issuer
    own = generation.issuers_by_name.get(live.name)
    if own is None or own.url != live.url:
        wanted = f"no issuer is called {live.name} and has the url {shown(live.url)}"
        return Decision("unknown_issuer", None, generation.number, wanted=wanted)
    if own.audiences != live.audiences:
        presented = workload.claims.get("aud")
        audiences = presented if isinstance(presented, list) else [presented]
        if own.audiences.isdisjoint(one for one in audiences if isinstance(one, str)):
            wanted = f"{live.name} takes the audiences {listed(sorted(own.audiences))}"
            return Decision("wrong_audience", None, generation.number, wanted=wanted)
    return None


def outcome_in_words(decision: Decision) -> str:
    """A decision on one line, for operators."""
    given = decision.entitlement
    if given is None:
        candidates = f" ({listed(decision.candidates)})" if decision.candidates else ""
        return f"denies: {decision.reason}{candidates}" + (f": {decision.wanted}" if decision.wanted else "")
    claims = f", claims {listed([f'{name}={shown(value)}' for name, value in given.claims.items()])}"
    return (
        f"grants {label(decision)}: {' '.join(given.scopes)} at {shown(given.audience)} "
        f"for {duration_text(given.lifetime_seconds)}"
        + (claims if given.claims else "")
        + (f", bound by {given.sender_constraint}" if given.sender_constraint != "none" else "")
        + (f", signed by {given.signing_algorithm}" if given.signing_algorithm is not None else "")
    )


def label(decision: Decision) -> str:
    """The service account in question and its rule, as far as they are known: ``web-deployer/production``."""
    given = decision.entitlement
    if given is not None and given.rule is not None:
        return f"{given.service_account}/{given.rule}"
    return decision.service_account or "-"
