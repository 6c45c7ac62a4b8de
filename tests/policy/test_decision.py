"""The decision: its order, its answers, and what it tells of them."""

import pytest

from gateway.policy.conditions import claim_at
from gateway.policy.decision import MAX_TRACED_RULES
from tests.support.policies import ask, generation_of

POLICY = """
kind: ServiceAccount
name: invoicer
access: [{resource: ledger-api, scopes: [ledger:write, ledger:read]}]
trust:
  - issuer: cluster
    match: {sub: "system:serviceaccount:billing:invoicer"}
---
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
  - name: release
    issuer: github
    match: {repository_id: "300400"}
    like: {ref: refs/heads/release/*}
    scopes: [ledger:read, ledger:write]
    token_lifetime: 5m
---
kind: Guardrail
name: no-strangers
issuer: github
deny_when: claims.event_name in ["pull_request_target"]
"""
POD = {"sub": "system:serviceaccount:billing:invoicer"}
JOB = {"repository_id": "300400", "environment": "production", "event_name": "push", "ref": "refs/heads/main"}
RELEASE = {"repository_id": "300400", "event_name": "push", "ref": "refs/heads/release/1"}


@pytest.fixture(scope="module")
def generation():
    return generation_of(POLICY)


# ---------------------------------------------------------------- yes


def test_an_implied_service_account_and_resource_grant_all_scopes_in_the_resources_order(generation):
    decision = ask(generation, "cluster", POD)
    assert decision.reason == "granted"
    assert decision.entitlement.service_account == decision.service_account == "invoicer"
    assert decision.entitlement.audience == "https://ledger.example.com"
    assert decision.entitlement.scopes == ("ledger:read", "ledger:write")
    assert decision.entitlement.lifetime_seconds == 900
    assert decision.generation == 1


def test_a_grant_says_what_its_rule_looked_at_and_has_no_trace(generation):
    decision = ask(generation, "github", JOB, resource="deploy-api")
    assert decision.looked_at == (
        (("repository_id",), "300400"),
        (("environment",), "production"),
        (("event_name",), "push"),
    )
    assert (decision.trace, decision.wanted) == ((), "")


def test_what_was_looked_at_is_said_of_absent_claims_too():
    generation = generation_of(
        """
        kind: ServiceAccount
        name: app
        access: [{resource: ledger-api, scopes: [ledger:read]}]
        trust: [{issuer: cluster, when: "!has(claims.a) && claims.b.c == 1"}]
        """
    )
    assert ask(generation, "cluster", {"b": {"c": 1}}).looked_at == ((("a",), None), (("b", "c"), 1))


@pytest.mark.parametrize("resource", ["ledger-api", "https://ledger.example.com"])
def test_a_resource_is_asked_for_by_name_or_identifier(generation, resource):
    assert ask(generation, "cluster", POD, resource=resource).entitlement.resource == "ledger-api"


def test_fewer_scopes_are_granted_as_asked_in_the_resources_order(generation):
    assert ask(generation, "cluster", POD, scopes=("ledger:write",)).entitlement.scopes == ("ledger:write",)
    asked = ("ledger:write", "ledger:read")
    assert ask(generation, "cluster", POD, scopes=asked).entitlement.scopes == ("ledger:read", "ledger:write")


def test_the_first_rule_in_file_order_that_grants_everything_asked_for_is_the_rule(generation):
    both = {**JOB, **RELEASE}
    ledger = {"client_id": "deployer", "resource": "ledger-api"}
    assert ask(generation, "github", both, **ledger).entitlement.rule == "main"
    assert ask(generation, "github", both, **ledger).entitlement.scopes == ("ledger:read",)
    assert ask(generation, "github", both, **ledger, scopes=("ledger:write",)).entitlement.rule == "release"
    assert ask(generation, "github", both, resource="deploy-api").entitlement.rule == "main"


