"""What the traffic supports: never more than the rule, never less than what was seen, and written so that it loads."""

from dataclasses import replace
from textwrap import dedent

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gateway.policy.generation import Generation
from gateway.policy.policy_tests import failures
from gateway.policy.suggest import MAX_SHAPES, MAX_VALUES, Traffic, suggestion_for
from gateway.policy.suggested_edits import MAX_TESTS, as_suggested, write
from gateway.policy.yaml_editing import YamlText
from gateway.standin.shapes import aws_sts_claims, github_actions_claims, gitlab_ci_claims, kubernetes_claims
from tests.support.policies import BASE, GATEWAY_ISSUER, ask, generation_of
from tests.support.recorded import NOTHING, NOW, recorded

HOUR = 3600


def text_of(*accounts: str, base: str = BASE) -> str:
    return "\n---\n".join(dedent(one).strip("\n") for one in (base, *accounts)) + "\n"


def compiled(text: str) -> Generation:
    """The generation of a text, its tests kept, after they passed."""
    generation_of(text, base="")
    return generation_of(text, base="", keep_tests=True)


class Suggested:
    """A suggestion for the first service account of a text, written into it and compiled."""

    def __init__(self, text: str, records, *, at_least: int = 1) -> None:
        self.before = compiled(text)
        self.traffic = Traffic(self.before)
        for one in records:
            self.traffic.take(one)
        account = next(iter(self.before.service_accounts.values()))
        self.suggestion = suggestion_for(self.before, account, self.traffic, at_least=at_least)
        self.text = text
        self.tests = 0
        if self.suggestion.says_something:
            editing = YamlText(text)
            suggested = as_suggested(self.before, [self.suggestion])
            written = write(self.before, suggested, self.suggestion, lambda _: editing)
            self.tests, self.text = written.tests, editing.changed()
        self.after = compiled(self.text)
        self.account = next(iter(self.after.service_accounts.values()))

    @property
    def rule(self):
        (rule,) = self.suggestion.rules
        return rule

    @property
    def match(self):
        """The exact conditions of the first rule now."""
        return {".".join(one.path): one.wanted for one in self.account.rules[0].match}


def seen(text: str, issuer: str, claims_of, count: int = 30, **asked):
    """So many requests, one an hour; ``claims_of`` gives the claims of each by its number and time."""
    generation = compiled(text)
    return [
        recorded(generation, issuer, claims_of(number, NOW + number * HOUR), time=NOW + number * HOUR, **asked)
        for number in range(count)
    ]


WEB = """
kind: ServiceAccount
name: web
access: [{resource: deploy-api, scopes: [deploy:write]}]
trust:
  - name: pipeline
    issuer: github
    match: {repository: acme/web}
    like: {ref: refs/heads/**}
"""


def job(number: int, time: float, **overrides):
    return github_actions_claims(time, GATEWAY_ISSUER, **{"run_id": str(number), "sha": f"{number:040x}", **overrides})


def test_ids_are_pinned_and_globs_become_the_values_that_were_seen():
    text = text_of(WEB)
    found = Suggested(text, seen(text, "github", job))
    assert found.match == {
        "repository": ("acme/web",),
        "repository_owner_id": ("100200",),
        "repository_id": ("300400",),
        "event_name": ("push",),
        "environment": ("production",),
        "ref": ("refs/heads/main",),
    }
    assert found.account.rules[0].like == ()
    assert "repository stays as well" in found.rule.kept[0]


def test_what_differs_in_every_token_is_never_pinned():
    text = text_of(WEB.replace("like: {ref: refs/heads/**}", 'like: {sha: "**", run_id: "**"}'))
    found = Suggested(text, seen(text, "github", lambda number, time: job(number, time, run_id="7", sha="a" * 40)))
    assert {one.path for one in found.account.rules[0].like} == {("sha",), ("run_id",)}
    assert not {"sha", "run_id", "jti", "exp"} & found.match.keys()


def test_values_that_keep_coming_stay_with_the_glob():
    text = text_of(WEB)
    many = Suggested(text, seen(text, "github", lambda n, t: job(n, t, ref=f"refs/heads/b{n}", environment=None)))
    late = Suggested(text, seen(text, "github", lambda n, t: job(n, t, ref=f"refs/heads/b{n // 15}", environment=None)))
    few = Suggested(text, seen(text, "github", lambda n, t: job(n, t, ref=f"refs/heads/b{n % 3}", environment=None)))
    assert many.account.rules[0].like[0].wanted == late.account.rules[0].like[0].wanted == ("refs/heads/**",)
    assert f"more than {MAX_VALUES} values" in many.rule.kept[0]
    assert "new values came until lately" in late.rule.kept[0]
    assert few.match["ref"] == ("refs/heads/b0", "refs/heads/b1", "refs/heads/b2")
    assert "environment" not in few.match


