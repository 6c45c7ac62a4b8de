"""``gateway policy suggest``: the patch on standard output, what it is based on on standard error."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.model import RecordedDecision
from gateway.policy.generation import Generation
from gateway.standin.shapes import github_actions_claims
from tests.docs.examples import policy_sets
from tests.docs.markdown import ROOT
from tests.support.policies import BASE, GATEWAY_ISSUER, generation_of, load, write
from tests.support.recorded import NOW, recorded, write_log

ACCOUNT = """\
kind: ServiceAccount
name: deployer
# who deploys
access: [{resource: ledger-api, scopes: [ledger:read, ledger:write]}]
trust:
  - name: pipeline   # of the web team
    issuer: github
    match: {repository: acme/web}
    like: {ref: refs/heads/**}
"""
UNUSED = "  - {name: old, issuer: github, match: {repository: acme/old}}\n"

UNEDITABLE = """\
token_claims:
  note: |+
    "x"


"""
"""The blank lines at its end are part of the text: nothing can be written behind it."""


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("GATEWAY_"):
            monkeypatch.delenv(name)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["policy", "suggest", *map(str, arguments)])


def prepared(tmp_path: Path, account: str = ACCOUNT, *, count: int = 30, **overrides: object) -> Path:
    """Policies in a folder, and an audit log of what they granted beside it."""
    write(tmp_path / "policies" / "teams", f"{BASE}---\n{account}", "web.yaml")
    generation = generation_of(account)
    decisions = [
        recorded(
            generation,
            "github",
            github_actions_claims(NOW, GATEWAY_ISSUER, run_id=str(number), **overrides),
            time=NOW + 3600 * number,
            scopes=("ledger:read",),
        )
        for number in range(count)
    ]
    return write_log(tmp_path / "audit.jsonl", decisions)


def test_the_patch_is_all_of_standard_output_and_both_tools_take_it(tmp_path):
    log = prepared(tmp_path)
    done = run("--audit", log)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("--- a/policies/teams/web.yaml\n+++ b/policies/teams/web.yaml\n@@ ")
    for command in (["patch", "-p1"], ["git", "apply"]):
        if shutil.which(command[0]) is None:
            continue
        copy = tmp_path / command[0]
        shutil.copytree(tmp_path / "policies", copy / "policies")
        subprocess.run(command, input=done.stdout, text=True, cwd=copy, check=True, capture_output=True)
        account = load(copy / "policies").service_accounts["deployer"]
        assert account.access == {"ledger-api": ("ledger:read",)}
        assert {one.path: one.wanted for one in account.rules[0].match} == {
            ("repository",): ("acme/web",),
            ("repository_owner_id",): ("100200",),
            ("repository_id",): ("300400",),
            ("event_name",): ("push",),
            ("environment",): ("production",),
            ("ref",): ("refs/heads/main",),
        }


def test_what_it_is_based_on_is_told_beside_it(tmp_path):
    done = run("--audit", prepared(tmp_path, ACCOUNT + UNUSED))
    told = done.stderr
    assert "deployer/pipeline: 30 observations from 2027-01-15T08:00:00Z to 2027-01-16T13:00:00Z\n" in told
    assert "  ref: refs/heads/main instead of refs/heads/**\n" in told
    assert "  repository_id: 300400 besides\n" in told
    assert "  scopes: ledger:read\n" in told
    assert "deployer/old: nobody got anything by it in this time: remove it" in told


def test_write_changes_the_files_and_leaves_the_rest_of_them(tmp_path):
    log = prepared(tmp_path)
    file = tmp_path / "policies" / "teams" / "web.yaml"
    file.chmod(0o640)
    before = file.read_text()
    patch = run("--audit", log, "--write").stdout
    after = file.read_text()
    assert after != before
    assert file.stat().st_mode & 0o777 == 0o640
    assert [one.name for one in file.parent.iterdir()] == ["web.yaml"]
    assert "# who deploys\n" in after
    assert "  - name: pipeline   # of the web team\n" in after
    removed = [line[1:] for line in patch.splitlines()[2:] if line.startswith("-")]
    assert removed == [
        "access: [{resource: ledger-api, scopes: [ledger:read, ledger:write]}]",
        "    match: {repository: acme/web}",
        "    like: {ref: refs/heads/**}",
    ]
    again = run("--audit", log)
    assert (again.exit_code, again.stdout) == (0, "")
    assert "as tight as its traffic" in again.stderr
    replayed = CliRunner().invoke(app, ["policy", "replay", str(log)])
    assert replayed.exit_code == 0, replayed.output


def test_scripts_get_stable_fields(tmp_path):
    done = run("--audit", prepared(tmp_path, ACCOUNT + UNUSED), "--output", "json")
    told = json.loads(done.stdout)
    assert (told["ok"], told["records"], told["written"], told["skipped"]) == (True, 30, False, {})
    assert told["patch"].startswith("--- a/policies/teams/web.yaml\n")
    (account,) = told["service_accounts"]
    (rule,) = account.pop("rules")
    assert account == {
        "service_account": "deployer",
        "file": "policies/teams/web.yaml",
        "line": 20,
        "failed": None,
        "access": None,
        "unused": ["old"],
        "refused": {},
        "tests": 2,
    }
    assert rule["narrowed"] == [{"claim": ["ref"], "before": ["refs/heads/**"], "values": ["refs/heads/main"]}]
    assert {"claim": ["repository_id"], "values": ["300400"]} in rule["pinned"]
    assert (rule["observations"], rule["scopes"], rule["token_lifetime_seconds"]) == (30, ["ledger:read"], None)


def test_too_little_traffic_ends_with_1_unless_less_is_asked_for(tmp_path):
    log = prepared(tmp_path, count=19)
    done = run("--audit", log)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "deployer/pipeline: left as it is: 19 observations are fewer than 20" in done.stderr
    assert run("--audit", log, "--at-least", 19).exit_code == 0


def test_one_service_account_alone(tmp_path):
    other = ACCOUNT.replace("deployer", "other").replace("acme/web", "acme/other")
    log = prepared(tmp_path, f"{ACCOUNT}---\n{other}")
    assert run("--audit", log, "--service-account", "other").stdout == ""
    assert "deployer" not in run("--audit", log, "--service-account", "other").stderr
    assert run("--audit", log, "--service-account", "nobody").exit_code == 2


def test_further_files_are_what_a_shell_makes_of_a_star(tmp_path):
    log = prepared(tmp_path)
    assert json.loads(run("--audit", log, log, log, "-o", "json").stdout)["records"] == 90


def test_a_suggestion_that_breaks_a_test_elsewhere_is_dropped(tmp_path):
    tests = """\
kind: Tests
name: of-another-team
service_account: deployer
tests:
  - name: they deploy as well
    issuer: github
    claims: {repository: acme/web, repository_id: "9", ref: refs/heads/main}
    expect: {allow: [ledger:read, ledger:write], lifetime: 15m}
    # the id that the log shows is not theirs
  - name: whatever the branch is called
    issuer: github
    claims: {repository: acme/web, ref: refs/heads/EMPTY}
    expect: {allow: [ledger:read, ledger:write]}
"""
    log = prepared(tmp_path)
    long_name = "x" * 300
    write(tmp_path / "policies", tests.replace("EMPTY", long_name), "tests.yaml")
    done = run("--audit", log)
    assert done.exit_code == 0, done.output
    loaded = load(tmp_path / "policies")
    assert loaded.service_accounts["deployer"].rules[0].admits({"repository": "acme/web", "ref": "refs/heads/x"})
    subprocess.run(["patch", "-p1"], input=done.stdout, text=True, check=True, capture_output=True)
    load(tmp_path / "policies")


def test_a_file_that_cannot_be_edited_is_left_and_told(tmp_path):
    log = prepared(tmp_path, ACCOUNT + UNEDITABLE)
    done = run("--audit", log)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "deployer: left as it is, for a suggestion would break its file" in done.stderr


def test_other_accounts_get_their_suggestion_beside_one_that_cannot(tmp_path):
    log = prepared(tmp_path)
    other = ACCOUNT.replace("deployer", "other").replace("acme/web", "acme/other")
    write(tmp_path / "policies", f"---\n{other}{UNEDITABLE}", "other.yaml")
    generation = load(tmp_path / "policies")
    claims = github_actions_claims(NOW, GATEWAY_ISSUER, repository="acme/other", repository_id="9")
    more = write_log(tmp_path / "more.jsonl", [recorded(generation, "github", claims, time=NOW + n) for n in range(30)])
    done = run("--audit", log, more)
    assert done.exit_code == 0
    assert done.stdout.count("+++ b/") == 1
    assert "other: left as it is" in done.stderr


def test_a_value_from_a_log_reaches_no_terminal_as_it_is(tmp_path):
    log = prepared(tmp_path, ACCOUNT.replace("like: {ref: refs/heads/**}", 'like: {ref: "**"}'), ref="\x1b[31m\u202e")
    done = run("--audit", log)
    assert not {"\x1b", "\u202e"} & set(done.output)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name an audit log"),
        (("--audit", "missing.jsonl"), "missing.jsonl: No such file or directory"),
        (("--audit", "empty.jsonl"), "holds no decision"),
        (("--audit", "audit.jsonl", "--output", "markdown"), "is text or json"),
        (("--audit", "audit.jsonl", "--at-least", "0"), "greater than or equal to 1"),
    ],
)
def test_wrong_use_ends_with_2(tmp_path, arguments, words):
    prepared(tmp_path)
    (tmp_path / "empty.jsonl").write_bytes(b"")
    done = run(*arguments)
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.replace("│", " ").split())


def test_policies_whose_tests_fail_already_are_told(tmp_path):
    failing = "tests: [{name: no, issuer: github, claims: {repository: acme/web}, expect: {allow: [ledger:read]}}]\n"
    done = run(
        "--audit", prepared(tmp_path, ACCOUNT), "--policies", write(tmp_path / "p", f"{BASE}---\n{ACCOUNT}{failing}")
    )
    assert done.exit_code == 1
    assert "the test 'no' failed" in done.stderr


def test_one_file_may_be_all_the_policies(tmp_path):
    log = prepared(tmp_path)
    done = run("--audit", log, "--policies", "policies/teams/web.yaml")
    assert done.stdout.startswith("--- a/policies/teams/web.yaml\n")


def test_files_with_marks_and_other_line_ends_keep_them(tmp_path):
    log = prepared(tmp_path)
    file = tmp_path / "policies" / "teams" / "web.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert run("--audit", log, "--write").exit_code == 0
    after = file.read_bytes()
    assert after.startswith(b"\xef\xbb\xbfkind")
    assert after.count(b"\n") == after.count(b"\r\n")
    assert load(tmp_path / "policies").service_accounts["deployer"].access == {"ledger-api": ("ledger:read",)}


def test_the_examples_of_the_manual_are_what_the_commands_print(tmp_path):
    page = (ROOT / "policies" / "craft.md").read_text()
    (block,) = policy_sets(page)["suggest"]
    policy = f"{block.text}\n"
    write(tmp_path / "policies", policy, "web.yaml")
    generation = load(tmp_path / "policies")
    log = write_log(tmp_path / "audit.jsonl", map(a_job(generation), range(412)))
    done = run("--audit", log.name)
    assert f"$ gateway policy suggest --audit audit.jsonl\n{done.stdout}```" in page
    assert f"```text\n{done.stderr}```" in page
    other = policy.replace("{repository: acme/web}", "{repository: acme/web, environment: production}")
    write(tmp_path / "new", other)
    replayed = CliRunner().invoke(app, ["policy", "replay", log.name, "--policies", "new/"])
    assert f"$ gateway policy replay audit.jsonl --policies new/\n{replayed.stdout}```" in page


def a_job(generation: Generation) -> Callable[[int], RecordedDecision]:
    """The manual's traffic: one request every half hour, one in five of staging."""

    def decided(number: int) -> RecordedDecision:
        environment = "production" if number % 5 else "staging"
        return recorded(
            generation,
            "github",
            github_actions_claims(NOW, GATEWAY_ISSUER, environment=environment, run_id=str(number)),
            time=NOW + 1800 * number,
            request_id=f"VuTfNroa_r_Ar3lroXg{number:03}",
            scopes=("deploy:write",),
            lifetime_seconds=300,
        )

    return decided
