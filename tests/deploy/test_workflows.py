"""The CI examples: what they may do, what they take in, and their scripts run for real against a loopback server
that stands for GitHub's token endpoint and for the gateway's."""

import asyncio
import os
import re
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
import typer
import typer.main
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.cli.token import token
from gateway.client.sources import TOKEN_VARIABLE
from gateway.model import GrantType, TokenRequest
from gateway.oauth.parameters import parse_token_request
from tests.deploy.deployment_files import DEPLOY, command, yaml_documents

(GITHUB,) = yaml_documents(DEPLOY / "github" / "exchange.yaml")
(GITLAB,) = yaml_documents(DEPLOY / "gitlab" / "exchange.gitlab-ci.yml")
JOB = GITHUB["jobs"]["exchange"]
GITLAB_JOB = GITLAB[".exchange"]
GITLAB_JOBS = [job for name, job in GITLAB.items() if not name.startswith(".")]

GITHUB_SCRIPTS = [step["run"] for step in JOB["steps"]]
GITLAB_SCRIPTS = [line for job in GITLAB_JOBS for line in [*job.get("before_script", []), *job["script"]]]
WITH_CURL = [
    pytest.param("bash", GITHUB_SCRIPTS[0], JOB["env"], id="github"),
    pytest.param("sh", GITLAB["exchange-with-curl"]["script"][0], GITLAB_JOB["variables"], id="gitlab"),
]

WORKLOAD_TOKEN = "eyJhbGciOiJSUzI1NiJ9.d29ya2xvYWQ.c2lnbmF0dXJl"
ACCESS_TOKEN = "eyJhbGciOiJFUzI1NiJ9.YWNjZXNz.c2lnbmF0dXJl"
REQUEST_TOKEN = "the-runners-own-token"
GRANTED = {"access_token": ACCESS_TOKEN, "token_type": "Bearer", "expires_in": 900, "scope": "deploy:write"}
DENIED = {
    "error": "invalid_request",
    "error_description": "No trust rule lets this workload become a service account.",
    "reason": "no_matching_trust",
    "request_id": "b3J0aG9kb3g",
}

# ---------------------------------------------------------------- what they may do


def test_the_github_job_may_ask_for_its_token_and_nothing_else():
    assert GITHUB["permissions"] == {}
    assert JOB["permissions"] == {"id-token": "write"}


def test_the_github_workflow_runs_no_code_of_pull_requests():
    assert GITHUB[True] == {"push": {"branches": ["main"]}}  # YAML 1.1 reads the key `on` as true


def test_the_github_job_runs_nobody_elses_actions():
    assert not [step for step in JOB["steps"] if "uses" in step]


def test_the_gitlab_jobs_run_on_the_protected_default_branch_only():
    (rule,) = GITLAB_JOB["rules"]
    assert rule == {"if": '$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH && $CI_COMMIT_REF_PROTECTED == "true"'}
    assert all(job["extends"] == ".exchange" for job in GITLAB_JOBS)


def test_a_job_is_bounded_in_time():
    assert JOB["timeout-minutes"] <= 10
    assert GITLAB_JOB["timeout"] == "5 minutes"


@pytest.mark.parametrize("script", GITHUB_SCRIPTS + GITLAB_SCRIPTS)
def test_no_text_is_pasted_into_a_script(script):
    # An expression is replaced before the shell reads the line: whoever names a branch would write the script.
    assert "${{" not in script


@pytest.mark.parametrize("script", GITHUB_SCRIPTS + GITLAB_SCRIPTS)
def test_a_token_never_stands_on_a_command_line(script):
    secrets = r"\$\{?(workload_token|access_token|GATEWAY_ID_TOKEN|ACTIONS_ID_TOKEN_REQUEST_TOKEN)\b"
    for line in script.splitlines():
        if re.search(secrets, line) and not line.lstrip().startswith("#"):
            assert re.match(r"(if ! )?(printf|echo) ", line.strip()), line  # built into the shell: no process starts


