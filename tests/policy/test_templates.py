"""Service accounts from templates: each workload its own identity, and no workload that of another."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.model import PassedOn, TokenRequest
from gateway.policy.delegation import decide_narrowing
from gateway.policy.problems import PolicyProblems
from gateway.policy.templates import NameTemplate, TemplateError, Unnameable, parse_name_template
from tests.support.policies import ask, generation_of

PODS = """
kind: ServiceAccount
name: "k8s.{namespace}.{service_account}"
for_each:
  namespace: claims["kubernetes.io"].namespace
  service_account: claims["kubernetes.io"].serviceaccount.name
access: [{resource: ledger-api, scopes: [ledger:read]}]
rate_limit: 7/minute
trust:
  - issuer: cluster
    like: {sub: "system:serviceaccount:*:*"}
"""
OTHER = """
kind: ServiceAccount
name: invoicer
access: [{resource: ledger-api, scopes: [ledger:write]}]
trust: [{issuer: cluster, match: {sub: "system:serviceaccount:billing:invoicer"}}]
"""


def pod(namespace: object, account: object) -> dict:
    return {
        "sub": f"system:serviceaccount:{namespace}:{account}",
        "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": account}},
    }


def problems(text: str, *others: str) -> list[str]:
    with pytest.raises(PolicyProblems) as found:
        generation_of(text, *others)
    return [problem.message for problem in found.value.problems]


def test_every_workload_of_a_template_gets_a_service_account_of_its_own():
    generation = generation_of(PODS)
    for namespace, account in (("storage", "nightly-backup"), ("kube-system", "a.b")):
        decision = ask(generation, "cluster", pod(namespace, account))
        assert decision.entitlement.service_account == decision.service_account == f"k8s.{namespace}.{account}"
        assert decision.entitlement.scopes == ("ledger:read",)


def test_a_workload_may_name_its_own_account_of_a_template_and_no_other():
    generation = generation_of(PODS)
    own = ask(generation, "cluster", pod("storage", "backup"), client_id="k8s.storage.backup")
    assert own.reason == "granted"
    other = ask(generation, "cluster", pod("storage", "backup"), client_id="k8s.billing.invoicer")
    assert other.reason == "no_matching_trust"
    assert "k8s.storage.backup for this workload" in other.wanted


@pytest.mark.parametrize(
    "name", ["k8s.{namespace}.{service_account}", "k8s..x", "k8s.a", "k8s.a.", "K8s.a.b", "k8s.a.b\n"]
)
def test_a_name_that_no_workload_can_have_is_unknown(name):
    decision = ask(generation_of(PODS), "cluster", pod("a", "b"), client_id=name)
    assert decision.reason == "unknown_service_account"


@pytest.mark.parametrize(
    "value",
    [
        "",
        "*",
        "**",
        "a*",
        "a/b",
        "a:b",
        "A",
        "a b",
        "a\n",
        "ä",
        "-a",
        "a-",
        ".",
        "a.",
        "{x}",
        "a" * 64,
        None,
        7,
        True,
        ["a"],
        {},
    ],
)
def test_a_value_that_could_mean_something_else_goes_into_no_name(value):
    for claims in (pod(value, "b"), pod("a", value)):
        claims["sub"] = "system:serviceaccount:x:y"
        for client_id in (None, "k8s.a.b"):
            decision = ask(generation_of(PODS), "cluster", claims, client_id=client_id)
            assert decision.reason == "unnameable_service_account", value


def test_a_value_may_not_hold_the_separator_that_ends_it():
    decision = ask(generation_of(PODS), "cluster", pod("a.b", "c"))
    assert decision.reason == "unnameable_service_account"
    assert "could be mistaken" in decision.wanted
    assert ask(generation_of(PODS), "cluster", pod("a", "b.c")).service_account == "k8s.a.b.c"


def test_a_workload_that_may_become_an_account_of_a_template_and_another_has_to_say_which():
    generation = generation_of(PODS, OTHER)
    decision = ask(generation, "cluster", pod("billing", "invoicer"))
    assert decision.reason == "ambiguous_service_account"
    assert set(decision.candidates) == {"k8s.billing.invoicer", "invoicer"}
    assert ask(generation, "cluster", pod("billing", "invoicer"), client_id="invoicer").reason == "granted"


def test_what_holds_of_a_template_holds_of_its_accounts():
    generation = generation_of(PODS)
    account = generation.service_account("k8s.a.b")
    assert (account.name, account.rate_limit.requests) == ("k8s.a.b", 7)
    assert generation.registered_client("k8s.a.b") is None
    passed_on = PassedOn("k8s.a.b", "https://ledger.example.com", ("ledger:read",), None, "cluster/rule-1")
    request = TokenRequest("urn:ietf:params:oauth:grant-type:token-exchange")
    assert decide_narrowing(generation, passed_on, request).entitlement.service_account == "k8s.a.b"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{namespace}.{service_account}", "starts and ends"),
        ("k8s.{namespace}{service_account}", "between two placeholders"),
        ("k8s.{namespace}x{service_account}", "between two placeholders"),
        ("k8s.{namespace}", "does not use {service_account}"),
        ("k8s.{namespace}.{service_account}.{team}", "does not say which claim {team} is"),
        ("k8s.{namespace}.{namespace}", "placeholder twice"),
        ("k8s.{}.{service_account}", "is no placeholder"),
        ("k8s.{a{b}}.{service_account}", "does not say which claim {b} is"),
        ("k8s", "no placeholder"),
        ("k8s.{namespace}.{service_account}}", "around its placeholders"),
    ],
)
def test_a_name_that_would_not_keep_workloads_apart_is_refused(name, message):
    found = problems(PODS.replace("k8s.{namespace}.{service_account}", name))
    assert any(message in one for one in found), found


@pytest.mark.parametrize(
    "source",
    ["claims", "claims.a.b()", "claims.a + claims.b", '"a"', "issuer", "claims[0]", "claims.a == claims.b", ""],
)
def test_a_placeholder_is_filled_by_one_claim_and_by_nothing_worked_out(source):
    assert problems(PODS.replace('claims["kubernetes.io"].namespace', source or '""'))


def test_a_template_cannot_make_the_name_of_another_account():
    assert "could be what k8s.{namespace}" in problems(PODS, OTHER.replace("invoicer", "k8s.billing.invoicer", 1))[0]
    assert "could make a name that" in problems(PODS, PODS.replace('name: "k8s', 'name: "k8s.prod'))[0]
    generation_of(PODS, PODS.replace('name: "k8s', 'name: "eks'))


def test_a_template_has_no_credentials():
    found = problems(PODS + "credentials: {certificates: [{san_dns: a.example.com}]}\n")
    assert any("vouches" in one for one in found)


def test_braces_without_for_each_are_refused():
    assert problems(OTHER.replace("name: invoicer", 'name: "invoicer.{x}"')) == [
        "has a placeholder that no for_each fills"
    ]


TEXTS = st.text("ab-._{}", max_size=12)
VALUES = st.text("ab-._", min_size=1, max_size=6)


@given(
    st.lists(st.sampled_from(["-", ".", "_", "--", ".-", "x", ""]), min_size=3, max_size=4),
    VALUES,
    VALUES,
    VALUES,
    VALUES,
)
@settings(max_examples=1500, deadline=None)
def test_other_claims_always_make_another_name_and_each_name_fits_its_template(literals, a, b, c, d):
    text = f"p{literals[0]}{{x}}{literals[1]}{{y}}{literals[2] if literals[2] == 'x' else ''}"
    try:
        template = parse_name_template(text, {"x": ("x",), "y": ("y",)})
    except TemplateError:
        return
    one, other = template.name_for({"x": a, "y": b}), template.name_for({"x": c, "y": d})
    for name in (one, other):
        assert isinstance(name, Unnameable) or template.fits(name)
    if isinstance(one, str) and one == other:
        assert (a, b) == (c, d)


@given(st.text("abk8s.-_{}*/", max_size=40))
@settings(max_examples=1500, deadline=None)
def test_a_name_that_fits_a_template_is_made_by_some_claims(name):
    template = parse_name_template("k8s.{x}-{y}", {"x": ("x",), "y": ("y",)})
    if template.fits(name):
        value, _, rest = name.removeprefix("k8s.").partition("-")
        assert template.name_for({"x": value, "y": rest}) == name


def test_a_long_hostile_name_is_told_from_a_template_at_once():
    template = NameTemplate("p.{a}.{b}.{c}.{d}", ("p.", ".", ".", ".", ""), tuple((one, (one,)) for one in "abcd"))
    assert not template.fits("p." + "a-" * 63)
    assert not template.fits("p" + "." * 127)
