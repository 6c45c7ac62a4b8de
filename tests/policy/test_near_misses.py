"""Near misses: every hint has cases that trip it and cases that do not, and none proposes what would not be safe."""

import json
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.policy.explanation import explain
from gateway.policy.explanation_document import document_of, located
from gateway.policy.files import locate_problems, policy_text
from gateway.policy.near_miss import HINTS, identity_hints
from gateway.policy.rewriting import Change, rewritten
from gateway.standin.shapes import github_actions_claims, gitlab_ci_claims
from tests.support.generated_policies import request_of
from tests.support.policies import ask, generation_of, load, workload, write

BASE = """
kind: Issuer
name: github
preset: github-actions
---
kind: Issuer
name: gitlab
preset: gitlab-ci
url: https://gitlab.com
---
kind: Issuer
name: cluster
url: https://cluster.example.com
---
kind: Issuer
name: twin
url: https://cluster.example.com
audiences: [https://twin.example.com]
keys: {jwks_uri: https://twin.example.com/jwks}
---
kind: Resource
name: ledger-api
identifier: https://ledger.example.com
scopes: {ledger:read: Read, ledger:write: Write}
---
"""
PINNED = 'repository_id: "300400"\nrepository_owner_id: "100200"'
WORKFLOW = "acme/web/.github/workflows/deploy"


def job(**overrides: Any) -> dict[str, Any]:
    return github_actions_claims(1_790_000_000, "https://sts.example.com", **overrides)


def pipeline(**overrides: Any) -> dict[str, Any]:
    return gitlab_ci_claims(1_790_000_000, "https://sts.example.com", **overrides)


def policy(conditions: str, issuer: str = "github") -> str:
    """A service account with one rule of these conditions: YAML, or entries of ``match``."""
    written = dedent(conditions).strip()
    if not written.startswith(("match:", "like:", "when:")):
        written = "match:\n" + indent(written, "  ")
    return (
        f"{BASE.strip()}\nkind: ServiceAccount\nname: web-deployer\n"
        f"access: [{{resource: ledger-api, scopes: [ledger:read]}}]\n"
        f"trust:\n  - issuer: {issuer}\n{indent(written, '    ')}\n"
    )


def hints(folder: Path, text: str, issuer: str, claims: dict[str, Any], **asked: Any) -> list[dict[str, Any]]:
    """The hints about a request under the policies in a file, with their lines."""
    generation = load(write(folder, text))
    explanation = explain(
        generation, workload(generation, issuer, claims), request_of(**{"client_id": "web-deployer", **asked})
    )
    return located(document_of(explanation), locate_problems, policy_text)["hints"]


def with_change(text: str, hint: dict[str, Any]) -> str:
    """The file once the change that a hint names was made to the line that it names."""
    lines = text.split("\n")
    assert lines[hint["line"] - 1] == hint["change"]["now"]
    lines[hint["line"] - 1] = hint["change"]["write"]
    return "\n".join(lines)


# ---------------------------------------------------------------- those with a change that lets the workload in

