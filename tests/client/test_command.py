"""``gateway token`` against a small gateway: what it prints where, and how it ends."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import jwt
import pytest
import typer
from typer.testing import CliRunner

from gateway.cli.token import token as token_command
from gateway.standin import GITHUB_ACTIONS, StandInIssuer, StandInServer

ROOT = Path(__file__).parents[2]
SECRET = "eyJ.workload-secret.sig"
COMMAND = "import typer; from gateway.cli.token import token; typer.run(token)"


@pytest.fixture
def workload_file(tmp_path):
    file = tmp_path / "workload-token"
    file.write_text(SECRET)
    return file


@pytest.fixture
def run(small_gateway, monkeypatch):
    """Runs the command against the small gateway, with these arguments and variables."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("token")(token_command)
    runner = CliRunner()

    async def run(*arguments, url=None, stdin=None, **environment):
        environment = {"GATEWAY_URL": url or small_gateway.url, "GATEWAY_TOKEN_INSECURE_HTTP": "1", **environment}
        # Wide, so that a message stays on one line.
        environment |= {"COLUMNS": "400", "TERM": "dumb"}
        return await asyncio.to_thread(runner.invoke, app, list(map(str, arguments)), input=stdin, env=environment)

    return run


# ---------------------------------------------------------------- a token


async def test_the_token_alone_goes_to_standard_output(run, workload_file):
    result = await run("--file", workload_file)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "at.1\n", "")


async def test_every_option_goes_into_the_request(run, small_gateway, workload_file):
    arguments = "--client-id nightly --resource backup-api --scope a --scope b --expires-in 300 --grant jwt-bearer"
    await run("--file", workload_file, *arguments.split())
    assert small_gateway.forms == [
        {
            "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
            "assertion": SECRET,
            "client_id": "nightly",
            "resource": "backup-api",
            "scope": "a b",
            "requested_expires_in": "300",
        }
    ]


async def test_every_option_can_be_a_variable(run, small_gateway, workload_file, tmp_path):
    result = await run(
        GATEWAY_TOKEN_SOURCE="file",
        GATEWAY_TOKEN_FILE=str(workload_file),
        GATEWAY_TOKEN_CLIENT_ID="nightly",
        GATEWAY_TOKEN_RESOURCE="backup-api",
        GATEWAY_TOKEN_SCOPE="a b",
        GATEWAY_TOKEN_EXPIRES_IN="300",
        GATEWAY_TOKEN_GRANT="token-exchange",
        GATEWAY_TOKEN_ENDPOINT=f"{small_gateway.url}/token",
        GATEWAY_TOKEN_AUDIENCE="https://other.example",
        GATEWAY_TOKEN_TIMEOUT="20",
        GATEWAY_TOKEN_OUTPUT="header",
        GATEWAY_TOKEN_TO_FILE=str(tmp_path / "header"),
    )
    assert result.exit_code == 0
    assert (tmp_path / "header").read_text() == "Authorization: Bearer at.1"
    form = small_gateway.forms[0]
    assert (form["client_id"], form["resource"], form["scope"]) == ("nightly", "backup-api", "a b")
    assert small_gateway.paths == ["POST /token"]


async def test_json_has_the_token_its_expiry_and_its_scope(run, workload_file):
    result = await run("--file", workload_file, "--output", "json")
    printed = json.loads(result.stdout)
    assert printed.keys() == {"access_token", "token_type", "expires_at", "scope"}
    assert (printed["access_token"], printed["scope"]) == ("at.1", "backup:read")


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
async def test_kubectl_is_given_the_version_of_exec_credential_that_it_asks_for(run, workload_file, version):
    asked_for = {"apiVersion": f"client.authentication.k8s.io/{version}", "kind": "ExecCredential", "spec": {}}
    result = await run(
        "--file", workload_file, "--output", "exec-credential", KUBERNETES_EXEC_INFO=json.dumps(asked_for)
    )
    credential = json.loads(result.stdout)
    assert credential["apiVersion"] == asked_for["apiVersion"]
    assert credential["kind"] == "ExecCredential"
    assert credential["status"]["token"] == "at.1"
    assert credential["status"]["expirationTimestamp"].endswith("Z")


