"""``gateway policy replay``: what people and scripts are told, and how it ends."""

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from gateway.cli.main import app
from tests.support.policies import BASE, generation_of, write
from tests.support.recorded import NOW, recorded, write_log

ACCOUNT = """\
kind: ServiceAccount
name: deployer
access: [{resource: ledger-api, scopes: [ledger:read, ledger:write]}]
trust:
  - {name: main, issuer: github, match: {repository_id: "7", ref: refs/heads/main}}
"""
NARROWER = ACCOUNT.replace("[ledger:read, ledger:write]", "[ledger:read]")
CLOSED = ACCOUNT.replace("refs/heads/main", "refs/heads/release")
MAIN = {"sub": "repo:acme/web:ref:refs/heads/main", "repository_id": "7", "ref": "refs/heads/main"}
OLD = generation_of(ACCOUNT)
LOG = [
    *(recorded(OLD, "github", MAIN, time=NOW + n, request_id=f"r{n}", client_id="deployer") for n in range(3)),
    replace(
        recorded(OLD, "github", {**MAIN, "ref": "x"}, time=NOW + 86400, client_id="deployer"), request_id="denied-1"
    ),
]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("GATEWAY_"):
            monkeypatch.delenv(name)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write_log(tmp_path / "audit.jsonl", LOG)


def policies(tmp_path: Path, account: str) -> str:
    return str(write(tmp_path / "policies", f"{BASE}---\n{account}"))


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, ["policy", "replay", *map(str, arguments)], input=stdin)


def test_the_same_policies_change_nothing_and_end_with_0(tmp_path, log):
    done = run(log, "--policies", policies(tmp_path, ACCOUNT))
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(
        "4 requests from 2027-01-15T08:00:00Z to 2027-01-16T08:00:00Z; 4 decided again under "
    )
    assert done.stdout.strip().endswith("nothing would change.")


def test_who_would_be_denied_is_told_and_it_ends_with_1(tmp_path, log):
    done = run(log, "--policies", policies(tmp_path, CLOSED))
    assert done.exit_code == 1
    for words in (
        "would be denied: 3\n",
        "3 of deployer/main (github): no_matching_trust\n",
        "such as request r0: deployer/main wants ref refs/heads/release; seen: refs/heads/main\n",
        "3 of repo:acme/web:ref:refs/heads/main\n",
    ):
        assert words in done.stdout


def test_scripts_get_stable_fields(tmp_path, log):
    done = run(log, "--policies", policies(tmp_path, NARROWER), "--output", "json")
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert {
        name: told[name] for name in ("ok", "records", "decided", "changes", "undecided", "ungrouped", "skipped")
    } == {
        "ok": False,
        "records": 4,
        "decided": 4,
        "changes": 3,
        "undecided": {},
        "ungrouped": 0,
        "skipped": {},
    }
    assert told["answers"] == {"unchanged": 1, "denied": 0, "granted": 0, "different": 3, "other_reason": 0}
    (group,) = told["groups"]
    assert group == {
        "answer": "different",
        "count": 3,
        "issuer": "github",
        "service_account": "deployer",
        "rule": "main",
        "reason": "",
        "differences": {"scopes": {"before": "ledger:read ledger:write", "after": "ledger:read"}},
        "wanted": "",
        "gives": "ledger:read at ledger-api for 900 s",
        "request_id": "r0",
        "first": "2027-01-15T08:00:00Z",
        "last": "2027-01-15T08:00:02Z",
        "subjects": {"repo:acme/web:ref:refs/heads/main": 3},
        "other_subjects": 0,
    }


def test_a_pull_request_gets_a_table(tmp_path, log):
    done = run(log, "--policies", policies(tmp_path, CLOSED), "--output", "markdown")
    assert done.exit_code == 1
    assert "### Replay\n" in done.stdout
    assert "| requests | rule | what | subjects |" in done.stdout
    assert (
        "| 3 | deployer/main \\(github\\) | no\\_matching\\_trust | 3 of repo:acme/web:ref:refs/heads/main |"
        in done.stdout
    )


