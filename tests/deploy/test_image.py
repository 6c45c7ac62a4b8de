"""The image cannot be built in a test; its recipe is read line by line, and what can be run of it is run."""

import asyncio
import fnmatch
import json
import re
import sys

import pytest
import typer.main
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.cli.main import app
from tests.deploy.deployment_files import DEPLOY, PROJECT, ROOT, instructions

DOCKERFILE = DEPLOY / "Dockerfile"
LOCK = DEPLOY / "requirements.lock"
INSTRUCTIONS = instructions(DOCKERFILE)


def arguments_of(word: str) -> list[str]:
    return [arguments for instruction, arguments in INSTRUCTIONS if instruction == word]


def last_stage() -> list[tuple[str, str]]:
    start = max(number for number, (word, _) in enumerate(INSTRUCTIONS) if word == "FROM")
    return INSTRUCTIONS[start:]


def the_one(word: str) -> str:
    found = [arguments for instruction, arguments in last_stage() if instruction == word]
    assert len(found) == 1, f"{word} stands {len(found)} times in the last stage"
    return found[0]


def copied_from_context() -> list[str]:
    sources: list[str] = []
    for arguments in arguments_of("COPY"):
        words = arguments.split()
        if not any(word.startswith("--from=") for word in words):
            sources += [word for word in words[:-1] if not word.startswith("--")]
    return sources


def test_every_line_is_an_instruction_that_docker_knows():
    known = {
        "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "USER", "WORKDIR",
    }  # fmt: skip
    assert {word for word, _ in INSTRUCTIONS} <= known  # ADD, VOLUME, SHELL and ONBUILD have no place here


def test_the_base_is_named_by_a_version():
    assert arguments_of("ARG") == ["PYTHON_IMAGE=python:3.13-slim"]
    assert [arguments.split()[0] for arguments in arguments_of("FROM")] == ["${PYTHON_IMAGE}", "${PYTHON_IMAGE}"]


def test_the_standard_library_that_is_compiled_is_that_of_the_base():
    (compiling,) = [line for word, line in last_stage() if word == "RUN"]
    assert "/usr/local/lib/python3.13 " in compiling
    assert "Programming Language :: Python :: 3.13" in PROJECT["classifiers"]


def test_the_gateway_runs_as_a_numeric_user_that_is_not_root():
    user, group = the_one("USER").split(":")
    assert int(user) >= 1000
    assert int(group) >= 1000


def test_nothing_runs_after_the_user_was_changed():
    words = [word for word, _ in last_stage()]
    assert "RUN" not in words[words.index("USER") :]
    assert "COPY" not in words[words.index("USER") :]


def test_dependencies_come_from_the_lock_file_with_hashes_and_as_wheels_only():
    (install,) = [line for line in arguments_of("RUN") if "requirements.lock" in line]
    assert {"--require-hashes", "--only-binary=:all:"} <= set(install.split())
    assert "--hash=sha256:" in LOCK.read_text()


def test_the_package_itself_brings_nothing_from_a_network():
    (install,) = [line for line in arguments_of("RUN") if " install --no-deps" in line]
    assert {"--no-deps", "--no-build-isolation", "."} <= set(install.split())


def test_no_program_of_the_recipe_loads_anything_from_a_url():
    for word, arguments in INSTRUCTIONS:
        assert not re.search(r"https?://(?!127\.0\.0\.1)|\bcurl\b|\bwget\b|\bgit\b", arguments), (word, arguments)


def test_what_only_builds_the_package_is_taken_out_again():
    (install,) = [line for line in arguments_of("RUN") if " uninstall " in line]
    removed = set(install.split(" uninstall --yes ")[1].split())
    assert removed == only_for_building(LOCK.read_text())


def only_for_building(lock: str) -> set[str]:
    """The packages of the lock file that nothing but the project's ``build`` group needs."""
    needed_by: dict[str, set[str]] = {}
    name = ""
    for line in lock.splitlines():
        if pinned := re.match(r"([a-z0-9.-]+)==", line):
            name = pinned[1]
            needed_by[name] = set()
        elif found := re.match(r" +#( via)? +(\S.*)", line):
            needed_by[name].add(found[2])
    build_only = {name for name, users in needed_by.items() if users == {f"{PROJECT['name']} (pyproject.toml:build)"}}
    while True:
        more = {name for name, users in needed_by.items() if users <= build_only}
        if more <= build_only:
            return build_only
        build_only |= more


def test_what_is_copied_exists_and_is_not_kept_from_the_build():
    patterns = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    sources = copied_from_context()
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source, patterns), source


@pytest.mark.parametrize("path", [".git", ".venv", "CHANGELOG.md", "tests", "deploy/kubernetes", "gateway/__pycache__"])
def test_the_build_sees_nothing_that_it_does_not_need(path):
    assert ignored(path, (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines())


def ignored(path: str, patterns: list[str]) -> bool:
    """What .dockerignore says of a path: the last line that fits it, or a folder above it, decides."""
    above = [path, *(path[: match.start()] for match in re.finditer("/", path))]
    verdict = False
    for line in patterns:
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").removeprefix("**/")
        names = [*above, *(part.rpartition("/")[2] for part in above)] if "**/" in line else above
        if any(fnmatch.fnmatchcase(name, pattern) for name in names):
            verdict = not line.startswith("!")
    return verdict


def test_what_the_package_needs_to_be_built_is_copied():
    needed = {"pyproject.toml", "gateway", "policies", PROJECT["readme"], "deploy/requirements.lock"}
    assert needed == set(copied_from_context())


def test_the_container_starts_without_a_shell():
    assert json.loads(the_one("ENTRYPOINT")) == ["gateway"]
    assert "gateway" in PROJECT["scripts"]


def test_the_container_starts_a_command_that_there_is():
    name, *arguments = json.loads(the_one("CMD"))
    command = typer.main.get_command(app).commands[name]
    assert str(command.make_context(name, arguments).params["config"]) == "/etc/gateway/gateway.yaml"


def test_nothing_is_written_to_the_root_file_system_at_run_time():
    environment = dict(pair.split("=", 1) for pair in the_one("ENV").split())
    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"
    assert environment["PYTHONUNBUFFERED"] == "1"


def test_the_label_tells_the_version_of_the_package():
    labels = dict(re.findall(r'(org\.opencontainers\.image\.\w+)="([^"]*)"', the_one("LABEL")))
    assert labels["org.opencontainers.image.version"] == PROJECT["version"]
    assert labels["org.opencontainers.image.description"] == PROJECT["description"]


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
async def test_the_health_check_says_what_livez_says(status, healthy):
    async def livez(_request: web.Request) -> web.Response:
        return web.Response(status=status)

    application = web.Application()
    application.router.add_get("/livez", livez)
    async with TestServer(application) as server:
        assert (await health_check(server.port) == 0) is healthy


async def test_the_health_check_fails_where_nobody_listens(unused_tcp_port):
    assert await health_check(unused_tcp_port) != 0


async def health_check(port: int) -> int:
    """Runs the HEALTHCHECK of the Dockerfile against another port, in an environment that names a proxy."""
    program, *arguments = json.loads(the_one("HEALTHCHECK").split(" CMD ", 1)[1])
    assert program == "python"
    assert " 8081," in arguments[-1]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments[:-1],
        arguments[-1].replace("8081", str(port)),
        env={"http_proxy": "http://127.0.0.1:1"},
        stderr=asyncio.subprocess.DEVNULL,
    )
    return await process.wait()
