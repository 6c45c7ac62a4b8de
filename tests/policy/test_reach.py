"""Who can get where: the ways are those of the decisions, and each says what it takes and when it was last gone."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings

from gateway.policy.reach import Usage, Use, Way, who_can
from tests.support.changed_policies import ISSUERS, WORKLOADS, changes, may
from tests.support.policies import generation_of
from tests.support.recorded import NOTHING, NOW, recorded

WEB = """
kind: Role
name: deployer
access: [{resource: deploy-api, scopes: [deploy:write]}]
---
kind: ServiceAccount
name: web-deployer
roles: [deployer]
access: [{resource: ledger-api, scopes: ["ledger:read"]}]
token_lifetime: 5m
trust:
  - {issuer: github, name: main, match: {repository_id: "300400", ref: refs/heads/main}, scopes: [deploy:write]}
  - {issuer: cluster, name: pod, match: {sub: "system:serviceaccount:web:deployer"}}
"""
BATCH = f"""
kind: ServiceAccount
name: batch
access: [{{resource: ledger-api, scopes: ["ledger:read", "ledger:write"]}}]
credentials:
  secrets: [{{id: s1, digest: "sha256:{"a" * 64}"}}, {{id: s2, digest: "sha256:{"b" * 64}"}}]
  keys: {{jwks_uri: https://batch.example.com/jwks}}
  certificates: [{{san_dns: batch.example.com}}, {{thumbprint: {"T" * 43}}}]
"""
TEMPLATE = """
kind: ServiceAccount
name: k8s.{ns}
for_each: {ns: 'claims["kubernetes.io"].namespace'}
access: [{resource: deploy-api, scopes: [deploy:write]}]
trust: [{issuer: cluster, match: {"kubernetes.io": {namespace: [a, b]}}}]
"""
LIMITS = """
kind: Guardrail
name: no-forks
issuer: github
deny_when: claims.event_name == "pull_request_target"
"""
MAIN = {"sub": "repo:acme/web:ref:refs/heads/main", "repository_id": "300400", "ref": "refs/heads/main"}


def ways(*texts: str, **question: str) -> list[Way]:
    return list(who_can(generation_of(*texts), **question))


def by_name(found: list[Way]) -> dict[str, Way]:
    return {way.name: way for way in found}


# ---------------------------------------------------------------- the ways


@given(changes())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_whoever_gets_a_scope_goes_a_way_that_is_told_and_no_other_way_is(change):
    generation = change.new
    found = list(who_can(generation))
    rules = {(one.name, rule.name): rule for one in generation.service_accounts.values() for rule in one.rules}
    for issuer, claims in itertools.product(ISSUERS, WORKLOADS):
        told = {
            (way.service_account, one.resource, scope)
            for way in found
            if way.how == "trust" and way.issuer == issuer and rules[way.service_account, way.name].admits(claims)
            for one in way.access
            for scope in one.scopes
        }
        assert told == may(generation, issuer, claims)


def test_a_way_says_what_the_token_shows_what_it_gets_for_how_long_and_by_which_role():
    main, pod = ways(WEB, LIMITS, service_account="web-deployer")
    assert main.who_in_words() == "repository_id is 300400, ref is refs/heads/main of issuer github"
    (deploy,) = main.access
    assert (deploy.resource, deploy.scopes, deploy.lifetime_seconds) == ("deploy-api", ("deploy:write",), 300)
    assert deploy.roles == ("deployer",)
    assert main.limits == (
        'guardrail no-forks refuses unless this is false: claims.event_name == "pull_request_target"',
    )
    assert [(one.resource, one.roles) for one in pod.access] == [("deploy-api", ("deployer",)), ("ledger-api", ())]
    assert pod.limits == ()
    assert main.place.path == ("trust", 0)


def test_a_question_about_a_scope_finds_the_ways_that_give_it():
    assert [way.name for way in ways(WEB, resource="ledger-api")] == ["pod"]
    assert [way.name for way in ways(WEB, resource="https://ledger.example.com", scope="ledger:read")] == ["pod"]
    assert ways(WEB, resource="ledger-api", scope="ledger:write") == []
    assert [way.name for way in ways(WEB, resource="deploy-api", issuer="github")] == ["main"]
    assert [one.resource for way in ways(WEB, resource="ledger-api") for one in way.access] == ["ledger-api"]


def test_a_client_gets_in_by_each_of_its_credentials_and_no_digest_is_told():
    found = ways(BATCH, resource="ledger-api")
    assert [way.name for way in found] == [
        "secret:s1", "secret:s2", "key", "certificate:san_dns=batch.example.com", f"certificate:{'T' * 43}",
    ]  # fmt: skip
    assert found[0].who_in_words() == "the secret s1 (client_secret_basic or _post)"
    assert found[2].who_in_words() == "a key of the key set at https://batch.example.com/jwks (private_key_jwt)"
    assert not any(digest in repr(found) for digest in ("a" * 64, "b" * 64))
    assert ways(BATCH, resource="ledger-api", issuer="github") == []


def test_whoever_serves_a_resource_may_pass_calls_on_where_both_have_access():
    served = """
    kind: Resource
    name: front-api
    identifier: https://front.example.com
    scopes: {call: Call}
    served_by: [front]
    ---
    kind: ServiceAccount
    name: front
    access:
      - {resource: ledger-api, scopes: ["ledger:read", "ledger:write"]}
      - {resource: deploy-api, scopes: [deploy:write]}
    trust: [{issuer: cluster, match: {sub: "system:serviceaccount:front:front"}, scopes: ["ledger:read", deploy:write]}]
    ---
    kind: ServiceAccount
    name: caller
    access: [{resource: front-api, scopes: [call]}, {resource: ledger-api, scopes: ["ledger:read", "ledger:write"]}]
    trust: [{issuer: github, match: {repository_id: "1"}, scopes: [call, "ledger:read", "ledger:write"]}]
    """
    (way,) = [one for one in ways(served, service_account="caller") if one.how == "delegation"]
    assert way.name == "front"
    assert [(one.resource, one.scopes) for one in way.access] == [("ledger-api", ("ledger:read",))]
    assert way.who_in_words() == "a workload that is front and was called with a token of caller for front-api"


def test_a_template_says_what_its_names_are_made_from():
    (way,) = ways(TEMPLATE, resource="deploy-api")
    assert (way.service_account, way.made_from) == ("k8s.{ns}", ('{ns} is ["kubernetes.io"].namespace',))
    (made,) = ways(TEMPLATE, service_account="k8s.a")
    assert made.service_account == "k8s.a"
    assert made.made_from == ("its name is made by k8s.{ns}", '{ns} is ["kubernetes.io"].namespace')


def test_a_rule_that_lets_everybody_in_says_so():
    everybody = WEB.replace('match: {repository_id: "300400", ref: refs/heads/main}', 'like: {sub: "**"}')
    assert [way.everybody for way in ways(everybody, service_account="web-deployer")] == [True, False]


@pytest.mark.parametrize("question", [{"service_account": "nobody"}, {"resource": "nowhere"}, {"issuer": "no"}])
def test_a_name_that_the_policies_do_not_have_leads_nowhere(question):
    assert ways(WEB, **question) == []


# ---------------------------------------------------------------- what was used


def test_the_last_use_of_each_rule_is_that_of_the_records():
    generation = generation_of(WEB)
    usage = Usage(generation)
    for time in (NOW, NOW + 5, NOW + 2):
        usage.add(recorded(generation, "github", MAIN, time=time, client_id="web-deployer", resource="deploy-api"))
    usage.add(recorded(generation, "github", {**MAIN, "ref": "x"}, time=NOW + 9, client_id="web-deployer"))
    found = by_name(list(who_can(generation)))
    assert usage.of(found["main"]) == Use(3, NOW + 5)
    assert usage.of(found["pod"]) is None
    assert (usage.first, usage.last, usage.records) == (NOW, NOW + 9, 4)


def test_a_request_that_was_refused_after_its_rule_held_is_a_use():
    generation = generation_of(WEB)
    used = recorded(generation, "github", MAIN, client_id="web-deployer", resource="deploy-api")
    usage = Usage(generation)
    usage.add(replace(used, reason="quota_exceeded"))
    assert usage.of(by_name(list(who_can(generation)))["main"]) == Use(1, NOW)


def test_each_credential_is_told_apart_as_far_as_a_record_tells():
    generation = generation_of(BATCH)
    usage = Usage(generation)
    for number, shown in enumerate(
        (
            "client_secret_basic/secret:s2",
            "private_key_jwt/key:2026-11",
            f"self_signed_tls_client_auth/certificate:{'T' * 43}",
            "client_secret_post/secret:made-by-the-command",
        )
    ):
        usage.add(
            replace(NOTHING, grant="client_credentials", service_account="batch", authentication=shown, time=number)
        )
    found = by_name(list(who_can(generation)))
    assert {name: use.last for name, way in found.items() if (use := usage.of(way)) is not None} == {
        "secret:s2": 0,
        "key": 1,
        f"certificate:{'T' * 43}": 2,
        "certificate:san_dns=batch.example.com": 2,
    }
    batch = generation.service_accounts["batch"]
    assert usage.secrets_elsewhere(batch) == {"secret:made-by-the-command": Use(1, 3)}


def test_an_account_that_a_template_made_counts_for_the_template():
    generation = generation_of(TEMPLATE)
    usage = Usage(generation)
    claims = {"sub": "system:serviceaccount:a:x", "kubernetes.io": {"namespace": "a"}}
    usage.add(recorded(generation, "cluster", claims))
    (way,) = who_can(generation)
    assert usage.of(way) == Use(1, NOW)
    (made,) = who_can(generation, service_account="k8s.a")
    assert usage.of(made) == Use(1, NOW)


def test_a_call_that_was_passed_on_is_a_use_of_the_actors_rule_and_of_the_way_through_it():
    served = """
    kind: Resource
    name: front-api
    identifier: https://front.example.com
    scopes: {call: Call}
    served_by: [web-deployer]
    ---
    kind: ServiceAccount
    name: caller
    access: [{resource: front-api, scopes: [call]}, {resource: deploy-api, scopes: [deploy:write]}]
    trust: [{issuer: github, name: main, match: {repository_id: "1"}}]
    """
    generation = generation_of(WEB, served)
    passed_on = recorded(generation, "github", MAIN, client_id="web-deployer", resource="deploy-api")
    usage = Usage(generation)
    usage.add(replace(passed_on, service_account="caller", delegated=True))
    uses = {(way.service_account, way.how, way.name): usage.of(way) for way in who_can(generation)}
    assert {key for key, use in uses.items() if use is not None} == {
        ("web-deployer", "trust", "main"),
        ("caller", "delegation", "web-deployer"),
    }
