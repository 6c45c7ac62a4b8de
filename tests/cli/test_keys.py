"""``gateway keys`` on real stores: files, SQLite and Redis."""

import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.tokens.signing_key import SigningKey
from tests.support.redis_server import RedisServer
from tests.support.time import HandClock
from tests.support.tokens import NOW

HOUR = 3600


@dataclass(frozen=True)
class Store:
    """A key store with its settings."""

    file: Path

    def run(self, *arguments: str, answer: str = "") -> Result:
        options = ["--config", str(self.file)]
        words = list(arguments)
        at = words.index("--") if "--" in words else len(words)
        return CliRunner().invoke(app, ["keys", *words[:at], *options, *words[at:]], input=answer)

    def done(self, *arguments: str) -> dict[str, Any]:
        """What a command that succeeds says as JSON."""
        at = arguments.index("--") if "--" in arguments else len(arguments)
        result = self.run(*arguments[:at], "--output", "json", *arguments[at:])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def keys(self) -> dict[str, dict[str, Any]]:
        return {one["kid"]: one for one in json.loads(self.run("list", "--output", "json").stdout)["keys"]}

    def states(self) -> dict[str, str]:
        return {kid: one["state"] for kid, one in self.keys().items()}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    """What the commands tell the time by."""
    clock = HandClock()
    monkeypatch.setattr("gateway.cli.keys._now", clock)
    return clock


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("GATEWAY_"):
            monkeypatch.delenv(name)


def written(folder: Path, text: str) -> Store:
    (folder / "encryption.key").write_text("A" * 43 + "\n")
    (folder / "encryption.key").chmod(0o600)
    (folder / "gateway.yaml").write_text(f"issuer: https://sts.example.com\n{text}")
    return Store(folder / "gateway.yaml")


IN_STATE = "keys: {store: 'state://', encryption_key_file: encryption.key}\n"


@pytest.fixture
def files(tmp_path: Path) -> Store:
    return written(tmp_path, f"keys: {{store: 'file://{tmp_path}/keys'}}\n")