CHANGED = [
    ("differs-in-case", "github", "repository: Acme/Web", job(), "repository: acme/web"),
    ("differs-in-case", "github", "like: {ref: Refs/Heads/*}", job(), "like: {ref: refs/heads/*}"),
    (
        "differs-in-case",
        "github",
        'when: claims.event_name == "Push"  # the event',
        job(),
        'when: claims.event_name == "push"  # the event',
    ),
    (
        "differs-in-trailing-slash",
        "cluster",
        "sub: spiffe://acme/web/",
        {"sub": "spiffe://acme/web"},
        "sub: spiffe://acme/web",
    ),
    (
        "differs-in-trailing-slash",
        "cluster",
        "like: {sub: spiffe://*/web}",
        {"sub": "spiffe://acme/web/"},
        "like: {sub: spiffe://*/web/}",
    ),
    ("differs-in-blanks", "github", "workflow: DeployIt", job(workflow="Deploy It"), "workflow: Deploy It"),
    (
        "differs-in-yml-or-yaml",
        "github",
        f"workflow_ref: {WORKFLOW}.yaml@refs/heads/main",
        job(),
        f"workflow_ref: {WORKFLOW}.yml@refs/heads/main",
    ),
    (
        "differs-in-yml-or-yaml",
        "github",
        "like: {workflow_ref: acme/web/.github/workflows/*.yaml@refs/heads/main}",
        job(),
        "like: {workflow_ref: acme/web/.github/workflows/*.yml@refs/heads/main}",
    ),
    ("number-against-text", "github", "repository_id: 300400", job(), 'repository_id: "300400"'),
    ("number-against-text", "gitlab", 'runner_id: "120"', pipeline(), "runner_id: 120"),
    (
        "number-against-text",
        "gitlab",
        'when: claims.runner_id == "120"',
        pipeline(),
        "when: claims.runner_id == 120",
    ),
    ("boolean-against-text", "github", "ref_protected: true", job(), 'ref_protected: "true"'),
    ("boolean-against-text", "cluster", 'ok: "True"', {"ok": True}, "ok: true"),
    (
        "github-immutable-subject",
        "github",
        "sub: repo:acme/web:environment:production",
        job(),
        "sub: repo:acme@100200/web@300400:environment:production",
    ),
    (
        "github-immutable-subject",
        "github",
        'like: {sub: "repo:acme/web:ref:refs/heads/*"}',
        job(environment=None),
        'like: {sub: "repo:acme@100200/web@300400:ref:refs/heads/*"}',
    ),
    (
        "github-immutable-subject",
        "github",
        f"{PINNED}\nsub: repo:acme@100200/web@300400:ref:refs/heads/main",
        job(sub="repo:acme/web:ref:refs/heads/main"),
        f"{PINNED}\nsub: repo:acme/web:ref:refs/heads/main",
    ),
    (
        "github-environment-subject",
        "github",
        "sub: repo:acme/web:ref:refs/heads/main",
        job(),
        "sub: repo:acme@100200/web@300400:environment:production\nref: refs/heads/main\nevent_name: push",
    ),
    (
        "github-environment-subject",
        "github",
        'match: {event_name: push, sub: "repo:acme/web:ref:refs/heads/main"}',
        job(),
        'match: {event_name: push, sub: "repo:acme@100200/web@300400:environment:production", ref: refs/heads/main}',
    ),
    (
        "glob-stops-at-separator",
        "github",
        "like: {ref: refs/heads/release/*}",
        job(ref="refs/heads/release/7/fix"),
        "like: {ref: [refs/heads/release/*, refs/heads/release/*/*]}",
    ),
    (
        "glob-stops-at-separator",
        "github",
        "like:\n  ref:\n    - refs/heads/main\n    - refs/heads/release/*",
        job(ref="refs/heads/release/7/fix"),
        "like:\n  ref:\n    - refs/heads/main\n    - refs/heads/release/*\n    - refs/heads/release/*/*",
    ),
    (
        "moved-claim",
        "github",
        f"job_workflow_ref: {WORKFLOW}.yml@refs/heads/main",
        job(),
        f"workflow_ref: {WORKFLOW}.yml@refs/heads/main",
    ),
    (
        "moved-claim",
        "github",
        f"{PINNED}\nworkflow_ref: acme/ci-shared/.github/workflows/release.yml@refs/tags/v3",
        job(),
        f"{PINNED}\njob_workflow_ref: acme/ci-shared/.github/workflows/release.yml@refs/tags/v3",
    ),
    ("moved-claim", "gitlab", "ref: refs/heads/main", pipeline(), "ref_path: refs/heads/main"),
]