@pytest.mark.parametrize(("asked", "lifetime"), [(None, 300), (299, 299), (301, 300), (1, 1), (10**9, 300)])
def test_the_lifetime_is_the_least_of_resource_rule_and_request(generation, asked, lifetime):
    decision = ask(generation, "github", RELEASE, resource="ledger-api", lifetime_seconds=asked)
    assert decision.entitlement.lifetime_seconds == lifetime


@pytest.mark.parametrize(
    ("resource", "account", "rule", "lifetime"),
    [("1h", "2h", "3h", 3600), ("3h", "1h", "2h", 3600), ("3h", "2h", "1h", 3600), ("24h", "", "", 86400)],
)
def test_resource_service_account_and_rule_each_bound_the_lifetime(resource, account, rule, lifetime):
    generation = generation_of(
        f"""
        kind: Resource
        name: api
        identifier: https://api.example.com
        scopes: {{a: A}}
        token_lifetime: {resource}
        ---
        kind: ServiceAccount
        name: app
        {f"token_lifetime: {account}" if account else ""}
        access: [{{resource: api, scopes: [a]}}]
        trust: [{{issuer: cluster, match: {{sub: x}}{f", token_lifetime: {rule}" if rule else ""}}}]
        """
    )
    assert ask(generation, "cluster", {"sub": "x"}).entitlement.lifetime_seconds == lifetime


def test_roles_and_own_access_add_up_in_the_resources_order():
    generation = generation_of(
        """
        kind: Role
        name: writer
        access: [{resource: ledger-api, scopes: [ledger:write]}]
        ---
        kind: ServiceAccount
        name: app
        roles: [writer]
        access: [{resource: ledger-api, scopes: [ledger:read]}]
        trust: [{issuer: cluster, match: {sub: x}}]
        """
    )
    assert ask(generation, "cluster", {"sub": "x"}).entitlement.scopes == ("ledger:read", "ledger:write")


MAPPING = """
kind: ServiceAccount
name: app
access: [{resource: ledger-api, scopes: [ledger:read]}]
token_claims: {team: '"billing"', pod: claims.pod.name}
trust:
  - {issuer: cluster, match: {sub: x}}
  - {issuer: cluster, match: {sub: y}, token_claims: {team: claims.team, tags: claims.tags}}
"""


def test_the_claims_that_the_policy_maps_go_into_the_entitlement_and_the_rules_win():
    generation = generation_of(MAPPING)
    mapped = ask(generation, "cluster", {"sub": "x", "pod": {"name": "p"}}).entitlement.claims
    assert mapped == {"team": "billing", "pod": "p"}
    claims = {"sub": "y", "pod": {"name": "p"}, "team": "t", "tags": ["a", "b"]}
    assert ask(generation, "cluster", claims).entitlement.claims == {"team": "t", "pod": "p", "tags": ["a", "b"]}


@pytest.mark.parametrize("pod", [{}, {"name": None}, {"name": {}}, {"name": [1]}])
def test_a_claim_that_cannot_be_mapped_is_a_denial_that_names_it(pod):
    decision = ask(generation_of(MAPPING), "cluster", {"sub": "x", "pod": pod})
    assert decision.reason == "unmappable_claim"
    assert decision.wanted.startswith("app/rule-1 maps claims.pod.name to the claim pod: ")


# ---------------------------------------------------------------- no


def test_a_client_id_that_names_nothing(generation):
    decision = ask(generation, "cluster", POD, client_id="nobody")
    assert (decision.reason, decision.service_account) == ("unknown_service_account", None)
    assert decision.wanted == "no service account is called nobody"


def test_a_client_id_whose_rules_do_not_fit(generation):
    decision = ask(generation, "github", {**JOB, "environment": "dev"}, client_id="deployer")
    assert (decision.reason, decision.service_account, decision.entitlement) == ("no_matching_trust", "deployer", None)
    assert decision.wanted == "deployer/main wants environment one of production, staging; seen: dev"
    assert [(check.rule, check.kind, check.path, check.seen, check.passed) for check in decision.trace] == [
        ("deployer/main", "match", ("environment",), "dev", False),
        ("deployer/release", "like", ("ref",), "refs/heads/main", False),
    ]


