"""The inline tests of the service accounts: played at every load, and a gate for it. Pure."""

from collections.abc import Iterable
from dataclasses import replace

from gateway.model import Decision, GrantType, TokenRequest, TrustedIssuer, Workload
from gateway.oauth.parameters import TOKEN_TYPE_JWT, parse_scope
from gateway.policy.decision import decide
from gateway.policy.documents import InlineTest, duration_text
from gateway.policy.generation import Generation, TestCase
from gateway.policy.problems import Problem


def failures(generation: Generation, cases: Iterable[TestCase]) -> list[Problem]:
    """A problem for each test whose decision is not the expected one."""
    issuers = {issuer.name: issuer for issuer in generation.issuers}
    found = []
    for case in cases:
        decision = play(generation, issuers[case.test.issuer], case.service_account, case.test)
        if difference := _difference(case.test, decision):
            found.append(replace(case.place, message=f"the test {case.test.name!r} failed: {difference}"))
    return found


def play(generation: Generation, issuer: TrustedIssuer, service_account: str, test: InlineTest) -> Decision:
    """The decision for a test's claims, taken as verified claims of the issuer, with the account as client_id."""
    audience = min(issuer.audiences)
    claims = {"iss": issuer.url, "aud": audience, **test.claims}
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
        client_id=service_account,
        resource=test.resource,
        scopes=None if test.scope is None else parse_scope(test.scope),
    )
    return decide(generation, workload, request)


def _difference(test: InlineTest, decision: Decision) -> str:
    expected, entitlement = test.expect, decision.entitlement
    came = _outcome(decision)
    if expected.allow is None:
        return "" if decision.reason == expected.deny else f"expected deny {expected.deny}, got {came}"
    allowed = f"allow {' '.join(expected.allow)}"
    if entitlement is None or set(entitlement.scopes) != set(expected.allow):
        return f"expected {allowed}, got {came}"
    if expected.lifetime is not None and entitlement.lifetime_seconds != expected.lifetime:
        got = duration_text(entitlement.lifetime_seconds)
        return f"expected a lifetime of {duration_text(expected.lifetime)}, got {got}"
    return ""


def _outcome(decision: Decision) -> str:
    if decision.entitlement is None:
        return f"deny {decision.reason}" + (f": {decision.wanted}" if decision.wanted else "")
    entitlement = decision.entitlement
    return f"allow {' '.join(entitlement.scopes)} at {entitlement.resource} by {entitlement.rule}"
