"""Go's golang.org/x/oauth2, unmodified, as Debian packages it.

Where it was told no style of authentication it tries the header, and on any failure silently repeats the request with
the credentials in the body: one mistake arrives twice.
"""

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.interoperability.classic_gateway import ODD_SECRET, SECRET, ClassicGateway, classic_gateway
from tests.support.parts import program

SOURCE = Path(__file__).parent / "go" / "client_credentials.go"
GOPATH = Path("/usr/share/gocode")
LIBRARY = "golang.org/x/oauth2"
PACKAGE = "golang-golang-x-oauth2-dev"
BUILD_SECONDS = 120
"""The first build compiles the standard library: 25 seconds of one core. Later ones take one."""


def unavailable(message: str) -> None:
    """Skips, except under CI=true: there a missing part is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client as a program."""
    go = program("go", "golang-go")
    if not (GOPATH / "src" / LIBRARY).exists():
        unavailable(f"{LIBRARY} is not installed: sudo apt-get install {PACKAGE}")
    built = tmp_path_factory.mktemp("go") / "client_credentials"
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(GOPATH), "GOFLAGS": "", "CGO_ENABLED": "0"}
    try:
        done = subprocess.run(
            [go, "build", "-o", built, SOURCE], env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS
        )
    except subprocess.TimeoutExpired:
        unavailable(f"the Go client was not built within {BUILD_SECONDS} seconds")
    assert done.returncode == 0, done.stderr
    return built


async def ask(client: Path, classic: ClassicGateway, secret: str, style: str, *scopes: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        client, classic.token_url, "batch", secret, style, *scopes,
        env={**os.environ, "SSL_CERT_FILE": classic.ca_file}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    written, _ = await asyncio.wait_for(process.communicate(), 30)
    return json.loads(written)


def records(classic: ClassicGateway) -> list[dict[str, Any]]:
    return [json.loads(line) for line in classic.audit_file.read_text().splitlines()]


@pytest.mark.parametrize("secret", [SECRET, ODD_SECRET], ids=["plain", "odd"])
@pytest.mark.parametrize(
    ("style", "method"),
    [("auto", "client_secret_basic"), ("header", "client_secret_basic"), ("params", "client_secret_post")],
)
async def test_go_authenticates_with_a_secret(
    client: Path, classic: ClassicGateway, secret: str, style: str, method: str
):
    result = await ask(client, classic, secret, style, "ledger:read", "ledger:write")
    assert (result["token_type"], result["valid"]) == ("Bearer", True)
    claims = await asyncio.to_thread(classic.claims, result["access_token"])
    assert result["expiry"] == pytest.approx(claims["exp"], abs=5)
    assert claims["scope"] == "ledger:read ledger:write"
    assert claims["entitled_by"].startswith(f"{method}/secret:")
    assert len(records(classic)) == 1


async def test_go_sends_a_wrong_secret_twice_in_two_ways(client: Path, classic: ClassicGateway):
    result = await ask(client, classic, "not-it", "auto")
    assert result["status"] == 400, "of the second, in the body"
    assert json.loads(result["body"])["error"] == "invalid_client"
    assert [(one["client_id"], one["reason"]) for one in records(classic)] == (
        [("batch", "client_authentication_failed")] * 2
    )


async def test_go_sends_it_once_where_it_was_told_how(client: Path, classic: ClassicGateway):
    for style, status in (("header", 401), ("params", 400)):
        assert (await ask(client, classic, "not-it", style))["status"] == status
    assert len(records(classic)) == 2


@pytest.mark.parametrize("mistake", ["typo", f"{ODD_SECRET}!"])
async def test_what_go_repeats_counts_as_one_failure(client: Path, tmp_path: Path, mistake: str):
    async with classic_gateway(tmp_path, quotas={"failures_per_source": "2/minute"}) as classic:
        assert (await ask(client, classic, mistake, "auto"))["status"] == 400
        assert "access_token" in await ask(client, classic, SECRET, "header")
        await ask(client, classic, "another typo", "auto")
        assert (await ask(client, classic, SECRET, "header"))["status"] == 429