def test_a_client_id_without_a_rule_for_the_issuer(generation):
    decision = ask(generation, "github", JOB, client_id="invoicer")
    assert (decision.reason, decision.wanted) == (
        "no_matching_trust",
        "invoicer has no trust rule for the issuer github",
    )


def test_a_workload_that_no_rule_names(generation):
    decision = ask(generation, "cluster", {"sub": "system:serviceaccount:billing:other"})
    assert (decision.reason, decision.service_account) == ("no_matching_trust", None)
    assert decision.wanted == (
        "no trust rule for the issuer cluster names these claims; seen: sub: system:serviceaccount:billing:other"
    )


def test_an_issuer_that_no_rule_names():
    generation = generation_of("kind: ServiceAccount\nname: app\n")
    assert ask(generation, "cluster", POD).wanted == "no trust rule names the issuer cluster"


def test_the_rule_that_came_nearest_is_told_first(generation):
    decision = ask(generation, "github", {**JOB, "event_name": "schedule"})
    assert [check.rule for check in decision.trace] == ["deployer/main", "deployer/release"]
    assert decision.wanted == 'deployer/main wants claims.event_name == "push"; seen: event_name: schedule'


def test_the_trace_is_short_however_many_rules_there_are():
    rules = "\n".join(f'  - {{issuer: cluster, match: {{sub: x, n: "{n}"}}}}' for n in range(300))
    generation = generation_of(f"kind: ServiceAccount\nname: app\ntrust:\n{rules}\n")
    assert len(ask(generation, "cluster", {"sub": "x"}, client_id="app").trace) == MAX_TRACED_RULES


@pytest.mark.parametrize(
    ("wanted", "seen", "told"),
    [
        ("acme/web", "Acme/Web", "app/rule-1 wants a acme/web; seen: Acme/Web (differs in upper and lower case only)"),
        (
            "https://x",
            "https://x/",
            "app/rule-1 wants a https://x; seen: https://x/ (differs in a slash at the end only)",
        ),
        ('"1"', 1, "app/rule-1 wants a 1; seen: 1 (the claim is a number, the rule wants text)"),
        ('"true"', True, "app/rule-1 wants a true; seen: true (the claim is a boolean, the rule wants text)"),
        ("x", None, "app/rule-1 wants a x; seen: absent"),
        ("x", ["x"], 'app/rule-1 wants a x; seen: ["x"]'),
        ("x", "a\nb", 'app/rule-1 wants a x; seen: "a\\nb"'),
        ("x", "y" * 500, f"app/rule-1 wants a x; seen: {'y' * 117}..."),
    ],
)
def test_a_near_miss_is_told_in_words(wanted, seen, told):
    generation = generation_of(
        f"kind: ServiceAccount\nname: app\ntrust: [{{issuer: cluster, match: {{a: {wanted}}}}}]\n"
    )
    assert ask(generation, "cluster", {"a": seen}, client_id="app").wanted == told


def test_why_a_condition_cannot_be_worked_out_is_told():
    generation = generation_of('kind: ServiceAccount\nname: app\ntrust: [{issuer: cluster, when: claims.a == "x"}]\n')
    wanted = ask(generation, "cluster", {}, client_id="app").wanted
    assert wanted == 'app/rule-1 wants claims.a == "x"; seen: a: absent (NOT_FOUND: Key not found in map : "a")'


def test_several_service_accounts_are_ambiguous_until_one_is_named():
    rule = "access: [{resource: ledger-api, scopes: [ledger:read]}]\ntrust: [{issuer: cluster, match: {sub: x}}]\n"
    generation = generation_of(f"kind: ServiceAccount\nname: b\n{rule}", f"kind: ServiceAccount\nname: a\n{rule}")
    decision = ask(generation, "cluster", {"sub": "x"})
    assert (decision.reason, decision.candidates) == ("ambiguous_service_account", ("b", "a"))
    assert decision.wanted == "client_id: the workload may become b, a"
    assert ask(generation, "cluster", {"sub": "x"}, client_id="a").entitlement.service_account == "a"