def test_a_claim_that_not_every_token_had_is_not_asked_for():
    text = text_of(WEB)
    found = Suggested(text, seen(text, "github", lambda n, t: job(n, t, environment="production" if n % 2 else None)))
    assert "environment" not in found.match
    assert "repository_id" in found.match


def test_a_list_keeps_the_values_that_were_seen():
    text = text_of(WEB.replace("repository: acme/web", "environment: [production, staging, test]"))
    found = Suggested(text, seen(text, "github", lambda n, t: job(n, t, environment=["staging", "production"][n % 2])))
    assert found.match["environment"] == ("production", "staging")


CLUSTER = BASE.replace("url: https://cluster.example.com", "preset: kubernetes\nurl: https://cluster.example.com")
GITLAB = BASE.replace("url: https://cluster.example.com", "preset: gitlab-ci\nurl: https://cluster.example.com")
AWS = BASE.replace("url: https://cluster.example.com", "preset: aws-sts\nurl: https://cluster.example.com")


@pytest.mark.parametrize(
    ("base", "conditions", "claims_of", "match"),
    [
        (
            CLUSTER,
            'like: {sub: "system:serviceaccount:billing:*"}',
            lambda number, time: kubernetes_claims(time, GATEWAY_ISSUER, pod=f"pod-{number}"),
            {"sub": ("system:serviceaccount:billing:invoicer",)},
        ),
        (
            CLUSTER,
            "match: {kubernetes.io: {namespace: billing}}",
            lambda number, time: kubernetes_claims(time, GATEWAY_ISSUER, pod=f"pod-{number}"),
            {"kubernetes.io.namespace": ("billing",), "sub": ("system:serviceaccount:billing:invoicer",)},
        ),
        (
            GITLAB,
            'like: {project_path: "orchard/*"}',
            lambda number, time: gitlab_ci_claims(time, GATEWAY_ISSUER, job_id=str(number), pipeline_id=str(number)),
            {
                "project_path": ("orchard/ledger",),
                "namespace_id": ("815",),
                "project_id": ("4711",),
                "ref_protected": ("true",),
                "environment": ("production",),
            },
        ),
        (
            AWS,
            'like: {sub: "arn:aws:iam::*:role/**"}',
            lambda number, time: aws_sts_claims(time, GATEWAY_ISSUER),
            {
                "sub": ("arn:aws:iam::123456789012:role/services/invoicer",),
                "https://sts.amazonaws.com/.aws_account": ("123456789012",),
            },
        ),
        (
            BASE,
            "when: has(claims.sub)",
            lambda number, time: {"sub": "nightly", "jti": str(number)},
            {"sub": ("nightly",)},
        ),
    ],
    ids=["kubernetes", "kubernetes namespace", "gitlab", "aws", "generic"],
)
def test_each_platform_has_its_own_ids(base, conditions, claims_of, match):
    account = f"""
    kind: ServiceAccount
    name: pods
    access: [{{resource: deploy-api, scopes: [deploy:write]}}]
    trust:
      - issuer: cluster
        {conditions}
    """
    text = text_of(account, base=base)
    found = Suggested(
        text, seen(text, "cluster", lambda n, t: {**claims_of(n, t), "iss": "https://cluster.example.com"})
    )
    assert found.match == match
    assert found.tests >= 2


LEDGER = """
kind: ServiceAccount
name: web
access:
  - {resource: ledger-api, scopes: [ledger:read, ledger:write]}
  - {resource: deploy-api, scopes: [deploy:write]}   # deploys
trust:
  - name: pipeline
    issuer: github
    match: {repository_owner_id: "100200", repository_id: "300400", event_name: push, environment: production}
"""


def test_scopes_resources_and_lifetime_are_those_in_use():
    text = text_of(LEDGER)
    asked = {"resource": "ledger-api", "scopes": ("ledger:read",), "lifetime_seconds": 300}
    found = Suggested(text, seen(text, "github", job, **asked))
    assert found.account.access == {"ledger-api": ("ledger:read",)}
    assert found.account.rules[0].token_lifetime_seconds == 300
    assert "    token_lifetime: 5m\n" in found.text
    assert "scopes: [ledger:read]" in found.text
    assert "deploys" not in found.text