@pytest.mark.parametrize(("id_", "issuer", "conditions", "claims", "then"), CHANGED)
def test_the_change_that_a_hint_names_lets_the_workload_in(tmp_path, id_, issuer, conditions, claims, then):
    text = policy(conditions, issuer)
    (hint,) = hints(tmp_path, text, issuer, claims)
    assert hint["id"] == id_
    assert hint["file"] == str(tmp_path / "policy.yaml")
    changed = with_change(text, hint)
    assert changed == policy(then, issuer)
    assert ask(load(write(tmp_path, changed)), issuer, claims, client_id="web-deployer").reason == "granted"


# ---------------------------------------------------------------- those that warn instead

WARNED = [
    (
        "differs-in-case",  # of another owner, perhaps: there is a change, with a warning
        "cluster",
        "sub: Acme",
        {"sub": "acme"},
        "two owners",
    ),
    ("differs-in-case", "cluster", 'when: claims.sub == "Acme"', {"sub": "acme"}, "two owners"),
    ("differs-in-case", "github", f"{PINNED}\nref: refs/heads/main", job(ref="refs/heads/Main"), "two branches"),
    (
        "differs-in-case",
        "github",
        "sub: repo:acme/web:ref:refs/heads/main",
        job(sub="repo:acme/web:ref:refs/heads/Main"),
        "two branches",
    ),
    ("differs-in-case", "github", 'when: claims.ref == "refs/heads/Main"', job(), "two branches"),
    ("differs-in-blanks", "github", f"{PINNED}\nenvironment: prod eu", job(environment="prodeu"), "another name"),
    ("github-immutable-subject", "github", "sub: repo:acme/web:environment:production", job(), "takes a name over"),
    (
        "github-immutable-subject",
        "github",
        "sub: repo:acme@100200/web@300400:ref:refs/heads/main",
        job(sub="repo:acme/web:ref:refs/heads/main"),
        "Names alone",
    ),
    ("github-environment-subject", "github", "sub: repo:acme/web:ref:refs/heads/main", job(), "nothing of branch"),
    (
        "github-branch-subject",
        "github",
        "sub: repo:acme/web:environment:production",
        job(environment=None),
        "protection never saw",
    ),
    (
        "github-pull-request-subject",
        "github",
        "sub: repo:acme/web:ref:refs/heads/main",
        job(environment=None, event_name="pull_request"),
        "everybody who may open one",
    ),
    (
        "github-tag-subject",
        "github",
        "sub: repo:acme/web:ref:refs/heads/main",
        job(environment=None, ref="refs/tags/main"),
        "may push a tag",
    ),
    (
        "glob-stops-at-separator",
        "cluster",
        'like: {sub: "system:serviceaccount:*"}',
        {"sub": "system:serviceaccount:a:b"},
        "whoever it belongs to",
    ),
    (
        "glob-stops-at-separator",
        "github",
        "like: {repository: ac*}",
        job(),
        "whoever it belongs to",
    ),
    ("moved-claim", "github", "environment: mira-dev", job(), "chooses actor"),
    ("moved-claim", "github", "environment: self-hosted", job(runner_environment="self-hosted"), "platform alone"),
    (
        "moved-claim",
        "github",
        "workflow_ref: acme/ci-shared/.github/workflows/release.yml@refs/tags/v3",
        job(),
        "any repository may call it",
    ),
    (
        "moved-claim",  # the rule trusts who calls the workflow, and every branch may call it
        "github",
        f"{PINNED}\nworkflow_ref: {WORKFLOW}.yml@refs/heads/main",
        job(
            workflow_ref="acme/web/.github/workflows/mine.yml@refs/heads/mine",
            job_workflow_ref=f"{WORKFLOW}.yml@refs/heads/main",
        ),
        "every branch may call it",
    ),
    ("moved-claim", "cluster", "ref: refs/heads/main", {"ref_path": "refs/heads/main"}, "platform alone"),
]
WITHOUT_CHANGE = {
    "github-branch-subject",
    "github-pull-request-subject",
    "github-tag-subject",
    "glob-stops-at-separator",
    "moved-claim",
}


