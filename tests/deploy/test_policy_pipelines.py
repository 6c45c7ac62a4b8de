"""The pipelines of a policies repository: what they may do, and their scripts, run against a real repository and the
real commands. A loopback server stands for the APIs of GitHub and GitLab.
"""

import asyncio
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
import typer.main
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.cli.main import app
from tests.deploy.deployment_files import DEPLOY, ROOT, command, yaml_documents
from tests.support.policies import BASE

(GITHUB,) = yaml_documents(DEPLOY / "github" / "policies.yaml")
(GITLAB,) = yaml_documents(DEPLOY / "gitlab" / "policies.gitlab-ci.yml")
JOB = GITHUB["jobs"]["policies"]
STEPS = {step.get("name", "Check out"): step for step in JOB["steps"]}
GITLAB_JOBS = {name: job for name, job in GITLAB.items() if not name.startswith(".")}
GITHUB_SCRIPTS = [step["run"] for step in JOB["steps"] if "run" in step]
GITLAB_SCRIPTS = [line for job in GITLAB_JOBS.values() for line in [*job.get("before_script", []), *job["script"]]]
TOKEN = "the-jobs-own-token"

WEB = """\
kind: ServiceAccount
name: web-deployer
access: [{resource: deploy-api, scopes: [deploy:write]}]
trust:
  - issuer: github
    name: release
    match: {repository_id: "300400", repository_owner_id: "1", ref: refs/heads/main, event_name: push}
tests:
  - name: main may deploy
    issuer: github
    claims: {repository_id: "300400", repository_owner_id: "1", ref: refs/heads/main, event_name: push}
    expect: {allow: [deploy:write]}
"""
WIDER = WEB.replace(
    "ref: refs/heads/main, event_name: push}\ntests",
    "ref: [refs/heads/main, refs/heads/next], event_name: push}\ntests",
)
GAIN = "ref is refs/heads/next, event_name is push of issuer github may become web-deployer: gains deploy:write"

# ---------------------------------------------------------------- what they may do


def test_the_workflow_runs_for_pull_requests_with_as_little_as_it_needs():
    assert GITHUB[True] == {"pull_request": {"paths": ["policies/**"]}}  # YAML 1.1 reads the key `on` as true
    assert GITHUB["permissions"] == {}
    assert JOB["permissions"] == {"contents": "read", "pull-requests": "write", "security-events": "write"}
    assert JOB["timeout-minutes"] <= 10