def test_a_request_without_scope_needs_all_that_it_was_given():
    text = text_of(LEDGER)
    found = Suggested(text, seen(text, "github", job, resource="ledger-api"))
    assert found.account.access == {"ledger-api": ("ledger:read", "ledger:write")}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: (
            text.replace("trust:", "roles: [extra]\ntrust:")
            + "---\nkind: Role\nname: extra\naccess: [{resource: deploy-api, scopes: [deploy:write]}]\n"
        ),
        lambda text: text + "  - {name: rare, issuer: github, match: {repository_id: '9'}}\n",
        lambda text: text.replace("scopes: {deploy:write: Deploy}", "scopes: {deploy:write: Deploy}\nserved_by: [web]"),
        lambda text: text.replace("trust:", "credentials: {certificates: [{san_dns: web.example.com}]}\ntrust:"),
    ],
    ids=["roles", "a rule that was not seen", "an API of its own", "a credential"],
)
def test_access_stays_where_others_may_use_it(change):
    text = change(text_of(LEDGER))
    found = Suggested(text, seen(text, "github", job, resource="ledger-api", scopes=("ledger:read",)))
    assert found.suggestion.access is None
    assert found.account.access.keys() == {"ledger-api", "deploy-api"}
    assert found.account.rules[0].grants == {"ledger-api": ("ledger:read",)}


def test_access_stays_where_a_token_was_passed_on():
    text = text_of(LEDGER)
    records = seen(text, "github", job, resource="ledger-api", scopes=("ledger:read",))
    narrowed = replace(NOTHING, service_account="web", rule="narrowed", delegated=True)
    assert Suggested(text, [*records, narrowed]).suggestion.access is None


def test_names_that_a_log_makes_up_take_no_memory():
    traffic = Traffic(compiled(text_of(WEB)))
    for number in range(100):
        traffic.take(replace(NOTHING, service_account=f"made-up-{number}", authentication="client_secret_basic/s1"))
    assert traffic.by_other_ways == set()


def test_a_rule_that_passes_calls_on_is_left_alone():
    text = text_of(LEDGER)
    records = seen(text, "github", job, resource="ledger-api")
    found = Suggested(text, [*records, replace(records[0], service_account="other", delegated=True)])
    assert [why.partition(" (")[0] for _, why in found.suggestion.refused] == ["it passes calls on"]


def test_too_few_observations_support_nothing():
    text = text_of(WEB)
    found = Suggested(text, seen(text, "github", job, count=19), at_least=20)
    assert found.text == text
    assert [why for _, why in found.suggestion.refused] == ["19 observations are fewer than 20"]


def test_records_that_hold_only_some_claims_support_nothing():
    text = text_of(WEB)
    records = seen(text, "github", job)
    part = replace(records[0], claims={}, claims_are_complete=False)
    assert "only some of the claims" in Suggested(text, [*records, part]).suggestion.refused[0][1]


def test_rules_that_nobody_uses_are_named_and_stay():
    text = text_of(WEB + "  - {name: old, issuer: github, match: {repository: acme/old}}\n")
    found = Suggested(text, seen(text, "github", job))
    assert [rule.name for rule in found.suggestion.unused] == ["old"]
    assert [rule.name for rule in found.account.rules] == ["pipeline", "old"]


def test_denials_and_what_these_policies_refuse_are_no_observations():
    text = text_of(WEB)
    records = seen(text, "github", job)
    denied = [replace(one, reason="no_matching_trust", stage="policy", rule=None) for one in records]
    gone = [replace(one, claims={**one.claims, "repository": "acme/gone"}) for one in records]
    found = Suggested(text, [*denied, *gone])
    assert [rule.name for rule in found.suggestion.unused] == ["pipeline"]
    assert found.traffic.refused_now == len(gone)


def test_a_template_is_left_alone():
    account = """
    kind: ServiceAccount
    name: "job.{environment}"
    for_each: {environment: claims.environment}
    access: [{resource: deploy-api, scopes: [deploy:write]}]
    trust: [{issuer: github, match: {repository: acme/web}}]
    """
    text = text_of(account)
    found = Suggested(text, seen(text, "github", job))
    assert not found.suggestion.says_something
    assert "template" in found.suggestion.refused[0][1]


# ---------------------------------------------------------------- tests


