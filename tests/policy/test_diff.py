"""What a change of the policies means: gains and losses are those of the decisions, and nothing else is told."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from gateway.model import Client, GrantType, TokenRequest
from gateway.policy import diff as diff_module
from gateway.policy.decision import decide, decide_client
from gateway.policy.diff import PolicyDiff, diff
from gateway.policy.generation import Generation
from tests.support.changed_policies import ISSUERS, WORKLOADS, changes, may
from tests.support.generated_policies import request_of
from tests.support.policies import BASE, generation_of, workload

WEB = """
kind: ServiceAccount
name: web-deployer
access: [{{resource: deploy-api, scopes: [deploy:write]}}]
trust: [{{issuer: github, name: main, match: {match}}}]
"""
ROLE = """
kind: Role
name: reader
access: [{{resource: ledger-api, scopes: [{scopes}]}}]
---
kind: ServiceAccount
name: books
roles: [reader]
trust: [{{issuer: github, match: {{repository_id: "1"}}}}]
"""


def difference(old: str, new: str, **overrides: Any) -> PolicyDiff:
    return diff(generation_of(old, keep_tests=True), generation_of(new, keep_tests=True), **overrides)


def told(found: PolicyDiff) -> list[str]:
    """Every change in words, as it is sorted."""
    access = [
        f"{change.sentence} ({change.compared})" if change.compared else change.sentence for change in found.access
    ]
    return [*access, *(f"{change.about} {change.name} {change.sentence}" for change in found.settings)]


# ---------------------------------------------------------------- against the decisions


each_change = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def covered(found: PolicyDiff, direction: str, issuer: str, claims: dict[str, Any]) -> set[tuple[str, str, str]]:
    """What the diff says that this workload gains or loses."""
    return {
        (change.service_account, one.resource, scope)
        for change in found.access
        if change.direction == direction and change.issuer == issuer and change.who is not None
        if change.who.admits(claims)
        for one in change.access
        for scope in one.scopes
    }


@given(changes())
@settings(each_change, max_examples=300)
def test_gains_and_losses_are_those_of_the_decisions(change):
    """Whatever a workload may do that it could not is a reported gain, and the reverse a loss; and whoever is said to
    gain may do it then, and whoever is said to lose could before.
    """
    found = diff(change.old, change.new)
    for issuer, claims in itertools.product(ISSUERS, WORKLOADS):
        before, after = may(change.old, issuer, claims), may(change.new, issuer, claims)
        assert after - before <= covered(found, "gain", issuer, claims) <= after
        assert before - after <= covered(found, "loss", issuer, claims) <= before


@given(changes())
@settings(each_change, max_examples=300)
def test_where_no_cel_is_in_the_way_only_what_changes_is_told(change):
    """Two conditions in CEL may mean the same; all else is known to be wider or narrower, rule by rule."""
    found = diff(change.old, change.new)
    written = [
        rule for side in (change.old, change.new) for one in side.service_accounts.values() for rule in one.rules
    ]
    if any(rule.when is not None or len(rule.like) + len(rule.match) > 1 for rule in written):
        return
    for told in found.access:
        if told.who is None or not any(told.who.admits(claims) for claims in WORKLOADS):
            continue
        here, there = (change.new, change.old) if told.direction == "gain" else (change.old, change.new)
        changed = {
            one
            for claims in WORKLOADS
            if told.who.admits(claims)
            for one in may(here, told.who.issuer, claims) - may(there, told.who.issuer, claims)
        }
        assert changed & {(told.service_account, one.resource, scope) for one in told.access for scope in one.scopes}


@given(changes())
@each_change
def test_whatever_a_client_may_do_that_it_could_not_is_a_reported_gain_and_the_reverse_a_loss(change):
    found = diff(change.old, change.new)
    told = {
        (one.direction, one.service_account, granted.resource, scope)
        for one in found.access
        for granted in one.access
        for scope in granted.scopes
    }
    before, after = set(client_may(change.old)), set(client_may(change.new))
    assert {("gain", *one) for one in after - before} <= told
    assert {("loss", *one) for one in before - after} <= told


def client_may(generation: Generation) -> Iterator[tuple[str, str, str]]:
    for name, account in generation.service_accounts.items():
        for resource, scopes in account.access.items():
            for scope in scopes:
                request = TokenRequest(GrantType.CLIENT_CREDENTIALS, resource=resource, scopes=(scope,))
                if decide_client(generation, Client(name, "client_secret_basic", "secret:s1"), request).entitlement:
                    yield name, resource, scope


@given(changes())
@settings(each_change, max_examples=300)
def test_where_nothing_is_told_no_workload_is_answered_otherwise(change):
    """Also where it leaves out what it asks for, so that the order of rules counts."""
    if not diff(change.old, change.new).is_empty:
        return
    for issuer, claims in itertools.product(ISSUERS, WORKLOADS):
        for asked in ({}, {"client_id": "app-0"}, {"client_id": "app-0", "resource": "ledger-api"}):
            request = request_of(**asked)
            before = decide(change.old, workload(change.old, issuer, claims), request)
            after = decide(change.new, workload(change.new, issuer, claims), request)
            assert (before.reason, before.entitlement and before.entitlement.scopes) == (
                after.reason,
                after.entitlement and after.entitlement.scopes,
            )


@given(changes())
@each_change
def test_the_diff_of_a_generation_with_itself_is_empty(change):
    assert diff(change.old, change.old).is_empty
    assert diff(change.new, change.new).is_empty


@given(changes())
@each_change
def test_what_is_gained_one_way_is_lost_the_other_way(change):
    there, back = diff(change.old, change.new), diff(change.new, change.old)
    other = {"gain": "loss", "loss": "gain"}
    assert {(one.direction, one.service_account, one.access) for one in there.access} == {
        (other[one.direction], one.service_account, one.access) for one in back.access
    }


# ---------------------------------------------------------------- who, which scope, by which rule


def test_a_new_rule_is_a_gain_of_whoever_it_speaks_of():
    web = WEB.format(match='{repository_id: "300400", ref: refs/heads/main}')
    (change,) = difference("", web).access
    assert change.sentence == (
        "repository_id is 300400, ref is refs/heads/main of issuer github may become web-deployer: "
        "gains deploy:write at deploy-api"
    )
    assert (change.rule, change.issuer, change.is_identity) == ("main", "github", True)
    assert change.access[0].lifetime_seconds == 600
    assert difference(web, "").access[0].sentence == (
        "repository_id is 300400, ref is refs/heads/main of issuer github may no longer become web-deployer: "
        "loses deploy:write at deploy-api"
    )


def test_a_list_that_grew_is_a_gain_of_the_new_value_alone():
    old, new = (
        WEB.format(match='{repository_id: ["1", "2"]}'),
        WEB.format(match='{repository_id: ["1", "3", "2", "4"]}'),
    )
    assert told(difference(old, new)) == [
        (
            "repository_id is one of 3, 4 of issuer github may become web-deployer: gains deploy:write at deploy-api "
            "(widens main)"
        )
    ]
    assert told(difference(new, old)) == [
        (
            "repository_id is one of 3, 4 of issuer github may no longer become web-deployer: "
            "loses deploy:write at deploy-api (what remains of it: main)"
        )
    ]


def test_a_list_that_grew_with_more_scopes_beside_is_told_of_who_came_and_of_who_was_there():
    old = ROLE.format(scopes="'ledger:read'")
    new = ROLE.format(scopes="'ledger:read', 'ledger:write'").replace('"1"', '["1", "2"]')
    came, stayed, _ = told(difference(old, new))
    assert came == (
        "repository_id is 2 of issuer github may become books: gains ledger:read ledger:write at ledger-api "
        "(widens rule-1)"
    )
    assert stayed == "repository_id is 1 of issuer github, as books, gains ledger:write at ledger-api"


def test_a_condition_that_went_widens_the_rule():
    old, new = WEB.format(match='{repository_id: "1", ref: refs/heads/main}'), WEB.format(match='{repository_id: "1"}')
    assert told(difference(old, new)) == [
        "repository_id is 1 of issuer github may become web-deployer: gains deploy:write at deploy-api (widens main)"
    ]
    (loss,) = told(difference(new, old))
    assert loss.endswith("loses deploy:write at deploy-api (what remains of it: main)")


def test_scopes_that_a_role_gains_are_told_of_every_rule_and_once_of_the_role():
    found = difference(ROLE.format(scopes="'ledger:read'"), ROLE.format(scopes="'ledger:read', 'ledger:write'"))
    assert told(found) == [
        "repository_id is 1 of issuer github, as books, gains ledger:write at ledger-api",
        "role reader gives one service account ledger:write at ledger-api",
    ]
    assert found.access[0].access[0].roles == ("reader",)
    assert found.totals() == {("gain", "ledger-api", "ledger:write"): 1}


def test_what_everybody_at_an_issuer_gains_comes_first():
    other = WEB.replace("web-deployer", "aaa").format(match='{repository_id: "1"}')
    new = WEB.format(match="{repository_id: x}").replace("match: {repository_id: x}", 'like: {sub: "**"}')
    first, second = difference("", f"{other}\n---\n{new}").access
    assert (first.everybody, second.everybody) == (True, False)
    assert first.sentence.startswith("everybody at issuer github (sub is like **) may become web-deployer: gains")


def test_an_identity_without_scopes_is_a_gain_too():
    bare = WEB.format(match='{repository_id: "1"}').replace(
        "access: [{resource: deploy-api, scopes: [deploy:write]}]", ""
    )
    (change,) = difference("", bare).access
    assert change.sentence == "repository_id is 1 of issuer github may become web-deployer: gains no scope"


# ---------------------------------------------------------------- what is no change

SAME = """
kind: ServiceAccount
name: web-deployer
access: [{resource: deploy-api, scopes: [deploy:write]}]
trust:
  - {issuer: github, match: {repository_id: ["1", "2"], ref: refs/heads/main}, like: {sub: ["a*", "b*"]}}
  - {issuer: cluster, name: pod, match: {sub: "system:serviceaccount:a:b"}}