@pytest.fixture(params=["file", "sqlite", "redis"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    match request.param:
        case "file":
            yield written(tmp_path, f"keys: {{store: 'file://{tmp_path}/keys'}}\n")
        case "sqlite":
            yield written(tmp_path, f"state: sqlite://{tmp_path}/state.db\n{IN_STATE}")
        case _:
            server = RedisServer(tmp_path)
            await server.start()
            yield written(tmp_path, f"state: {server.url}\n{IN_STATE}")
            await server.kill()


# ---------------------------------------------------------------- the life of a key


def test_the_first_key_signs_at_once_and_the_next_one_after_a_day(store: Store):
    assert store.keys() == {}
    first = store.done("rotate")["kid"]
    assert store.states() == {first: "active"}
    second = store.done("rotate", "--reason", "yearly")["kid"]
    assert store.states() == {second: "upcoming", first: "active"}
    shown = store.keys()[second]
    assert shown["until"] == shown["sign_from"]
    assert shown["note"].endswith(": yearly")
    again = store.run("rotate")
    assert again.exit_code == 1
    assert f"{second} is upcoming already" in again.stderr


def test_an_emergency_rotation_takes_the_upcoming_key_or_makes_one(store: Store, clock: HandClock):
    first, second = store.done("rotate")["kid"], store.done("rotate")["kid"]
    clock.now += 1
    assert store.done("rotate", "--now", "--yes")["kid"] == second
    assert store.states() == {second: "active", first: "retiring"}
    clock.now += 1
    third = store.done("rotate", "--now", "--yes")["kid"]
    assert store.states() == {third: "active", second: "retiring", first: "retiring"}


def test_a_revoked_key_is_out_and_the_upcoming_one_takes_over(store: Store, clock: HandClock):
    first, second = store.done("rotate")["kid"], store.done("rotate")["kid"]
    clock.now += 1
    answer = store.done("revoke", first, "--reason", "leak", "--yes")
    assert (answer["signs_now"], answer["changed"]) == (second, True)
    assert store.states() == {second: "active", first: "revoked"}
    assert store.keys()[first]["note"].endswith(": leak")
    assert store.done("revoke", first, "--yes")["changed"] is False


def test_revoking_the_only_key_makes_a_new_one_that_signs_at_once(store: Store):
    only = store.done("rotate")["kid"]
    new = store.done("revoke", only, "--yes")["signs_now"]
    assert store.states() == {only: "revoked", new: "active"}


def test_a_key_that_was_made_elsewhere_becomes_the_next_one(store: Store, tmp_path: Path):
    first = store.done("rotate")["kid"]
    key = SigningKey.generate("ES256", NOW)
    (tmp_path / "next.pem").write_bytes(key.private_pem())
    assert store.done("import", str(tmp_path / "next.pem"))["kid"] == key.kid
    assert store.states() == {key.kid: "upcoming", first: "active"}
    again = store.run("import", str(tmp_path / "next.pem"))
    assert again.exit_code == 1
    assert "is there already" in again.stderr
    store.done("revoke", key.kid, "--yes")
    assert "is revoked" in store.run("import", str(tmp_path / "next.pem")).stderr


def test_each_algorithm_has_keys_of_its_own(store: Store):
    one = store.done("rotate")["kid"]
    other = store.done("rotate", "--algorithm", "EdDSA")["kid"]
    assert store.states() == {one: "active", other: "active"}


# ---------------------------------------------------------------- what it says


def test_it_says_what_a_revocation_breaks_and_asks(files: Store):
    first = files.done("rotate")["kid"]
    refused = files.run("revoke", first, answer="n\n")
    assert refused.exit_code == 1
    assert files.states() == {first: "active"}
    said = refused.stderr
    assert "Every token that it signed since" in said
    assert "for up to 5m" in said
    assert "A new key signs at once, and no verifier knows it" in said
    second = files.done("rotate")["kid"]
    assert f"{second} signs at once. It was published" in files.run("revoke", first, answer="n\n").stderr
    assert "It signs nothing yet." in files.run("revoke", second, answer="n\n").stderr
    assert files.run("revoke", first, answer="y\n").exit_code == 0
    assert files.states()[first] == "revoked"


def test_it_says_that_verifiers_know_a_key_that_was_published_for_long(files: Store, clock: HandClock):
    files.done("rotate")
    second = files.done("rotate")["kid"]
    clock.now += 3 * HOUR
    said = files.run("rotate", "--now", answer="n\n").stderr
    assert f"{second} signs at once. It was published 3h ago: verifiers that honour max-age know it." in said


def test_an_emergency_rotation_asks_first(files: Store):
    first = files.done("rotate")["kid"]
    asked = files.run("rotate", "--now")
    assert asked.exit_code == 1
    assert "For up to 5m verifiers that cache the key set" in asked.stderr
    assert files.states() == {first: "active"}


def test_the_table_names_every_key(files: Store):
    kids = [files.done("rotate")["kid"], files.done("rotate", "--reason", "x\x1b[31m")["kid"]]
    shown = files.run("list")
    assert shown.exit_code == 0
    assert all(kid in shown.stdout for kid in kids)
    assert "signs from" in shown.stdout
    assert "\x1b" not in shown.stdout


def test_who_did_it_and_why_is_told(files: Store):
    told = files.run("rotate", "--reason", "incident 4711").stderr
    assert "gateway.keys: rotated kid=" in told
    assert "incident 4711" in told


# ---------------------------------------------------------------- names and mistakes


def test_the_first_characters_of_a_name_are_enough(files: Store):
    kid = files.done("rotate")["kid"]
    assert files.run("revoke", kid[:5], "--yes").exit_code == 1
    assert files.done("revoke", kid[:6], "--yes")["kid"] == kid


def test_a_name_that_no_key_has_is_an_error(files: Store):
    files.done("rotate")
    result = files.run("revoke", "nothing\x1b[31m-here", "--yes")
    assert result.exit_code == 1
    assert "there is no key" in result.stderr
    assert "\x1b" not in result.stderr


def test_a_name_with_a_dash_in_front_goes_behind_two_dashes(files: Store, tmp_path: Path):
    files.done("rotate")
    while not (key := SigningKey(ed25519.Ed25519PrivateKey.generate(), int(NOW))).kid.startswith("-"):
        pass
    (tmp_path / "next.pem").write_bytes(key.private_pem())
    files.done("import", str(tmp_path / "next.pem"))
    assert files.done("revoke", "--yes", "--", key.kid)["kid"] == key.kid


@pytest.mark.parametrize(
    "pem", [b"", b"hello", b"x" * 20_000, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_no_key_is_not_imported(files: Store, tmp_path: Path, pem: bytes):
    (tmp_path / "next.pem").write_bytes(pem)
    result = files.run("import", str(tmp_path / "next.pem"))
    assert result.exit_code == 1
    assert "is no private key" in result.stderr
    assert files.keys() == {}


def test_an_encrypted_key_is_imported_with_its_passphrase(files: Store, tmp_path: Path):
    key = SigningKey.generate("ES256", NOW)
    (tmp_path / "next.pem").write_bytes(key.private_pem(b"hunter2"))
    assert "give --passphrase-file" in files.run("import", str(tmp_path / "next.pem")).stderr
    (tmp_path / "passphrase").write_text("hunter2\n")
    (tmp_path / "passphrase").chmod(0o600)
    result = files.run("import", str(tmp_path / "next.pem"), "--passphrase-file", str(tmp_path / "passphrase"))
    assert result.exit_code == 0, result.output
    assert "hunter2" not in result.output
    private = serialization.load_pem_private_key((tmp_path / "keys" / f"{key.kid}.pem").read_bytes(), None)
    assert SigningKey(private, 0).kid == key.kid


def test_keys_in_memory_cannot_be_reached(tmp_path: Path):
    for words in (["list"], ["rotate"], ["revoke", "abcdefg", "--yes"]):
        result = written(tmp_path, "").run(*words)
        assert result.exit_code == 1
        assert "memory://" in result.stderr


def test_a_state_that_is_away_is_said(tmp_path: Path):
    result = written(tmp_path, f"state: redis://127.0.0.1:1/0\n{IN_STATE}").run("list")
    assert result.exit_code == 1
    assert "the signing keys cannot be read" in result.stderr


def test_a_store_without_a_key_that_signs_is_told_by_the_exit_code(files: Store, tmp_path: Path):
    kid = files.done("rotate")["kid"]
    row = json.loads((tmp_path / "keys" / f"{kid}.json").read_text())
    (tmp_path / "keys" / f"{kid}.json").write_text(json.dumps(row | {"revoked_at": int(NOW)}))
    result = files.run("list")
    assert result.exit_code == 1
    assert "No ES256 key signs" in result.stderr


def test_used_wrongly_it_ends_with_2(files: Store):
    wrong: list[list[str]] = [["revoke"], ["rotate", "--algorithm", "HS256"], ["rotate", "--reason", "x" * 201]]
    for words in wrong:
        assert files.run(*words).exit_code == 2


def test_no_private_key_is_ever_shown(store: Store, tmp_path: Path):
    outputs = [store.run(*words).output for words in (["rotate"], ["rotate"], ["list"], ["list", "--output", "json"])]
    key = SigningKey.generate("ES256", NOW)
    (tmp_path / "next.pem").write_bytes(key.private_pem())
    outputs.append(store.run("import", str(tmp_path / "next.pem")).output)
    assert "PRIVATE" not in "".join(outputs)
