"""``gateway policy explain``: offline from the files, of a running gateway, for people and for scripts."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.clock import SteadyClock
from gateway.policy.near_miss import HINTS
from gateway.standin.issuer import StandInIssuer
from gateway.standin.platforms import GITHUB_ACTIONS, KUBERNETES
from tests.docs.examples import policy_sets
from tests.docs.markdown import ROOT, blocks

ISSUER = "https://sts.example.com"
POLICY = """\
kind: Issuer
name: github
preset: github-actions
keys: {{jwks_file: {keys}}}
---
kind: Issuer
name: cluster
preset: kubernetes
url: https://kubernetes.default.svc.cluster.local
---
kind: Resource
name: deploy-api
identifier: https://deploy.example.com
scopes: {{deploy:write: Deploy, deploy:read: Look}}
---
kind: ServiceAccount
name: web-deployer
access: [{{resource: deploy-api, scopes: [deploy:write]}}]
trust:
  - name: production
    issuer: github
    match:
      repository_id: "300400"
      environment: Production
tests:
  - name: fails, which keeps nobody from asking why
    issuer: github
    claims: {{repository_id: "300400", environment: production}}
    expect: {{allow: [deploy:write]}}
"""
RIGHT = POLICY.replace("Production", "production")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("GATEWAY_"):
            monkeypatch.delenv(name)


@dataclass(frozen=True)
class Desk:
    """Policies in a folder, and an issuer that signs tokens for them."""

    folder: Path
    github: StandInIssuer

    def write(self, policy: str, **keys: Any) -> None:
        key_set = self.folder / "github.jwks.json"
        key_set.write_text(json.dumps(self.github.key_set()))
        (self.folder / "policies" / "policy.yaml").write_text(policy.format(keys=keys.get("keys", key_set)))

    def file(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    def token(self, **claims: Any) -> str:
        return self.file("token.jwt", self.github.token(ISSUER, **claims) + "\n")

    def claims(self, **claims: Any) -> str:
        return self.file("claims.json", json.dumps(claims))

    def explain(self, *arguments: str, given: str | None = None) -> Result:
        options = ["policy", "explain", *arguments, "--policies", str(self.folder / "policies")]
        return CliRunner().invoke(app, options, input=given)

    def told(self, *arguments: str, exit_code: int) -> dict[str, Any]:
        result = self.explain(*arguments, "--output", "json")
        assert result.exit_code == exit_code, result.output
        document: dict[str, Any] = json.loads(result.stdout)
        return document


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "policies").mkdir()
    made = Desk(tmp_path, StandInIssuer(GITHUB_ACTIONS, clock=SteadyClock()))
    made.write(POLICY)
    return made


# ---------------------------------------------------------------- a token


def test_a_denied_token_is_explained_to_people(desk: Desk):
    result = desk.explain("--token", desk.token())
    assert result.exit_code == 1
    assert result.stdout.startswith("Denied: no_matching_trust\n")
    assert "web-deployer/production" in result.stdout
    assert "match environment  wants Production; saw production" in result.stdout
    assert "-       environment: Production" in result.stdout
    assert "+       environment: production" in result.stdout
    assert "policy.yaml:24" in result.stdout


def test_the_change_that_it_names_makes_it_granted(desk: Desk):
    token = desk.token()
    (hint,) = desk.told("--token", token, exit_code=1)["hints"]
    file = Path(hint["file"])
    lines = file.read_text().split("\n")
    assert lines[hint["line"] - 1] == hint["change"]["now"]
    lines[hint["line"] - 1] = hint["change"]["write"]
    file.write_text("\n".join(lines))
    told = desk.told("--token", token, exit_code=0)
    assert (told["granted"], told["signature"], told["result"]["scopes"]) == (True, "verified", ["deploy:write"])


def test_a_token_is_never_printed(desk: Desk):
    token = desk.token()
    for output in ("text", "json"):
        shown = desk.explain("--token", token, "--output", output).output
        assert not any(part in shown for part in Path(token).read_text().strip().split("."))


def test_a_token_may_come_from_standard_input(desk: Desk):
    result = desk.explain("--token", "-", "-o", "json", given=desk.github.token(ISSUER))
    assert json.loads(result.stdout)["reason"] == "no_matching_trust"


def test_an_expired_token_is_denied_and_the_policies_are_asked_all_the_same(desk: Desk):
    desk.write(RIGHT)
    old = StandInIssuer(GITHUB_ACTIONS, clock=lambda: SteadyClock()() - 3600)
    told = desk.told("--token", desk.file("old.jwt", old.token(ISSUER)), exit_code=1)
    assert (told["reason"], told["decision"], told["signature"]) == ("unknown_key", "granted", "bad")
    expired = desk.github.mint({**desk.github.claims(ISSUER), "iat": 1000, "nbf": 1000, "exp": 1300})
    told = desk.told("--token", desk.file("old.jwt", expired), exit_code=1)
    assert (told["reason"], told["decision"], told["signature"]) == ("token_expired", "granted", "verified")
    text = desk.explain("--token", desk.file("old.jwt", expired)).stdout
    assert "The policies would grant it." in text


def test_without_keys_in_the_files_it_says_that_the_signature_was_not_checked(desk: Desk):
    token = StandInIssuer(KUBERNETES, clock=SteadyClock()).token(ISSUER)
    told = desk.told("--token", desk.file("pod.jwt", token), exit_code=1)
    assert (told["signature"], told["issuer"], told["reason"]) == ("not checked", "cluster", "no_matching_trust")
    assert "signature not checked" in desk.explain("--token", desk.file("pod.jwt", token)).stdout


def test_a_key_set_that_is_not_there_is_told(desk: Desk):
    desk.write(RIGHT, keys="nowhere.json")
    result = desk.explain("--token", desk.token())
    assert result.exit_code == 0
    assert "The keys of github cannot be used" in result.stderr
    assert "signature not checked" in result.stdout


def test_a_changed_signature_is_a_denial(desk: Desk):
    desk.write(RIGHT)
    text = desk.github.token(ISSUER)
    changed = text[:-8] + ("AAAAAAAA" if text[-8:] != "AAAAAAAA" else "BBBBBBBB")
    told = desk.told("--token", desk.file("t.jwt", changed), exit_code=1)
    assert (told["reason"], told["signature"]) == ("bad_signature", "bad")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "malformed_token"),
        ("not a token", "malformed_token"),
        ("a.b.c\n\nx", "malformed_token"),
        (b"\xff\xfe", "malformed_token"),
        ("x" * 20_000, "token_too_large"),
        ("eyJhbGciOiJub25lIiwiY3JpdCI6WyJ4Il19.e30.AA", "forbidden_header"),
    ],
)
def test_what_is_no_token_is_denied_as_the_server_denies_it(desk: Desk, content: str | bytes, reason: str):
    told = desk.told("--token", desk.file("bad.jwt", content), exit_code=1)
    assert (told["granted"], told["reason"], told["rules"]) == (False, reason, [])
    assert desk.explain("--token", desk.file("bad.jwt", content)).exit_code == 1


def test_what_is_wrong_is_told_once(desk: Desk):
    result = desk.explain("--token", desk.file("x", "abc"))
    assert result.stdout.count("The token is not a compact signed JWT") == 1


def test_times_are_written_for_people(desk: Desk):
    result = desk.explain("--token", desk.token(exp=1_000, iat=900, nbf=900))
    assert "exp: 1970-01-01T00:16:40Z" in result.stdout


def test_a_token_where_its_file_belongs_is_not_repeated_and_the_way_is_told(desk: Desk):
    token = Path(desk.token()).read_text().strip()
    result = desk.explain("--token", token)
    assert result.exit_code == 2
    words = " ".join(result.stderr.replace("│", " ").split())
    assert "is the name of a file, and not the token itself" in words
    assert token[-20:] not in result.output


def test_a_guardrail_does_not_look_as_if_it_wanted_what_it_refuses(desk: Desk):
    desk.write(RIGHT + "---\nkind: Guardrail\nname: no-push\nissuer: github\ndeny_when: claims.event_name == 'push'\n")
    told = desk.explain("--token", desk.token())
    assert "guardrail/no-push  refuses unless this is false: claims.event_name == 'push'; saw" in told.stdout


def test_an_issuer_that_is_nearly_right_is_named(desk: Desk):
    token = desk.github.mint({**desk.github.claims(ISSUER), "iss": f"{desk.github.issuer}/"})
    told = desk.told("--token", desk.file("t.jwt", token), exit_code=1)
    assert told["reason"] == "unknown_issuer"
    (hint,) = told["hints"]
    assert (hint["id"], hint["change"]) == ("differs-in-trailing-slash", None)
    assert "discovery document" in hint["warning"]


@pytest.mark.parametrize("named", [True, False])
def test_a_folder_that_is_named_is_that_of_the_gateway_of_the_settings(
    desk: Desk, named: bool, monkeypatch: pytest.MonkeyPatch
):
    issuer = "https://sts.corp.example"
    settings = desk.file("gateway.yaml", f"issuer: {issuer}\n")
    monkeypatch.chdir(desk.folder)
    desk.write(RIGHT)
    token = desk.file("token.jwt", desk.github.token(issuer))
    options = ("--config", settings) if named else ()
    assert desk.explain("--token", token, *options).exit_code == 0
    assert "wrong_audience" in desk.explain("--token", token, *options, "--gateway-issuer", "https://a.example").stdout


def test_settings_that_cannot_be_read_count_where_they_are_named(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    settings = desk.file("gateway.yaml", "isuer: x\n")
    monkeypatch.chdir(desk.folder)
    desk.write(RIGHT)
    assert desk.explain("--token", desk.token()).exit_code == 0
    assert "did you mean issuer?" in desk.explain("--token", desk.token(), "--config", settings).stderr


def test_an_audience_that_is_nearly_right_is_named(desk: Desk):
    desk.write(RIGHT)
    token = desk.github.token(f"{ISSUER}/")
    told = desk.told("--token", desk.file("t.jwt", token), exit_code=1)
    assert (told["reason"], told["decision"]) == ("wrong_audience", "granted")
    assert told["hints"][0]["ask_for"] == {"aud": ISSUER}


def test_issuers_with_one_url_are_told_apart_by_their_key(desk: Desk):
    twin = StandInIssuer(GITHUB_ACTIONS, clock=SteadyClock())
    (desk.folder / "policies" / "twin.yaml").write_text(
        "kind: Issuer\nname: twin\npreset: github-actions\n"
        f"keys: {{jwks: {json.dumps(twin.key_set())}}}\n"
    )  # fmt: skip
    desk.write(RIGHT)
    assert desk.told("--token", desk.token(), exit_code=0)["issuer"] == "github"
    told = desk.told("--token", desk.file("twin.jwt", twin.token(ISSUER)), exit_code=1)
    assert (told["issuer"], told["signature"]) == ("twin", "verified")
    nobody = StandInIssuer(GITHUB_ACTIONS, clock=SteadyClock()).token(ISSUER)
    result = desk.explain("--token", desk.file("nobody.jwt", nobody))
    assert result.exit_code == 2
    assert "several issuers have this iss" in result.stderr
    assert desk.told("--token", desk.file("n.jwt", nobody), "--issuer", "twin", exit_code=1)["reason"] == "unknown_key"


# ---------------------------------------------------------------- claims


def test_claims_are_taken_as_verified_and_need_not_be_whole(desk: Desk):
    desk.write(RIGHT)
    claims = desk.claims(repository_id="300400", environment="production")
    told = desk.told("--claims", claims, "--issuer", "github", exit_code=0)
    assert (told["granted"], told["signature"]) == (True, "assumed")
    assert "taken as verified" in desk.explain("--claims", claims, "--issuer", "github").stdout


def test_claims_with_an_iss_need_no_issuer(desk: Desk):
    desk.write(RIGHT)
    claims = desk.claims(iss=desk.github.issuer, repository_id="300400", environment="production")
    assert desk.told("--claims", claims, exit_code=0)["issuer"] == "github"


def test_what_is_asked_for_counts(desk: Desk):
    desk.write(RIGHT)
    claims = desk.claims(repository_id="300400", environment="production")
    of_github = ("--claims", claims, "--issuer", "github")
    assert desk.told(*of_github, "--client-id", "web-deployr", exit_code=1)["hints"][0]["ask_for"] == {
        "client_id": "web-deployer"
    }
    assert desk.told(*of_github, "--resource", "deploy-api", "--scope", "deploy:read", exit_code=1)["reason"] == (
        "scope_not_granted"
    )
    told = desk.told(*of_github, "--client-id", "web-deployer", "--scope", "deploy:write", exit_code=0)
    assert told["asked"]["scopes"] == ["deploy:write"]


def test_what_claims_hold_cannot_speak_to_the_terminal(desk: Desk):
    claims = desk.file("c.json", json.dumps({"repository_id": "300400", "environment": "\u202eprod[bold]x"}))
    shown = desk.explain("--claims", claims, "--issuer", "github").stdout
    assert "\u202e" not in shown
    assert "\\u202eprod[bold]x" in shown


def test_there_is_no_colour_where_there_is_no_terminal(desk: Desk):
    assert "\x1b" not in desk.explain("--token", desk.token()).output


# ---------------------------------------------------------------- used wrongly

MISUSED = [
    (),
    ("--token", "t", "--claims", "c"),
    ("--claims", "no-such-file", "--issuer", "github"),
    ("--token", "no-such-file"),
    ("--request", "x", "--client-id", "y"),
    ("--token", "t", "--admin", "http://127.0.0.1:1"),
]


@pytest.mark.parametrize("arguments", MISUSED)
def test_it_says_how_it_is_used(desk: Desk, arguments: tuple[str, ...]):
    assert desk.explain(*arguments).exit_code == 2


@pytest.mark.parametrize("content", ["[]", "{", '{"a": 1.5}', '{"a": 1, "a": 2}', "", "\ufeff{}"])
def test_a_file_that_holds_no_claims_is_used_wrongly(desk: Desk, content: str):
    result = desk.explain("--claims", desk.file("c.json", content), "--issuer", "github")
    assert result.exit_code == 2


def test_an_issuer_that_is_not_there_is_used_wrongly(desk: Desk):
    result = desk.explain("--claims", desk.claims(sub="x"), "--issuer", "githb")
    assert result.exit_code == 2
    assert "did you mean github?" in result.stderr
    assert desk.explain("--claims", desk.claims(sub="x")).exit_code == 2
    assert desk.explain("--claims", desk.claims(sub="x"), "--issuer", "github", "--scope", "a  b").exit_code == 2


def test_policies_that_do_not_load_are_told_as_check_tells_them(desk: Desk):
    (desk.folder / "policies" / "broken.yaml").write_text("kind: Isuer\nname: x\n")
    result = desk.explain("--claims", desk.claims(sub="x"), "--issuer", "github")
    assert result.exit_code == 1
    assert "did you mean Issuer?" in result.stderr


# ---------------------------------------------------------------- of a running gateway


def ask(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["policy", "explain", *arguments])


def test_without_a_gateway_nobody_can_tell():
    result = ask("--request", "x", "--admin", "http://127.0.0.1:1")
    assert result.exit_code == 2
    assert "No answer from 127.0.0.1:1" in result.stderr


def test_a_token_goes_over_no_network_that_could_read_it(tmp_path: Path):
    (tmp_path / "token").write_text("a.b.c")
    result = ask(
        "--request", "x", "--admin", "http://gateway.example.com", "--admin-token-file", str(tmp_path / "token")
    )
    assert result.exit_code == 2
    assert "would show the token to the network" in result.stderr


def test_a_file_without_a_token_is_used_wrongly(tmp_path: Path):
    (tmp_path / "token").write_text("two words")
    arguments = ("--request", "x", "--admin", "http://127.0.0.1:1", "--admin-token-file", str(tmp_path / "token"))
    assert ask(*arguments).exit_code == 2


# ---------------------------------------------------------------- the page


def test_the_page_shows_what_the_command_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = (ROOT / "policies" / "craft.md").read_text()
    (policies,) = policy_sets(page)["explain"]
    (console,) = (block.text for block in blocks(page) if block.text.startswith("$ gateway policy explain"))
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "deploy.yaml").write_text(policies.text)
    (tmp_path / "claims.json").write_text(json.dumps(GITHUB_ACTIONS.claims(1_790_000_000, ISSUER)))
    monkeypatch.chdir(tmp_path)
    command, _, printed = console.partition("\n")
    result = CliRunner().invoke(app, command.split()[2:])
    assert result.stdout.strip() == printed.strip()


def test_the_page_tells_what_every_hint_means():
    page = (ROOT / "policies" / "craft.md").read_text()
    assert all(f"| `{id_}` | {meaning} |" in page for id_, meaning in HINTS.items())