@pytest.mark.parametrize(("id_", "issuer", "conditions", "claims", "warning"), WARNED)
def test_whatever_would_let_in_others_is_warned_of(tmp_path, id_, issuer, conditions, claims, warning):
    (hint,) = hints(tmp_path, policy(conditions, issuer), issuer, claims)
    assert hint["id"] == id_
    assert warning in hint["warning"]
    if id_ in WITHOUT_CHANGE:
        assert hint["change"] is None


def test_another_level_of_branches_is_proposed_with_a_warning_for_protection_stops_there(tmp_path):
    text = policy('match:\n  repository_id: "300400"\nlike: {ref: refs/heads/release/*}')
    (hint,) = hints(tmp_path, text, "github", job(ref="refs/heads/release/7/fix"))
    assert hint["change"] is not None
    assert "protection" in hint["warning"]


@pytest.mark.parametrize(
    ("issuer", "conditions", "claims"),
    [
        ("cluster", "sub: acme/worker", {"sub": "acme/wor\u212aer"}),  # the Kelvin sign, which folds to k
        ("cluster", "team: storage", {"team": "\u017ftorage"}),  # a long s
        ("cluster", "team: strasse", {"team": "stra\u00dfe"}),
        ("cluster", 'when: claims.sub == "worker"', {"sub": "wor\u212aer"}),
        ("cluster", 'like: {sub: "worker/*"}', {"sub": "wor\u212aer/1"}),
        ("cluster", 'like: {sub: "acme/**/"}', {"sub": "acme/stranger"}),  # without the slash it fits everybody there
    ],
)
def test_a_name_that_only_looks_alike_is_never_proposed(tmp_path, issuer, conditions, claims):
    assert hints(tmp_path, policy(conditions, issuer), issuer, claims) == []


@pytest.mark.parametrize(
    ("condition", "claims"),
    [
        # What it refuses would be let in.
        ('claims.target != "PROD" && claims.branch == "prod"', {"target": "PROD", "branch": "prod"}),
        ('!(claims.target == "PROD") && claims.branch == "prod"', {"target": "PROD", "branch": "prod"}),
        ('(claims.target == "PROD" ? claims.x == "1" : true)', {"target": "PROD", "x": "2", "y": "prod"}),
        ('(claims.target == "PROD") == false && claims.branch == "prod"', {"target": "PROD", "branch": "prod"}),
        # All that begins so would be let in: acme-evil as well as acme.
        ('claims.group.startsWith("acme/")', {"group": "acme"}),
        ('claims.group.matches("acme/")', {"group": "acme"}),
    ],
)
def test_a_text_in_a_condition_is_not_rewritten_where_that_lets_in_others(tmp_path, condition, claims):
    assert hints(tmp_path, policy(f"when: {json.dumps(condition)}", "cluster"), "cluster", claims) == []


@pytest.mark.parametrize("value", [["300400"], {"id": "300400"}, 300400, True])
@pytest.mark.parametrize(("id_", "issuer", "conditions", "claims", "then"), CHANGED)
def test_a_claim_of_any_other_kind_is_no_reason_to_fail(tmp_path, id_, issuer, conditions, claims, then, value):
    text = policy(conditions, issuer)
    for name in claims:
        assert isinstance(hints(tmp_path, text, issuer, {**claims, name: value}), list)


@pytest.mark.parametrize("event", ["pull_request_target", "workflow_run", "issue_comment", "an_event_of_2030"])
def test_an_environment_is_never_written_in_the_place_of_a_branch_for_an_event_that_strangers_set_off(tmp_path, event):
    text = policy("sub: repo:acme/web:ref:refs/heads/main")
    (hint,) = hints(tmp_path, text, "github", job(event_name=event))
    assert (hint["id"], hint["change"]) == ("github-environment-subject", None)