"""


@pytest.mark.parametrize(
    "rewritten",
    [
        SAME.replace("- {issuer: github,", "- {name: renamed, issuer: github,"),
        SAME.replace('["1", "2"], ref: refs/heads/main', '["2", "1", "1"], ref: [refs/heads/main]'),
        SAME.replace('["a*", "b*"]', '["b*", "a*"]'),
        "\n".join([*SAME.splitlines()[:5], *reversed(SAME.splitlines()[5:])]),
        SAME.replace("web-deployer", "web-deployer\nowner: somebody else\ndescription: deploys"),
        SAME.replace("access: [{resource: deploy-api, scopes: [deploy:write]}]", "roles: [deployer]")
        + "---\nkind: Role\nname: deployer\naccess: [{resource: deploy-api, scopes: [deploy:write]}]\n",
        SAME
        + '  - {issuer: github, name: within, match: {repository_id: "1", ref: refs/heads/main}, like: {sub: "a*"}}\n',
        SAME + "---\nkind: Role\nname: unused\naccess: [{resource: deploy-api, scopes: [deploy:write]}]\n",
    ],
)
def test_what_is_only_written_otherwise_is_no_change(rewritten):
    assert rewritten != SAME
    assert told(difference(SAME, rewritten)) == []
    assert told(difference(rewritten, SAME)) == []


def test_another_name_of_an_issuer_or_a_resource_is_no_gain_and_no_loss():
    old, new = generation_of(SAME), generation_of(SAME.replace("github", "hub").replace("deploy-api", "deploys"),
        base=BASE.replace("name: github", "name: hub").replace("name: deploy-api", "name: deploys"))  # fmt: skip
    assert told(diff(old, new)) == [
        "issuer hub was called github",
        "resource deploys was called deploy-api: whoever asks for it by that name is refused",
    ]


# ---------------------------------------------------------------- order, resource, client_id


def test_a_rule_that_comes_before_another_is_told_where_the_two_give_different_things():
    two = """
    kind: ServiceAccount
    name: books
    access: [{resource: ledger-api, scopes: ['ledger:read', 'ledger:write']}]
    trust:
      - {issuer: github, name: %s, match: {repository_id: "1"}%s}
      - {issuer: github, name: %s, match: {ref: refs/heads/main}%s}
    """
    read = ", scopes: ['ledger:read']"
    old, new = two % ("narrow", read, "wide", ""), two % ("narrow", read, "wide", "")
    swapped = new.splitlines()
    swapped[5], swapped[6] = swapped[6], swapped[5]
    assert told(difference(old, "\n".join(swapped))) == [
        "order books rule wide comes before narrow now: it counts where scope is left out"
    ]


def test_a_narrower_rule_before_a_wider_one_is_told_though_nobody_gains():
    wide = WEB.format(match='{repository_id: "1"}')
    narrow = '{issuer: github, name: short, match: {repository_id: "1", environment: prod}, token_lifetime: 60s}'
    assert told(difference(wide, wide.replace("trust: [", f"trust: [{narrow}, "))) == [
        "lifetime web-deployer tokens for deploy-api by rule short live 60s instead of 10m",
        "order web-deployer rule short comes before main now: it counts where scope is left out",
    ]


TWICE = """
kind: ServiceAccount
name: books
access: [{{resource: ledger-api, scopes: [ledger:read, ledger:write]}}]
trust:
  - {{issuer: github, name: a, match: {{repository_id: "1"}}, scopes: [ledger:read], token_lifetime: 60s}}
  - {{issuer: github, name: b, match: {{repository_id: "1"}}, scopes: [{scopes}], {more}}}