def test_two_rules_of_one_service_account_are_not_ambiguous(generation):
    assert ask(generation, "github", {**JOB, **RELEASE}, resource="ledger-api").service_account == "deployer"


def test_a_missing_resource_among_several_is_ambiguous(generation):
    decision = ask(generation, "github", JOB)
    assert (decision.reason, decision.wanted) == (
        "ambiguous_resource",
        "deployer has the resources deploy-api, ledger-api",
    )


def test_a_resource_that_is_not_there(generation):
    decision = ask(generation, "cluster", POD, resource="https://nowhere.example.com")
    assert (decision.reason, decision.service_account) == ("unknown_resource", "invoicer")


@pytest.mark.parametrize(
    "resource", ["https://ledger.example.com/", "HTTPS://ledger.example.com", "Ledger-api", "ledger"]
)
def test_a_resource_is_compared_byte_for_byte(generation, resource):
    assert ask(generation, "cluster", POD, resource=resource).reason == "unknown_resource"


def test_a_resource_that_the_service_account_does_not_have(generation):
    decision = ask(generation, "cluster", POD, resource="deploy-api")
    assert (decision.reason, decision.wanted) == (
        "resource_not_granted",
        "invoicer has no access to deploy-api; it has ledger-api",
    )


def test_a_resource_at_which_the_matched_rule_grants_nothing(generation):
    decision = ask(generation, "github", RELEASE, resource="deploy-api")
    assert (decision.reason, decision.wanted) == (
        "resource_not_granted",
        "deployer/release grants nothing at deploy-api",
    )


@pytest.mark.parametrize("scopes", [("ledger:read", "ledger:admin"), ("*",), ("Ledger:read",), ("deploy:write",)])
def test_a_scope_that_is_not_granted_refuses_the_whole_request(generation, scopes):
    decision = ask(generation, "cluster", POD, scopes=scopes)
    assert (decision.reason, decision.entitlement) == ("scope_not_granted", None)
    assert decision.wanted.startswith("invoicer/rule-1 grants ledger:read, ledger:write at ledger-api, not ")


def test_a_rule_narrows_the_access_of_its_service_account(generation):
    decision = ask(generation, "github", JOB, resource="ledger-api", scopes=("ledger:write",))
    assert decision.reason == "scope_not_granted"


def test_trust_is_judged_before_the_resource_so_that_strangers_learn_nothing_of_resources(generation):
    for resource in ("ledger-api", "nowhere"):
        assert ask(generation, "cluster", {"sub": "x"}, client_id="invoicer", resource=resource).reason == (
            "no_matching_trust"
        )


def test_a_rule_of_another_issuer_never_counts(generation):
    claims = {**POD, **JOB}
    assert ask(generation, "cluster", claims).service_account == "invoicer"
    assert ask(generation, "github", claims, resource="deploy-api").service_account == "deployer"
    assert ask(generation, "github", POD, client_id="invoicer").reason == "denied_by_guardrail"
    assert ask(generation, "github", {**POD, "event_name": "push"}, client_id="invoicer").reason == "no_matching_trust"


# ---------------------------------------------------------------- before trust


def test_a_guardrail_refuses_whatever_the_rules_say(generation):
    claims = {**JOB, "event_name": "pull_request_target"}
    for asked in ({}, {"client_id": "deployer"}, {"client_id": "nobody"}):
        decision = ask(generation, "github", claims, **asked)
        assert decision.reason == "denied_by_guardrail"
        assert decision.trace[0].rule == "guardrail/no-strangers"
        assert decision.wanted == (
            'guardrail/no-strangers refuses claims.event_name in ["pull_request_target"]; '
            "seen: event_name: pull_request_target"
        )


