"""The first file for every platform: it loads, its tests prove every rule, and no answer breaks out of its place."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.kinds import PRESETS
from gateway.policy.coverage import measure_coverage
from gateway.policy.first_file import PLATFORMS, FirstFile, Platform, parse_claims, scalar
from gateway.policy.policy_tests import play
from gateway.policy.problems import PolicyProblems
from gateway.policy.yaml_reader import read_documents
from tests.support.policies import ask, generation_of, load, write

ANSWERS: dict[str, dict[str, str]] = {
    **{
        name: {"namespace": "billing", "account": "invoicer", "tokens": "pods"}
        for name in ("kubernetes", "eks", "gke", "aks", "openshift")
    },
    "github-actions": {
        "repository": "acme/web",
        "repository-id": "300400",
        "owner-id": "100200",
        "branch": "main",
        "environment": "production",
    },
    "gitlab-ci": {
        "project": "orchard/ledger",
        "project-id": "4711",
        "namespace-id": "815",
        "branch": "main",
        "environment": "production",
    },
    "aws-sts": {
        "role-arn": "arn:aws:iam::123456789012:role/services/invoicer",
        "function-arn": "arn:aws:lambda:eu-north-1:123456789012:function:invoicer",
        "org-id": "o-a1b2c3d4e5",
    },
    "generic": {"subject": "nightly-report", "claims": "tenant=acme job=report"},
}
"""For each platform what describes the workload of its sample token, as far as that goes."""


def first_file(name: str, answers: dict[str, str], **more: Any) -> FirstFile:
    platform = PLATFORMS[name]
    shape = platform.shape(answers)
    arguments: dict[str, Any] = {
        "platform": platform,
        "preset": PRESETS[name],
        "shape": shape,
        "name": shape.suggested_name,
        "issuer": platform.issuer_name,
        "issuer_url": PRESETS[name].url or PRESETS[name].sample["iss"],
        "resource": "reports-api",
        "identifier": "https://reports.example.com",
        "scopes": ("reports:read", "reports:write"),
        "reasons": {"a token of kubectl create token may not": "issuer_condition_failed"},
    }
    return FirstFile(**{**arguments, **more})


def test_there_is_a_platform_for_every_preset():
    assert PLATFORMS.keys() == PRESETS.keys() == ANSWERS.keys()


@pytest.mark.parametrize("name", PLATFORMS)
def test_the_file_loads_without_a_warning_and_its_tests_prove_every_rule(name, tmp_path):
    write(tmp_path, first_file(name, ANSWERS[name]).text())
    generation = load(tmp_path, keep_tests=True)
    assert load(tmp_path).warnings == ()
    coverage = measure_coverage(generation, [(case, play(generation, case)) for case in generation.tests])
    assert (coverage.rules, coverage.unreached, coverage.unguarded) == (1, (), ())


@pytest.mark.parametrize("name", [name for name in PLATFORMS if name != "generic"])
def test_the_sample_token_of_the_platform_gets_in(name, tmp_path):
    write(tmp_path, first_file(name, ANSWERS[name]).text())
    assert ask(load(tmp_path), PLATFORMS[name].issuer_name, dict(PRESETS[name].sample)).reason == "granted"


@pytest.mark.parametrize("name", PLATFORMS)
def test_every_condition_is_guarded_by_a_test_of_the_file(name, tmp_path):
    """Take one condition away, and the tests in the file fail."""
    file = first_file(name, ANSWERS[name])
    for claim in file.shape.match:
        lines = file.text().splitlines()
        begin = lines.index("    match:") + 1
        end = next(n for n in range(begin, len(lines)) if not lines[n].startswith("      "))
        matched = yaml.safe_load("\n".join(lines[begin:end]))
        if len(matched) == 1:  # a rule without conditions does not load at all
            continue
        if (name, claim) == ("github-actions", "ref_type"):  # the ref says it as well
            continue
        del matched[claim]
        weaker = [*lines[:begin], f"      {yaml.safe_dump(matched, default_flow_style=True, width=9999)}", *lines[end:]]
        with pytest.raises(PolicyProblems, match="expected deny"):
            generation_of("\n".join(weaker), base="")


def test_a_context_that_is_left_out_is_not_asked_for():
    job = {name: text for name, text in ANSWERS["github-actions"].items() if name != "environment"}
    text = first_file("github-actions", job).text()
    assert "environment: null" in text
    assert 'ref_protected: "true"' in text
    assert generation_of(text, base="").counts.tests == 6
    role = {"role-arn": ANSWERS["aws-sts"]["role-arn"]}
    assert generation_of(first_file("aws-sts", role).text(), base="").counts.tests == 2


def test_any_token_of_a_cluster_may_be_let_in_on_request():
    pod = {**ANSWERS["kubernetes"], "tokens": "any"}
    text = first_file("kubernetes", pod).text()
    assert "when:" not in text
    unbound = {**PRESETS["kubernetes"].sample, "kubernetes.io": {"namespace": "billing"}}
    assert ask(generation_of(text, base=""), "cluster", unbound).reason == "granted"


def test_what_is_there_is_referred_to_and_not_written_again():
    text = first_file("eks", ANSWERS["eks"], issuer_url=None, identifier=None, rule_when="has(claims.jti)").text()
    assert [one.value["kind"] for one in read_documents(text, "f", [])] == ["ServiceAccount"]


# ---------------------------------------------------------------- hostile answers


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_a_text_stays_one_text_wherever_it_stands(text):
    if not text.isprintable():
        with pytest.raises(ValueError, match="cannot be shown"):
            scalar(text)
        return
    problems: list[Any] = []
    written = f"k: {scalar(text)}  # c\nl: [{scalar(text) if ',' not in text else 'x'}]\n{scalar(text)}: v\n"
    (document,) = read_documents(written if text not in {"k", "l"} else f"k: {scalar(text)}", "f", problems)
    assert problems == []
    assert document.value["k"] == text
    assert text in {"k", "l"} or document.value[text] == "v"
    assert yaml.safe_load(f"k: {scalar(text)}") == {"k": text}


def matching(platform: Platform) -> st.SearchStrategy[dict[str, str]]:
    return st.fixed_dictionaries(
        {one.name: st.from_regex(one.pattern, fullmatch=True) for one in platform.questions if one.default is None}
        | {one.name: st.from_regex(one.pattern, fullmatch=True) for one in platform.questions if one.default},
        optional={
            one.name: st.from_regex(one.pattern, fullmatch=True) for one in platform.questions if one.default == ""
        },
    )


@pytest.mark.parametrize("name", ["kubernetes", "github-actions", "gitlab-ci", "aws-sts", "generic"])
def test_whatever_fits_the_questions_makes_a_file_that_loads_and_proves_itself(name):
    @given(matching(PLATFORMS[name]))
    def proves_itself(answers):
        counts = generation_of(first_file(name, answers).text(), base="").counts
        assert (counts.issuers, counts.resources, counts.service_accounts, counts.trust_rules) == (1, 1, 1, 1)

    proves_itself()


def test_pairs_of_claims_are_taken_apart():
    assert list(parse_claims("a=b c:d/e=f=g")) == [("a", "b"), ("c:d/e", "f=g")]
    assert list(parse_claims("")) == []


def test_the_folder_of_the_samples_is_not_needed(tmp_path):
    file = first_file("generic", ANSWERS["generic"], schema="../schema.json", owner='team: "x"')
    assert file.text().startswith("# yaml-language-server: $schema=../schema.json\n")
    write(Path(tmp_path), file.text())
    assert load(tmp_path).service_accounts["nightly-report"].owner == 'team: "x"'