@pytest.mark.parametrize("image", [job["image"] for job in GITLAB_JOBS] + [JOB["steps"][1]["env"]["GATEWAY_IMAGE"]])
def test_an_image_is_named_by_a_version(image):
    name = image["name"] if isinstance(image, dict) else image
    assert re.search(r":[0-9]+\.[0-9]+", name)


# ---------------------------------------------------------------- what they take in


def test_gitlab_makes_the_token_for_the_gateway_alone():
    assert GITLAB_JOB["id_tokens"] == {TOKEN_VARIABLE: {"aud": GITLAB_JOB["variables"]["GATEWAY_URL"]}}


@pytest.mark.parametrize("variables", [JOB["env"], GITLAB_JOB["variables"]])
def test_each_variable_is_one_that_gateway_token_reads(variables):
    assert variables.keys() <= {parameter.envvar for parameter in token_command().params}


@pytest.mark.parametrize("script", [GITHUB_SCRIPTS[1], GITLAB["exchange-with-gateway-token"]["script"][0]])
def test_gateway_token_is_called_with_options_that_there_are(script, monkeypatch):
    monkeypatch.setenv("GATEWAY_URL", JOB["env"]["GATEWAY_URL"])
    arguments = re.search(r"\btoken (--[^)]+)\)", script)[1].split()
    assert token_command().make_context("token", arguments).params["source"] in {"github", "env"}


def test_the_container_is_handed_every_variable_that_it_reads():
    handed = set(re.findall(r"--env ([A-Z_]+)", GITHUB_SCRIPTS[1]))
    assert handed == {
        *JOB["env"], "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "GITHUB_ACTIONS",
    }  # fmt: skip


def token_command() -> Any:
    application = typer.Typer()
    application.command("token")(token)
    return typer.main.get_command(application)


# ---------------------------------------------------------------- the scripts, run


@dataclass
class Endpoints:
    """GitHub's token endpoint and the gateway's, on one TLS port of this machine."""

    url: str
    ca_file: Path
    status: int = 200
    answer: dict[str, Any] = field(default_factory=lambda: GRANTED)
    audiences: list[str] = field(default_factory=list)
    requests: list[TokenRequest] = field(default_factory=list)