@pytest.mark.parametrize("claims", [{}, {"level": None}, {"level": "9"}, {"level": [9]}, {"level": 2**70}])
def test_a_guardrail_that_cannot_be_worked_out_refuses(claims):
    generation = generation_of(POLICY, "kind: Guardrail\nname: g\nissuer: cluster\ndeny_when: claims.level > 9\n")
    assert ask(generation, "cluster", {**POD, **claims}, client_id="invoicer").reason == "denied_by_guardrail"
    assert ask(generation, "cluster", {**POD, "level": 9}, client_id="invoicer").reason == "granted"


def test_a_guardrail_without_issuer_holds_for_all():
    generation = generation_of(POLICY, "kind: Guardrail\nname: g\ndeny_when: has(claims.bad)\n")
    assert ask(generation, "cluster", {**POD, "bad": 1}).trace[0].rule == "guardrail/g"
    assert ask(generation, "github", {**JOB, "bad": 1}).trace[0].rule == "guardrail/g"
    assert ask(generation, "cluster", POD).reason == "granted"


def test_the_issuers_condition_comes_before_the_guardrails():
    generation = generation_of(
        "kind: Issuer\nname: strict\nurl: https://s.example.com\nwhen: has(claims.pod)\n",
        "kind: Guardrail\nname: g\ndeny_when: has(claims.bad)\n",
        "kind: ServiceAccount\nname: app\naccess: [{resource: ledger-api, scopes: [ledger:read]}]\n"
        "trust: [{issuer: strict, match: {sub: x}}]\n",
    )
    decision = ask(generation, "strict", {"sub": "x", "bad": 1})
    assert (decision.reason, decision.wanted) == (
        "issuer_condition_failed",
        "issuer/strict wants has(claims.pod); seen: pod: absent",
    )
    assert ask(generation, "strict", {"sub": "x", "pod": 1, "bad": 1}).reason == "denied_by_guardrail"
    assert ask(generation, "strict", {"sub": "x", "pod": 1}).reason == "granted"


# ---------------------------------------------------------------- attacks of the field


ATTACKS = """
kind: ServiceAccount
name: web
access: [{resource: deploy-api, scopes: [deploy:write]}]
trust:
  - issuer: github
    match: {repository_id: "300400", repository_owner_id: "100200", event_name: push, ref_protected: "true"}
    like: {ref: refs/heads/*, job_workflow_ref: "acme/ci/.github/workflows/*@refs/heads/main"}
"""
GOOD = {
    "repository_id": "300400", "repository_owner_id": "100200", "event_name": "push", "ref_protected": "true",
    "ref": "refs/heads/main", "job_workflow_ref": "acme/ci/.github/workflows/d.yml@refs/heads/main",
}  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"repository_id": "999"},  # a name that was given up and taken
        {"repository_owner_id": "999"},
        {"repository_id": 300400},
        {"repository_id": ["300400"]},
        {"repository_id": None},
        {"event_name": "pull_request_target"},
        {"ref_protected": True},
        {"ref": "refs/heads/a/b"},
        {"ref": "refs/heads/main\n/x"},
        {"ref": "refs/tags/main"},
        {"ref": "refs/heads/x:environment:production"},
        {"job_workflow_ref": "acme/ci/.github/workflows/x/../d.yml@refs/heads/main"},
        {"job_workflow_ref": "acme/ci/.github/workflows/d.yml@refs/heads/main2"},
        {"job_workflow_ref": "evil/ci/.github/workflows/d.yml@refs/heads/main"},
    ],
    ids=str,
)
def test_a_token_that_differs_in_one_claim_is_denied(changed):
    generation = generation_of(ATTACKS)
    assert ask(generation, "github", GOOD).reason == "granted"
    assert ask(generation, "github", {**GOOD, **changed}).reason == "no_matching_trust"
    for name in changed:
        assert ask(generation, "github", {k: v for k, v in GOOD.items() if k != name}).reason == "no_matching_trust"


def test_claim_twins_of_other_case_are_other_claims(generation):
    assert ask(generation, "cluster", {"Sub": POD["sub"], "\u017fub": POD["sub"]}).reason == "no_matching_trust"
    assert claim_at({"Sub": "x"}, ("sub",)) is None
