"""Inline tests gate the load: what passes, what fails, and in which words."""

import pytest

from gateway.policy.problems import PolicyProblems
from tests.support.policies import BASE, generation_of, problems_of_folder, write

NOT_TRUST = "expected deny no_matching_trust, got deny"
ACCOUNT = """
kind: ServiceAccount
name: app
access: [{resource: ledger-api, scopes: [ledger:read, ledger:write]}]
token_lifetime: 5m
trust:
  - issuer: cluster
    match: {sub: x}
    scopes: [ledger:read]
tests:
  - {name: the other, issuer: cluster, claims: {sub: y}, expect: {deny: no_matching_trust}}
"""


@pytest.mark.parametrize(
    "test",
    [
        "{name: t, issuer: cluster, claims: {sub: x}, expect: {allow: [ledger:read]}}",
        "{name: t, issuer: cluster, claims: {sub: x}, expect: {allow: [ledger:read], lifetime: 5m}}",
        "{name: t, issuer: cluster, claims: {sub: x}, resource: ledger-api, expect: {allow: [ledger:read]}}",
        "{name: t, issuer: cluster, claims: {sub: x}, scope: ledger:read, expect: {allow: [ledger:read]}}",
        "{name: t, issuer: cluster, claims: {sub: x}, scope: ledger:write, expect: {deny: scope_not_granted}}",
        "{name: t, issuer: cluster, claims: {sub: x}, resource: deploy-api, expect: {deny: resource_not_granted}}",
        "{name: t, issuer: cluster, claims: {sub: x}, resource: nowhere, expect: {deny: unknown_resource}}",
        "{name: t, issuer: cluster, claims: {sub: }, expect: {deny: no_matching_trust}}",
        "{name: t, issuer: github, claims: {sub: x}, expect: {deny: no_matching_trust}}",
    ],
)
def test_a_test_that_holds_lets_the_load_pass(test):
    assert generation_of(f"{ACCOUNT}  - {test}\n").counts.tests == 2


@pytest.mark.parametrize(
    ("test", "told"),
    [
        (
            "{name: t, issuer: cluster, claims: {sub: z}, expect: {allow: [ledger:read]}}",
            "expected allow ledger:read, got deny no_matching_trust: app/rule-1 wants sub x; seen: z",
        ),
        (
            "{name: t, issuer: cluster, claims: {sub: x}, expect: {allow: [ledger:read, ledger:write]}}",
            "expected allow ledger:read ledger:write, got allow ledger:read at ledger-api by rule-1",
        ),
        (
            "{name: t, issuer: cluster, claims: {sub: x}, expect: {allow: [ledger:read], lifetime: 10m}}",
            "expected a lifetime of 10m, got 5m",
        ),
        (
            "{name: t, issuer: cluster, claims: {sub: x}, expect: {deny: no_matching_trust}}",
            "expected deny no_matching_trust, got allow ledger:read at ledger-api by rule-1",
        ),
        (
            "{name: t, issuer: cluster, claims: {sub: x}, scope: s, expect: {deny: no_matching_trust}}",
            f"{NOT_TRUST} scope_not_granted: app/rule-1 grants ledger:read at ledger-api, not s",
        ),
    ],
)
def test_a_test_that_fails_is_told_with_its_line_and_what_came_out(tmp_path, test, told):
    write(tmp_path, BASE, "base.yaml")
    write(tmp_path, f"{ACCOUNT}  - {test}\n")
    assert problems_of_folder(tmp_path) == [f"policy.yaml:11: tests[1]: the test 't' failed: {told}"]


def test_the_issuer_and_audience_are_filled_in():
    when = 'claims.iss == "https://cluster.example.com" && claims.aud == "https://sts.example.com"'
    test = "{name: t, issuer: cluster, claims: {sub: y}, expect: {allow: [ledger:read]}}"
    account = ACCOUNT.replace("match: {sub: x}", f"when: {when}").replace(
        "{sub: y}, expect: {deny", "{iss: z}, expect: {deny"
    )
    assert generation_of(f"{account}  - {test}\n").counts.tests == 2


BREAKING = {
    "the issuer's condition": ("when: has(claims.pod)", 'when: "!has(claims.pod)"'),
    "a guardrail": ('deny_when: claims.sub == "evil"', 'deny_when: claims.sub == "x"'),
    "match": ("match: {sub: x}", "match: {sub: z}"),
    "like": ("like: {ref: a/*}", "like: {ref: b/*}"),
    "when": ("when: claims.n == 1", "when: claims.n == 2"),
    "the rule's scopes": ("scopes: [ledger:read]\n", "scopes: [ledger:write]\n"),
    "the access": ("scopes: [ledger:read, ledger:write]", "scopes: [ledger:write]"),
    "the lifetime": ("token_lifetime: 5m", "token_lifetime: 6m"),
    "a mapped claim": ("token_claims: {n: claims.n}", "token_claims: {n: claims.missing}"),
}
WHOLE = """
kind: Issuer
name: strict
url: https://strict.example.com
when: has(claims.pod)
---
kind: Guardrail
name: g
deny_when: claims.sub == "evil"
---
kind: ServiceAccount
name: app
access: [{resource: ledger-api, scopes: [ledger:read, ledger:write]}]
trust:
  - issuer: strict
    match: {sub: x}
    like: {ref: a/*}
    when: claims.n == 1
    scopes: [ledger:read]
    token_lifetime: 5m
    token_claims: {n: claims.n}
tests:
  - name: the pod may read
    issuer: strict
    claims: {sub: x, ref: a/b, n: 1, pod: p}
    expect: {allow: [ledger:read], lifetime: 5m}
"""


@pytest.mark.parametrize("part", BREAKING)
def test_a_part_that_is_broken_on_purpose_is_caught_by_the_test(part):
    before, after = BREAKING[part]
    assert WHOLE.count(before) == 1
    generation_of(WHOLE)
    with pytest.raises(PolicyProblems):
        generation_of(WHOLE.replace(before, after))
