"""``gateway policy new``: by options and at a terminal; what it writes loads, proves itself and takes nothing away."""

import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.main import app
from tests.support.policies import BASE, write

API = ("--api", "https://reports.example.com", "--scope", "reports:read reports:write")
WORKLOADS = {
    "kubernetes": ("--namespace", "billing", "--account", "invoicer", "--issuer-url", "https://kubernetes.default.svc"),
    "eks": (
        "--namespace", "billing", "--account", "invoicer",
        "--issuer-url", "https://oidc.eks.eu-north-1.amazonaws.com/id/0123456789ABCDEF0123456789ABCDEF",
    ),
    "gke": (
        "--namespace", "billing", "--account", "invoicer",
        "--issuer-url", "https://container.googleapis.com/v1/projects/p/locations/europe-north1/clusters/main",
    ),
    "aks": (
        "--namespace", "billing", "--account", "invoicer",
        "--issuer-url", "https://oidc.prod-aks.azure.com/11111111-2222-4333-8444-555555555555/",
    ),
    "openshift": ("--namespace", "billing", "--account", "invoicer", "--issuer-url", "https://api.example.com:6443"),
    "github-actions": ("--repository", "acme/web", "--repository-id", "300400", "--owner-id", "100200"),
    "gitlab-ci": (
        "--project", "orchard/ledger", "--project-id", "4711", "--namespace-id", "815",
        "--issuer-url", "https://gitlab.com",
    ),
    "aws-sts": (
        "--role-arn", "arn:aws:iam::123456789012:role/services/invoicer",
        "--issuer-url", "https://3f0c6a1e-8f3b-4c55-9a1d-0a1b2c3d4e5f.tokens.sts.global.api.aws",
    ),
    "generic": ("--subject", "nightly", "--claims", "tenant=acme", "--issuer-url", "https://ci.example.com"),
}  # fmt: skip
GITHUB = ("--platform", "github-actions", *WORKLOADS["github-actions"])


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "policies"


def run(folder: Path, *arguments: str) -> Result:
    """The command as a script runs it: standard input is no terminal."""
    environment = {"NO_COLOR": "1", "COLUMNS": "300", "TERMINAL_WIDTH": "300"}
    return CliRunner().invoke(app, ["policy", "new", "-p", str(folder), *arguments], env=environment)


def proven(folder: Path) -> str:
    done = CliRunner().invoke(app, ["policy", "test", "-p", str(folder), "--min-coverage", "100"])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("platform", WORKLOADS)
def test_the_file_for_a_platform_loads_and_its_tests_pass_with_full_coverage(folder, platform):
    done = run(folder, "--platform", platform, *WORKLOADS[platform], *API, "--name", "reporter")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"Wrote {folder}/reporter.yaml: reporter may have reports:read, reports:write")
    assert "warning" not in proven(folder)
    linted = CliRunner().invoke(app, ["policy", "lint", "-p", str(folder), "--fail-on", "warning"])
    assert linted.exit_code == 0, linted.output


def test_the_first_line_points_editors_to_the_schema_of_the_folder(folder):
    assert run(folder, str(folder / "teams" / "web" / "web.yaml"), *GITHUB, *API).exit_code == 0
    text = (folder / "teams" / "web" / "web.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=../../schema.json\n")


def test_a_dash_prints_the_file_and_writes_nothing(folder):
    done = run(folder, "-", *GITHUB, *API)
    assert done.exit_code == 0
    assert done.stdout.startswith("# yaml-language-server: $schema=schema.json\n")
    assert not folder.exists()


def test_scripts_are_told_what_was_written_as_json(folder):
    told = json.loads(run(folder, *GITHUB, *API, "-o", "json").stdout)
    assert told == {
        "ok": True,
        "file": str(folder / "web.yaml"),
        "service_account": "web",
        "issuer": "github",
        "resource": "reports.example.com",
        "scopes": ["reports:read", "reports:write"],
    }


# ---------------------------------------------------------------- what is there


def test_an_issuer_and_a_resource_that_are_there_are_referred_to(folder):
    write(folder, BASE, "base.yaml")
    done = run(folder, *GITHUB, "--api", "ledger-api", "--scope", "ledger:read")
    assert done.exit_code == 0, done.output
    text = (folder / "web.yaml").read_text()
    assert "kind: Issuer" not in text
    assert "kind: Resource" not in text
    assert "issuer: github" in text
    assert proven(folder)


def test_a_resource_is_found_by_its_identifier_as_well(folder):
    write(folder, BASE, "base.yaml")
    assert run(folder, *GITHUB, "--api", "https://ledger.example.com", "--scope", "ledger:read").exit_code == 0
    assert "resource: ledger-api" in (folder / "web.yaml").read_text()


def test_an_issuer_of_another_name_is_written_where_the_name_is_taken(folder):
    write(folder, "kind: Issuer\nname: github\nurl: https://other.example.com\n", "base.yaml")
    assert run(folder, *GITHUB, *API).exit_code == 0
    assert "name: github-2" in (folder / "web.yaml").read_text()


