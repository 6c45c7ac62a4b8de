"""``gateway revoke``: the kill switch, in words that say what it breaks."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from gateway.cli.main import app
from tests.support.ledger import BATCH, CLUSTER, POLICIES, WEB, Ledger, ledger
from tests.support.parts import eventually

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """Settings with a state on disk, and the policies of the ledger."""
    (tmp_path / "policies").mkdir()
    policies = POLICIES.replace("CLUSTER_DISCOVERY", f"{CLUSTER}/.well-known/openid-configuration")
    (tmp_path / "policies" / "policies.yaml").write_text(policies)
    file = tmp_path / "gateway.yaml"
    file.write_text(f"issuer: https://sts.example.com\nstate: sqlite://{tmp_path}/state.db\n")
    return file


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("GATEWAY_"):
            monkeypatch.delenv(name)


def run(configuration: Path, *arguments: str, answer: str = "") -> Result:
    return CliRunner().invoke(app, ["revoke", *arguments, "--config", str(configuration)], input=answer)


def in_force(configuration: Path) -> list[dict]:
    result = run(configuration, "--list", "--output", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["revocations"]


FORMS = [
    (["--jti", "jti-1"], {"form": "token", "token_id": "jti-1"}),
    (["--service-account", "shop"], {"form": "service_account", "service_account": "shop"}),
    (["--issuer", "prod-cluster"], {"form": "issuer", "issuer": "prod-cluster", "iss": CLUSTER}),
    (
        ["--issuer", "prod-cluster", "--subject", WEB],
        {"form": "workload", "issuer": "prod-cluster", "iss": CLUSTER, "subject": WEB},
    ),
    (["--rule", "shop/web"], {"form": "rule", "service_account": "shop", "rule": "web"}),
    (
        ["--credential", "batch/secret:s1"],
        {"form": "credential", "service_account": "batch", "credential": "secret:s1"},
    ),
]


@pytest.mark.parametrize(("arguments", "expected"), FORMS)
def test_each_form_is_put_into_the_shared_state(configuration: Path, arguments: list[str], expected: dict):
    result = run(configuration, *arguments, "--reason", "laptop lost", "--yes")
    assert result.exit_code == 0, result.output
    [found] = in_force(configuration)
    assert expected.items() <= found.items()
    assert found["reason"] == "laptop lost"


def test_it_says_what_it_breaks_and_asks(configuration: Path):
    result = run(configuration, "--issuer", "prod-cluster", answer="n\n")
    assert result.exit_code == 1
    assert "every token that was got with a token of the issuer prod-cluster" in result.stderr
    assert "service accounts shop, ledger-service" in result.stderr
    assert "until they expire" in result.stderr
    assert in_force(configuration) == []
    assert run(configuration, "--issuer", "prod-cluster", answer="y\n").exit_code == 0
    assert len(in_force(configuration)) == 1


def test_without_an_answer_nothing_is_revoked(configuration: Path):
    assert run(configuration, "--service-account", "shop").exit_code == 1
    assert in_force(configuration) == []


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["--service-account", "shopp"], "did you mean shop?"),
        (["--issuer", "prod-clutser"], "did you mean prod-cluster?"),
        (["--rule", "shop/wed"], "did you mean web?"),
        (["--rule", "shp/web"], "did you mean shop?"),
        (["--credential", "btch/secret:s1"], "did you mean batch?"),
        (["--credential", "batch/secret:s2"], "there is no secret of batch s2"),
    ],
)
def test_a_name_that_the_policies_do_not_have_is_refused_with_the_nearest_one(
    configuration: Path, arguments: list[str], suggestion: str
):
    result = run(configuration, *arguments, "--yes")
    assert result.exit_code == 1
    assert suggestion in result.stderr
    assert in_force(configuration) == []
    assert run(configuration, *arguments, "--yes", "--force").exit_code == 0
    assert len(in_force(configuration)) == 1


def test_policies_that_do_not_load_keep_nobody_from_revoking(configuration: Path):
    (configuration.parent / "policies" / "broken.yaml").write_text("kind: Nonsense\n")
    result = run(configuration, "--service-account", "shop", "--yes")
    assert result.exit_code == 1
    assert "broken.yaml" in result.stderr
    assert "--force" in result.stderr
    assert run(configuration, "--service-account", "shop", "--yes", "--force").exit_code == 0
    assert run(configuration, "--jti", "jti-1", "--yes").exit_code == 0
    assert len(in_force(configuration)) == 2


def test_a_revocation_is_taken_back_by_its_id(configuration: Path):
    run(configuration, "--service-account", "shop", "--yes")
    [found] = in_force(configuration)
    assert run(configuration, "--undo", "no-such-id").exit_code == 1
    result = run(configuration, "--undo", found["id"])
    assert result.exit_code == 0
    assert found["id"] in result.stdout
    assert in_force(configuration) == []


def test_the_list_is_for_people_too(configuration: Path):
    run(configuration, "--issuer", "prod-cluster", "--subject", "evil\x1b[2Jname", "--reason", "x\ny", "--yes")
    result = run(configuration, "--list")
    assert result.exit_code == 0
    assert "evil\\x1b[2Jname" in result.stdout
    assert "\x1b" not in result.output
    assert len(result.stdout.splitlines()) == 1
    assert "1 in force" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--jti", "a", "--service-account", "shop"],
        ["--list", "--undo", "x"],
        ["--subject", WEB],
        ["--service-account", "shop", "--subject", WEB],
        ["--rule", "shop"],
        ["--rule", "/web"],
        ["--credential", "batch"],
        ["--credential", "batch/s1"],
        ["--credential", "batch/sekret:s1"],
        ["--list", "--output", "yaml"],
        ["--jti", "x" * 2000],
    ],
)
def test_what_is_not_understood_exits_with_2(configuration: Path, arguments: list[str]):
    assert run(configuration, *arguments, "--yes").exit_code == 2


@pytest.mark.parametrize("arguments", [["--service-account", "shop", "--yes"], ["--list"], ["--undo", "x"]])
def test_a_state_that_nobody_shares_is_refused_with_what_to_set(configuration: Path, arguments: list[str]):
    configuration.write_text("issuer: https://sts.example.com\n")
    result = run(configuration, *arguments)
    assert result.exit_code == 1
    assert "sqlite://" in result.stderr
    assert "redis://" in result.stderr


def test_a_state_that_cannot_be_reached_is_told_and_exits_with_1(configuration: Path):
    configuration.write_text("issuer: https://sts.example.com\nstate: redis://127.0.0.1:1/0\n")
    result = run(configuration, "--service-account", "shop", "--yes")
    assert result.exit_code == 1
    assert "nothing was changed" in result.stderr
    assert "Traceback" not in result.output


def test_settings_that_are_wrong_are_told(configuration: Path):
    configuration.write_text("isuer: https://sts.example.com\n")
    result = run(configuration, "--list")
    assert result.exit_code == 1
    assert "did you mean issuer?" in result.stderr


def test_scripts_are_told_what_was_revoked(configuration: Path):
    result = run(configuration, "--service-account", "shop", "--yes", "--output", "json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["ok"] is True
    assert told["revocation"]["id"] == in_force(configuration)[0]["id"]


# ---------------------------------------------------------------- with a gateway that runs


async def revoke(house: Ledger, *arguments: str) -> None:
    (house.folder / "gateway.yaml").write_text(
        f"issuer: https://sts.example.com\nstate: sqlite://{house.folder}/state.db\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "revoke", *arguments, "--yes", "--insecure-http",
        "--config", f"{house.folder}/gateway.yaml",
        cwd=ROOT, env=clean, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


@pytest.mark.parametrize(
    ("arguments", "ends", "spares"),
    [
        (["--service-account", "shop"], "token", "client_token"),
        (["--issuer", "prod-cluster"], "token", "client_token"),
        (["--issuer", "prod-cluster", "--subject", WEB], "token", "client_token"),
        (["--rule", "shop/web"], "token", "client_token"),
        (["--credential", "batch/secret:s1"], "client_token", "token"),
    ],
)
async def test_a_running_gateway_refuses_what_was_revoked_within_a_second(
    tmp_path: Path, arguments: list[str], ends: str, spares: str
):
    async with ledger(tmp_path, state=f"sqlite://{tmp_path}/state.db") as house:
        ended, spared = await getattr(house, ends)(), await getattr(house, spares)()
        assert (await house.introspect(ended))[1]["active"] is True
        await revoke(house, *arguments)

        async def is_refused() -> bool:
            return (await house.verify(ended))[0] == 401

        await eventually(is_refused, within_seconds=1.5)
        assert (await house.introspect(ended))[1] == {"active": False}
        assert (await house.introspect(spared))[1]["active"] is True
        assert (await house.verify(spared))[0] == 200


async def test_the_kill_switch_ends_what_is_out_there_and_shuts_nobody_out(tmp_path: Path):
    """Who may get a new token is for the policies to say."""
    async with ledger(tmp_path, state=f"sqlite://{tmp_path}/state.db") as house:
        await revoke(house, "--service-account", "batch")
        status, body, _ = await house.gateway.post(
            {"grant_type": "client_credentials", "resource": "ledger-api"}, headers=BATCH
        )
        assert status == 200, body
