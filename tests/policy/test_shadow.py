"""Where two decisions differ, and where they only seem to."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.model import Client, Decision, Entitlement, GrantType, TokenRequest
from gateway.policy.decision import decide, decide_client
from gateway.policy.shadow import DIFFERENCES, differences, label, outcome_in_words, refused_before_policy
from tests.support import generated_policies as generated
from tests.support.policies import BASE, ask, generation_of, workload

GIVEN = Entitlement(
    service_account="web",
    rule="production",
    resource="deploy-api",
    audience="https://deploy.example.com",
    scopes=("deploy:read", "deploy:write"),
    lifetime_seconds=600,
    claims={"tenant": "acme"},
)
GRANTED = Decision("granted", GIVEN, 1, "web", looked_at=((("ref",), "main"),))
DENIED = Decision("no_matching_trust", None, 1, "web", wanted="web/production wants ref main; seen: fix")

CHANGES = [
    ("reason", DENIED),
    ("service_account", replace(GRANTED, entitlement=replace(GIVEN, service_account="other"))),
    ("rule", replace(GRANTED, entitlement=replace(GIVEN, rule="staging"))),
    ("resource", replace(GRANTED, entitlement=replace(GIVEN, audience="https://other.example.com"))),
    ("scopes", replace(GRANTED, entitlement=replace(GIVEN, scopes=("deploy:read",)))),
    ("lifetime", replace(GRANTED, entitlement=replace(GIVEN, lifetime_seconds=300))),
    ("token_claims", replace(GRANTED, entitlement=replace(GIVEN, claims={}))),
    ("token_claims", replace(GRANTED, entitlement=replace(GIVEN, claims={"tenant": "other"}))),
    ("sender_constraint", replace(GRANTED, entitlement=replace(GIVEN, sender_constraint="dpop"))),
    ("signing_algorithm", replace(GRANTED, entitlement=replace(GIVEN, signing_algorithm="RS256"))),
]


@pytest.mark.parametrize(("name", "changed"), CHANGES)
def test_each_thing_that_a_client_would_notice_is_a_difference(name, changed):
    assert differences(GRANTED, changed) == differences(changed, GRANTED) == (name,)


def test_nothing_is_compared_that_is_not_looked_for():
    assert {name for name, _ in CHANGES} == set(DIFFERENCES)


@pytest.mark.parametrize(
    "same",
    [
        replace(GRANTED, generation=7),
        replace(GRANTED, looked_at=()),
        replace(GRANTED, entitlement=replace(GIVEN, resource="renamed-api")),
        replace(GRANTED, entitlement=replace(GIVEN, scopes=("deploy:write", "deploy:read"))),
    ],
)
def test_what_no_client_would_notice_is_no_difference(same):
    assert differences(GRANTED, same) == ()


def test_true_is_not_1_in_a_token():
    one, true = (replace(GRANTED, entitlement=replace(GIVEN, claims={"admin": value})) for value in (1, True))
    assert differences(one, true) == ("token_claims",)


def test_several_differences_are_all_told_the_weightiest_first():
    other = replace(GIVEN, service_account="other", lifetime_seconds=1, scopes=())
    assert differences(GRANTED, replace(GRANTED, entitlement=other)) == ("service_account", "scopes", "lifetime")


def test_two_denials_differ_in_reason_or_in_the_accounts_in_question():
    assert differences(DENIED, replace(DENIED, wanted="other words", trace=())) == ()
    assert differences(DENIED, replace(DENIED, reason="denied_by_guardrail")) == ("reason",)
    assert differences(DENIED, replace(DENIED, service_account=None)) == ("service_account",)
    ambiguous = replace(DENIED, reason="ambiguous_service_account", candidates=("a", "b"))
    assert differences(ambiguous, replace(ambiguous, candidates=("a", "c"))) == ("service_account",)


@given(generated.policies(), generated.workloads(), st.lists(generated.requests(), min_size=2, max_size=2))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_shadow_of_a_generation_with_itself_never_disagrees(policy, workloads, requests):
    live, shadow = policy.generation(1), policy.generation(2)
    for issuer, claims in itertools.product(generated.ISSUERS, workloads):
        calling = workload(live, issuer, claims)
        assert refused_before_policy(shadow, calling) is None
        for request in (generated.request_of(), *requests):
            assert differences(decide(live, calling, request), decide(shadow, calling, request)) == ()
    for account in live.service_accounts:
        client = Client(account, "client_secret_basic", "secret:s1")
        for request in requests:
            asked = TokenRequest(GrantType.CLIENT_CREDENTIALS, resource=request.resource, scopes=request.scopes)
            assert differences(decide_client(live, client, asked), decide_client(shadow, client, asked)) == ()


APP = """
kind: ServiceAccount
name: app
access: [{resource: deploy-api, scopes: [deploy:write]}]
trust: [{name: main, issuer: cluster, match: {ref: main}}]
"""
ISSUER_CHANGES = [
    ("name: cluster", "name: another", "unknown_issuer", "no issuer is called cluster"),
    ("https://cluster.example.com", "https://new.example.com", "unknown_issuer", "and has the url"),
    (
        "url: https://cluster.example.com",
        "url: https://cluster.example.com\naudiences: [https://new.example.com]",
        "wrong_audience",
        "cluster takes the audiences https://new.example.com",
    ),
]


@pytest.mark.parametrize(("old", "new", "reason", "wanted"), ISSUER_CHANGES)
def test_a_workload_that_the_shadows_issuers_would_not_let_in_is_refused_there(old, new, reason, wanted):
    live = generation_of(APP)
    assert old in BASE
    shadow = generation_of(APP.replace("issuer: cluster", "issuer: github"), base=BASE.replace(old, new))
    for audience in ("https://sts.example.com", ["https://sts.example.com", "other"], None, 7):
        refused = refused_before_policy(shadow, workload(live, "cluster", {"ref": "main", "aud": audience}))
        assert refused is not None
        assert refused.reason == reason
        assert wanted in refused.wanted


def test_one_audience_that_the_shadow_takes_is_enough():
    base = BASE.replace(
        "name: cluster\n", "name: cluster\naudiences: [https://sts.example.com, https://new.example.com]\n"
    )
    live, shadow = generation_of(APP), generation_of(APP, base=base)
    assert refused_before_policy(shadow, workload(live, "cluster", {"aud": "https://sts.example.com"})) is None


def test_an_outcome_is_told_in_words():
    assert outcome_in_words(GRANTED) == (
        "grants web/production: deploy:read deploy:write at https://deploy.example.com for 10m, claims tenant=acme"
    )
    assert outcome_in_words(DENIED) == "denies: no_matching_trust: web/production wants ref main; seen: fix"
    generation = generation_of(APP, APP.replace("name: app", "name: other"))
    ambiguous = ask(generation, "cluster", {"ref": "main"})
    assert outcome_in_words(ambiguous).startswith("denies: ambiguous_service_account (app, other)")
    bound = replace(GRANTED, entitlement=replace(GIVEN, claims={}, rule=None, sender_constraint="mtls"))
    assert outcome_in_words(bound).endswith("for 10m, bound by mtls")
    assert [label(one) for one in (GRANTED, DENIED, bound)] == ["web/production", "web", "web"]