def test_of_several_issuers_of_a_platform_one_has_to_be_named(folder):
    two = "\n---\n".join(
        f"kind: Issuer\nname: {name}\npreset: gitlab-ci\nurl: https://{name}.example.com" for name in ("a", "b")
    )
    write(folder, two, "base.yaml")
    gitlab = ("--platform", "gitlab-ci", *WORKLOADS["gitlab-ci"][:-2], *API)
    done = run(folder, *gitlab)
    assert (done.exit_code, "--issuer" in done.output) == (2, True)
    assert run(folder, *gitlab, "--issuer", "b").exit_code == 0
    assert "issuer: b" in (folder / "ledger.yaml").read_text()


def test_a_pods_token_is_asked_for_by_the_rule_where_the_issuer_does_not(folder):
    issuer = "kind: Issuer\nname: prod\npreset: eks\nurl: " + WORKLOADS["eks"][-1]
    write(folder, issuer + "\n", "base.yaml")
    eks = ("--platform", "eks", *WORKLOADS["eks"][:4], *API)
    assert run(folder, "-", *eks).stdout.count("when:") == 1
    write(folder, issuer + '\nwhen: has(claims["kubernetes.io"].pod)\n', "base.yaml")
    printed = run(folder, "-", *eks).stdout
    assert "when:" not in printed
    assert "{deny: issuer_condition_failed}" in printed


def test_tests_expect_what_the_organisations_guardrails_answer(folder):
    guardrail = 'kind: Guardrail\nname: g\nissuer: github\ndeny_when: claims.event_name == "pull_request_target"\n'
    write(folder, f"{BASE}---\n{guardrail}", "base.yaml")
    assert run(folder, *GITHUB, *API).exit_code == 0
    assert "{deny: denied_by_guardrail}" in (folder / "web.yaml").read_text()


def test_a_workload_that_a_guardrail_refuses_gets_no_file(folder):
    write(folder, f"{BASE}---\nkind: Guardrail\nname: g\ndeny_when: 'true'\n", "base.yaml")
    done = run(folder, *GITHUB, *API)
    assert done.exit_code == 1
    assert "got deny denied_by_guardrail" in done.output
    assert not (folder / "web.yaml").exists()


def test_policies_that_do_not_load_are_told_first(folder):
    write(folder, "kind: Nonsense\n", "base.yaml")
    done = run(folder, *GITHUB, *API)
    assert done.exit_code == 1
    assert f"{folder}/base.yaml:1: kind: must be one of" in done.output


# ---------------------------------------------------------------- what is there stays


def test_a_file_that_is_there_is_not_written_over(folder):
    write(folder, BASE, "web.yaml")
    done = run(folder, *GITHUB, "--api", "ledger-api", "--scope", "ledger:read")
    assert (done.exit_code, "is there already" in done.output) == (2, True)
    assert (folder / "web.yaml").read_text() == BASE.lstrip("\n")


def test_a_file_is_written_over_when_asked_to_and_counts_no_more(folder):
    file = folder / "web.yaml"
    assert run(folder, str(file), *GITHUB, *API).exit_code == 0
    before = file.read_text()
    assert run(folder, str(file), *GITHUB, *API).exit_code == 2
    assert run(folder, str(file), *GITHUB, *API, "--force", "--branch", "trunk").exit_code == 0
    assert file.read_text() == before.replace("main", "trunk")
    assert proven(folder)


def test_a_service_account_that_is_there_is_not_written_again(folder):
    assert run(folder, *GITHUB, *API).exit_code == 0
    done = run(folder, str(folder / "other.yaml"), *GITHUB, *API)
    assert (done.exit_code, "--name" in done.output) == (2, True)
    assert run(folder, *GITHUB, *API, "--name", "web-2").exit_code == 0
    assert proven(folder)


# ---------------------------------------------------------------- options


def test_missing_options_are_named_where_nobody_can_be_asked(folder):
    done = run(folder, "--platform", "gitlab-ci", "--project", "a/b")
    assert done.exit_code == 2
    for option in ("--issuer-url", "--project-id", "--namespace-id", "--api", "--scope"):
        assert option in done.output
    assert "--branch" not in done.output
    assert "--platform, --api, --scope" in run(folder).output


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--platform", "github"),
        ("--repository", "acme"),
        ("--repository", 'acme/"\nkind: x'),
        ("--repository-id", "12a"),
        ("--owner-id", "0x10"),
        ("--branch", "release/*"),
        ("--branch", "main\n  environment: x"),
        ("--environment", "a\nb"),
        ("--environment", "a\x1b[31m"),
        ("--api", 'x"y'),
        ("--api", "a b"),
        ("--scope", 'a"b'),
        ("--scope", " "),
        ("--name", "Web"),
        ("--name", "a\nb"),
        ("--owner", "a\nb"),
        ("--owner", "a\u2028b"),
        ("--owner", "a\x85b"),
        ("--issuer", "A"),
        ("--issuer-url", "https://example.com"),
        ("--issuer-url", "http://token.actions.githubusercontent.com"),
        ("--api-name", "x y"),
        ("--namespace", "billing"),
    ],
)
def test_an_answer_that_cannot_stand_is_refused_and_named(folder, option, value):
    given = dict(zip(GITHUB[::2], GITHUB[1::2], strict=True)) | dict(zip(API[::2], API[1::2], strict=True))
    done = run(folder, *(part for pair in (given | {option: value}).items() for part in pair))
    assert (done.exit_code, option in done.output) == (2, True)
    assert "\x1b" not in done.output
    assert not folder.exists()