def test_each_request_that_was_seen_becomes_a_test_and_one_next_to_it_a_denial():
    text = text_of(WEB)
    records = seen(text, "github", lambda n, t: job(n, t, environment=["production", "staging"][n % 2]))
    found = Suggested(text, records)
    tests = [case.test for case in found.after.tests]
    assert [test.name for test in tests] == [
        "pipeline: as seen with environment production",
        "pipeline: as seen with environment staging",
        "pipeline: not with ref refs/heads/main-other",
    ]
    assert [test.expect.allow for test in tests] == [("deploy:write",), ("deploy:write",), None]
    assert tests[2].expect.deny == "no_matching_trust"
    assert tests[2].claims["ref"] == "refs/heads/main-other"
    refused_before = failures(found.before, [case for case in found.after.tests if case.test is tests[2]])
    assert len(refused_before) == 1  # the rule as it was let it in


def test_tests_hold_what_the_policies_look_at_and_nothing_else_of_a_token():
    text = text_of(WEB)
    found = Suggested(text, seen(text, "github", job))
    for case in found.after.tests:
        assert case.test.claims.keys() <= {*found.match, "ref"}
    assert "mira-dev" not in found.text


def test_the_number_of_tests_is_bounded():
    text = text_of(WEB)
    records = seen(text, "github", lambda n, t: job(n, t, environment=f"e{n % 8}"), count=80)
    assert Suggested(text, records).tests == MAX_TESTS + 1
    text = text_of(WEB.replace("like: {ref: refs/heads/**}", ""))
    many = Suggested(text, seen(text, "github", lambda n, t: job(n, t, ref=f"r{n}"), count=MAX_SHAPES + 5))
    assert len(many.rule.observed.shapes) == MAX_SHAPES
    assert many.rule.observed.further_shapes


TESTED = (
    WEB
    + """
tests:
  - name: staging may   # by decree
    issuer: github
    claims: {repository: acme/web, ref: refs/heads/release/1, environment: staging}
    expect: {allow: [deploy:write]}
  - name: as the platform writes it
    issuer: github
    like_preset: github-actions
    claims: {ref: refs/heads/main}
    expect: {allow: [deploy:write]}
  - name: another scope is not given
    issuer: github
    claims: {repository: acme/web, ref: refs/heads/other}
    scope: ledger:read
    expect: {deny: scope_not_granted}
  - name: strangers may not
    issuer: github
    claims: {repository: evil/web, ref: refs/heads/main}
    expect: {deny: no_matching_trust}
"""
)


def test_what_the_tests_of_the_file_expect_stays_so():
    text = text_of(TESTED)
    found = Suggested(text, seen(text, "github", job))
    assert found.match["ref"] == ("refs/heads/main", "refs/heads/other", "refs/heads/release/1")
    assert found.match["environment"] == ("production", "staging")
    by_name = {case.test.name: case.test for case in found.after.tests}
    assert by_name["staging may"].claims == {
        "repository": "acme/web",
        "ref": "refs/heads/release/1",
        "environment": "staging",
        "repository_owner_id": "100200",
        "repository_id": "300400",
        "event_name": "push",
    }
    assert by_name["as the platform writes it"].claims == {"ref": "refs/heads/main"}
    assert by_name["strangers may not"].claims == {"repository": "evil/web", "ref": "refs/heads/main"}
    assert "staging may   # by decree" in found.text


# ---------------------------------------------------------------- hostile values


@pytest.mark.parametrize(
    "value",
    ["true", "null", "0x10", "1_0", "1:30", "a: b", 'x"}\n---\nkind: Guardrail', "[x", "# c", "*a", "é😀", "a\\b", "'"],
)
def test_values_from_a_log_are_values_whatever_they_look_like(value):
    text = text_of(WEB)
    found = Suggested(text, seen(text, "github", lambda n, t: job(n, t, environment=value)))
    if "\n" in value:
        assert "environment" not in found.match
    else:
        assert found.match["environment"] == (value,)
    assert len(found.after.service_accounts) == 1
    assert not found.after.guardrails


@pytest.mark.parametrize("value", ["\x1b[31mred", "a\x00b", " a", "a ", "x" * 300, "\u2028", "\x85"])
def test_values_that_a_rule_may_not_hold_are_not_pinned(value):
    text = text_of(WEB)
    found = Suggested(text, seen(text, "github", lambda n, t: job(n, t, environment=value)))
    assert "environment" not in found.match
    assert found.text.isascii()
    assert "\x1b" not in found.text


# ---------------------------------------------------------------- the promise

