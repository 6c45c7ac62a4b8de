"""The explanation: the same answer as the decision, and every check that led to it, the nearest rule first."""

import json

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.model import Client
from gateway.policy.decision import decide, decide_client
from gateway.policy.explanation import (
    MAX_ACCOUNTS,
    MAX_CHECKS,
    MAX_RULES,
    MAX_RULES_COMPARED_IN_BRIEF,
    Explanation,
    _distance,
    explain,
    explain_client,
)
from gateway.policy.explanation_document import document_of, located
from gateway.policy.files import locate_problems, policy_text
from tests.support.generated_policies import ISSUERS, policies, request_of, requests, workloads
from tests.support.policies import generation_of, load, workload, write

POLICY = """
kind: ServiceAccount
name: deployer
access:
  - {resource: deploy-api, scopes: [deploy:write]}
  - {resource: ledger-api, scopes: [ledger:read, ledger:write]}
trust:
  - name: main
    issuer: github
    match: {repository_id: "300400", environment: [production, staging]}
    when: claims.event_name == "push"
    scopes: [ledger:read, deploy:write]
    token_claims: {commit: claims.sha}
  - name: release
    issuer: github
    match: {repository_id: "300400"}
    like: {ref: refs/heads/release/*}
    scopes: [ledger:read, ledger:write]
    token_lifetime: 5m
  - name: pod
    issuer: cluster
    match: {sub: "system:serviceaccount:ci:deployer"}
---
kind: Guardrail
name: no-strangers
issuer: github
deny_when: claims.event_name in ["pull_request_target"]
"""
JOB = {
    "repository_id": "300400",
    "environment": "production",
    "event_name": "push",
    "ref": "refs/heads/main",
    "sha": "0123",
}


@pytest.fixture(scope="module")
def generation():
    return generation_of(POLICY)


def explained(generation, issuer: str, claims: dict, **asked) -> Explanation:
    return explain(generation, workload(generation, issuer, claims), request_of(**asked))


def checks(steps) -> list[tuple]:
    return [(step.check.kind, step.check.passed, step.check.seen) for step in steps]


# ---------------------------------------------------------------- the answer


def reason_of_trace(explanation: Explanation) -> str:
    """The reason that follows from the checks alone, in the order in which they decide."""
    for step in explanation.gates:
        if not step.check.passed:
            return "denied_by_guardrail" if step.check.kind == "guardrail" else "issuer_condition_failed"
    asked = explanation.request
    if asked.client_id is not None and not explanation.accounts:
        return "unknown_service_account"
    admitting = {rule.label.partition("/")[0] for rule in explanation.rules if rule.admits}
    if len(admitting) > 1:
        return "ambiguous_service_account"
    if not admitting:
        return "no_matching_trust"
    resource, *rest = explanation.entitlement
    if not resource.check.passed:
        if asked.resource is None and resource.check.wanted:
            return "ambiguous_resource"
        return "unknown_resource" if resource.check.note == "no such resource" else "resource_not_granted"
    scopes = [step.check for step in rest if step.check.kind == "scope"]
    if not any(check.passed for check in scopes):
        return "scope_not_granted" if asked.scopes else "resource_not_granted"
    if not all(step.check.passed for step in rest if step.check.kind == "token_claims"):
        return "unmappable_claim"
    return "granted"