def test_what_is_nearly_the_name_of_a_resource_is_not_taken_for_a_new_one(folder):
    write(folder, BASE, "base.yaml")
    misspelt = (*GITHUB, "--api", "ledger-ap", "--scope", "ledger:read")
    done = run(folder, *misspelt)
    assert (done.exit_code, "did you mean ledger-api" in done.output) == (2, True)
    assert run(folder, *misspelt, "--api-name", "another").exit_code == 0


def test_a_uri_is_never_taken_for_a_misspelt_resource(folder):
    write(folder, BASE, "base.yaml")
    assert run(folder, *GITHUB, "--api", "https://ledger-ap", "--scope", "ledger:read").exit_code == 0


def test_what_to_do_next_names_the_same_folder(folder):
    told = run(folder, *GITHUB, *API).output
    assert f"gateway policy test -k web -p {folder}" in told
    assert f"gateway policy schema > {folder / 'schema.json'}" in told


def test_a_schema_that_is_there_is_not_asked_for(folder):
    write(folder, "{}", "schema.json")
    assert "gateway policy schema" not in run(folder, *GITHUB, *API).output


def test_a_scope_that_the_resource_has_not_is_refused_with_the_nearest(folder):
    write(folder, BASE, "base.yaml")
    done = run(folder, *GITHUB, "--api", "ledger-api", "--scope", "ledger:reed")
    assert (done.exit_code, "did you mean ledger:read" in done.output) == (2, True)


def test_an_issuer_of_another_platform_is_refused(folder):
    write(folder, BASE, "base.yaml")
    assert run(folder, *GITHUB, *API, "--issuer", "cluster").exit_code == 2
    assert run(folder, *GITHUB, *API, "--issuer", "github", "--issuer-url", "https://x.ghe.com").exit_code == 2


def test_a_workload_that_is_called_like_a_word_of_yaml_stays_a_text(folder):
    for name in ("null", "true", "1e3", "123"):
        write(folder, "# nothing\n", "empty.yaml")
        arguments = ("--platform", "eks", "--namespace", name, "--account", name, *WORKLOADS["eks"][4:], *API)
        done = run(folder, str(folder / "one.yaml"), *arguments, "--name", name, "--force")
        assert done.exit_code == 0, done.output
        assert proven(folder)


# ---------------------------------------------------------------- at a terminal


def at_a_terminal(folder: Path, *answers: str) -> tuple[int, str]:
    """The exit code of the command at a pseudo-terminal, with these answers typed, and what it showed."""
    ours, theirs = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    command = [sys.executable, "-m", "gateway", "policy", "new", "-p", str(folder)]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**clean, "NO_COLOR": "1", "TERM": "dumb"}
    ) as process:
        os.close(theirs)
        shown: list[bytes] = []

        def read() -> None:
            try:
                while part := os.read(ours, 4096):
                    shown.append(part)
            except OSError:  # the other end is closed
                return

        reader = threading.Thread(target=read)
        reader.start()
        os.write(ours, "".join(f"{answer}\n" for answer in answers).encode())
        code = process.wait(60)
        reader.join(10)
    os.close(ours)
    return code, b"".join(shown).decode().replace("\r", "")


def test_four_questions_are_asked_at_a_terminal(folder):
    write(folder, BASE, "base.yaml")
    code, shown = at_a_terminal(
        folder, "github-actions", "acme/web", "300400", "100200", "ledger-api", "ledger:read", "", "production"
    )
    assert code == 0, shown
    for number, words in enumerate(("the platform", "the workload", "the API and its scopes", "how narrow"), 1):
        assert f"{number} of 4: {words}" in shown
    assert "GitHub Actions" in shown
    assert "ledger-api, deploy-api" in shown
    text = (folder / "web.yaml").read_text()
    assert "ref: refs/heads/main" in text
    assert "environment: production" in text
    assert proven(folder)


def test_a_wrong_answer_is_asked_for_again(folder):
    code, shown = at_a_terminal(
        folder, "github", "eks", *(WORKLOADS["eks"][5], "Billing", "billing", "invoicer"), *API[1::2], "both", "any"
    )
    assert code == 0, shown
    assert "did you mean github-actions" in shown
    assert "is not a namespace" in shown
    assert "is not pods or any" in shown
    assert "when:" not in (folder / "invoicer.yaml").read_text()
    assert proven(folder)