def test_an_environment_is_never_written_in_the_place_of_another_branch(tmp_path):
    text = policy("sub: repo:acme/web:ref:refs/heads/main")
    (hint,) = hints(tmp_path, text, "github", job(ref="refs/heads/mine"))
    assert hint["change"] is None


def test_a_subject_with_ids_is_never_written_as_names_alone(tmp_path):
    text = policy("sub: repo:acme@100200/web@300400:ref:refs/heads/main")
    (hint,) = hints(tmp_path, text, "github", job(sub="repo:acme/web:ref:refs/heads/main"))
    assert hint["change"] is None


def test_ids_that_the_rule_has_pinned_need_no_warning(tmp_path):
    text = policy(f"{PINNED}\nsub: repo:acme/web:environment:production")
    (hint,) = hints(tmp_path, text, "github", job())
    assert hint["warning"] == ""


@pytest.mark.parametrize(
    "conditions",
    [
        'repository_id: "1"\nref: Refs/Heads/Main',
        "repository: other/web\nworkflow_ref: acme/web/.github/workflows/deploy.yaml@refs/heads/main",
        "sub: repo:acme/other:ref:refs/heads/main\nref_protected: true",
    ],
)
def test_nothing_is_proposed_where_somebody_else_is_calling(tmp_path, conditions):
    assert hints(tmp_path, policy(conditions), "github", job()) == []


def test_a_repository_that_took_a_name_over_is_not_let_in_by_its_own_ids(tmp_path):
    text = policy('repository_id: "300400"\nsub: repo:acme/web:environment:production')
    assert hints(tmp_path, text, "github", job(repository_id="999", repository_owner_id="888")) == []


# ---------------------------------------------------------------- what a list holds, and other issuers


def test_what_no_rule_can_want_is_told_and_not_written(tmp_path):
    (hint,) = hints(tmp_path, policy("workflow: Deploy"), "github", job(workflow="Deploy "))
    assert (hint["id"], hint["change"]) == ("differs-in-blanks", None)
    (hint,) = hints(tmp_path, policy("like: {runner_id: '120'}", "gitlab"), "gitlab", pipeline())
    assert (hint["id"], hint["change"]) == ("number-against-text", None)


def test_ids_in_a_subject_that_the_tokens_own_claims_do_not_bear_out_are_never_written(tmp_path):
    text = policy("sub: repo:acme/web:environment:production")
    assert hints(tmp_path, text, "github", {**job(), "repository_id": "5"}) == []


def test_a_list_that_holds_the_value_is_for_cel(tmp_path):
    (hint,) = hints(tmp_path, policy("groups: admins", "cluster"), "cluster", {"groups": ["users", "admins"]})
    assert (hint["id"], hint["change"]) == ("list-against-text", None)
    assert hints(tmp_path, policy("groups: admins", "cluster"), "cluster", {"groups": ["users"]}) == []


def test_a_rule_for_another_issuer_with_the_same_url_is_told_and_not_changed(tmp_path):
    text = policy("sub: system:serviceaccount:a:b", "twin")
    claims = {"sub": "system:serviceaccount:a:b"}
    for asked in ("web-deployer", None):
        (hint,) = hints(tmp_path, text, "cluster", claims, client_id=asked)
        assert (hint["id"], hint["change"], hint["line"]) == ("another-issuer", None, _line_of(text, "issuer: twin"))
        assert "same url" in hint["sentence"]
    assert hints(tmp_path, text, "cluster", {"sub": "system:serviceaccount:a:c"}) == []


def _line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.split("\n"), 1) if part in line)


# ---------------------------------------------------------------- iss and aud

