"""``gateway policy lint``, run as people and pipelines run it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.cli.policy.lint import examples
from gateway.policy.lint.catalogue import RULES
from tests.support.lint import BASE

ROOT = Path(__file__).parents[3]

DANGEROUS = """\
kind: ServiceAccount
name: deployer
access: [{resource: deploy-api, scopes: [deploy:read]}]
trust:
  - issuer: github
    match: {repository_id: "300400", repository_owner_id: "100200"}
"""
SAFE = DANGEROUS.replace('"100200"}', '"100200", ref: refs/heads/main, event_name: push}')
WARNED = SAFE + "    token_lifetime: 2m\n"
OTHERS = {
    "cluster": 'match: {sub: "system:serviceaccount:billing:invoicer"}',
    "gitlab": 'match: {project_id: "1", job_project_id: "1", ref_path: refs/heads/main, ref_protected: "true"}',
    "aws": 'match: {sub: "arn:aws:iam::123456789012:role/a/b"}',
    "ci": "match: {sub: release}",
}
USED = "---\n".join(
    f"kind: ServiceAccount\nname: {issuer}\naccess: [{{resource: deploy-api, scopes: [deploy:read, deploy:write]}}]\n"
    f"trust: [{{issuer: {issuer}, {rule}}}]\n"
    for issuer, rule in OTHERS.items()
)
"""A rule for each issuer of the base, so that nothing of it is left unused."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of policies in the working directory, but for the file that a test is about."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "base.yaml").write_text(BASE)
    (tmp_path / "policies" / "used.yaml").write_text(USED)
    return tmp_path / "policies"


def lint(*options, text=None, folder=None):
    if text is not None:
        (folder / "teams.yaml").write_text(text)
    return CliRunner().invoke(app, ["policy", "lint", "--policies", "policies", *options])


@pytest.mark.parametrize(
    ("text", "options", "code"),
    [
        (SAFE, (), 0),
        (SAFE, ("--fail-on", "warning"), 0),
        (SAFE, ("--fail-on", "info"), 1),
        (WARNED, (), 0),
        (WARNED, ("--fail-on", "warning"), 1),
        (WARNED, ("--fail-on", "warning", "--severity", "error"), 1),
        (DANGEROUS, (), 1),
        (DANGEROUS, ("--severity", "error"), 1),
        (DANGEROUS.replace("github", "nobody"), (), 1),
    ],
)
def test_the_exit_code_says_whether_something_is_as_bad_as_asked_for(text, options, code, folder):
    assert lint(*options, text=text, folder=folder).exit_code == code


@pytest.mark.parametrize(
    "options",
    [
        ("--severity", "bad"),
        ("--fail-on", "bad"),
        ("--output", "xml"),
        ("--explain", "REF999"),
        ("--list", "-o", "sarif"),
    ],
)
def test_a_wrong_option_is_told_and_ends_with_2(options, folder):
    assert lint(*options, text=SAFE, folder=folder).exit_code == 2


def test_findings_are_told_by_file_and_line_with_what_to_do(folder):
    answer = lint(text=DANGEROUS, folder=folder)
    lines = [" ".join(line.split()) for line in answer.output.splitlines()]
    what = "pull_request_target, workflow_run, issue_comment can set off a job that this rule trusts"
    assert lines[:3] == ["policies/teams.yaml", f"5 error REF001 trust[0]: {what}", RULES["REF001"].fix]
    assert re.fullmatch(r"1 error; [0-9]+ of less weight not shown \(--severity info shows all\)\.", lines[-1])


def test_what_is_silenced_is_counted(folder):
    text = DANGEROUS.replace("  - issuer: github", "  - issuer: github  # lint: ignore REF001 nobody forks it")
    assert "Nothing found; 1 silenced by comments" in lint(text=text, folder=folder).output


def test_findings_can_be_read_by_scripts(folder):
    answer = json.loads(lint("--output", "json", text=DANGEROUS, folder=folder).output)
    assert answer["ok"] is False
    (finding,) = answer["findings"]
    assert finding == {
        "rule": "REF001",
        "severity": "error",
        "file": "policies/teams.yaml",
        "line": 5,
        "path": ["trust", 0],
        "message": "pull_request_target, workflow_run, issue_comment can set off a job that this rule trusts",
        "suggestion": "",
        "fix": RULES["REF001"].fix,
    }
    assert answer["silenced"] == 0


@pytest.mark.parametrize("output", ["text", "json", "sarif"])
def test_files_that_do_not_load_are_told_with_what_is_wrong(output, folder):
    answer = lint("--output", output, text=DANGEROUS.replace("github", "gihub"), folder=folder)
    assert answer.exit_code == 1
    assert "no Issuer is called gihub" in answer.output
    assert "REF001" not in answer.output or output == "sarif"


# ---------------------------------------------------------------- SARIF