def test_every_action_is_pinned_to_a_commit_with_its_version_beside_it():
    lines = [line for line in (DEPLOY / "github" / "policies.yaml").read_text().splitlines() if "uses:" in line]
    assert len(lines) == 2
    assert all(re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v[0-9]+\.[0-9]+\.[0-9]+$", line) for line in lines)


def test_the_checkout_leaves_no_token_behind():
    assert STEPS["Check out"]["with"] == {"fetch-depth": 2, "persist-credentials": False}


def test_what_needs_a_token_that_can_write_is_left_out_for_forks():
    own = "github.event.pull_request.head.repo.full_name == github.repository"
    for name in ("Comment", "Show the findings on the lines"):
        assert own in STEPS[name]["if"]


def test_the_token_reaches_the_step_that_comments_and_no_other():
    holding = [name for name, step in STEPS.items() if "github.token" in json.dumps(step)]
    assert holding == ["Comment"]


@pytest.mark.parametrize("script", GITHUB_SCRIPTS + GITLAB_SCRIPTS)
def test_no_text_is_pasted_into_a_script_and_no_token_stands_on_a_command_line(script):
    assert "${{" not in script
    for line in script.splitlines():
        if re.search(r"\$\{?(JOB_TOKEN|POLICY_NOTE_TOKEN)\b", line):
            assert line.strip().startswith("printf ")  # built into the shell: no process starts


def test_the_files_of_others_are_read_without_network_and_without_a_place_to_write():
    options = STEPS["Let gateway be the command of its image"]["run"].replace("\\\n", " ").split()
    assert {"--network", "none", "--read-only", "--cap-drop", "ALL", "no-new-privileges"} <= set(options)
    assert [one for one in options if one.endswith(':ro"')] == ['"$RUNNER_TEMP/policies:/policies:ro"']


def test_the_gitlab_jobs_run_for_merge_requests_alone():
    assert GITLAB[".policies"]["rules"] == [
        {"if": '$CI_PIPELINE_SOURCE == "merge_request_event"', "changes": ["policies/**/*"]}
    ]
    assert all(job["extends"] == ".policies" for job in GITLAB_JOBS.values())
    (rule,) = GITLAB["policies-note"]["rules"]
    assert rule["if"] == '$CI_PIPELINE_SOURCE == "merge_request_event" && $POLICY_NOTE_TOKEN'
    assert GITLAB["policies"]["artifacts"]["expose_as"]


@pytest.mark.parametrize("image", [JOB["env"]["GATEWAY_IMAGE"], *(job["image"] for job in GITLAB_JOBS.values())])
def test_an_image_is_named_by_a_version(image):
    assert re.search(r":[0-9]+\.[0-9]+", image["name"] if isinstance(image, dict) else image)


def gateway_lines() -> Iterator[list[str]]:
    for script in GITHUB_SCRIPTS + GITLAB_SCRIPTS:
        for line in script.splitlines():
            if line.startswith("gateway "):
                yield re.split(r" (?:>|\|\|)", line)[0].split()[1:]


@pytest.mark.parametrize("words", list(gateway_lines()), ids=" ".join)
def test_a_command_is_called_with_options_that_there_are(words):
    group, known = typer.main.get_command(app), None
    while hasattr(group, "commands"):
        group = group.commands[words[0]]
        words = words[1:]
    known = {option for parameter in group.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known


# ---------------------------------------------------------------- the scripts, run


@dataclass
class Api:
    """GitHub's and GitLab's APIs, as far as the scripts use them, on one TLS port of this machine."""

    url: str
    comments: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.written: list[tuple[str, str]] = []


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)

    async def answer(request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ") or request.headers["PRIVATE-TOKEN"]
        assert given == TOKEN
        if request.path.endswith("/user"):
            return web.json_response({"id": 7})
        if request.method == "GET":
            return web.json_response(made.comments)
        made.written.append((f"{request.method} {request.path}", json.loads(await request.text())["body"]))
        return web.json_response({"id": 1})

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    server = TestServer(application)
    await server.start_server(ssl=tls)
    made = Api(f"https://127.0.0.1:{server.port}")
    yield made
    await server.close()


@dataclass
class Repository:
    """A repository of policies with a main branch and a change that would be merged."""

    folder: Path
    work: Path
    """What stands for the runner's temporary folder."""

    def git(self, *arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            [command("git", "git"), *who, *arguments], cwd=self.folder, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit(self, **files: str | None) -> None:
        for name, text in files.items():
            path = self.folder / name.replace("__", "/").replace("_yaml", ".yaml")
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                path.unlink()
            else:
                path.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "change")

    def merge(self) -> None:
        """As GitHub checks a pull request out: merged into main, which is the first parent."""
        self.git("checkout", "--quiet", "--detach", "main")
        self.git("merge", "--quiet", "--no-ff", "--no-edit", "change")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "repository", tmp_path / "temp")
    made.folder.mkdir()
    made.work.mkdir()
    made.git("init", "--quiet", "--initial-branch=main", ".")
    made.commit(policies__base_yaml=BASE, policies__web_yaml=WEB)
    made.git("checkout", "--quiet", "-b", "change")
    return made


@dataclass(frozen=True)
class Finished:
    """What a script left behind."""

    status: int
    output: str
    errors: str


DOCKER = """\
#!{bash}
# What docker would do, without a container: the command of the image, in the folder that is mounted.
set -eu
[ "$1" = run ]
while [ "$1" != "$GATEWAY_IMAGE" ]; do
  case "$1" in *:/policies:ro) cd "${{1%:/policies:ro}}" ;; esac
  shift
done
shift
unset GATEWAY_IMAGE
exec "{python}" -m gateway "$@"
"""


def programs(folder: Path) -> str:
    """A PATH whose docker runs the command of this project, and whose gateway is that command itself."""
    folder.mkdir(exist_ok=True)
    bash = command("bash", "bash")
    docker = DOCKER.format(bash=bash, python=sys.executable)
    for name, text in (("docker", docker), ("plain/gateway", f'#!{bash}\nexec "{sys.executable}" -m gateway "$@"\n')):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


async def run(shell: str, script: str, folder: Path, variables: dict[str, str]) -> Finished:
    for program in ("git", "jq", "curl"):
        command(program, program)
    options = ["--noprofile", "--norc", "-eo", "pipefail"] if shell == "bash" else ["-e"]
    process = await asyncio.create_subprocess_exec(
        command(shell, shell),
        *options,
        "-c",
        script,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "HOME": str(folder), "LANG": "C.UTF-8", **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    return Finished(process.returncode or 0, output.decode(), errors.decode())


async def github(repository: Repository, api: Api | None = None, *, until: str = "Comment") -> dict[str, Finished]:
    """Runs the steps with scripts, one after the other, as a runner would: each is run, whether or not one failed."""
    work = repository.work
    variables = {
        **JOB["env"],
        "PATH": programs(work.parent / "programs"),
        "RUNNER_TEMP": str(work),
        "GITHUB_WORKSPACE": str(repository.folder),
        "GITHUB_PATH": str(work / "path"),
        "GITHUB_STEP_SUMMARY": str(work / "summary.md"),
        "GITHUB_REPOSITORY": "acme/policies",
        "GITHUB_API_URL": api.url if api is not None else "https://127.0.0.1:9",
        "CURL_CA_BUNDLE": str(work.parent / "ca.pem"),
        "JOB_TOKEN": TOKEN,
        "PULL_REQUEST": "12",
    }
    finished = {}
    for name, step in STEPS.items():
        if "run" in step and (api is not None or name != "Comment"):
            finished[name] = await run("bash", step["run"], repository.folder, variables)
            if (work / "path").exists():
                variables["PATH"] = f"{(work / 'path').read_text().strip()}:{variables['PATH']}"
                (work / "path").unlink()
        if name == until:
            break
    return finished


async def test_a_pull_request_is_told_what_it_means(repository, api):
    repository.commit(policies__web_yaml=WIDER)
    repository.merge()
    finished = await github(repository, api)
    assert {name: one.status for name, one in finished.items()} == dict.fromkeys(finished, 0), finished
    ((where, comment),) = api.written
    assert where == "POST /repos/acme/policies/issues/12/comments"
    assert comment.startswith("<!-- gateway policy diff -->\n### What changes in the policies\n")
    assert GAIN in comment
    assert "policies/web.yaml:5" in comment
    assert GAIN in (repository.work / "summary.md").read_text()


async def test_the_comment_before_is_written_anew_and_one_of_somebody_else_is_not(repository, api):
    marked = "<!-- gateway policy diff -->\nold"
    api.comments += [
        {"id": 1, "user": {"login": "mallory"}, "body": marked},
        {"id": 2, "user": {"login": "github-actions[bot]"}, "body": "of another workflow"},
        {"id": 3, "user": {"login": "github-actions[bot]"}, "body": marked},
    ]
    repository.commit(policies__web_yaml=WIDER)
    repository.merge()
    await github(repository, api)
    assert [where for where, _ in api.written] == ["PATCH /repos/acme/policies/issues/comments/3"]


async def test_a_failing_test_ends_its_step_and_the_diff_is_told_all_the_same(repository):
    closed = WEB.replace('match: {repository_id: "300400"', 'match: {repository_id: "1"')
    repository.commit(policies__web_yaml=closed)
    repository.merge()
    finished = await github(repository)
    assert (finished["Test"].status, finished["Check"].status, finished["Diff"].status) == (1, 1, 0)
    assert "main may deploy" in finished["Test"].output
    summary = (repository.work / "summary.md").read_text()
    assert "may no longer become web-deployer" in summary
    assert "passes before, fails after" in summary


async def test_findings_are_written_for_the_lines_and_an_error_ends_the_step(repository):
    dangerous = WEB.replace(
        'match: {repository_id: "300400", repository_owner_id: "1", ref: refs/heads/main, event_name: push}',
        "match: {event_name: push}", 1)  # fmt: skip
    repository.commit(policies__web_yaml=dangerous)
    repository.merge()
    finished = await github(repository)
    assert finished["Lint"].status == 1
    (results,) = [one["results"] for one in json.loads((repository.work / "lint.sarif").read_text())["runs"]]
    places = {one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for one in results}
    assert "policies/web.yaml" in places
    assert places <= {"policies/web.yaml", "policies/base.yaml"}


async def test_policies_that_do_not_load_end_the_steps_and_say_why(repository):
    repository.commit(policies__web_yaml=WEB.replace("resource: deploy-api", "resource: deploy-ap"))
    repository.merge()
    finished = await github(repository)
    assert (finished["Check"].status, finished["Lint"].status, finished["Diff"].status) == (1, 1, 1)
    assert "no Resource is called deploy-ap" in (repository.work / "summary.md").read_text()


async def test_the_first_policies_of_a_repository_are_a_gain(tmp_path):
    repository = Repository(tmp_path / "repository", tmp_path / "temp")
    repository.folder.mkdir()
    repository.work.mkdir()
    repository.git("init", "--quiet", "--initial-branch=main", ".")
    repository.commit(README="nothing yet")
    repository.git("checkout", "--quiet", "-b", "change")
    repository.commit(policies__base_yaml=BASE, policies__web_yaml=WEB)
    repository.merge()
    finished = await github(repository)
    assert finished["Diff"].status == 0
    assert "may become web-deployer: gains deploy:write" in (repository.work / "summary.md").read_text()


async def test_no_attribute_of_a_pull_request_hides_a_file(repository):
    repository.commit(
        policies__web_yaml=None,
        policies__evil_yaml=WIDER,
        **{"policies__.gitattributes": "evil.yaml export-ignore\n"},
    )
    repository.merge()
    await github(repository)
    assert GAIN in (repository.work / "summary.md").read_text()


async def test_nothing_of_a_pull_request_is_run(repository):
    ran = repository.work / "ran"
    repository.commit(
        policies__web_yaml=WIDER,
        **{
            "policies__.gitattributes": "*.yaml filter=evil\n",
            ".gitattributes": "*.yaml filter=evil\n",
            "gateway__py": f"open({str(ran)!r}, 'w')",
            "sitecustomize.py": f"open({str(ran)!r}, 'w')",
        },
    )
    repository.merge()
    await github(repository)
    assert not ran.exists()


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


# ---------------------------------------------------------------- GitLab


async def gitlab(repository: Repository, api: Api | None = None) -> dict[str, Finished]:
    """Runs the jobs in a clone of the change, with what each leaves behind for the next."""
    clone = repository.work / "clone"
    repository.git("clone", "--quiet", "--branch", "change", f"file://{repository.folder}", str(clone))
    shutil.rmtree(clone / "before", ignore_errors=True)
    path = programs(repository.work.parent / "programs")
    variables = {
        **GITLAB[".policies"]["variables"],
        "PATH": f"{repository.work.parent / 'programs' / 'plain'}:{path}",
        "CI_MERGE_REQUEST_DIFF_BASE_SHA": repository.git("merge-base", "main", "change"),
        "CI_API_V4_URL": f"{api.url}/api/v4" if api is not None else "",
        "CI_PROJECT_ID": "42",
        "CI_MERGE_REQUEST_IID": "12",
        "CURL_CA_BUNDLE": str(repository.work.parent / "ca.pem"),
        "POLICY_NOTE_TOKEN": TOKEN,
    }
    finished = {}
    for name, job in GITLAB_JOBS.items():
        if name != "policies-note" or api is not None:
            (script,) = job["script"]
            finished[name] = await run("sh", script, clone, variables)
    return finished


async def test_a_merge_request_is_told_what_it_means(repository, api):
    repository.commit(policies__web_yaml=WIDER)
    finished = await gitlab(repository, api)
    assert {name: one.status for name, one in finished.items()} == dict.fromkeys(GITLAB_JOBS, 0), finished
    left = repository.work / "clone"
    assert GAIN in (left / "policy-diff.md").read_text()
    assert "<testsuite" in (left / "policy-tests.xml").read_text()
    assert json.loads((left / "lint.sarif").read_text())["version"] == "2.1.0"
    ((where, note),) = api.written
    assert where == "POST /api/v4/projects/42/merge_requests/12/notes"
    assert GAIN in note


async def test_the_note_before_is_written_anew_and_one_of_somebody_else_is_not(repository, api):
    marked = "<!-- gateway policy diff -->\nold"
    api.comments += [{"id": 1, "author": {"id": 8}, "body": marked}, {"id": 2, "author": {"id": 7}, "body": marked}]
    repository.commit(policies__web_yaml=WIDER)
    await gitlab(repository, api)
    assert [where for where, _ in api.written] == ["PUT /api/v4/projects/42/merge_requests/12/notes/2"]


async def test_a_merge_request_whose_tests_fail_fails_and_shows_its_diff(repository):
    repository.commit(policies__web_yaml=WEB.replace('match: {repository_id: "300400"', 'match: {repository_id: "1"'))
    finished = await gitlab(repository)
    assert finished["policies"].status == 1
    assert "may no longer become web-deployer" in (repository.work / "clone" / "policy-diff.md").read_text()


async def test_a_merge_request_cannot_bring_what_it_is_compared_with(repository):
    repository.commit(policies__web_yaml=WIDER, before__web_yaml=WIDER)
    clone = repository.work / "clone"
    repository.git("clone", "--quiet", "--branch", "change", f"file://{repository.folder}", str(clone))
    base = repository.git("merge-base", "main", "change")
    (script,) = GITLAB["policies-before"]["script"]
    variables = {"PATH": os.environ["PATH"], "POLICIES": "policies", "CI_MERGE_REQUEST_DIFF_BASE_SHA": base}
    assert (await run("sh", script, clone, variables)).status != 0
