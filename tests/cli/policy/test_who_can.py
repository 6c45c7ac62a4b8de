"""``gateway policy who-can``: what people and scripts are told of every way, and of those that nobody goes."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from gateway.cli.main import app
from tests.support.policies import BASE, generation_of, write
from tests.support.recorded import NOTHING, NOW, recorded, write_log

WEB = f"""\
kind: Role
name: deployer
access: [{{resource: deploy-api, scopes: [deploy:write]}}]
---
kind: ServiceAccount
name: web-deployer
roles: [deployer]
trust:
  - {{issuer: github, name: main, match: {{repository_id: "300400", ref: refs/heads/main}}}}
  - {{issuer: github, name: next, match: {{repository_id: "300400", ref: refs/heads/next}}}}
---
kind: ServiceAccount
name: batch
access: [{{resource: ledger-api, scopes: [ledger:read]}}]
credentials:
  secrets: [{{id: s1, digest: "sha256:{"a" * 64}"}}]
---
kind: Guardrail
name: no-forks
issuer: github
deny_when: claims.event_name == "pull_request_target"
"""
MAIN = {"sub": "repo:acme/web:ref:refs/heads/main", "repository_id": "300400", "ref": "refs/heads/main",
        "event_name": "push"}  # fmt: skip
OLD = generation_of(WEB)
USED = recorded(OLD, "github", MAIN, client_id="web-deployer")
CLIENT = replace(
    NOTHING,
    time=NOW + 60,
    grant="client_credentials",
    service_account="batch",
    authentication="client_secret_basic/secret:2026-11",
)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("GATEWAY_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    write(Path("policies"), f"{BASE}---\n{WEB}", "all.yaml")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a day after the records were written."""
    monkeypatch.setattr("gateway.clock.SteadyClock.__call__", lambda _: NOW + 86400)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["policy", "who-can", *map(str, arguments)])


def log(*decisions: object) -> Path:
    return write_log(Path("audit.jsonl"), decisions)


# ---------------------------------------------------------------- the ways


def test_every_way_to_a_service_account_is_told_in_words():
    done = run("--service-account", "web-deployer")
    assert done.exit_code == 0
    assert (
        done.stdout
        == """\
web-deployer
  repository_id is 300400, ref is refs/heads/main of issuer github
      deploy:write at deploy-api: tokens live 10m, by role deployer
      rule main, policies/all.yaml:28
  repository_id is 300400, ref is refs/heads/next of issuer github
      deploy:write at deploy-api: tokens live 10m, by role deployer
      rule next, policies/all.yaml:29
What else must hold
  guardrail no-forks refuses unless this is false: claims.event_name == "pull_request_target"
"""
    )


def test_a_client_is_told_by_its_credential_and_without_its_digest():
    done = run("--resource", "ledger-api", "--scope", "ledger:read")
    assert "batch\n  the secret s1 (client_secret_basic or _post)\n      ledger:read at ledger-api" in done.stdout
    assert "a" * 64 not in done.stdout


def test_scripts_get_every_part_by_its_name():
    told = json.loads(run("--resource", "deploy-api", "--output", "json").stdout)
    assert told["left_out"] == 0
    assert told["ways"][0] == {
        "service_account": "web-deployer",
        "how": "trust",
        "name": "main",
        "issuer": "github",
        "who": "repository_id is 300400, ref is refs/heads/main of issuer github",
        "conditions": ["repository_id is 300400", "ref is refs/heads/main"],
        "everybody": False,
        "made_from": [],
        "access": [
            {
                "resource": "deploy-api",
                "scopes": ["deploy:write"],
                "lifetime_seconds": 600,
                "sender_constraint": "none",
                "roles": ["deployer"],
            }
        ],
        "limits": ['guardrail no-forks refuses unless this is false: claims.event_name == "pull_request_target"'],
        "file": "policies/all.yaml",
        "line": 28,
    }


def test_that_nobody_can_is_an_answer_that_ends_with_1():
    done = run("--resource", "ledger-api", "--scope", "ledger:write")
    assert (done.exit_code, done.stdout) == (1, "Nobody.\n")


def test_so_many_are_shown_and_the_rest_is_counted():
    assert "... and 2 more\n" in run("--limit", "1").stdout
    assert json.loads(run("--limit", "1", "-o", "json").stdout)["left_out"] == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--service-account", "web-deploier"), "did you mean web-deployer?"),
        (("--resource", "deploy-ap"), "did you mean deploy-api?"),
        (("--resource", "deploy-api", "--scope", "deploy:wrote"), "did you mean deploy:write?"),
        (("--issuer", "githup"), "did you mean github?"),
        (("--scope", "deploy:write"), "goes with --resource"),
        (("--unused-for", "30d"), "goes with --audit"),
        (("--unused-for", "a month", "--audit", "audit.jsonl"), "a duration is a whole number with a unit"),
        (("--output", "yaml"), "is text or json"),
        (("--audit", "nowhere.jsonl"), "nowhere.jsonl"),
    ],
)
def test_what_is_used_wrongly_ends_with_2_and_says_what_was_meant(arguments, complaint):
    done = run(*arguments)
    assert done.exit_code == 2
    assert complaint in " ".join(done.stderr.replace("│", " ").split())