IDENTITY = [
    ("cluster", {"aud": "https://sts.example.com/"}, "differs-in-trailing-slash", {"aud": "https://sts.example.com"}),
    ("cluster", {"aud": "https://STS.example.com"}, "differs-in-case", {"aud": "https://sts.example.com"}),
    ("cluster", {"aud": ["https://twin.example.com"]}, "another-issuer", {"aud": "https://sts.example.com"}),
    (None, {"iss": "https://cluster.example.com/"}, "differs-in-trailing-slash", {}),
    (None, {"iss": "https://gitlab.co"}, "unknown-issuer", {}),
]


@pytest.mark.parametrize(("issuer", "claims", "id_", "ask_for"), IDENTITY)
def test_an_issuer_or_audience_that_is_near_is_named(issuer, claims, id_, ask_for):
    generation = generation_of(base=BASE)
    (hint,) = identity_hints(generation, generation.issuers_by_name.get(issuer or ""), claims)
    assert (hint.id, dict(hint.ask_for), hint.change) == (id_, ask_for, None)
    assert hint.place is not None


@pytest.mark.parametrize(
    ("issuer", "claims"),
    [
        ("cluster", {"aud": "https://sts.example.com"}),
        ("cluster", {"aud": "https://elsewhere.example.net"}),
        ("cluster", {"aud": 5}),
        ("cluster", {}),
        (None, {"iss": "urn:nothing-like-it"}),
        (None, {"iss": ["x"]}),
        (None, {}),
    ],
)
def test_an_issuer_or_audience_that_is_not_near_is_not(issuer, claims):
    generation = generation_of(base=BASE)
    assert identity_hints(generation, generation.issuers_by_name.get(issuer or ""), claims) == []


# ---------------------------------------------------------------- what was asked for

ASKED = [
    ({"client_id": "web-deployr"}, "unknown-service-account", {"client_id": "web-deployer"}),
    ({"resource": "ledger-apl"}, "unknown-resource", {"resource": "ledger-api"}),
    ({"resource": "https://ledger.example.com/"}, "unknown-resource", {"resource": "https://ledger.example.com"}),
    ({"scopes": ("ledger:raed",)}, "unknown-scope", {"scope": "ledger:read"}),
]
NOT_NEAR = [
    {"client_id": "q"},
    {"resource": "q"},
    {"scopes": ("q",)},
    {"scopes": ("ledger:write",)},  # there is one, and it is not granted: no mistake in the name
]


@pytest.mark.parametrize(("asked", "id_", "ask_for"), ASKED)
def test_a_name_that_is_nearly_right_is_corrected(tmp_path, asked, id_, ask_for):
    (hint,) = hints(tmp_path, policy('repository_id: "300400"'), "github", job(), **asked)
    assert (hint["id"], hint["ask_for"], hint["change"]) == (id_, ask_for, None)


@pytest.mark.parametrize("asked", NOT_NEAR)
def test_a_name_that_is_nothing_like_it_is_not(tmp_path, asked):
    assert hints(tmp_path, policy('repository_id: "300400"'), "github", job(), **asked) == []


# ---------------------------------------------------------------- what trips no hint

HARMLESS = [
    ("github", "environment: staging", job()),
    ("github", "environment: production", job(environment=None)),
    ("github", "like: {ref: refs/heads/release/*}", job()),
    ("github", f"workflow_ref: {WORKFLOW}.yml@refs/heads/dev", job()),
    ("github", "run_attempt: 2", job()),
    ("github", "ref_protected: false", job()),
    ("github", "sub: repo:acme/other:environment:production", job()),
    ("github", "sub: repo:acme/web:environment:staging", job()),
    ("github", "sub: repo:acme@1/web@2:environment:production", job()),
    ("github", "like: {sub: 'repo:acme*/web*:ref:refs/heads/*'}", job(environment=None)),
    ("github", 'when: claims.event_name == "schedule"', job()),
    ("github", 'when: claims.absent == "push"', job()),
    ("gitlab", "ref: refs/heads/dev", pipeline()),
    ("cluster", "sub: x", {"sub": "x y"}),
    ("cluster", "sub: x", {"sub": None}),
    ("cluster", "sub: x", {"sub": {"x": "x"}}),
    ("cluster", "sub: x", {"sub": "X" * 5000}),
]


