"""The tests in the files gate the load: what they play, what passes, what fails, and in which words."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.kinds import PRESETS
from gateway.policy.policy_tests import merged, play, played_claims
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
    ("test", "where", "told"),
    [
        (
            "{name: t, issuer: cluster, claims: {sub: z}, expect: {allow: [ledger:read]}}",
            "allow",
            "expected allow ledger:read, got deny no_matching_trust: app/rule-1 wants sub x; seen: z",
        ),
        (
            "{name: t, issuer: cluster, claims: {sub: x}, expect: {allow: [ledger:read, ledger:write]}}",
            "allow",
            "expected allow ledger:read ledger:write, got allow ledger:read at ledger-api by rule-1",
        ),
        (
            "{name: t, issuer: cluster, claims: {sub: x}, expect: {allow: [ledger:read], lifetime: 10m}}",
            "lifetime",
            "expected a lifetime of 10m, got 5m",
        ),
        (
            "{name: t, issuer: cluster, claims: {sub: x}, expect: {deny: no_matching_trust}}",
            "deny",
            "expected deny no_matching_trust, got allow ledger:read at ledger-api by rule-1",
        ),
        (
            "{name: t, issuer: cluster, claims: {sub: x}, scope: s, expect: {deny: no_matching_trust}}",
            "deny",
            f"{NOT_TRUST} scope_not_granted: app/rule-1 grants ledger:read at ledger-api, not s",
        ),
        (
            "{name: t, issuer: cluster, claims: {sub: x}, expect: {allow: [ledger:read], rule: other}}",
            "rule",
            "expected the rule other, got rule-1",
        ),
        (
            "{name: t, issuer: cluster, claims: {sub: x}, expect: {allow: [ledger:read], token_claims: {n: '1'}}}",
            "token_claims.n",
            "expected the claim n to be 1, got absent",
        ),
    ],
)
def test_a_test_that_fails_is_told_with_its_line_and_what_came_out(tmp_path, test, where, told):
    write(tmp_path, BASE, "base.yaml")
    other = "  - {name: other, issuer: cluster, match: {sub: never}}\n"
    write(tmp_path, ACCOUNT.replace("tests:", f"{other}tests:") + f"  - {test}\n")
    assert problems_of_folder(tmp_path) == [f"policy.yaml:12: tests[1].expect.{where}: the test 't' failed: {told}"]


def test_everything_that_is_different_is_told_at_its_own_line(tmp_path):
    test = """
      name: t
      issuer: cluster
      claims: {sub: x}
      expect:
        allow: [ledger:read]
        lifetime: 10m
        token_claims:
          n: 1
    """
    write(tmp_path, BASE, "base.yaml")
    write(tmp_path, f"{ACCOUNT}  -{test}\n")
    assert problems_of_folder(tmp_path) == [
        "policy.yaml:17: tests[1].expect.lifetime: the test 't' failed: expected a lifetime of 10m, got 5m",
        "policy.yaml:19: tests[1].expect.token_claims.n: the test 't' failed: expected the claim n to be 1, got absent",
    ]


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


# ---------------------------------------------------------------- like_preset


def cases_of(*texts, base=BASE):
    generation = generation_of(*texts, base=base, keep_tests=True)
    return generation, generation.tests


def claims_of(test):
    """The claims that a test of the account ``app`` plays."""
    generation, cases = cases_of(f"{ACCOUNT}  - {test}\n")
    return played_claims(cases[-1], generation.issuers_by_name[cases[-1].test.issuer])


def test_a_test_like_a_preset_begins_with_all_claims_of_its_sample():
    test = "{name: t, issuer: github, like_preset: github-actions, expect: {deny: no_matching_trust}}"
    assert claims_of(test) == {**PRESETS["github-actions"].sample, "aud": "https://sts.example.com"}


def test_iss_and_aud_are_the_issuers_also_where_the_sample_has_others():
    claims = claims_of("{name: t, issuer: cluster, like_preset: kubernetes, expect: {deny: no_matching_trust}}")
    assert (claims["iss"], claims["aud"]) == ("https://cluster.example.com", ["https://sts.example.com"])


def test_claims_are_merged_in_at_every_level_and_null_takes_one_out():
    claims = claims_of("""
      name: t
      issuer: cluster
      like_preset: kubernetes
      claims: {jti: null, kubernetes.io: {pod: null, serviceaccount: {name: web}, secret: {name: s, uid: null}}}
      expect: {deny: no_matching_trust}
    """)
    sample = PRESETS["kubernetes"].sample["kubernetes.io"]
    assert "jti" not in claims
    assert claims["kubernetes.io"] == {
        "namespace": sample["namespace"],
        "node": sample["node"],
        "serviceaccount": {"name": "web", "uid": sample["serviceaccount"]["uid"]},
        "secret": {"name": "s"},
    }


def test_without_a_preset_null_is_a_claim_that_is_null():
    claims = claims_of("{name: t, issuer: cluster, claims: {sub: null}, expect: {deny: no_matching_trust}}")
    assert claims["sub"] is None


MEMBERS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.text(max_size=2), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), MEMBERS, max_size=3)


def merge_patch(target, patch):
    """The pseudocode of RFC 7396 section 2, word for word."""
    if isinstance(patch, dict):
        if not isinstance(target, dict):
            target = {}
        for name, value in patch.items():
            if value is None:
                target.pop(name, None)
            else:
                target[name] = merge_patch(target.get(name), value)
        return target
    return patch


@given(OBJECTS, OBJECTS)
def test_merging_is_that_of_rfc_7396_and_changes_neither(target, patch):
    before = json.dumps([target, patch])
    assert merged(target, patch) == merge_patch(json.loads(json.dumps(target)), patch)
    assert json.dumps([target, patch]) == before


# ---------------------------------------------------------------- expectations


MAPPING = """
kind: ServiceAccount
name: app
access: [{resource: ledger-api, scopes: [ledger:read]}]
trust:
  - name: main
    issuer: cluster
    match: {sub: x}
    token_claims: {n: claims.n, l: claims.l}