@pytest.mark.parametrize("odd", ["", "{", "[]", '{"apiVersion": ["x"]}', '{"apiVersion": "v9"}'])
async def test_an_exec_credential_is_of_version_1_unless_asked_otherwise(run, workload_file, odd):
    result = await run("--file", workload_file, "--output", "exec-credential", KUBERNETES_EXEC_INFO=odd)
    assert json.loads(result.stdout)["apiVersion"] == "client.authentication.k8s.io/v1"


async def test_a_header_can_be_given_to_curl(run, workload_file):
    assert (await run("--file", workload_file, "--output", "header")).stdout == "Authorization: Bearer at.1\n"


async def test_a_file_is_written_for_its_owner_only_and_nothing_is_printed(run, workload_file, tmp_path):
    file = tmp_path / "access-token"
    result = await run("--file", workload_file, "--to-file", file)
    assert (result.exit_code, result.stdout, file.read_text()) == (0, "", "at.1")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "at.1" not in result.stderr


# ---------------------------------------------------------------- the workload's own token


async def test_a_token_can_come_from_standard_input(run, small_gateway):
    assert (await run("--file", "-", stdin=f"{SECRET}\n")).exit_code == 0
    assert small_gateway.forms[0]["subject_token"] == SECRET


async def test_a_gitlab_job_needs_no_option(run, small_gateway):
    assert (await run(GATEWAY_ID_TOKEN=SECRET)).exit_code == 0
    assert small_gateway.forms[0]["subject_token"] == SECRET


async def test_a_variable_can_be_named(run, small_gateway):
    assert (await run("--env", "MY_TOKEN", MY_TOKEN=SECRET)).exit_code == 0
    assert small_gateway.forms[0]["subject_token"] == SECRET


@pytest.mark.parametrize("arguments", [[], ["--source", "github"]])
async def test_a_github_job_asks_for_a_token_for_the_gateway_and_masks_what_it_gets(run, small_gateway, arguments):
    issuer = StandInIssuer(GITHUB_ACTIONS, clock=lambda: 1_793_610_000.0)
    async with StandInServer(issuer):
        result = await run(*arguments, **issuer.job_environment())
    assert (result.exit_code, result.stdout) == (0, "at.1\n")
    assert result.stderr == "::add-mask::at.1\n"
    presented = small_gateway.forms[0]["subject_token"]

    assert jwt.decode(presented, options={"verify_signature": False})["aud"] == small_gateway.url


async def test_another_audience_can_be_asked_for(run, small_gateway):
    issuer = StandInIssuer(GITHUB_ACTIONS, clock=lambda: 1_793_610_000.0)
    async with StandInServer(issuer):
        await run("--audience", "https://other.example", **issuer.job_environment())

    presented = small_gateway.forms[0]["subject_token"]
    assert jwt.decode(presented, options={"verify_signature": False})["aud"] == "https://other.example"


# ---------------------------------------------------------------- no token


async def test_a_denial_tells_everything_that_is_known_and_exits_with_1(run, small_gateway, workload_file):
    small_gateway.refuse(
        400,
        error="invalid_request",
        reason="no_matching_trust",
        error_description="No trust rule fits. iss=x sub=y aud=z",
        request_id="r-1",
    )
    result = await run("--file", workload_file)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error: invalid_request\n" in result.stderr
    assert "reason: no_matching_trust\n" in result.stderr
    assert "description: No trust rule fits. iss=x sub=y aud=z\n" in result.stderr
    assert "request_id: r-1\n" in result.stderr
    assert "next: Ask gateway policy explain --request ID" in result.stderr
    assert SECRET not in result.output


async def test_a_denial_of_an_unknown_kind_is_told_as_it_is(run, small_gateway, workload_file):
    small_gateway.refuse(400, error="invalid_target", reason="a_reason_of_tomorrow")
    result = await run("--file", workload_file)
    assert result.exit_code == 1
    assert "reason: a_reason_of_tomorrow\n" in result.stderr
    assert "next:" not in result.stderr