def sarif(text, folder, *options):
    return json.loads(lint("--output", "sarif", *options, text=text, folder=folder).output)


def test_sarif_has_what_the_standard_and_github_require(folder):
    """SARIF 2.1.0, sections 3.13, 3.14, 3.18, 3.19, 3.27, 3.29, 3.30 and 3.49."""
    log = sarif(DANGEROUS, folder, "--severity", "info")
    assert log.keys() == {"$schema", "version", "runs"}
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "gateway policy lint"
    assert [rule["id"] for rule in driver["rules"]] == list(RULES)
    for rule in driver["rules"]:
        assert {"id", "shortDescription", "fullDescription", "help", "defaultConfiguration"} <= rule.keys()
        assert rule["defaultConfiguration"]["level"] in {"error", "warning", "note"}
        assert all(rule[name]["text"] for name in ("shortDescription", "fullDescription", "help"))
    assert {result["ruleId"] for result in run["results"]} >= {"REF001", "DBG002"}
    for result in run["results"]:
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] == driver["rules"][result["ruleIndex"]]["defaultConfiguration"]["level"]
        assert result["message"]["text"]
        (location,) = result["locations"]
        assert location["physicalLocation"]["region"]["startLine"] >= 1


def test_sarif_names_files_as_seen_from_the_repository(folder):
    (folder / "teams").mkdir()
    (folder / "teams" / "a b#ü.yaml").write_text(DANGEROUS)
    (result,) = sarif(SAFE.replace("deployer", "other"), folder)["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "policies/teams/a%20b%23%C3%BC.yaml"


def test_sarif_names_a_file_elsewhere_by_its_whole_path(folder, tmp_path, monkeypatch):
    (folder / "teams.yaml").write_text(DANGEROUS)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    answer = CliRunner().invoke(app, ["policy", "lint", "--policies", str(folder), "--output", "sarif"])
    (result,) = json.loads(answer.output)["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == (folder / "teams.yaml").as_uri()


def test_files_that_do_not_load_are_results_too(folder):
    (result,) = sarif(DANGEROUS.replace("github", "gihub"), folder)["runs"][0]["results"]
    assert (result["ruleId"], result["level"]) == ("LOAD000", "error")
    assert result["locations"][0]["physicalLocation"]["region"]["startLine"] == 5


# ---------------------------------------------------------------- hostile texts


HOSTILE = "[click](https://evil.example)\\u001b[2J\\u202e<script>"


def test_texts_from_files_are_shown_harmlessly(folder):
    rule = f"    when: 'claims.repository.startsWith(\"{HOSTILE}acme\")'\n"
    text = "".join(DANGEROUS.splitlines(keepends=True)[:-1]) + rule
    for output in ("text", "json"):
        shown = lint("--output", output, text=text, folder=folder).output
        assert "evil.example" in shown
        assert "\x1b" not in shown
        assert "\u202e" not in shown
    told = [result["message"]["text"] for result in sarif(text, folder)["runs"][0]["results"]]
    assert any("evil.example" in message for message in told)
    for message in told:
        assert not re.search(r"(?<!\\)\]\(", message)
        assert message.isprintable()


def test_a_hostile_comment_is_shown_harmlessly(folder):
    text = DANGEROUS.replace(
        "  - issuer: github", "  - issuer: github  # lint: ignore \u202e[x](https://evil.example) y"
    )
    shown = lint(text=text, folder=folder).output
    assert "evil.example" in shown
    assert "\u202e" not in shown


# ---------------------------------------------------------------- rules


def test_all_rules_are_listed(folder):
    answer = lint("--list")
    assert [line.split()[0] for line in answer.output.splitlines()] == list(RULES)
    listed = json.loads(lint("--list", "--output", "json").output)
    assert [one["id"] for one in listed] == list(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_explained_with_its_examples(rule):
    shown = CliRunner().invoke(app, ["policy", "lint", "--explain", rule.lower()]).output
    assert RULES[rule].title in shown
    assert "# Bad: " in shown
    assert "# Good: " in shown
    for example in examples(rule):
        assert all(line.strip() in shown for line in example.splitlines())


def test_an_unknown_rule_is_told_with_the_nearest_one():
    answer = CliRunner().invoke(app, ["policy", "lint", "--explain", "REF01"])
    assert answer.exit_code == 2
    assert "REF001" in answer.output


# ---------------------------------------------------------------- the project's own


def test_the_samples_are_clean():
    answer = CliRunner().invoke(app, ["policy", "lint", "--policies", str(ROOT / "policies"), "--fail-on", "warning"])
    assert answer.exit_code == 0, answer.output


def test_a_pipe_that_is_closed_early_ends_quietly():
    command = [sys.executable, "-m", "gateway", "policy", "lint", "--explain", "REF001"]
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, cwd=ROOT)
    os.close(write)
    assert b"Traceback" not in ended.stderr