"""


@pytest.mark.parametrize(
    ("more", "scopes", "said"),
    [
        ("token_lifetime: 15m", "ledger:write",
         ["lifetime books tokens for ledger-api by rule b live 15m instead of 60s"]),
        ("token_lifetime: 60s, token_claims: {role: '\"admin\"'}", "ledger:write",
         ['token_claims books tokens have the claim role: "admin" by rule b']),
        ("token_lifetime: 60s", "ledger:read, ledger:write",
         [("order books what a, b give at ledger-api is given together otherwise: "
           "it counts where scope is left out, or several are asked for")]),
    ],
)  # fmt: skip
def test_what_hides_behind_a_rule_that_asks_the_same_is_told(more, scopes, said):
    before = TWICE.format(scopes="ledger:write", more="token_lifetime: 60s")
    assert told(difference(before, TWICE.format(scopes=scopes, more=more))) == said


def test_who_serves_a_new_resource_is_told():
    resource = "kind: Resource\nname: new\nidentifier: https://new.example.com\nscopes: {x: X}\nserved_by: [books]\n"
    account = ROLE.format(scopes="ledger:read")
    assert "resource new books serves it: may introspect its tokens and pass calls on" in told(
        difference(account, f"{account}\n---\n{resource}")
    )


def test_a_second_resource_means_that_resource_must_be_named():
    one = WEB.format(match='{repository_id: "1"}')
    two = one.replace(
        "scopes: [deploy:write]}]", "scopes: [deploy:write]}, {resource: ledger-api, scopes: ['ledger:read']}]"
    )
    assert (
        "service_account web-deployer whoever leaves out resource is refused: it has deploy-api, ledger-api now"
        in told(difference(one, two))
    )


def test_a_second_service_account_for_a_workload_means_that_client_id_must_be_named():
    one = WEB.format(match='{repository_id: "1"}')
    other = one.replace("web-deployer", "web-signer")
    assert (
        "service_account web-signer workloads that may become it are web-deployer, too: "
        "whoever leaves out client_id is refused"
    ) in told(difference(one, f"{one}\n---\n{other}"))
    apart = other.replace('"1"', '"2"')
    assert not any("client_id" in line for line in told(difference(one, f"{one}\n---\n{apart}")))


# ---------------------------------------------------------------- lifetimes, claims, credentials, settings

PLAIN = WEB.format(match='{repository_id: "1"}')


FULL = f"{BASE}\n---\n{PLAIN}"


def changed(what: str, to: str, text: str = FULL) -> list[str]:
    """What is told when one text is put in the place of another."""
    assert what in text
    return told(diff(generation_of(text, base=""), generation_of(text.replace(what, to), base="")))


CLUSTER = "name: cluster\nurl: https://cluster.example.com"
CLIENT = "name: web-deployer\ncredentials:\n  "
SECRET = f"""{CLIENT}secrets: [{{id: s1, digest: "sha256:{"a" * 64}", expires: 2027-01-01}}]"""


SETTINGS = r"""
replace name: main,
by      name: main, token_lifetime: 5m,
told    lifetime web-deployer tokens for deploy-api by rule main live 5m instead of 10m

