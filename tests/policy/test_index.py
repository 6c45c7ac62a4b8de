"""The index never changes an answer, and keeps a decision's work small."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.model import Decision
from gateway.policy.conditions import parse_like, parse_match
from gateway.policy.decision import decide
from gateway.policy.generation import RuleIndex, TrustRule, index_rules
from tests.support import generated_policies as generated
from tests.support.generated_policies import Answer
from tests.support.policies import BASE, ask, generation_of, workload

VALUES = st.sampled_from(["x", "y", "z", "1", "true", "", 1, 0, 2, True, False])
NAMES = st.sampled_from(["a", "b", "c"])
MATCHES = st.dictionaries(
    NAMES,
    VALUES | st.lists(VALUES, min_size=1, max_size=3) | st.dictionaries(NAMES, VALUES, min_size=1, max_size=2),
    max_size=3,
)
LIKES = st.dictionaries(NAMES, st.sampled_from(["x*", "**", "*1"]), max_size=1)
CLAIMS = st.dictionaries(
    NAMES, VALUES | st.none() | st.lists(VALUES, max_size=2) | st.dictionaries(NAMES, VALUES, max_size=2), max_size=3
)


def rule_of(ordinal: int, issuer: str, match: dict, like: dict) -> TrustRule:
    return TrustRule(
        service_account=f"app-{ordinal}",
        name="rule-1",
        ordinal=ordinal,
        position=0,
        issuer=issuer,
        match=tuple(parse_match(match)[0]),
        like=tuple(parse_like(like)[0]),
        when=None,
        grants={},
        token_lifetime_seconds=None,
        token_claims=(),
        paths=(),
    )


@given(
    st.lists(st.tuples(st.sampled_from(["one", "two"]), MATCHES, LIKES), max_size=12),
    st.lists(CLAIMS, min_size=1, max_size=8),
)
@settings(max_examples=600, deadline=None)
def test_the_index_finds_exactly_the_rules_that_a_look_at_every_rule_finds(written, workloads):
    rules = [rule_of(ordinal, *parts) for ordinal, parts in enumerate(written)]
    index = index_rules(rules)
    for issuer, claims in itertools.product(("one", "two"), workloads):
        naive = [rule.ordinal for rule in rules if rule.issuer == issuer and rule.admits(claims)]
        candidates = index.get(issuer, RuleIndex((), ())).candidates(claims)
        assert len(candidates) == len(set(candidates))
        assert sorted(rule.ordinal for rule in candidates if rule.admits(claims)) == naive


ALWAYS_ASKED = (
    generated.request_of(),
    generated.request_of(resource="payroll"),
    generated.request_of(resource="ledger", scopes=("audit", "read")),
)


def answer_of(decision: Decision) -> Answer:
    given = decision.entitlement
    return Answer(
        reason=decision.reason,
        service_account=decision.service_account,
        rule=given.rule if given is not None else None,
        audience=given.audience if given is not None else None,
        scopes=given.scopes if given is not None else (),
        lifetime_seconds=given.lifetime_seconds if given is not None else None,
        candidates=decision.candidates,
        wanted=decision.wanted,
    )


def test_a_decision_is_that_of_a_look_at_every_rule_of_every_service_account_in_a_hundred_thousand_cases():
    """Reason, rule, scopes and candidates, and what was wanted where the words do not depend on the nearest rule."""
    seen: Counter[str] = Counter()

    @given(generated.policies(), generated.workloads(), st.lists(generated.requests(), min_size=2, max_size=2))
    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def compare(policy, workloads, requests):
        generation = policy.generation()
        asked = [*ALWAYS_ASKED, *requests]
        for issuer, claims in itertools.product(generated.ISSUERS, workloads):
            calling = workload(generation, issuer, claims)
            for request in asked:
                plain = generated.plain_answer(policy, issuer, claims, request)
                answer = answer_of(decide(generation, calling, request))
                assert replace(answer, wanted=answer.wanted if plain.wanted is not None else None) == plain
                assert answer.wanted or answer.reason == "granted"
                seen[answer.reason] += 1

    compare()
    assert seen.total() >= 100_000
    assert len(seen) == 10  # every reason that a decision can have here
    assert seen["granted"] > 3000


def test_a_rule_is_filed_under_the_claim_that_fewest_rules_share():
    rules = [rule_of(n, "one", {"owner": "77", "repository": str(n), "environment": ["p", "q"]}, {}) for n in range(50)]
    index = index_rules(rules)["one"]
    assert [path for path, _ in index.buckets] == [("repository",)]
    assert index.scan == ()
    assert index.candidates({"owner": "77", "repository": "7", "environment": "p"}) == [rules[7]]


def test_a_rule_with_a_list_is_found_under_each_of_its_values():
    rule = rule_of(0, "one", {"a": ["x", 1, True]}, {})
    index = index_rules([rule])["one"]
    assert [index.candidates({"a": value}) for value in ("x", 1, True)] == [[rule]] * 3
    assert [index.candidates({"a": value}) for value in ("1", 0, False, None, ["x"])] == [[]] * 5


def test_rules_without_an_exact_match_are_always_looked_at():
    rule = rule_of(0, "one", {}, {"a": "x*"})
    assert index_rules([rule])["one"].candidates({}) == [rule]


@pytest.mark.parametrize("count", [10, 3000])
def test_the_rules_looked_at_do_not_grow_with_the_number_of_service_accounts(count):
    accounts = [
        f"kind: ServiceAccount\nname: app-{n}\naccess: [{{resource: deploy-api, scopes: [deploy:write]}}]\n"
        f'trust: [{{issuer: cluster, match: {{sub: "s:{n}", kind: pod}}}}]'
        for n in range(count)
    ]
    generation = generation_of(*accounts, base=BASE)
    assert len(generation.index["cluster"].buckets) == 1
    assert len(generation.index["cluster"].candidates({"sub": "s:7", "kind": "pod"})) == 1
    assert ask(generation, "cluster", {"sub": "s:7", "kind": "pod"}).service_account == "app-7"