@pytest.fixture
async def endpoints(tmp_path) -> AsyncIterator[Endpoints]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)

    async def github(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == f"Bearer {REQUEST_TOKEN}"
        assert request.query["api-version"] == "2.0"
        endpoints.audiences.append(request.query["audience"])
        return web.json_response({"count": 1, "value": WORKLOAD_TOKEN})

    async def gateway(request: web.Request) -> web.Response:
        endpoints.requests.append(parse_token_request((await request.post()).items()))
        return web.json_response(endpoints.answer, status=endpoints.status)

    application = web.Application()
    application.router.add_get("/github/request", github)
    application.router.add_post("/token", gateway)
    server = TestServer(application)
    await server.start_server(ssl=tls)
    endpoints = Endpoints(f"https://127.0.0.1:{server.port}", tmp_path / "ca.pem")
    yield endpoints
    await server.close()


@dataclass(frozen=True)
class Finished:
    """What a script left behind."""

    status: int
    output: str
    errors: str
    files: list[Path]


async def run(shell: str, script: str, variables: dict[str, str], endpoints: Endpoints) -> Finished:
    """Runs a script as its platform does, with the variables that its platform and its file give it."""
    command("curl", "curl")
    command("jq", "jq")
    folder = endpoints.ca_file.parent / "job"
    folder.mkdir()
    options = ["--noprofile", "--norc", "-eo", "pipefail"] if shell == "bash" else ["-e"]
    process = await asyncio.create_subprocess_exec(
        command(shell, shell),
        *options,
        "-c",
        script,
        env={
            **variables,
            "PATH": os.environ["PATH"],
            "TMPDIR": str(folder),
            "CURL_CA_BUNDLE": str(endpoints.ca_file),
            "GATEWAY_URL": endpoints.url,
            TOKEN_VARIABLE: WORKLOAD_TOKEN,
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{endpoints.url}/github/request?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": REQUEST_TOKEN,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    return Finished(process.returncode or 0, output.decode(), errors.decode(), list(folder.iterdir()))


@pytest.mark.parametrize("script", GITHUB_SCRIPTS)
async def test_a_github_script_is_sound_bash(script):
    await check_syntax("bash", script)


@pytest.mark.parametrize("script", GITLAB_SCRIPTS)
@pytest.mark.parametrize("shell", ["bash", "sh"])
async def test_a_gitlab_script_is_sound_in_any_shell(shell, script):
    await check_syntax(shell, script)


async def check_syntax(shell: str, script: str) -> None:
    process = await asyncio.create_subprocess_exec(
        command(shell, shell), "-n", "-c", script, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")


@pytest.mark.parametrize(("shell", "script", "variables"), WITH_CURL)
async def test_the_script_sends_a_request_of_rfc_8693(shell, script, variables, endpoints):
    finished = await run(shell, script, variables, endpoints)
    assert (finished.status, finished.errors) == (0, "")
    assert endpoints.requests == [
        TokenRequest(
            grant_type=GrantType.TOKEN_EXCHANGE,
            token=WORKLOAD_TOKEN,
            token_type="urn:ietf:params:oauth:token-type:jwt",
            client_id=variables["GATEWAY_TOKEN_CLIENT_ID"],
            resource=variables["GATEWAY_TOKEN_RESOURCE"],
            scopes=(variables["GATEWAY_TOKEN_SCOPE"],),
        )
    ]


async def test_github_is_asked_for_a_token_for_the_gateway_alone(endpoints):
    await run("bash", GITHUB_SCRIPTS[0], JOB["env"], endpoints)
    assert endpoints.audiences == [endpoints.url]


@pytest.mark.parametrize(("shell", "script", "variables"), WITH_CURL)
async def test_the_log_holds_no_token_but_to_mask_it(shell, script, variables, endpoints):
    finished = await run(shell, script, variables, endpoints)
    shown = [line for line in finished.output.splitlines() if not line.startswith("::add-mask::")]
    masked = [line.removeprefix("::add-mask::") for line in finished.output.splitlines() if line not in shown]
    assert masked == ([WORKLOAD_TOKEN, ACCESS_TOKEN] if shell == "bash" else [])
    assert not any(secret in "\n".join(shown) for secret in (WORKLOAD_TOKEN, ACCESS_TOKEN, REQUEST_TOKEN))
    assert '"expires_in": 900' in finished.output


@pytest.mark.parametrize(("shell", "script", "variables"), WITH_CURL)
@pytest.mark.parametrize("status", [200, 400])
async def test_no_file_with_a_token_stays_behind(shell, script, variables, status, endpoints):
    endpoints.status, endpoints.answer = (status, GRANTED if status == 200 else DENIED)
    finished = await run(shell, script, variables, endpoints)
    assert finished.files == []


@pytest.mark.parametrize(("shell", "script", "variables"), WITH_CURL)
async def test_a_denial_ends_the_job_and_tells_why(shell, script, variables, endpoints):
    endpoints.status, endpoints.answer = 400, DENIED
    finished = await run(shell, script, variables, endpoints)
    assert finished.status == 1
    assert '"reason": "no_matching_trust"' in finished.errors
    assert DENIED["request_id"] in finished.errors
    assert len(endpoints.requests) == 1


@pytest.mark.parametrize(("shell", "script", "variables"), WITH_CURL)
async def test_an_answer_without_a_token_ends_the_job(shell, script, variables, endpoints):
    endpoints.answer = {"scope": "deploy:write"}
    assert (await run(shell, script, variables, endpoints)).status != 0


@pytest.mark.parametrize(("shell", "script", "variables"), WITH_CURL)
async def test_no_token_is_sent_without_tls(shell, script, variables, endpoints):
    plain = script.replace('"$GATEWAY_URL/token"', '"$(echo "$GATEWAY_URL" | sed s/^https/http/)/token"')
    assert plain != script
    finished = await run(shell, plain, variables, endpoints)
    assert finished.status != 0
    assert "disabled" in finished.errors
    assert endpoints.requests == []
