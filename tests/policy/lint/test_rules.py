"""Every lint rule has a file that trips it and one that does not: its case, which ``--explain`` shows as well."""

from pathlib import Path

import pytest

from gateway.cli.policy.lint import examples
from gateway.policy.lint.base import SEVERITIES
from gateway.policy.lint.catalogue import DOES_NOT_LOAD, RULES
from gateway.policy.problems import PolicyProblems
from tests.docs.examples import policy_sets
from tests.docs.markdown import ROOT
from tests.support.lint import findings_in, report_on


def ids(folder: Path, text: str) -> list[str]:
    """The ids of what is found in a file with this text."""
    try:
        return [one.id for one in findings_in(folder, text)]
    except PolicyProblems:
        return [DOES_NOT_LOAD.id]


@pytest.mark.parametrize("rule", RULES)
def test_the_bad_example_of_a_rule_trips_it_and_the_good_one_does_not(rule, tmp_path):
    bad, good = examples(rule)
    assert rule in ids(tmp_path / "bad", bad)
    assert rule not in ids(tmp_path / "good", good)


@pytest.mark.parametrize("rule", RULES)
def test_a_good_example_is_good_in_every_other_respect_too(rule, tmp_path):
    _, good = examples(rule)
    worse = [RULES[one].severity for one in ids(tmp_path / "good", good)]
    assert [severity for severity in worse if severity != "info"] == []


@pytest.mark.parametrize("rule", RULES)
def test_a_bad_example_is_about_its_rule_more_than_about_others(rule, tmp_path):
    """Whoever reads it should not have to look for what is meant."""
    bad, _ = examples(rule)
    others = {one for one in ids(tmp_path / "bad", bad) if one != rule and RULES[one].severity != "info"}
    assert len(others) <= 3, others


def test_every_case_is_that_of_a_rule():
    cases = ROOT / "gateway" / "policy" / "lint" / "cases"
    assert sorted(path.stem for path in cases.iterdir()) == sorted(RULES)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_rule_says_what_it_is_about_why_it_matters_and_what_to_do(rule):
    assert rule.severity in SEVERITIES
    assert 10 <= len(rule.title) <= 90
    assert rule.why.endswith((".", "?"))
    assert len(rule.why) >= 40
    assert rule.fix.endswith(".")
    assert "\n" not in rule.title + rule.why + rule.fix


def test_the_example_of_the_page_is_silenced_as_the_page_says(tmp_path):
    (block,) = policy_sets((ROOT / "policies" / "lint.md").read_text())["silenced"]
    report = report_on(tmp_path, block.text)
    found = [one.id for one in report.findings if one.problem.file.endswith("policy.yaml") and one.severity != "info"]
    assert (found, report.silenced) == ([], 1)
