"""Secrets of clients on the command line: shown once, kept as digests, ended with an overlap, and told what is due."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli.client import app
from gateway.identity.clients.stored_secrets import USE_KIND, SecretRegister
from gateway.kinds import STATE_BACKENDS
from gateway.model import RegisteredSecret
from gateway.oauth.client_secret import is_client_secret, secret_digest
from tests.support.parts import free_port
from tests.support.policies import load

ROOT = Path(__file__).parent.parent.parent
DAY = 86400
POLICIES = """\
kind: Resource
name: backup-api
identifier: https://backup.example.com
scopes: {backup:read: Read}
---
kind: ServiceAccount
name: nightly-backup
access: [{resource: backup-api, scopes: [backup:read]}]
credentials:
  secrets:
    - {id: s1, digest: "sha256:%s", created: 2026-01-01}
---
kind: ServiceAccount
name: reporting
access: [{resource: backup-api, scopes: [backup:read]}]
credentials:
  rotate: {every: 90d, overlap: 48h, to: ["kubernetes://storage/reporting"]}
""" % ("1" * 64)


@dataclass
class CommandLine:
    """A folder with settings and policies, and the commands in it."""

    folder: Path
    state: str

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GATEWAY_", "KUBERNETES_", "PYTHONUNBUFFERED"))
        }
        command = [sys.executable, "-m", "gateway", "client", *arguments, "--config", str(self.folder / "gateway.yaml")]
        variables = {**clean, "NO_COLOR": "1", "COLUMNS": "200"}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 60, **options}
        return subprocess.run(command, cwd=ROOT, env=variables, **options)

    def registered(self, client_id: str) -> dict[str, RegisteredSecret]:
        """What the shared state has of a client."""

        async def read() -> dict[str, RegisteredSecret]:
            state = STATE_BACKENDS["sqlite"](self.state, time.time)
            try:
                return {one.id: one for one in await SecretRegister(state, time.time).of(client_id)}
            finally:
                await state.close()

        return asyncio.run(read())

    def add(self, client_id: str, secret_id: str, *, age: float = 0, ends_in: float | None = None, used: bool = False):
        """Registers a secret made ``age`` seconds ago."""

        async def write() -> None:
            state = STATE_BACKENDS["sqlite"](self.state, time.time)
            now = time.time()
            expires_at = None if ends_in is None else now + ends_in
            secret = RegisteredSecret(secret_id, secret_digest(secret_id), now - age, expires_at)
            assert await SecretRegister(state, time.time).add(client_id, secret)
            if used:
                await state.put(USE_KIND, f"{client_id}/{secret_id}", json.dumps({"at": now - 120}).encode())
            await state.close()

        asyncio.run(write())


@pytest.fixture
def command_line(tmp_path: Path) -> CommandLine:
    return settled(tmp_path, f"sqlite://{tmp_path}/state.db")


def settled(folder: Path, state: str) -> CommandLine:
    (folder / "policies").mkdir()
    (folder / "policies" / "accounts.yaml").write_text(POLICIES)
    (folder / "gateway.yaml").write_text(f"issuer: https://sts.example.com\nstate: {state}\n")
    return CommandLine(folder, state)


# ---------------------------------------------------------------- new-secret


def test_a_new_secret_is_shown_once_and_only_its_digest_is_kept(command_line: CommandLine):
    done = command_line.run("new-secret", "reporting", "--expires", "90d")
    assert done.returncode == 0, done.stderr
    secret = done.stdout.strip()
    assert is_client_secret(secret)
    assert secret not in done.stderr
    (registered,) = command_line.registered("reporting").values()
    assert registered.digest == secret_digest(secret)
    assert registered.created_at == pytest.approx(time.time(), abs=60)
    assert registered.expires_at == pytest.approx(time.time() + 90 * DAY, abs=60)
    kept = b"".join(path.read_bytes() for path in command_line.folder.rglob("*") if path.is_file())
    assert secret.encode() not in kept


def test_older_secrets_end_after_the_overlap_unless_they_end_sooner(command_line: CommandLine):
    command_line.add("reporting", "endless", age=DAY)
    command_line.add("reporting", "long", age=DAY, ends_in=30 * DAY)
    command_line.add("reporting", "short", age=DAY, ends_in=3600)
    done = command_line.run("new-secret", "reporting", "--overlap", "12h", "--id", "next")
    assert done.returncode == 0, done.stderr
    registered = command_line.registered("reporting")
    in_12h = pytest.approx(time.time() + 12 * 3600, abs=60)
    assert registered["endless"].expires_at == registered["long"].expires_at == in_12h
    assert registered["short"].expires_at == pytest.approx(time.time() + 3600, abs=60)
    assert registered["next"].expires_at is None
    assert "endless ends" in done.stderr
    assert "short" not in done.stderr


def test_a_script_gets_everything_in_one_object(command_line: CommandLine):
    command_line.add("nightly-backup", "old", age=DAY)
    done = command_line.run("new-secret", "nightly-backup", "--output", "json")
    answer = json.loads(done.stdout)
    assert is_client_secret(answer["client_secret"])
    assert (answer["client_id"], answer["lives_in"], answer["expires"]) == ("nightly-backup", "state", None)
    assert [one["id"] for one in answer["ending"]] == ["old"]
    assert [one["id"] for one in answer["to_be_ended_in_policy_files"]] == ["s1"]
    assert answer["client_secret"] not in done.stderr


def test_a_secret_of_the_policy_file_is_told_with_its_line_because_no_command_changes_it(command_line: CommandLine):
    done = command_line.run("new-secret", "nightly-backup")
    assert done.returncode == 0, done.stderr
    file = command_line.folder / "policies" / "accounts.yaml"
    assert f"{file}:11: give s1 `expires: " in done.stderr
    assert file.read_text() == POLICIES
    day = re.search(r"expires: ([0-9-]+)", done.stderr)
    assert day is not None
    first_day = datetime.fromisoformat(day[1]).replace(tzinfo=UTC)
    assert timedelta(hours=23) < first_day - datetime.now(UTC) <= timedelta(hours=48)  # the overlap is never cut


def test_a_state_that_nobody_shares_is_refused_with_what_to_do(tmp_path: Path):
    command_line = settled(tmp_path, "memory://")
    for arguments in (["new-secret", "reporting"], ["expire", "reporting", "x"], ["rotate", "reporting"]):
        done = command_line.run(*arguments)
        assert done.returncode == 1, arguments
        assert "sqlite:///" in done.stderr
        assert "redis://" in done.stderr
        assert done.stdout == ""
    assert "--to-policy" in command_line.run("new-secret", "reporting").stderr


def test_to_policy_prints_a_line_that_loads_and_changes_nothing(tmp_path: Path):
    command_line = settled(tmp_path, "memory://")
    done = command_line.run("new-secret", "nightly-backup", "--to-policy", "--expires", "90d", "--id", "s2")
    assert done.returncode == 0, done.stderr
    secret = done.stdout.strip()
    assert is_client_secret(secret)
    (line,) = [line.strip() for line in done.stderr.splitlines() if line.strip().startswith("- {")]
    file = tmp_path / "policies" / "accounts.yaml"
    assert f"{file}:11: give s1 `expires: " in done.stderr
    assert file.read_text() == POLICIES
    file.write_text(POLICIES.replace("    - {id: s1", f"    {line}\n    - {{id: s1"))
    client = load(tmp_path / "policies").registered_client("nightly-backup")
    assert client is not None
    assert client.secrets[0].digest == secret_digest(secret)
    assert client.secrets[0].expires_at == pytest.approx(time.time() + 90 * DAY, abs=DAY)


def test_a_service_account_that_there_is_not_is_used_wrongly(command_line: CommandLine):
    done = command_line.run("new-secret", "nightly-backups")
    assert done.returncode == 2
    assert "did you mean nightly-backup?" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["new-secret", "reporting", "--expires", "90"],
        ["new-secret", "reporting", "--overlap", "1 day"],
        ["new-secret", "reporting", "--id", "Not A Name"],
        ["new-secret", "nightly-backup", "--id", "s1"],
        ["expire", "reporting", "x", "--at", "tomorrow"],
        ["rotate"],
        ["rotate", "nightly-backup"],
        ["rotate", "nightly-backup", "--to", "kubernets://a/b"],
        ["rotate", "nightly-backup", "--to", "kubernetes://a"],
        ["rotate", "nightly-backup", "--to", "kubernetes://a/b", "--if-due"],
        ["rotate", "nightly-backup", "--to", "kubernetes://a/b", "--expires", "1m"],
        ["rotate", "nightly-backup", "--to", "kubernetes://a/b", "--gateway", "http://sts.example.com"],
        ["rotate", "nightly-backup", "--due"],
        ["list", "nobody"],
    ],
)
def test_a_command_used_wrongly_exits_with_2_and_changes_nothing(command_line: CommandLine, arguments: list[str]):
    environment = {name: None for name in os.environ if name.startswith(("GATEWAY_", "KUBERNETES_"))}
    done = CliRunner(env=environment).invoke(app, [*arguments, "--config", str(command_line.folder / "gateway.yaml")])
    assert done.exit_code == 2, done.stderr
    assert command_line.registered("reporting") == {}


def test_a_secret_that_cannot_be_printed_is_ended_at_once_and_the_old_ones_work_on(command_line: CommandLine):
    command_line.add("reporting", "old", age=DAY)
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = command_line.run("new-secret", "reporting", "--id", "next", stdout=write_end)
    finally:
        os.close(write_end)
    assert done.returncode == 1
    registered = command_line.registered("reporting")
    assert registered["old"].expires_at is None
    assert registered["next"].expires_at is not None
    assert registered["next"].expires_at <= time.time()


# ---------------------------------------------------------------- list


def test_the_list_says_where_each_secret_lives_and_what_is_due(command_line: CommandLine):
    command_line.add("reporting", "worn-out", age=120 * DAY, used=True)
    command_line.add("nightly-backup", "gone", age=60 * DAY, ends_in=-DAY, used=True)
    command_line.add("nightly-backup", "giving-way", age=30 * DAY, ends_in=DAY, used=True)
    command_line.add("nightly-backup", "soon", age=2 * DAY, ends_in=7 * DAY)
    command_line.add("deleted-account", "orphan", used=True)
    done = command_line.run("list", "--output", "json")
    assert done.returncode == 0, done.stderr
    rows = {one["id"]: one for one in json.loads(done.stdout)}
    assert {id_: one["due"] for id_, one in rows.items()} == {
        "worn-out": ["rotation overdue"],
        "gone": ["expired"],
        "giving-way": ["overlap"],
        "soon": ["expires soon", "never used"],
        "s1": ["never used"],
        "orphan": ["no such service account"],
    }
    assert rows["s1"]["lives_in"].endswith("accounts.yaml:11")
    assert rows["gone"]["lives_in"] == "state"
    assert rows["worn-out"]["last_used"] is not None
    assert rows["s1"]["created"] == "2026-01-01T00:00:00Z"


def test_the_list_is_a_table_for_people(command_line: CommandLine):
    command_line.add("reporting", "worn-out", age=120 * DAY, used=True)
    done = command_line.run("list", "reporting")
    heading, row = done.stdout.splitlines()
    assert heading.split("  ")[0] == "client"
    assert re.match(r"reporting +worn-out +state +[0-9-]+ +120d +never +2m ago +rotation overdue", row)


def test_without_shared_state_the_list_shows_the_policy_files(tmp_path: Path):
    done = settled(tmp_path, "memory://").run("list", "--output", "json")
    assert [one["id"] for one in json.loads(done.stdout)] == ["s1"]
    assert json.loads(done.stdout)[0]["due"] == []  # of its use nothing is known
    assert "memory://" in done.stderr


def test_an_empty_list_says_so(command_line: CommandLine):
    done = command_line.run("list", "reporting")
    assert (done.returncode, done.stdout) == (0, "")
    assert "reporting has no secret" in done.stderr


# ---------------------------------------------------------------- expire


def test_a_secret_is_ended_at_once_or_at_a_time_and_never_prolonged(command_line: CommandLine):
    for secret_id in ("one", "two", "three"):
        command_line.add("reporting", secret_id, age=DAY, ends_in=10 * DAY)
    assert command_line.run("expire", "reporting", "one").returncode == 0
    assert command_line.run("expire", "reporting", "two", "--at", "6h").returncode == 0
    far = (datetime.now(UTC) + timedelta(days=30)).strftime("%Y-%m-%dT%H:%M:%SZ")
    answer = command_line.run("expire", "reporting", "three", "--at", far, "--output", "json")
    assert answer.returncode == 0
    registered = command_line.registered("reporting")
    ends = [registered[name].expires_at for name in ("one", "two", "three")]
    assert ends == pytest.approx([time.time(), time.time() + 6 * 3600, time.time() + 10 * DAY], abs=60)
    assert json.loads(answer.stdout)["expires"] != far


def test_a_secret_in_a_policy_file_is_ended_there(command_line: CommandLine):
    done = command_line.run("expire", "nightly-backup", "s1")
    assert done.returncode == 1
    assert f"{command_line.folder}/policies/accounts.yaml:11" in done.stderr
    assert f"expires: {datetime.now(UTC):%Y-%m-%d}" in done.stderr


def test_a_secret_that_there_is_not_is_a_no_with_the_nearest_id(command_line: CommandLine):
    command_line.add("reporting", "2026-11-25-5e0f9a61")
    done = command_line.run("expire", "reporting", "2026-11-25-5e0f9a16")
    assert done.returncode == 1
    assert "did you mean 2026-11-25-5e0f9a61?" in done.stderr


# ---------------------------------------------------------------- rotate


def test_a_rotation_that_cannot_reach_its_store_exits_with_1_and_makes_nothing(command_line: CommandLine):
    done = command_line.run("rotate", "--due")
    assert done.returncode == 1
    assert "reporting: it was never rotated" in done.stderr
    assert "runs in no pod" in done.stderr
    assert command_line.registered("reporting") == {}
    answer = json.loads(command_line.run("rotate", "reporting", "--output", "json").stdout)
    assert [(one["client_id"], one["rotated"]) for one in answer] == [("reporting", False)]
    assert "runs in no pod" in answer[0]["error"]


def test_with_nothing_scheduled_there_is_nothing_to_do(command_line: CommandLine):
    file = command_line.folder / "policies" / "accounts.yaml"
    file.write_text(re.sub(r"  rotate: .*\n", "  secrets: []\n", POLICIES))
    done = command_line.run("rotate", "--due")
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stderr


def test_a_store_url_never_holds_a_secret(command_line: CommandLine):
    done = command_line.run(
        "rotate", "reporting", "--to", "vault://token:hvs.secret@kv/path?address=https://v.example.com"
    )
    assert done.returncode == 2
    assert "hvs.secret" not in done.stderr


@pytest.mark.parametrize("command", [[], ["new-secret"], ["list"], ["expire"], ["rotate"]])
def test_every_command_has_help_that_teaches(command: list[str]):
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "client", *command, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert not command or f"gateway client {command[0]} " in " ".join(done.stdout.split())


def test_state_that_cannot_be_reached_is_told_without_a_traceback(tmp_path: Path):
    command_line = settled(tmp_path, f"redis://127.0.0.1:{free_port()}/0")
    done = command_line.run("new-secret", "reporting")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_secret_that_would_end_before_the_one_that_it_replaces_is_not_made(command_line: CommandLine):
    command_line.add("nightly-backup", "old", age=DAY)
    for arguments in (["--expires", "0d"], ["--expires", "1h"], ["--expires", "24h", "--overlap", "30d"]):
        done = command_line.run("new-secret", "nightly-backup", *arguments)
        assert done.returncode == 2
        assert "--overlap" in done.stderr
        assert done.stdout == ""


def test_a_folder_that_is_not_there_is_told_and_how_to_make_it(tmp_path: Path):
    command_line = settled(tmp_path, f"sqlite://{tmp_path}/missing/state.db")
    for arguments in (["list"], ["new-secret", "reporting"], ["expire", "reporting", "x"]):
        done = command_line.run(*arguments)
        assert done.returncode == 1
        assert "install -d" in done.stderr
        assert "Traceback" not in done.stderr
