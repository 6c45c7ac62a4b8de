"""The index never changes an answer, and keeps a decision's work small."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.policy.conditions import parse_like, parse_match
from gateway.policy.generation import RuleIndex, TrustRule, index_rules
from tests.support.policies import BASE, ask, generation_of

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


def naive_answer(generation, issuer: str, claims: dict) -> tuple[str, tuple[str, ...]]:
    names = [
        account.name
        for account in generation.service_accounts.values()
        if any(rule.issuer == issuer and rule.admits(claims) for rule in account.rules)
    ]
    return {0: "no_matching_trust", 1: "granted"}.get(len(names), "ambiguous_service_account"), tuple(names)


@given(
    st.lists(st.lists(st.tuples(st.sampled_from(["cluster", "github"]), MATCHES, LIKES), max_size=3), max_size=5),
    st.lists(CLAIMS, min_size=5, max_size=12),
)
@settings(max_examples=120, deadline=None)
def test_a_decision_is_that_of_a_look_at_every_service_account(accounts, workloads):
    # 120 policies, two issuers, at least five workloads; with the test above, thousands of comparisons in a run.
    documents = []
    for number, rules in enumerate(accounts):
        trust = [
            {"issuer": issuer, "match": match, "like": like, **({} if match or like else {"when": "true"})}
            for issuer, match, like in rules
        ]
        access = [{"resource": "deploy-api", "scopes": ["deploy:write"]}]
        document = {"kind": "ServiceAccount", "name": f"app-{number}", "access": access, "trust": trust}
        documents.append(json.dumps(document))
    generation = generation_of(*documents)
    for issuer, claims in itertools.product(("cluster", "github"), workloads):
        decision = ask(generation, issuer, claims)
        reason, names = naive_answer(generation, issuer, claims)
        assert decision.reason == reason
        if reason == "granted":
            assert decision.service_account == names[0]
        else:
            assert set(decision.candidates) == set(names)
        for number in range(len(accounts)):
            named = ask(generation, issuer, claims, client_id=f"app-{number}")
            assert (named.reason == "granted") is (f"app-{number}" in names)


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