tests:
"""


@pytest.mark.parametrize(
    ("expected", "holds"),
    [
        ("{n: 1}", True),
        ("{n: 1, l: [a, b]}", True),
        ("{other: null}", True),
        ("{n: '1'}", False),
        ("{n: true}", False),
        ("{n: null}", False),
        ("{l: [b, a]}", False),
        ("{other: 1}", False),
    ],
)
def test_a_token_claim_is_expected_with_exactly_its_value_and_type(expected, holds):
    test = f"""  - name: t
    issuer: cluster
    claims: {{sub: x, n: 1, l: [a, b]}}
    expect: {{allow: [ledger:read], rule: main, token_claims: {expected}}}
"""
    if holds:
        assert generation_of(MAPPING + test).counts.tests == 1
    else:
        with pytest.raises(PolicyProblems):
            generation_of(MAPPING + test)


# ---------------------------------------------------------------- tests in documents of their own


OF_THEIR_OWN = """
kind: Tests
name: denials
service_account: app
tests:
  - {name: z, issuer: cluster, claims: {sub: z}, expect: {deny: no_matching_trust}}
"""


def test_tests_in_a_document_of_their_own_are_played_as_well():
    assert generation_of(ACCOUNT, OF_THEIR_OWN).counts.tests == 2
    with pytest.raises(PolicyProblems, match="expected deny no_matching_trust, got allow ledger:read"):
        generation_of(ACCOUNT, OF_THEIR_OWN.replace("sub: z", "sub: x"))


def test_a_failing_test_in_a_document_of_its_own_is_told_with_its_file_and_line(tmp_path):
    write(tmp_path, BASE + "---" + ACCOUNT, "base.yaml")
    write(tmp_path, OF_THEIR_OWN.replace("no_matching_trust", "denied_by_guardrail"), "denials.yaml")
    told = "tests[0].expect.deny: the test 'z' failed: expected deny denied_by_guardrail, got deny no_matching_trust"
    assert problems_of_folder(tmp_path) == [f"denials.yaml:5: {told}: app/rule-1 wants sub x; seen: z"]


# ---------------------------------------------------------------- templates


TEMPLATE = """
kind: ServiceAccount
name: "k8s.{namespace}"
for_each: {namespace: claims.namespace}
access: [{resource: ledger-api, scopes: [ledger:read]}]
trust: [{issuer: cluster, match: {sub: x}}]
tests:
  - {name: one, issuer: cluster, claims: {sub: x, namespace: shop}, expect: {allow: [ledger:read], rule: rule-1}}
  - {name: two, issuer: cluster, claims: {sub: y, namespace: shop}, expect: {deny: no_matching_trust}}
  - {name: bad, issuer: cluster, claims: {sub: x, namespace: a/b}, expect: {deny: unnameable_service_account}}
"""


def test_a_test_of_a_template_asks_for_the_account_that_its_claims_make():
    generation, cases = cases_of(TEMPLATE)
    assert [play(generation, case).service_account for case in cases] == ["k8s.shop", "k8s.shop", None]
    assert generation_of(TEMPLATE).counts.tests == 3


def test_tests_may_name_one_account_of_a_template():
    tests = """
kind: Tests
name: shop
service_account: k8s.shop
tests:
  - {name: one, issuer: cluster, claims: {sub: x, namespace: shop}, expect: {allow: [ledger:read]}}
  - {name: other, issuer: cluster, claims: {sub: x, namespace: sandbox}, expect: {deny: no_matching_trust}}
"""
    assert generation_of(TEMPLATE, tests).counts.tests == 5
    with pytest.raises(PolicyProblems, match="no ServiceAccount is called other"):
        generation_of(TEMPLATE, tests.replace("k8s.shop", "other"))
