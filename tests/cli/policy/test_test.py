"""``gateway policy test``: exit codes, words that say what is different, and results that CI systems read."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.main import app
from tests.docs.examples import policy_sets
from tests.docs.markdown import blocks
from tests.support.policies import BASE, write

ROOT = Path(__file__).parents[3]
ACCOUNT = """
kind: ServiceAccount
name: web
access: [{resource: ledger-api, scopes: [ledger:read, ledger:write]}]
trust:
  - name: main
    issuer: github
    match: {repository_id: "1", ref: refs/heads/main}
  - name: topic
    issuer: github
    match: {repository_id: "1", ref: refs/heads/topic}
    scopes: [ledger:read]
tests:
  - name: main may write
    issuer: github
    claims: {repository_id: "1", ref: refs/heads/main}
    expect: {allow: [ledger:read, ledger:write]}
  - name: another repository may not
    issuer: github
    claims: {repository_id: "2", ref: refs/heads/main}
    expect: {deny: no_matching_trust}
"""
FAILING = """
  - name: a tag may read
    issuer: github
    claims: {repository_id: "1", ref: refs/tags/main}
    expect:
      allow: [ledger:read]
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["policy", "test", *arguments], env={"NO_COLOR": "1", "COLUMNS": "200"})


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, BASE, "base.yaml")
    return write(tmp_path, ACCOUNT, "web.yaml")


@pytest.fixture
def failing(folder):
    return write(folder, ACCOUNT + FAILING.lstrip("\n"), "web.yaml")


def test_the_samples_pass_with_full_coverage():
    done = run("-p", str(ROOT / "policies"), "--min-coverage", "100")
    assert done.exit_code == 0, done.output
    assert "0 failed" in done.output
    assert "coverage 100 %" in done.output
    assert "not covered" not in done.output


def test_a_failed_test_is_told_with_place_both_sides_reason_and_claims(failing):
    done = run("-p", str(failing))
    assert done.exit_code == 1
    told = done.output.replace(f"{failing}/", "")
    assert told.startswith(
        "FAILED web.yaml:25: web: a tag may read\n"
        "  expected  allow ledger:read\n"
        "  got       deny no_matching_trust\n"
        "  because   web/main wants ref refs/heads/main; seen: refs/tags/main\n"
        "  claims    repository_id 1, ref refs/tags/main\n"
    )
    assert "3 tests: 2 passed, 1 failed." in told


def test_what_no_test_proves_is_told_with_its_line(folder):
    done = run("-p", str(folder))
    assert done.exit_code == 0
    assert done.output.replace(f"{folder}/", "").splitlines() == [
        "not covered: web.yaml:8: web/topic: no test is granted anything by it",
        "not covered: web.yaml:8: web/topic: no test that is refused comes close to it",
        "",
        "2 tests: 2 passed, 0 failed. Trust rules: 1 of 2 reached, 1 guarded: coverage 50 %.",
    ]


@pytest.mark.parametrize(("least", "code"), [("50", 0), ("50.1", 1), ("100", 1)])
def test_too_low_a_coverage_fails(folder, least, code):
    done = run("-p", str(folder), "--min-coverage", least)
    assert done.exit_code == code
    assert ("The coverage is below" in done.output) is bool(code)


def test_a_text_chooses_tests_by_name_account_or_file(failing):
    write(failing, ACCOUNT.replace("name: web", "name: shop", 1), "shop.yaml")
    assert "2 tests: 2 passed" in run("-p", str(failing), "-k", "MAIN MAY").output
    assert "1 test: 0 passed, 1 failed" in run("-p", str(failing), "-k", "a tag").output
    assert "2 tests: 2 passed" in run("-p", str(failing), "-k", "shop").output
    assert "3 tests: 2 passed" in run("-p", str(failing), "-k", "web.yaml").output
    assert "coverage" not in run("-p", str(failing), "-k", "shop").output


def test_a_text_that_chooses_nothing_and_a_coverage_of_some_tests_are_used_wrongly(folder):
    assert run("-p", str(folder), "-k", "nothing").exit_code == 2
    assert run("-p", str(folder), "-k", "main", "--min-coverage", "10").exit_code == 2
    assert run("-p", str(folder), "--min-coverage", "101").exit_code == 2
    assert run("-p", str(folder), "-o", "xml").exit_code == 2


def test_a_folder_that_does_not_load_is_told_with_its_problems(folder):
    write(folder, "kind: Role\nname: r\naccess: [{resource: nowhere, scopes: [x]}]\n", "role.yaml")
    done = run("-p", str(folder))
    assert done.exit_code == 1
    assert "no Resource is called nowhere" in done.output
    assert json.loads(run("-p", str(folder), "-o", "json").stdout)["ok"] is False


def test_a_folder_without_tests_covers_nothing(folder):
    write(folder, ACCOUNT.partition("tests:")[0], "web.yaml")
    done = run("-p", str(folder))
    assert done.exit_code == 0
    assert "0 tests: 0 passed, 0 failed. Trust rules: 0 of 2 reached, 0 guarded: coverage 0 %." in done.output


