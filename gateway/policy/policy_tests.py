"""The tests that stand in policy files: the claims that they play, and how what came out differs from what they expect.

Played at every load, and a gate for it. Pure.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gateway.model import Claims, Decision, GrantType, TokenRequest, TrustedIssuer, Workload
from gateway.oauth.parameters import TOKEN_TYPE_JWT, parse_scope
from gateway.policy.decision import decide
from gateway.policy.documents import PolicyTest, duration_text
from gateway.policy.generation import Generation, TestCase
from gateway.policy.problems import Path, Problem
from gateway.policy.wording import seen_in_words


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as a test expects it, both sides in words; ``path`` is where the test says it."""

    path: Path
    expected: str
    got: str


def failures(generation: Generation, cases: Iterable[TestCase]) -> list[Problem]:
    """A problem for each difference, at the place of the expectation."""
    return [
        replace(
            case.place,
            path=(*case.place.path, *difference.path),
            message=f"the test {case.test.name!r} failed: expected {difference.expected}, got {difference.got}"
            + (f": {decision.wanted}" if decision.wanted else ""),
        )
        for case in cases
        for decision in [play(generation, case)]
        for difference in differences(case.test, decision)
    ]


def play(generation: Generation, case: TestCase) -> Decision:
    """The decision for a test's claims, taken as verified claims of its issuer, with its service account as client_id.

    Raises ``KeyError`` where the generation, if it is not the test's own, has no such issuer.
    """
    issuer = generation.issuers_by_name[case.test.issuer]
    claims = played_claims(case, issuer)
    subject = claims.get("sub")
    workload = Workload(
        issuer=issuer,
        subject=subject if isinstance(subject, str) else "",
        claims=claims,
        expires_at=0,
        issued_at=None,
        token_id=None,
        token_sha256="",
        key_id=None,
    )
    request = TokenRequest(
        grant_type=GrantType.TOKEN_EXCHANGE,
        token="",
        token_type=TOKEN_TYPE_JWT,
        client_id=_client_id(generation, case.service_account, claims),
        resource=case.test.resource,
        scopes=None if case.test.scope is None else parse_scope(case.test.scope),
    )
    return decide(generation, workload, request)


def played_claims(case: TestCase, issuer: TrustedIssuer) -> Claims:
    """The claims of a test: its own over those of its sample, ``iss`` and ``aud`` filled in where it has none.

    ``aud`` is a list where the platform of the sample always writes one.
    """
    audience: Any = min(issuer.audiences)
    if case.sample is None:
        return {"iss": issuer.url, "aud": audience, **case.test.claims}
    if isinstance(case.sample.get("aud"), list):
        audience = [audience]
    return merged({**case.sample, "iss": issuer.url, "aud": audience}, case.test.claims)


def merged(target: Claims, patch: Claims) -> dict[str, Any]:
    """``target`` with ``patch`` merged in at every level; null takes a member out (RFC 7396 section 2)."""
    result = dict(target)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping):
            below = result.get(name)
            result[name] = merged(below if isinstance(below, Mapping) else {}, value)
        else:
            result[name] = value
    return result


def differences(test: PolicyTest, decision: Decision) -> tuple[Difference, ...]:
    """How a decision differs from what the test expects; nothing where the test passes."""
    return tuple(_differences(test, decision))


def outcome(decision: Decision) -> str:
    """What came out, in a few words: ``deny no_matching_trust``, ``allow ledger:read at ledger-api by main``."""
    entitlement = decision.entitlement
    if entitlement is None:
        return f"deny {decision.reason}"
    return f"allow {' '.join(entitlement.scopes)} at {entitlement.resource} by {entitlement.rule}"


def _client_id(generation: Generation, service_account: str, claims: Claims) -> str | None:
    """The service account that is asked for. Of a template it is the one that these claims make; they may make none."""
    account = generation.service_accounts.get(service_account)
    if account is None or account.template is None:
        return service_account
    name = account.template.name_for(claims)
    return name if isinstance(name, str) else None


def _differences(test: PolicyTest, decision: Decision) -> Iterator[Difference]:
    expected, entitlement = test.expect, decision.entitlement
    if expected.allow is None:
        if decision.reason != expected.deny:
            yield Difference(("expect", "deny"), f"deny {expected.deny}", outcome(decision))
        return
    if entitlement is None or set(entitlement.scopes) != set(expected.allow):
        yield Difference(("expect", "allow"), f"allow {' '.join(expected.allow)}", outcome(decision))
        return
    if expected.lifetime is not None and entitlement.lifetime_seconds != expected.lifetime:
        wanted, got = duration_text(expected.lifetime), duration_text(entitlement.lifetime_seconds)
        yield Difference(("expect", "lifetime"), f"a lifetime of {wanted}", got)
    if expected.rule is not None and entitlement.rule != expected.rule:
        yield Difference(("expect", "rule"), f"the rule {expected.rule}", f"{entitlement.rule}")
    for name, value in expected.token_claims.items():
        got_claim = entitlement.claims.get(name)
        if json.dumps(got_claim) != json.dumps(value):  # 1, true and "1" are three values
            words = f"the claim {name} to be {seen_in_words(value)}"
            yield Difference(("expect", "token_claims", name), words, seen_in_words(got_claim))