@pytest.mark.parametrize("output", ["text", "markdown"])
def test_what_came_out_of_tokens_marks_up_nothing(tmp_path, output):
    subject = "\x1b[31m<script>](https://evil.example.com) www.evil.example.com @everyone `x` | y\u202e"
    hostile = replace(LOG[0], subject=subject, claims={**MAIN, "sub": subject, "ref": "refs/heads/main"})
    log = write_log(tmp_path / "audit.jsonl", [hostile])
    done = run(log, "--policies", policies(tmp_path, CLOSED), "--output", output)
    assert done.exit_code == 1
    assert "evil.example.com" in done.stdout
    assert not {"\x1b", "\u202e"} & set(done.stdout)
    if output == "markdown":
        for markup in ("<script>", "](", "https://", "www.e", "@everyone", " `x`", " | y"):
            assert markup not in done.stdout


def test_a_log_that_tells_of_no_decision_does_not_pass_for_one_under_which_nothing_changes(tmp_path):
    asks = ACCOUNT.replace("ref: refs/heads/main}", "environment: production}")
    log = write_log(
        tmp_path / "audit.jsonl",
        [
            replace(
                one, claims_are_complete=False, claims={name: one.claims[name] for name in ("repository_id", "ref")}
            )
            for one in LOG
        ],
    )
    done = run(log, "--policies", policies(tmp_path, asks))
    assert done.exit_code == 2
    assert "nobody can tell what would change." in done.stdout
    assert "4 hang on a claim that is not in the record" in done.stdout
    assert json.loads(run(log, "--policies", policies(tmp_path, asks), "-o", "json").stdout)["ok"] is False


def test_rotated_files_and_standard_input_are_read(tmp_path, log):
    packed = tmp_path / "audit.jsonl.1.gz"
    packed.write_bytes(gzip.compress(log.read_bytes()))
    folder = policies(tmp_path, ACCOUNT)
    assert json.loads(run(log, packed, "--policies", folder, "-o", "json").stdout)["records"] == 8
    assert json.loads(run("-", "--policies", folder, "-o", "json", stdin=log.read_bytes()).stdout)["records"] == 4


@pytest.mark.parametrize(
    ("period", "count"),
    [
        (("--since", "2027-01-16"), 1),
        (("--until", "2027-01-15T08:00:02Z"), 2),
        (("--since", "2027-01-15T08:00:01Z", "--until", "2027-01-16"), 2),
    ],
)
def test_a_period_leaves_out_the_rest(tmp_path, log, period, count):
    done = run(log, "--policies", policies(tmp_path, ACCOUNT), "-o", "json", *period)
    assert json.loads(done.stdout)["records"] == count


def test_a_file_that_holds_no_record_is_told_apart_from_a_time_without_one(tmp_path):
    other = tmp_path / "notes.txt"
    other.write_text("nothing\n")
    done = run(other, "--policies", policies(tmp_path, ACCOUNT))
    assert done.exit_code == 2
    words = " ".join(done.stderr.replace("│", " ").split())
    assert "holds no decision. 1 lines were skipped: 1 no JSON." in words


def test_what_is_no_record_and_what_cannot_be_decided_is_counted(tmp_path, log):
    with log.open("ab") as file:
        file.write(b'garbage\n{"a":1}\n')
    unverified = replace(LOG[0], reason="bad_signature", stage="signature", rule=None, issuer=None, claims={})
    more = write_log(tmp_path / "more.jsonl", [unverified])
    done = run(log, more, "--policies", policies(tmp_path, ACCOUNT))
    assert done.exit_code == 0
    assert "Not decided again: 1\n  1 were refused before the policy was asked\n" in done.stdout
    assert "2 lines were skipped: 1 no audit record, 1 no JSON." in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("missing.jsonl",), "missing.jsonl: No such file or directory"),
        (("LOG", "--output", "yaml"), "is text, json or markdown"),
        (("LOG", "--since", "yesterday"), "is no time"),
        (("LOG", "--since", "2027-01-02", "--until", "2027-01-01"), "ends before it begins"),
        (("LOG", "--since", "2030-01-01"), "holds no decision of that time"),
        ((), "Missing argument"),
    ],
)
def test_wrong_use_ends_with_2(tmp_path, log, arguments, words):
    given = [str(log) if one == "LOG" else one for one in arguments]
    done = run(*given, "--policies", policies(tmp_path, ACCOUNT))
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.replace("│", " ").split())


def test_policies_that_do_not_load_are_told(tmp_path, log):
    done = run(log, "--policies", policies(tmp_path, ACCOUNT.replace("issuer: github", "issuer: gitlab")))
    assert done.exit_code == 1
    assert "no Issuer is called gitlab" in done.stderr
