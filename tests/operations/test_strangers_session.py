"""A stranger's session, as it happens to everybody once: a wrong rule for GitHub, the denial, the explanation, the fix
that it names, the grant. Real processes, real HTTP; what is changed is read from the explanation and from nowhere else.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.clock import SteadyClock
from gateway.standin.issuer import StandInIssuer, StandInServer
from gateway.standin.platforms import GITHUB_ACTIONS
from tests.faults.serving import Serving, serving
from tests.support.parts import eventually
from tests.support.running import ISSUER

ROOT = Path(__file__).parent.parent.parent
POLICIES = """\
kind: Issuer
name: github
preset: github-actions
keys: {{discovery_url: "{github}", private_network: true}}
---
kind: Resource
name: deploy-api
identifier: https://deploy.example.com
scopes: {{deploy:write: Deploy}}
---
kind: ServiceAccount
name: web-deployer
owner: web@example.com
access: [{{resource: deploy-api, scopes: [deploy:write]}}]
trust:
  - name: production
    issuer: github
    {conditions}
"""
WRONG = {
    "a subject without the ids": "match: {sub: 'repo:acme/web:environment:production', event_name: push}",
    "a workflow file that ends in yaml": (
        'match: {repository_id: "300400"}\n    like:\n      # the deployment\n'
        "      workflow_ref: acme/web/.github/workflows/deploy.yaml@refs/heads/main"
    ),
    "an id as a number": "match:\n      repository_id: 300400\n      environment: production",
    "the subject of a branch for a job with an environment": "match:\n      sub: repo:acme/web:ref:refs/heads/main",
    "the called workflow for the calling one": (
        "match:\n      repository_id: '300400'\n"
        "      job_workflow_ref: acme/web/.github/workflows/deploy.yml@refs/heads/main"
    ),
    "a condition in capitals": 'match: {repository_id: "300400"}\n    when: claims.environment == "Production"',
}


@asynccontextmanager
async def stranger_with(folder: Path, conditions: str) -> AsyncIterator[tuple[Serving, StandInIssuer]]:
    """A gateway process with these conditions in its one trust rule, and GitHub."""
    github = StandInIssuer(GITHUB_ACTIONS, clock=SteadyClock())
    async with StandInServer(github):
        policies = POLICIES.format(github=github.discovery_url, conditions=conditions)
        admin = {"listen": "127.0.0.1:0", "allow_loopback": True}
        async with serving(folder, policies, admin=admin) as gateway:
            yield gateway, github


async def explain(gateway: Serving, request_id: str, *options: str) -> tuple[int, str]:
    """``gateway policy explain --request`` as a process: its exit code, and what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "policy", "explain", "--request", request_id, "--admin", gateway.admin_url,
        *options, cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    printed, told = await process.communicate()
    assert process.returncode in {0, 1}, told.decode()
    return process.returncode, printed.decode()


def make(change: Mapping[str, Any]) -> None:
    """Does what a hint says: to that line of that file, that text."""
    file = Path(change["file"])
    lines = file.read_text().split("\n")
    assert lines[change["line"] - 1] == change["change"]["now"]
    lines[change["line"] - 1] = change["change"]["write"]
    file.write_text("\n".join(lines))


@pytest.mark.parametrize("conditions", WRONG.values(), ids=WRONG.keys())
async def test_a_stranger_is_denied_is_told_why_changes_that_line_and_is_granted(tmp_path: Path, conditions: str):
    async with stranger_with(tmp_path, conditions) as (gateway, github):
        status, denied = await gateway.exchange(github.token(ISSUER))
        assert (status, denied["reason"]) == (400, "no_matching_trust")

        code, printed = await explain(gateway, denied["request_id"], "--output", "json")
        explanation = json.loads(printed)
        assert (code, explanation["granted"], explanation["reason"]) == (1, False, "no_matching_trust")
        (hint,) = explanation["hints"]
        make(hint)

        async def taken_over() -> bool:
            readiness = json.loads(await gateway.get(f"{gateway.admin_url}/readyz"))
            assert readiness["policies"]["problems"] == []
            return bool(readiness["policies"]["generation"] == 2)

        await eventually(taken_over)
        status, granted = await gateway.exchange(github.token(ISSUER))
        assert (status, granted.get("scope")) == (200, "deploy:write"), granted


async def test_the_stranger_reads_it_as_text_too(tmp_path: Path):
    async with stranger_with(tmp_path, WRONG["an id as a number"]) as (gateway, github):
        _, denied = await gateway.exchange(github.token(ISSUER))
        code, printed = await explain(gateway, denied["request_id"])
        assert code == 1
        assert "web-deployer/production" in printed
        assert "-       repository_id: 300400" in printed
        assert '+       repository_id: "300400"' in printed
        assert f"{tmp_path}/policies/policies.yaml:19" in printed