@pytest.mark.parametrize(("issuer", "conditions", "claims"), HARMLESS)
def test_a_plain_difference_is_no_near_miss(tmp_path, issuer, conditions, claims):
    assert hints(tmp_path, policy(conditions, issuer), issuer, claims) == []


def test_a_request_that_is_granted_gets_no_hint(tmp_path):
    assert hints(tmp_path, policy('repository_id: "300400"'), "github", job()) == []


def test_every_hint_is_tripped_somewhere_above():
    tripped = {case[0] for case in (*CHANGED, *WARNED)} | {case[2] for case in IDENTITY} | {case[1] for case in ASKED}
    assert tripped | {"list-against-text", "another-issuer"} == set(HINTS)


# ---------------------------------------------------------------- whatever there is


def _is_fit(value: object) -> bool:
    return not isinstance(value, str) or (value == value.strip() and value.isprintable())


TEXTS = st.text(alphabet="abAB/:*.@ 12\u00a0é\"'\\{}$", max_size=12)
SCALARS = TEXTS | st.integers(-3, 3) | st.booleans()
VALUES = SCALARS | st.none() | st.lists(SCALARS, max_size=2)


@given(
    st.dictionaries(st.sampled_from("abc"), SCALARS.filter(_is_fit), min_size=1, max_size=2),
    st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3),
)
@settings(max_examples=400, deadline=None)
def test_what_a_hint_proposes_always_makes_its_condition_hold(match, claims):
    generation = generation_of(
        f"kind: ServiceAccount\nname: app\ntrust: [{{issuer: cluster, match: {_flow(match)}}}]\n", base=BASE
    )
    explanation = explain(generation, workload(generation, "cluster", claims), request_of(client_id="app"))
    for hint in explanation.hints:
        assert hint.sentence
        if hint.change is not None and hint.change.values:
            claim = str(hint.path[-1])
            (value,) = hint.change.values
            changed = generation_of(
                f"kind: ServiceAccount\nname: app\ntrust: [{{issuer: cluster, match: {_flow({claim: value})}}}]\n",
                base=BASE,
            )
            assert ask(changed, "cluster", claims, client_id="app").reason != "no_matching_trust"


@given(
    SCALARS,
    SCALARS,
    st.sampled_from(["{block}: {value}  # why", "{{block: {value}, other: 1}}", "block:\n  - {value}"]),
)
@settings(max_examples=400, deadline=None)
def test_a_rewritten_line_says_what_it_was_told_to_say(old, new, shape):
    text = "# first\n" + shape.replace("{block}", "block").format(value=json.dumps(old))
    made = rewritten(text, 0, ("block",), Change(old, (new,)))
    assert made is not None
    lines = text.split("\n")
    assert lines[made.line - 1] == made.now
    lines[made.line - 1] = made.write
    value = yaml.safe_load("\n".join(lines))["block"]
    assert (value[0] if isinstance(value, list) else value) == new


def test_a_line_that_has_changed_since_is_not_rewritten():
    assert rewritten("a: {b: x}\n", 0, ("a", "b"), Change("y", ("z",))) is None
    assert rewritten("a: {b: x}\n", 0, ("a", "c"), Change("x", ("z",))) is None
    assert rewritten("a: {b: x}\n", 1, ("a", "b"), Change("x", ("z",))) is None
    assert rewritten("a: {b: [x\n", 0, ("a", "b"), Change("x", ("z",))) is None
    assert rewritten("when: >\n  claims.a\n  == 1\n", 0, ("when",), Change("claims.a == 1", ("x",))) is None
    assert rewritten('a: "1"\n', 0, ("a",), Change(1, ("z",))) is None


def _flow(match: dict[str, Any]) -> str:
    return json.dumps(match)