replace token_lifetime: 10m
by      token_lifetime: 1h
told    resource deploy-api a token for it lives up to 60m instead of 10m

replace name: main,
by      name: main, token_claims: {team: claims.sub},
told    token_claims web-deployer tokens have the claim team: claims.sub by rule main

replace https://deploy.example.com
by      https://d.example.com
told    resource deploy-api its tokens are for https://d.example.com instead of https://deploy.example.com:
        APIs check that

replace name: deploy-api
by      name: deploy-api\nsender_constraint: dpop
told    resource deploy-api a token for it must be bound by dpop

replace name: deploy-api
by      name: deploy-api\nsigning_algorithm: RS256
told    resource deploy-api its tokens are signed by RS256 instead of that of the settings

replace name: deploy-api
by      name: deploy-api\nserved_by: [web-deployer]
told    resource deploy-api web-deployer serves it: may introspect its tokens and pass calls on

replace url: https://cluster.example.com
by      url: https://other.example.com
told    issuer cluster tokens of https://other.example.com are accepted instead of those of https://cluster.example.com:
        whoever signs there gets in

replace name: cluster
by      name: cluster\naudiences: [x, https://sts.example.com]
told    issuer cluster tokens made for x are accepted, too

replace name: cluster
by      name: cluster\nkeys: {jwks_uri: https://k.example.com/jwks}
told    issuer cluster its keys come from https://k.example.com/jwks instead of discovery at
        https://cluster.example.com/.well-known/openid-configuration: whoever holds those can sign its tokens

replace name: cluster
by      name: cluster\nwhen: has(claims.sub)
told    issuer cluster tokens are refused without has(claims.sub)

replace name: cluster
by      name: cluster\nreplay: reject
told    issuer cluster a token works once

replace name: cluster
by      name: cluster\nmax_token_age: 48h
told    issuer cluster a token is accepted for 2d after it was made instead of 24h

replace name: cluster
by      name: cluster\nleeway: 60s
told    issuer cluster a clock may be wrong by 60s instead of 30s

replace name: cluster
by      name: cluster\nallow_missing_kid: true
told    issuer cluster tokens that name no key are accepted

replace name: cluster
by      name: cluster\nbound_to_subject_token: true
told    issuer cluster access tokens end with the token that they were traded for

replace name: cluster
by      name: cluster\nexplain_denials: full
told    issuer cluster callers that are refused are told what the policy wanted

replace name: web-deployer
by      name: web-deployer\nrate_limit: 60/minute
told    service_account web-deployer gets 60 per 60s token requests

replace name: web-deployer
by      name: web-deployer\ncredentials:\n  keys: {jwks_uri: https://c.example.com/jwks}
told    credentials web-deployer keys of https://c.example.com/jwks let it in (private_key_jwt)

replace name: web-deployer
by      name: web-deployer\ncredentials:\n  certificates: [{san_dns: a.example.com}]
told    credentials web-deployer a certificate whose san_dns is a.example.com (tls_client_auth) lets it in

replace kind: Issuer\nname: cluster
by      kind: Guardrail\nname: prod\nissuer: github\ndeny_when: claims.ref != 'x'\n---\nkind: Issuer\nname: cluster
told    guardrail prod refuses, unless it is false, at github: claims.ref != 'x'

replace kind: Issuer\nname: cluster
by      kind: Guardrail\nname: a\nfolders: [teams/**]\nmax_token_lifetime: 1h\n---\nkind: Issuer\nname: cluster
told    guardrail a files of teams/** must keep to max_token_lifetime: "60m"

replace kind: Issuer\nname: cluster
by      kind: Issuer\nname: new\nurl: https://new.example.com\n---\nkind: Issuer\nname: cluster
told    issuer new is trusted from now on: https://new.example.com, keys from discovery at
        https://new.example.com/.well-known/openid-configuration
"""


def rows(table: str) -> Iterator[tuple[str, str, str]]:
    for entry in table.strip().split("\n\n"):
        replaced, by, *said = entry.splitlines()
        words = " ".join(line[8:].strip() for line in said)
        yield replaced[8:].replace("\\n", "\n"), by[8:].replace("\\n", "\n"), words


@pytest.mark.parametrize(("what", "to", "said"), tuple(rows(SETTINGS)))
def test_a_setting_that_changed_is_told_with_what_it_means(what, to, said):
    assert said in changed(what, to)


@pytest.mark.parametrize(("what", "to", "said"), tuple(rows(SETTINGS)))
def test_a_setting_that_is_taken_back_is_told_with_the_other_meaning(what, to, said):
    back = {
        change.direction
        for change in diff(generation_of(FULL.replace(what, to), base=""), generation_of(FULL, base="")).settings
    }
    there = {
        change.direction
        for change in diff(generation_of(FULL, base=""), generation_of(FULL.replace(what, to), base="")).settings
    }
    opposite = {"wider": "narrower", "narrower": "wider", "other": "other"}
    assert said
    assert back == {opposite[direction] for direction in there}


def test_what_concerns_everybody_at_an_issuer_is_told_first_of_settings_too():
    text = f"{BASE.replace(CLUSTER, CLUSTER + chr(10) + 'when: has(claims.sub)')}\n---\n{PLAIN}"
    old, new = generation_of(text, base=""), generation_of(f"{BASE.replace('10m', '5m')}\n---\n{PLAIN}", base="")
    first, *rest = diff(old, new).settings
    assert (first.everybody, first.direction) == (True, "wider")
    assert first.sentence == "no token is refused any more for want of has(claims.sub)"
    assert not any(change.everybody for change in rest)


def test_a_client_that_may_authenticate_from_now_on_gains_all_the_access():
    lines = changed("name: web-deployer", SECRET)
    assert lines == [
        "a client with a credential of its own may become web-deployer: gains deploy:write at deploy-api",
        "credentials web-deployer the secret s1 lets it in",
    ]


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("b" * 64, "the secret s1 has another value"),
        ("a" * 64 + '", created: "2026-01-01', None),
    ],
)
def test_no_digest_of_a_secret_is_ever_told(to, said):
    text = f"{BASE}\n---\n{PLAIN.replace('name: web-deployer', SECRET)}"
    lines = changed("a" * 64, to, text)
    assert lines == ([f"credentials web-deployer {said}"] if said else [])
    assert not any(digest in repr(lines) for digest in ("a" * 64, "b" * 64))


def test_a_claim_and_a_lifetime_of_a_clients_own_tokens_are_told():
    text = f"{BASE}\n---\n{PLAIN.replace('name: web-deployer', SECRET)}"
    lines = changed("name: web-deployer", "name: web-deployer\ntoken_lifetime: 2m\ntoken_claims: {tier: '1'}", text)
    assert "lifetime web-deployer tokens for deploy-api by its own credentials live 2m instead of 10m" in lines
    assert "token_claims web-deployer the claim tier of tokens by its own credentials is 1 instead of absent" in lines


def test_a_secret_that_works_longer_is_told_with_its_id():
    text = f"{BASE}\n---\n{PLAIN.replace('name: web-deployer', SECRET)}"
    assert changed("2027-01-01", "2028-01-01", text) == ["credentials web-deployer the secret s1 works longer"]


def test_a_template_whose_names_are_made_from_other_claims_is_told():
    template = """
    kind: ServiceAccount
    name: k8s.{ns}
    for_each: {ns: 'claims["kubernetes.io"].namespace'}
    access: [{resource: deploy-api, scopes: [deploy:write]}]
    trust: [{issuer: cluster, match: {"kubernetes.io": {namespace: [a, b]}}}]
    """
    assert told(difference(template, template.replace("].namespace'", "].pod.name'"))) == [
        (
            'service_account k8s.{ns} {ns} is ["kubernetes.io"].pod.name instead of ["kubernetes.io"].namespace: '
            "workloads become other accounts of it"
        )
    ]


# ---------------------------------------------------------------- tests

TESTED = (
    PLAIN
    + """
tests:
  - {name: it may, issuer: github, claims: {repository_id: "1"}, expect: {allow: [deploy:write]}}
  - {name: others may not, issuer: github, claims: {repository_id: "2"}, expect: {deny: no_matching_trust}}
"""
)


def test_a_test_that_comes_out_otherwise_is_told_with_both_outcomes():
    (change,) = difference(TESTED, TESTED.replace('match: {repository_id: "1"}', 'match: {repository_id: "3"}')).tests
    assert (change.name, change.of) == ("it may", "both")
    assert (change.before, change.after) == ("allow deploy:write at deploy-api by main", "deny no_matching_trust")
    assert (change.passes_before, change.passes_after) == (True, False)


def test_a_test_of_either_side_is_played_under_both():
    alone = PLAIN.replace('"1"', '"3"')
    (lost,) = difference(TESTED, alone).tests
    assert (lost.name, lost.of, lost.passes_after) == ("it may", "old", False)
    (gained,) = difference(alone, TESTED).tests
    assert (gained.name, gained.of, gained.before) == ("it may", "new", "deny no_matching_trust")


def test_a_test_of_an_issuer_that_is_gone_is_told():
    old = TESTED.replace("issuer: github", "issuer: cluster")
    base = BASE.split("---", 1)[1]
    found = diff(generation_of(old, keep_tests=True), generation_of("", base=base, keep_tests=True))
    assert {change.after for change in found.tests} == {"no issuer is called cluster"}


# ---------------------------------------------------------------- size


def test_a_handful_of_changes_among_many_is_found_without_comparing_all_with_all(monkeypatch):
    accounts = "\n---\n".join(PLAIN.replace("web-deployer", f"app-{n}").replace('"1"', f'"{n}"') for n in range(400))
    old, new = generation_of(accounts), generation_of(accounts.replace('repository_id: "77"', 'repository_id: "x"'))
    compared = []
    implies = diff_module.implies
    monkeypatch.setattr(diff_module, "implies", lambda *rules: compared.append(rules) or implies(*rules))
    assert [change.service_account for change in diff(old, new).access] == ["app-77", "app-77"]
    assert len(compared) < 20


def test_beyond_what_is_compared_too_much_is_told_and_never_too_little(monkeypatch):
    old, new = WEB.format(match='{repository_id: "1"}'), WEB.format(match='{repository_id: "1", ref: x}')
    assert [change.direction for change in difference(old, new).access] == ["loss"]
    monkeypatch.setattr(diff_module, "MAX_COMPARISONS", 0)
    assert [change.direction for change in difference(old, new).access] == ["gain", "loss"]