async def test_a_gateway_that_asks_for_too_much_patience_ends_with_1(run, small_gateway, workload_file):
    small_gateway.refuse(503, error="temporarily_unavailable", reason="overloaded", headers={"Retry-After": "900"})
    result = await run("--file", workload_file)
    assert result.exit_code == 1
    assert "asks to wait 900 seconds" in result.stderr


async def test_a_missing_workload_token_ends_with_1_and_says_what_to_do(run, tmp_path, small_gateway):
    result = await run("--file", tmp_path / "missing")
    assert result.exit_code == 1
    assert "Mount a serviceAccountToken volume" in result.stderr
    assert small_gateway.forms == []


async def test_an_output_that_cannot_be_written_ends_with_1(run, workload_file, tmp_path):
    result = await run("--file", workload_file, "--to-file", tmp_path / "missing" / "token")
    assert result.exit_code == 1
    assert "cannot be written: No such file or directory" in result.stderr
    assert "at.1" not in result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--watch", "--file", "x"], "--to-file"),
        (["--watch", "--to-file", "t", "--file", "-"], "standard input"),
        (["--file", "x", "--env", "Y"], "give one of them"),
        (["--source", "github", "--file", "x"], "does not go with --file"),
        (["--source", "file", "--env", "X"], "does not go with --env"),
        (["--source", "aws"], "--source"),
        (["--grant", "password"], "--grant"),
        (["--output", "yaml"], "--output"),
        (["--expires-in", "0"], "--expires-in"),
        (["--unknown"], "--unknown"),
        (["--env", "HOME", "--gateway", "ftp://x"], "https://"),
        (["--env", "HOME", "--gateway", "https://u:p@x"], "neither a user"),
        (["--env", "HOME", "--gateway", "https://x", "--ca-file", "/missing"], "CA file"),
    ],
)
async def test_used_wrongly_it_ends_with_2_and_asks_nobody(run, small_gateway, arguments, told):
    result = await run(*arguments)
    assert result.exit_code == 2
    assert told in result.stderr
    assert small_gateway.paths == []


async def test_http_needs_the_option_that_allows_it(run, workload_file, small_gateway):
    result = await run("--file", workload_file, GATEWAY_TOKEN_INSECURE_HTTP="0")
    assert result.exit_code == 2
    assert "would show the token" in result.stderr
    assert small_gateway.paths == []


async def test_the_help_teaches(run):
    result = await run("--help")
    assert result.exit_code == 0
    for taught in ("id-token: write", "id_tokens", "serviceAccountToken", "--watch", "GATEWAY_TOKEN_RESOURCE"):
        assert taught in result.stdout


# ---------------------------------------------------------------- as a process


async def test_a_watch_keeps_the_file_fresh_until_sigterm(small_gateway, workload_file, tmp_path):
    small_gateway.expires_in = 1
    file = tmp_path / "access-token"
    arguments = [
        "--gateway",
        small_gateway.url,
        "--insecure-http",
        "--file",
        workload_file,
        "--to-file",
        file,
        "--watch",
    ]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", COMMAND, *map(str, arguments), cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    async with asyncio.timeout(30):
        await small_gateway.until_asked(3)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = await process.communicate()
    assert (process.returncode, stdout) == (0, b"")
    assert file.read_text() in {"at.2", "at.3"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"access-token", "workload-token"}
    assert b"at." not in stderr.replace(str(file).encode(), b"")
    assert b"Traceback" not in stderr


def test_the_client_needs_nothing_but_python():
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import gateway.client; print(gateway.client.__all__)"
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True, cwd=os.sep
    )
    assert "'exchange'" in result.stdout


def test_the_command_loads_none_of_the_servers_libraries():
    script = "import sys, gateway.cli.token; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    heavy = {"aiohttp", "orjson", "uvloop", "cryptography", "jwt", "yaml", "prometheus_client", "cel_expr_python"}
    assert not heavy & set(result.stdout.split())