NAMES = ("a", "b", "c")
scalars = st.sampled_from(["x", "x/y", "y", "z:1", "true", "1", 1, 2, True, False])
some_claims = st.fixed_dictionaries(
    {"sub": st.sampled_from(["s", "s/t", "u"])},
    optional={
        "a": scalars,
        "b": scalars,
        "c": st.lists(scalars, max_size=2) | st.none() | scalars,
        "o": st.dictionaries(st.sampled_from(["p", "q"]), scalars, max_size=2),
    },
)
yaml_scalars = st.sampled_from(['"x"', '"x/y"', '"y"', '"z:1"', '"true"', '"1"', "1", "2", "true", "false"])
globs = st.sampled_from(['"*"', '"**"', '"x*"', '"x/*"', '"*/y"', '"s**"', '["x", "y*"]'])
matches = st.dictionaries(
    st.sampled_from(["a", "b", "sub"]),
    st.lists(yaml_scalars, min_size=1, max_size=5).map(lambda values: f"[{', '.join(values)}]"),
    max_size=2,
)
likes = st.dictionaries(st.sampled_from(["a", "b", "c", "sub"]), globs, max_size=2)
nested = st.sampled_from(["", "o: {p: [1, x, true]}", "o: {p: x}"])
conditions = st.sampled_from(["", 'has(claims.a) || claims.b == "x"', 'claims.sub != "u"', "!has(claims.o)"])
some_rules = st.lists(st.tuples(matches, nested, likes, conditions, st.booleans()), min_size=1, max_size=3)
requests = st.tuples(
    some_claims,
    st.sampled_from([None, "ledger-api", "deploy-api"]),
    st.sampled_from([None, ("ledger:read",), ("ledger:write", "ledger:read"), ("deploy:write",)]),
    st.sampled_from([None, 120, 700]),
)


def account_of(rules, *, in_block: bool) -> str:
    lines = ["kind: ServiceAccount", "name: web", "access:"]
    lines += ["  - {resource: ledger-api, scopes: [ledger:read, ledger:write]}   # books"]
    lines += ["  - resource: deploy-api", "    scopes: [deploy:write]", "trust:"]
    for match, within, like, when, narrow in rules:
        exact = [f"{name}: {value}" for name, value in match.items()] + ([within] if within else [])
        globbed = [f"{name}: {value}" for name, value in like.items()]
        entries = ["issuer: cluster"]
        entries += [f"match: {{{', '.join(exact)}}}"] if exact else []
        entries += [f"like: {{{', '.join(globbed)}}}"] if globbed else []
        entries += [f"when: '{when}'"] if when else []
        entries += ["scopes: [ledger:read, deploy:write]"] if narrow else []
        if in_block:
            lines += [f"  {'-' if not number else ' '} {entry}   # {number}" for number, entry in enumerate(entries)]
        else:
            lines += [f"  - {{{', '.join(entries)}}}"]
    return "\n".join(lines) + "\n"


@settings(max_examples=400, deadline=None)
@given(some_rules, st.booleans(), st.lists(requests, min_size=1, max_size=25), st.lists(requests, max_size=25))
def test_the_suggestion_admits_all_that_was_seen_and_nobody_whom_the_rule_refused(rules, in_block, observed, others):
    assume(all(match or within or like or when for match, within, like, when, _ in rules))
    text = text_of(account_of(rules, in_block=in_block))
    before = compiled(text)
    records = [
        recorded(before, "cluster", claims, time=NOW + number, client_id="web", resource=resource, scopes=scopes,
                 lifetime_seconds=seconds)
        for number, (claims, resource, scopes, seconds) in enumerate(observed)
    ]  # fmt: skip
    found = Suggested(text, records)
    issued = {"iss": "https://cluster.example.com", "aud": "https://sts.example.com"}
    for claims, resource, scopes, seconds in observed:
        asked = {"client_id": "web", "resource": resource, "scopes": scopes, "lifetime_seconds": seconds}
        old, new = (
            ask(before, "cluster", issued | claims, **asked),
            ask(found.after, "cluster", issued | claims, **asked),
        )
        if old.entitlement is not None:
            assert new.entitlement == old.entitlement
    for claims, _, _, _ in (*observed, *others):
        for old, new in zip(
            before.service_accounts["web"].rules, found.after.service_accounts["web"].rules, strict=True
        ):
            if new.admits(claims):
                assert old.admits(claims)
            assert all(set(scopes) <= set(old.grants[name]) for name, scopes in new.grants.items())
    again = Suggested(found.text, records)
    assert again.text == found.text