def test_policies_that_do_not_load_are_shown():
    Path("policies/broken.yaml").write_text("kind: Roll\nname: x\n")
    done = run()
    assert done.exit_code == 1
    assert "broken.yaml:1: kind" in done.stderr


def test_a_template_can_be_asked_for_by_its_name_and_by_one_that_it_makes():
    write(
        Path("policies"),
        """
        kind: ServiceAccount
        name: k8s.{ns}
        for_each: {ns: 'claims["kubernetes.io"].namespace'}
        access: [{resource: deploy-api, scopes: [deploy:write]}]
        trust: [{issuer: cluster, match: {"kubernetes.io": {namespace: [a, b]}}}]
        """,
        "template.yaml",
    )
    assert 'k8s.{ns}\n    {ns} is ["kubernetes.io"].namespace\n' in run("--service-account", "k8s.{ns}").stdout
    assert "k8s.a\n    its name is made by k8s.{ns}\n" in run("--service-account", "k8s.a").stdout


# ---------------------------------------------------------------- what was used


def test_the_last_use_of_each_way_is_told():
    done = run("--audit", log(USED, replace(USED, time=NOW + 5), CLIENT))
    assert done.exit_code == 0
    assert "rule main, policies/all.yaml:28\n      used 2 times, last at 2027-01-15T08:00:05Z\n" in done.stdout
    assert "rule next, policies/all.yaml:29\n      not used in these records\n" in done.stdout
    assert "batch also used secrets that the policies do not have: secret:2026-11 (last at 2027-01-15T08:01:00Z)" in (
        done.stdout
    )
    assert "3 records, from 2027-01-15T08:00:00Z to 2027-01-15T08:01:00Z." in done.stdout


@pytest.mark.usefixtures("now")
def test_only_what_was_not_used_is_shown_and_ends_with_1():
    done = run(
        "--service-account", "web-deployer", "--audit", log(replace(USED, time=NOW - 86400), USED), "--unused-for", "2d"
    )
    assert done.exit_code == 1
    assert "rule next" in done.stdout
    assert "rule main" not in done.stdout
    assert "do not reach back" not in done.stdout


@pytest.mark.usefixtures("now")
def test_a_use_before_that_time_does_not_count():
    done = run("--audit", log(USED), "--unused-for", "1h", "--issuer", "github")
    assert "rule main" in done.stdout
    assert done.exit_code == 1


@pytest.mark.usefixtures("now")
def test_where_everything_is_used_it_says_so_and_ends_with_0():
    both = log(USED, recorded(OLD, "github", {**MAIN, "ref": "refs/heads/next"}, client_id="web-deployer"))
    done = run("--service-account", "web-deployer", "--audit", both, "--unused-for", "24h")
    assert done.exit_code == 0
    assert done.stdout.startswith("Everything was used since 2027-01-15T08:00:00Z.\n")


@pytest.mark.usefixtures("now")
def test_records_that_do_not_reach_back_are_no_proof():
    done = run("--audit", log(USED), "--unused-for", "30d")
    assert "The records do not reach back to 2026-12-17T08:00:00Z: what is used rarely looks unused." in done.stdout
    assert json.loads(run("--audit", "audit.jsonl", "--unused-for", "30d", "-o", "json").stdout)["records"]["too_short"]


def test_lines_that_are_no_records_are_counted():
    file = log(USED)
    file.write_bytes(file.read_bytes() + b"nonsense\n")
    assert "1 lines were skipped: 1 no JSON." in run("--audit", file).stdout


def test_a_client_that_only_introspects_is_not_said_to_be_idle_without_a_word():
    file = log(USED)
    line = json.loads(file.read_bytes()) | {"endpoint": "introspection"}
    file.write_bytes(file.read_bytes() + json.dumps(line).encode() + b"\n")
    assert "1 records of introspection and revocation say nothing here" in run("--audit", file).stdout


def test_scripts_get_the_uses_by_their_names():
    told = json.loads(run("--audit", log(USED, CLIENT), "-o", "json").stdout)
    used = {way["name"]: way["used"] for way in told["ways"]}
    assert used["main"] == {"count": 1, "last": "2027-01-15T08:00:00Z"}
    assert used["next"] == {"count": 0, "last": None}
    assert told["secrets_elsewhere"] == {"batch": {"secret:2026-11": {"count": 1, "last": "2027-01-15T08:01:00Z"}}}
