"""Which trust rules the tests of the policies prove something about. Pure.

A rule is *reached* by a test that is granted something by it. It is *guarded* by a test that is refused although at
most one of the rule's conditions fails: were that condition taken away, the test would tell.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.model import Claims, Decision
from gateway.policy.generation import Generation, TestCase, TrustRule
from gateway.policy.policy_tests import differences, played_claims

MAX_FAILING_CONDITIONS = 1
"""A refused workload that fails more of a rule's conditions does not come close to it."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many trust rules there are, and those that the tests say nothing about, in the order of the files."""

    rules: int
    unreached: tuple[TrustRule, ...]
    unguarded: tuple[TrustRule, ...]

    @property
    def percent(self) -> float:
        """The share of rules that are reached, and of those that are guarded, together; never rounded up."""
        if not self.rules:
            return 100.0
        missing = len(self.unreached) + len(self.unguarded)
        return (2 * self.rules - missing) * 1000 // (2 * self.rules) / 10


def measure_coverage(generation: Generation, played: Iterable[tuple[TestCase, Decision]]) -> Coverage:
    """What the tests cover, from what came of each. A test that fails covers nothing."""
    reached: set[int] = set()
    guarded: set[int] = set()
    for case, decision in played:
        account = generation.service_accounts.get(case.service_account) or generation.service_account(
            case.service_account
        )
        if account is None or differences(case.test, decision):
            continue
        rules = [rule for rule in account.rules if rule.issuer == case.test.issuer]
        if decision.entitlement is not None:
            reached |= {rule.ordinal for rule in rules if rule.name == decision.entitlement.rule}
        else:
            claims = played_claims(case, generation.issuers_by_name[case.test.issuer])
            guarded |= {rule.ordinal for rule in rules if _failing(rule, claims) <= MAX_FAILING_CONDITIONS}
    rules = [rule for account in generation.service_accounts.values() for rule in account.rules]
    return Coverage(
        rules=len(rules),
        unreached=tuple(rule for rule in rules if rule.ordinal not in reached),
        unguarded=tuple(rule for rule in rules if rule.ordinal not in guarded),
    )


def _failing(rule: TrustRule, claims: Claims) -> int:
    """How many of a rule's conditions do not hold."""
    failing = sum(not match.holds(claims) for match in rule.match) + sum(not like.holds(claims) for like in rule.like)
    return failing + (rule.when is not None and not rule.when.holds(claims, rule.issuer))