@given(policies(), workloads(), st.lists(requests(), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_the_trace_leads_to_the_very_answer_of_the_decision(policy, some_claims, some_requests):
    generation = policy.generation()
    for issuer in ISSUERS:
        for claims in some_claims[::3]:
            caller = workload(generation, issuer, claims)
            for request in some_requests:
                explanation, decision = explain(generation, caller, request), decide(generation, caller, request)
                assert explanation.decision == decision
                assert reason_of_trace(explanation) == decision.reason
                granting = [rule for rule in explanation.rules if rule.admits][:1]
                if decision.entitlement is not None:
                    assert granting[0].label == f"{decision.service_account}/{decision.entitlement.rule}"
                assert len(orjson.dumps(document_of(explanation))) < 200_000


@given(policies(), requests(), st.sampled_from(["app-0", "app-1", "nobody"]))
@settings(max_examples=100, deadline=None)
def test_the_explanation_of_a_client_has_the_answer_of_its_decision(policy, request, name):
    generation, client = policy.generation(), Client(name, "client_secret_basic", "secret:s1")
    explanation = explain_client(generation, client, request)
    assert explanation.decision == decide_client(generation, client, request)
    assert all(step.check.passed for step in explanation.entitlement) == (
        explanation.decision.reason in {"granted", "unknown_service_account"}
    )


def test_every_check_of_a_rule_is_told_in_order_with_what_it_saw(generation):
    explanation = explained(generation, "github", {**JOB, "event_name": "schedule"}, client_id="deployer")
    nearest = explanation.rules[0]
    assert nearest.label == "deployer/main"
    assert checks(nearest.steps) == [
        ("issuer", True, "github"),
        ("match", True, "300400"),
        ("match", True, "production"),
        ("when", False, {"event_name": "schedule"}),
    ]
    assert [step.path for step in nearest.steps] == [
        ("trust", 0, "issuer"),
        ("trust", 0, "match", "repository_id"),
        ("trust", 0, "match", "environment"),
        ("trust", 0, "when"),
    ]


def test_rules_come_with_the_nearest_first_and_those_of_another_issuer_last(generation):
    explanation = explained(generation, "github", {**JOB, "environment": "dev"}, client_id="deployer")
    assert [rule.label for rule in explanation.rules] == ["deployer/main", "deployer/release", "deployer/pod"]
    assert checks(explanation.rules[-1].steps)[0] == ("issuer", False, "github")


def test_the_rule_that_grants_comes_first_also_where_an_earlier_one_lets_in(generation):
    both = {**JOB, "ref": "refs/heads/release/1"}
    explanation = explained(
        generation, "github", both, client_id="deployer", resource="ledger-api", scopes=("ledger:write",)
    )
    assert [rule.label for rule in explanation.rules if rule.admits] == ["deployer/release", "deployer/main"]
    assert [(step.check.rule, step.check.passed) for step in explanation.entitlement if step.check.kind == "scope"] == [
        ("deployer/main", False),
        ("deployer/release", True),
    ]


def test_issuer_condition_and_guardrails_are_told_also_where_they_pass():
    generation = generation_of(
        POLICY, base="kind: Issuer\nname: cluster\nurl: https://c.example.com\nwhen: has(claims.pod)\n---\n"
        "kind: Issuer\nname: github\npreset: github-actions\n---\n"
        "kind: Resource\nname: deploy-api\nidentifier: https://d.example.com\nscopes: {deploy:write: D}\n---\n"
        "kind: Resource\nname: ledger-api\nidentifier: https://l.example.com\n"
        "scopes: {ledger:read: R, ledger:write: W}\n"
    )  # fmt: skip
    denied = explained(generation, "github", {**JOB, "event_name": "pull_request_target"}, client_id="deployer")
    assert checks(denied.gates) == [("guardrail", False, {"event_name": "pull_request_target"})]
    assert denied.decision.reason == "denied_by_guardrail"
    assert denied.rules[0].label == "deployer/main"  # and the rest of the trace all the same
    assert checks(explained(generation, "cluster", {"sub": "x"}).gates) == [("when", False, {"pod": None})]
    assert checks(explained(generation, "cluster", {"sub": "x", "pod": "p"}).gates) == [("when", True, {"pod": "p"})]


def test_what_comes_out_is_told_with_its_bounds(generation):
    explanation = explained(generation, "github", JOB, resource="deploy-api", lifetime_seconds=100)
    assert [(step.check.kind, step.check.wanted, step.check.seen) for step in explanation.entitlement] == [
        ("resource", ["deploy-api", "ledger-api"], "deploy-api"),
        ("scope", ["deploy:write"], None),
        ("lifetime", {"resource": 600, "service_account": None, "request": 100}, 100),
        ("token_claims", "claims.sha", "0123"),
    ]


def test_a_claim_that_cannot_be_mapped_says_why(generation):
    explanation = explained(generation, "github", {**JOB, "sha": {}}, resource="deploy-api")
    assert explanation.decision.reason == "unmappable_claim"
    assert explanation.entitlement[-1].check.passed is False
    assert explanation.entitlement[-1].check.note


# ---------------------------------------------------------------- which accounts are in question


def test_without_client_id_the_accounts_are_those_whose_rules_come_nearest():
    accounts = [
        f'kind: ServiceAccount\nname: app-{n}\ntrust: [{{issuer: cluster, match: {{sub: "s:{n}", team: "t{n % 2}"}}}}]'
        for n in range(20)
    ]
    explanation = explained(generation_of(*accounts), "cluster", {"sub": "S:7", "team": "t1"})
    assert explanation.accounts[0] == "app-7"
    assert len(explanation.accounts) == MAX_ACCOUNTS
    assert explained(generation_of(*accounts), "cluster", {"sub": "elsewhere"}).accounts == ()


def test_the_accounts_that_a_workload_may_become_are_all_in_question():
    rule = "access: [{resource: ledger-api, scopes: [ledger:read]}]\ntrust: [{issuer: cluster, match: {sub: x}}]\n"
    generation = generation_of(*(f"kind: ServiceAccount\nname: {name}\n{rule}" for name in ("one", "two")))
    explanation = explained(generation, "cluster", {"sub": "x"})
    assert explanation.decision.reason == "ambiguous_service_account"
    assert set(explanation.accounts) == {"one", "two"}
    assert [rule.admits for rule in explanation.rules] == [True, True]


TEMPLATE = """
kind: ServiceAccount
name: "k8s.{namespace}"
for_each: {namespace: claims.namespace}
access: [{resource: ledger-api, scopes: [ledger:read]}]
trust: [{issuer: cluster, match: {kind: pod}}]
"""


@pytest.mark.parametrize(
    ("namespace", "client_id", "reason", "seen", "passed"),
    [
        ("a", None, "granted", "k8s.a", True),
        ("a", "k8s.a", "granted", "k8s.a", True),
        ("a", "k8s.b", "no_matching_trust", "k8s.a", False),
        ("A B", "k8s.a", "unnameable_service_account", None, False),
        ("A B", None, "unnameable_service_account", None, False),
    ],
)
def test_a_template_says_which_name_the_claims_make(namespace, client_id, reason, seen, passed):
    claims = {"kind": "pod", "namespace": namespace}
    explanation = explained(generation_of(TEMPLATE), "cluster", claims, client_id=client_id)
    assert explanation.decision.reason == reason
    name = explanation.rules[0].steps[-1]
    assert (name.check.kind, name.check.seen, name.check.passed, name.path) == ("name", seen, passed, ("name",))
    assert explanation.rules[0].admits is passed


# ---------------------------------------------------------------- bounds


def test_the_explanation_is_bounded_whatever_the_policies_and_the_claims_are():
    many = ", ".join(f'"{"é" * 200}{n}"' for n in range(300))
    conditions = ", ".join(f"c{n}: [{many}]" for n in range(60))
    rules = "\n".join(f"  - {{issuer: cluster, match: {{sub: x, {conditions}}}}}" for _ in range(40))
    generation = generation_of(f"kind: ServiceAccount\nname: app\ntrust:\n{rules}\n")
    claims = {"sub": "x", **{f"c{n}": "é" * 2000 for n in range(60)}}
    explanation = explained(generation, "cluster", claims, client_id="app")
    assert len(explanation.rules) <= MAX_RULES
    assert sum(len(rule.steps) for rule in explanation.rules) <= MAX_CHECKS
    assert len(explanation.rules) + explanation.rules_left_out == 40
    assert len(explanation.rules[0].steps) + explanation.rules[0].steps_left_out == 62
    assert len(orjson.dumps(document_of(explanation))) < 200_000


def test_the_rule_that_grants_is_shown_however_many_others_let_in():
    rules = "\n".join(
        f"  - {{name: r{n}, issuer: cluster, match: {{sub: x}}, scopes: [ledger:read]}}" for n in range(90)
    )
    generation = generation_of(
        "kind: ServiceAccount\nname: app\naccess: [{resource: ledger-api, scopes: [ledger:read, ledger:write]}]\n"
        f"trust:\n{rules}\n  - {{name: last, issuer: cluster, match: {{sub: x}}}}\n"
    )
    explanation = explained(generation, "cluster", {"sub": "x"}, scopes=("ledger:write",))
    assert explanation.decision.entitlement.rule == "last"
    assert explanation.rules[0].label == "app/last"


def test_an_explanation_in_brief_has_the_same_answer_and_searches_less():
    accounts = [
        f'kind: ServiceAccount\nname: app-{n:04}\ntrust: [{{issuer: cluster, match: {{sub: "s:{n}"}}}}]'
        for n in range(700)
    ]
    generation = generation_of(*accounts)
    caller = workload(generation, "cluster", {"sub": "S:699"})
    long, short = (explain(generation, caller, request_of(), in_brief=brief) for brief in (False, True))
    assert long.decision == short.decision
    assert (long.accounts, short.accounts) == (("app-0699",), ())


@pytest.mark.parametrize(("sub", "label"), [("s:899", "app/rule-900"), ("S:898", None)])
def test_in_brief_not_every_rule_of_a_large_account_is_compared(sub, label, monkeypatch):
    rules = "\n".join(f'  - {{issuer: cluster, match: {{sub: "s:{n}"}}}}' for n in range(900))
    generation = generation_of(
        f"kind: ServiceAccount\nname: app\naccess: [{{resource: ledger-api, scopes: [ledger:read]}}]\ntrust:\n{rules}\n"
    )
    compared = []
    monkeypatch.setattr(
        "gateway.policy.explanation._distance", lambda rule, claims: compared.append(rule) or _distance(rule, claims)
    )
    caller = workload(generation, "cluster", {"sub": sub})
    explanation = explain(generation, caller, request_of(client_id="app"), in_brief=True)
    assert len(compared) == MAX_RULES_COMPARED_IN_BRIEF
    assert len(explanation.rules) + explanation.rules_left_out == 900
    assert label is None or (explanation.rules[0].label, explanation.rules[0].admits) == (label, True)


def test_of_too_many_checks_the_failing_one_is_among_those_shown():
    conditions = ", ".join(f"c{n}: a" for n in range(60))
    generation = generation_of(
        f"kind: ServiceAccount\nname: app\ntrust: [{{issuer: cluster, match: {{{conditions}}}}}]"
    )
    claims = {**{f"c{n}": "a" for n in range(59)}, "c59": "b"}
    steps = explained(generation, "cluster", claims, client_id="app").rules[0].steps
    assert [step.check.path for step in steps if not step.check.passed] == [("c59",)]


def test_the_guardrail_that_refuses_is_among_those_shown():
    guardrails = [f"kind: Guardrail\nname: g{n}\ndeny_when: claims.n == {n}" for n in range(100)]
    gates = explained(generation_of(*guardrails), "cluster", {"n": 99}).gates
    assert [step.check.rule for step in gates if not step.check.passed] == ["guardrail/g99"]
    assert len(gates) <= 40


def test_numbers_that_no_reader_of_json_takes_become_text(generation):
    explanation = explained(
        generation, "github", {**JOB, "repository_id": 10**19, "sha": [2**70]}, client_id="deployer"
    )
    assert orjson.dumps(document_of(explanation))


# ---------------------------------------------------------------- where it stands


def test_every_check_says_its_line_in_its_file(tmp_path):
    text = (
        'kind: Issuer\nname: cluster\nurl: https://c.example.com\nwhen: claims.kind == "pod"\n---\n'
        "kind: Resource\nname: api\nidentifier: https://a.example.com\nscopes: {a: A}\n---\n"
        "kind: ServiceAccount\nname: app\naccess: [{resource: api, scopes: [a]}]\ntrust:\n"
        "  - issuer: cluster\n    match:\n      sub: x\n      team:\n        name: y\n    when: claims.z == 1\n"
    )  # fmt: skip
    generation = load(write(tmp_path, text))
    explanation = explained(generation, "cluster", {"sub": "x", "team": {"name": "w"}}, client_id="app")
    document = located(document_of(explanation), locate_problems, policy_text)
    assert (document["gates"][0]["file"], document["gates"][0]["line"]) == (str(tmp_path / "policy.yaml"), 4)
    (rule,) = document["rules"]
    assert (rule["file"], rule["line"]) == (str(tmp_path / "policy.yaml"), 15)
    assert [check["line"] for check in rule["checks"]] == [15, 17, 19, 20]
    assert document["entitlement"][0]["line"] == 13
    json.dumps(document)


def test_a_file_that_is_gone_leaves_the_line_of_the_document(tmp_path):
    folder = write(tmp_path, "kind: Issuer\nname: cluster\nurl: https://c.example.com\nwhen: claims.a == 1\n")
    generation = load(folder)
    (folder / "policy.yaml").unlink()
    document = located(document_of(explained(generation, "cluster", {})), locate_problems, policy_text)
    assert document["gates"][0]["line"] == 1