def test_scripts_get_all_of_it_as_json(failing):
    done = run("-p", str(failing), "-o", "json")
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert (told["ok"], told["passed"], told["failed"]) == (False, 2, 1)
    assert told["tests"][0] == {
        "name": "main may write",
        "service_account": "web",
        "issuer": "github",
        "file": f"{failing}/web.yaml",
        "line": 13,
        "passed": True,
        "reason": "granted",
        "rule": "main",
        "scopes": ["ledger:read", "ledger:write"],
        "lifetime_seconds": 900,
        "wanted": "",
        "differences": [],
    }
    failed = told["tests"][2]
    assert (failed["passed"], failed["line"], failed["reason"], failed["scopes"]) == (
        False, 25, "no_matching_trust", None,
    )  # fmt: skip
    assert failed["differences"] == [
        {"path": ["expect", "allow"], "expected": "allow ledger:read", "got": "deny no_matching_trust"}
    ]
    assert told["coverage"]["percent"] == 50.0
    assert told["coverage"]["unreached"] == [
        {"service_account": "web", "rule": "topic", "file": f"{failing}/web.yaml", "line": 8}
    ]


def test_ci_systems_get_junit_xml(failing, tmp_path):
    file = tmp_path / "junit.xml"
    assert run("-p", str(failing), "--junit", str(file)).exit_code == 1
    root = ET.parse(file).getroot()
    assert root.tag == "testsuites"
    assert (root.get("tests"), root.get("failures")) == ("3", "1")
    (suite,) = root
    assert (suite.tag, suite.get("name"), suite.get("tests"), suite.get("failures")) == ("testsuite", "web", "3", "1")
    cases = {case.get("name"): case for case in suite}
    assert len(cases["main may write"]) == 0
    failed = cases["a tag may read"]
    assert (failed.get("classname"), failed.get("file"), failed.get("line")) == ("web", f"{failing}/web.yaml", "25")
    (failure,) = failed
    assert failure.get("message") == "expected allow ledger:read, got deny no_matching_trust"
    assert failure.text.splitlines() == [
        f"{failing}/web.yaml:25",
        "expected allow ledger:read, got deny no_matching_trust",
        "web/main wants ref refs/heads/main; seen: refs/tags/main",
    ]


HOSTILE = r"""
  - name: "]]><!-- &amp; \x9b[31m \u202e \uffff"
    issuer: github
    claims: {repository_id: "1", ref: "\0\e[31m\x85\u2028</failure>"}
    expect: {allow: [ledger:read]}
"""


def test_hostile_texts_break_neither_the_xml_nor_the_terminal(folder, tmp_path):
    write(folder, ACCOUNT + HOSTILE.lstrip("\n"), "web.yaml")
    file = tmp_path / "junit.xml"
    done = run("-p", str(folder), "--junit", str(file))
    assert done.exit_code == 1
    lines = done.output.splitlines()
    assert all(line.isprintable() for line in lines)
    assert "\x1b" not in done.output
    failed = [case for case in ET.parse(file).getroot().iter("testcase") if len(case)]
    assert [case.get("name") for case in failed] == [r"]]><!-- &amp; \x9b[31m \u202e \uffff"]
    assert r"\u0000" in failed[0][0].text


def test_a_junit_file_that_cannot_be_written_is_told(folder, tmp_path):
    done = run("-p", str(folder), "--junit", str(tmp_path / "nowhere" / "junit.xml"))
    assert done.exit_code == 2
    assert "No such file" in done.output


def test_the_accounts_of_a_template_are_tested_and_covered(folder):
    template = """
    kind: ServiceAccount
    name: "k8s.{namespace}"
    for_each: {namespace: claims.namespace}
    access: [{resource: ledger-api, scopes: [ledger:read]}]
    trust: [{issuer: cluster, match: {sub: x}}]
    tests:
      - {name: one, issuer: cluster, claims: {sub: x, namespace: a}, expect: {allow: [ledger:read]}}
      - {name: two, issuer: cluster, claims: {sub: y, namespace: a}, expect: {deny: no_matching_trust}}
    """
    write(folder, template, "web.yaml")
    assert "coverage 100 %" in run("-p", str(folder)).output


def test_the_page_shows_what_it_really_says(tmp_path, monkeypatch):
    page = (ROOT / "policies" / "craft.md").read_text()
    console = next(block.text for block in blocks(page) if block.text.startswith("$ gateway policy test"))
    (example,) = policy_sets(page)["tests"]
    text = example.text.replace("environment: production", "environment: staging").partition("  - name: another")[0]
    write(tmp_path / "policies", text, "deploy.yaml")
    monkeypatch.chdir(tmp_path)
    command, _, output = console.partition("\n")
    done = CliRunner().invoke(app, command.split()[2:], env={"NO_COLOR": "1"})
    assert done.output.strip() == output.strip()
