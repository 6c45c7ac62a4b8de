"""What the tests in the files prove of the trust rules: which are reached, which are guarded."""

import pytest

from gateway.policy.coverage import Coverage, measure_coverage
from gateway.policy.policy_tests import play
from tests.support.policies import generation_of

ACCOUNT = """
kind: ServiceAccount
name: app
access: [{resource: ledger-api, scopes: [ledger:read, ledger:write]}]
trust:
  - {name: main, issuer: cluster, match: {sub: x, branch: main}, like: {tag: v*}, when: claims.n == 1}
  - {name: topic, issuer: cluster, match: {sub: x}, scopes: [ledger:read]}
tests:
"""
MAIN = "{sub: x, branch: main, tag: v1, n: 1}"
UNTESTED = ({"main", "topic"}, {"main", "topic"})


def gaps(*tests, account=ACCOUNT):
    """The names of the rules that are not reached, and of those that are not guarded."""
    lines = "".join(f"  - {{name: t{n}, issuer: cluster, {test}}}\n" for n, test in enumerate(tests))
    generation = generation_of(account + (lines or "  []\n"), keep_tests=True)
    coverage = measure_coverage(generation, [(case, play(generation, case)) for case in generation.tests])
    return {rule.name for rule in coverage.unreached}, {rule.name for rule in coverage.unguarded}


def test_without_tests_nothing_is_reached_or_guarded():
    assert gaps() == UNTESTED


def test_a_rule_is_reached_by_a_test_that_it_grants_something_and_by_no_other():
    assert gaps(f"claims: {MAIN}, expect: {{allow: [ledger:read, ledger:write]}}")[0] == {"topic"}
    assert gaps("claims: {sub: x}, expect: {allow: [ledger:read]}")[0] == {"main"}


@pytest.mark.parametrize(
    ("claims", "guarded"),
    [
        ("{sub: y, branch: main, tag: v1, n: 1}", {"main", "topic"}),
        ("{sub: y}", {"topic"}),
        ("{}", {"topic"}),
        ("{sub: y, branch: main, tag: w1, n: 1}", {"topic"}),
        ("{sub: y, branch: topic, tag: v1, n: 1}", {"topic"}),
        ("{sub: y, branch: main, tag: v1, n: 2}", {"topic"}),
    ],
)
def test_a_refused_test_guards_the_rules_of_which_at_most_one_condition_fails(claims, guarded):
    _, unguarded = gaps(f"claims: {claims}, expect: {{deny: no_matching_trust}}")
    assert unguarded == {"main", "topic"} - guarded


def test_a_refused_scope_guards_the_rules_that_admit_the_workload():
    assert gaps("claims: {sub: x}, scope: ledger:write, expect: {deny: scope_not_granted}")[1] == {"main"}


def test_a_test_that_fails_covers_nothing():
    assert gaps(
        "claims: {sub: x}, expect: {allow: [ledger:write]}", "claims: {sub: y}, expect: {deny: unmappable_claim}"
    ) == (
        {"main", "topic"},
        {"main", "topic"},
    )


def test_a_refusal_at_another_issuer_guards_nothing():
    test = "  - {name: t, issuer: github, claims: {sub: y}, expect: {deny: no_matching_trust}}\n"
    generation = generation_of(ACCOUNT + test, keep_tests=True)
    coverage = measure_coverage(generation, [(case, play(generation, case)) for case in generation.tests])
    assert len(coverage.unguarded) == 2


def test_the_rules_of_a_template_are_covered_by_tests_of_accounts_that_it_makes():
    template = """
kind: ServiceAccount
name: "k8s.{namespace}"
for_each: {namespace: claims.namespace}
access: [{resource: ledger-api, scopes: [ledger:read]}]
trust: [{issuer: cluster, match: {sub: x}}]
---
kind: Tests
name: shop
service_account: k8s.shop
tests:
"""
    tests = (
        "claims: {sub: x, namespace: shop}, expect: {allow: [ledger:read]}",
        "claims: {sub: y, namespace: shop}, expect: {deny: no_matching_trust}",
    )
    assert gaps(*tests, account=template) == (set(), set())


def percent(rules, unreached, unguarded):
    return Coverage(rules, ("rule",) * unreached, ("rule",) * unguarded).percent


def test_the_percentage_counts_both_and_is_never_rounded_up():
    assert percent(0, 0, 0) == 100.0
    assert percent(4, 1, 1) == 75.0
    assert percent(3, 1, 0) == 83.3
    assert percent(100_000, 1, 0) == 99.9
