"""``gateway policy diff``: folders and git revisions, what people, scripts and pull requests are told, how it ends."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.cli.policy import revisions
from gateway.cli.policy.diff_report import MAX_MARKDOWN_CHARACTERS
from gateway.cli.policy.markdown import code
from tests.deploy.deployment_files import command
from tests.docs.examples import policy_sets
from tests.docs.markdown import ROOT, blocks
from tests.support.policies import BASE, write

WEB = """\
kind: ServiceAccount
name: web-deployer
access: [{resource: deploy-api, scopes: [deploy:write]}]
trust:
  - {issuer: github, name: release, match: {repository_id: "300400", ref: refs/heads/main}}
tests:
  - {name: main may deploy, issuer: github, claims: {repository_id: "300400", ref: refs/heads/main},
     expect: {allow: [deploy:write]}}
"""
WIDER = WEB.replace("ref: refs/heads/main}}\ntests", "ref: [refs/heads/main, refs/heads/next]}}\ntests")
CLOSED = WEB.replace('match: {repository_id: "300400", ref: refs/heads/main}', 'match: {repository_id: "1"}')
GAIN = (
    "repository_id is 300400, ref is refs/heads/next of issuer github may become web-deployer: "
    "gains deploy:write at deploy-api"
)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("GATEWAY_", "GIT_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["policy", "diff", *map(str, arguments)])


def complaint(done: Result) -> str:
    """What was said of a wrong use, without the box around it."""
    return " ".join(re.sub("[╭╮╰╯│─]", " ", done.stderr).split())


def policies(folder: str, account: str) -> Path:
    return write(Path(folder), f"{BASE}---\n{account}", "web.yaml")


def git(*arguments: str) -> str:
    program = command("git", "git")
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    return subprocess.run([program, *who, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def commit(account: str, folder: str = "policies") -> str:
    """The id of a commit in which a folder holds these policies."""
    if not Path(".git").exists():
        git("init", "--quiet", "--initial-branch=main", ".")
    policies(folder, account)
    git("add", "--all")
    git("commit", "--quiet", "--message", "policies")
    return git("rev-parse", "HEAD")


# ---------------------------------------------------------------- folders


def test_the_same_policies_have_no_change_of_effect_and_end_with_0():
    done = run(policies("before", WEB), policies("after", WEB))
    assert (done.exit_code, done.stdout) == (0, "No change of effect.\n")


def test_a_change_is_told_with_file_and_line_and_ends_with_1():
    done = run(policies("before", WEB), policies("after", WIDER))
    assert done.exit_code == 1
    assert done.stdout == (
        f"Gains: 1\n  + {GAIN}\n      after/web.yaml:24, rule release, tokens live 10m, widens release\n\n"
    )
    assert run("before", "after", "--exit-zero").exit_code == 0


def test_what_is_lost_stands_in_the_old_files_and_a_test_that_comes_out_otherwise_is_told():
    done = run(policies("before", WEB), policies("after", CLOSED))
    assert "before/web.yaml:24, rule release" in done.stdout
    assert "Tests that come out otherwise: 1" in done.stdout
    assert (
        "- web-deployer, 'main may deploy': deny no_matching_trust; before: allow deploy:write at deploy-api by release"
    ) in done.stdout


def test_one_file_can_be_compared_with_another():
    before, after = policies("before", WEB) / "web.yaml", policies("after", WIDER) / "web.yaml"
    done = run(before, after)
    assert done.exit_code == 1
    assert f"{after}:24, rule release" in done.stdout


def test_an_empty_folder_is_nothing_and_everything_is_a_gain():
    Path("before").mkdir()
    done = run("before", policies("after", WEB))
    assert done.exit_code == 1
    assert "may become web-deployer: gains deploy:write at deploy-api" in done.stdout
    assert "Losses" not in done.stdout
    assert "+ issuer github: is trusted from now on" in done.stdout


def test_an_empty_folder_in_the_place_of_policies_is_a_mistake_and_no_loss():
    Path("after").mkdir()
    done = run(policies("before", WEB), "after")
    assert done.exit_code == 1
    assert "holds no policy documents" in done.stderr


def test_scripts_get_every_part_by_its_name():
    done = run(policies("before", WEB), policies("after", WIDER), "--output", "json")
    told = json.loads(done.stdout)
    assert told["changed"] is True
    assert told["counts"] == {"everybody": 0, "gains": 1, "losses": 0, "settings": 0, "tests": 0}
    (gain,) = told["gains"]
    assert gain == {
        "direction": "gain",
        "sentence": GAIN,
        "service_account": "web-deployer",
        "issuer": "github",
        "conditions": ["repository_id is 300400", "ref is refs/heads/next"],
        "access": [
            {
                "resource": "deploy-api",
                "scopes": ["deploy:write"],
                "lifetime_seconds": 600,
                "sender_constraint": "none",
                "roles": [],
            }
        ],
        "rule": "release",
        "identity": True,
        "compared": "widens release",
        "file": "after/web.yaml",
        "line": 24,
    }
    assert told["totals"] == [
        {"direction": "gain", "resource": "deploy-api", "scope": "deploy:write", "service_accounts": 1}
    ]


def test_key_files_are_compared_by_their_names_within_the_folders():
    keyed = BASE.replace("name: cluster", "name: cluster\nkeys: {jwks_file: k.json}")
    for folder in ("before", "after"):
        write(Path(folder), f"{keyed}---\n{WEB}", "web.yaml")
    assert run("before", "after").exit_code == 0


# ---------------------------------------------------------------- revisions


def test_a_revision_is_compared_with_the_files_as_they_are():
    commit(WEB)
    policies("policies", WIDER)
    done = run("main")
    assert (done.exit_code, GAIN in done.stdout) == (1, True)


def test_two_revisions_are_compared_with_each_other():
    first = commit(WEB)
    commit(WIDER)
    assert GAIN in run("HEAD~1", "HEAD").stdout
    done = run("main", first[:12])
    assert "may no longer become web-deployer: loses" in done.stdout
    assert "main:policies/web.yaml:24, rule release" in done.stdout


def test_the_folder_within_a_revision_is_that_of_policies_or_named_behind_a_colon():
    commit(WEB, "deploy/policies")
    policies("deploy/policies", WIDER)
    assert GAIN in run("HEAD", "--policies", "deploy/policies").stdout
    assert GAIN in run("HEAD:deploy/policies", "deploy/policies").stdout
    assert GAIN in run("HEAD:deploy/policies/web.yaml", "deploy/policies/web.yaml").stdout


def test_a_folder_is_relative_to_where_one_is_and_not_to_the_repository(monkeypatch):
    commit(WEB, "deploy/policies")
    policies("deploy/policies", WIDER)
    monkeypatch.chdir("deploy")
    assert GAIN in run("HEAD").stdout


def test_a_revision_without_the_folder_is_nothing():
    Path("README").write_text("x")
    commit(WEB, "elsewhere")
    done = run("HEAD", policies("policies", WEB))
    assert (done.exit_code, "Losses" in done.stdout) == (1, False)


def test_a_file_or_folder_goes_before_a_revision_of_the_same_name():
    commit(WEB)
    git("branch", "before")
    done = run(policies("before", CLOSED), "policies")
    assert "before/web.yaml" in done.stdout
    assert "before:policies" not in done.stdout


@pytest.mark.parametrize("name", ["--upload-pack=x", "-x", "nope", "HEAD..main", "a b", "HEAD^{/x y}", "x" * 300])
def test_what_is_no_revision_is_used_wrongly(name):
    commit(WEB)
    assert run("--", name, "policies").exit_code == 2


@pytest.mark.parametrize("path", ["../policies", "/etc", "a/../../b"])
def test_a_path_that_leads_out_of_the_repository_is_refused(path):
    commit(WEB)
    done = run(f"HEAD:{path}", "policies")
    assert done.exit_code == 2
    assert "is no path of policy files" in complaint(done)


def test_outside_of_a_repository_a_revision_is_used_wrongly():
    policies("policies", WEB)
    done = run("main")
    assert done.exit_code == 2
    assert "neither a file or folder, nor" in complaint(done)


# ---------------------------------------------------------------- a hostile repository


def tree(*entries: tuple[str, str, bytes]) -> str:
    """The id of a tree made by hand: mode, name, and the id or content of each entry, checked by nobody."""
    raw = b"".join(f"{mode} {name}".encode() + b"\0" + content for mode, name, content in entries)
    done = subprocess.run(
        ["git", "hash-object", "-t", "tree", "-w", "--stdin", "--literally"], input=raw, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


def commit_of(policies_tree: str) -> str:
    root = tree(("40000", "policies", bytes.fromhex(policies_tree)))
    return git("commit-tree", root, "-m", "made by hand")


def blob(content: bytes) -> bytes:
    done = subprocess.run(["git", "hash-object", "-w", "--stdin"], input=content, capture_output=True, check=True)
    return bytes.fromhex(done.stdout.decode().strip())


@pytest.mark.parametrize("name", ["..", "../evil.yaml", "/tmp/evil.yaml"])
def test_a_file_of_a_revision_is_written_nowhere_but_into_its_folder(name, tmp_path):
    commit(WEB)
    made = commit_of(tree(("100644", name, blob(b"kind: x\n"))))
    done = run(made, "policies")
    assert done.exit_code == 2
    assert not list(tmp_path.glob("**/evil.yaml"))
    assert not Path("/tmp/evil.yaml").exists()


@pytest.mark.parametrize("kind", ["a file that is a folder, too", "a name that is too long"])
def test_files_that_cannot_be_written_are_told(kind):
    commit(WEB)
    text = blob(WEB.encode())
    within = bytes.fromhex(tree(("100644", "b.yaml", text)))
    entries = {
        "a file that is a folder, too": (("100644", "a.yaml", text), ("40000", "a.yaml", within)),
        "a name that is too long": (("100644", "x" * 300 + ".yaml", text),),
    }
    done = run(commit_of(tree(*entries[kind])), "policies")
    assert done.exit_code == 2
    assert "stands there twice" in complaint(done) or "cannot be written: File name too long" in complaint(done)


def test_folders_without_end_are_not_walked_for_ever(monkeypatch):
    """Of a hundred empty folders a hundred times over, and so on: git goes through all of them, and prints nothing."""
    commit(WEB)
    monkeypatch.setattr(revisions, "GIT_SECONDS", 1)
    folder = tree()
    for _ in range(8):
        folder = tree(*(("40000", f"f{number}", bytes.fromhex(folder)) for number in range(100, 200)))
    done = run(commit_of(folder), "policies")
    assert done.exit_code == 2
    assert "cannot be listed" in complaint(done)


def test_what_is_gone_stands_in_the_old_files():
    commit(f"{WEB}---\nkind: Resource\nname: old-api\nidentifier: https://old.example.com\nscopes: {{x: X}}\n")
    policies("policies", WEB)
    (entry,) = json.loads(run("HEAD", "--output", "json").stdout)["settings"]
    assert entry["file"] == "HEAD:policies/web.yaml"


def test_a_link_in_a_revision_is_not_followed():
    commit(WEB)
    Path("policies/link.yaml").symlink_to("/etc/passwd")
    git("add", "--all")
    git("commit", "--quiet", "--message", "link")
    done = run("HEAD", policies("after", WEB))
    assert done.exit_code == 2
    assert "link.yaml is a link there or a repository of its own" in complaint(done)


def script_that_touches(file: Path) -> Path:
    script = file.parent / "script"
    script.write_text(f"#!/bin/sh\ntouch {file}\nexit 1\n")
    script.chmod(0o755)
    return script


def test_nothing_of_the_repository_runs_when_a_revision_is_read(tmp_path):
    ran = tmp_path / "ran"
    commit(WEB)
    script = script_that_touches(ran)
    Path(".gitattributes").write_text("*.yaml filter=evil diff=evil export-subst\n")
    git("add", "--all")
    git("commit", "--quiet", "--message", "attributes")
    for setting in (
        "filter.evil.smudge", "filter.evil.clean", "filter.evil.process", "diff.evil.textconv", "core.fsmonitor",
        "core.pager", "core.sshCommand", "core.editor", "diff.external", "core.alternateRefsCommand", "pager.ls-tree",
    ):  # fmt: skip
        git("config", setting, str(script))
    git("config", "alias.ls-tree", f"!{script}")
    git("config", "core.hooksPath", str(tmp_path))
    for hook in ("post-checkout", "post-index-change", "reference-transaction"):
        (tmp_path / hook).symlink_to(script)
    policies("policies", WIDER)
    assert not ran.exists()
    assert GAIN in run("HEAD").stdout
    assert not ran.exists()


def test_an_object_that_is_missing_is_not_fetched_with_what_the_repository_says(tmp_path):
    ran = tmp_path / "ran"
    commit(WEB)
    (object_id,) = [line.split()[2] for line in git("ls-tree", "HEAD", "policies/").splitlines()]
    stored = Path(".git/objects") / object_id[:2] / object_id[2:]
    stored.chmod(0o644)
    stored.unlink()
    git("config", "extensions.partialClone", "evil")
    git("config", "core.repositoryFormatVersion", "1")
    git("config", "remote.evil.url", f"ext::{script_that_touches(ran)}")
    git("config", "remote.evil.promisor", "true")
    git("config", "protocol.ext.allow", "always")
    done = run("HEAD", policies("after", WEB))
    assert done.exit_code == 2
    assert "may be incomplete" in complaint(done)
    assert not ran.exists()


def test_a_revision_with_more_than_policies_can_be_is_refused(monkeypatch):
    commit(WEB)
    monkeypatch.setattr(revisions, "MAX_FILE_BYTES", 100)
    done = run("HEAD", policies("after", WEB))
    assert done.exit_code == 2
    assert "more than policies can be" in complaint(done)


def test_a_replaced_object_is_read_as_it_was_committed():
    commit(WEB)
    (object_id,) = [line.split()[2] for line in git("ls-tree", "HEAD", "policies/").splitlines()]
    git("replace", object_id, blob(f"{BASE}---\n{CLOSED}".encode()).hex())
    assert run("HEAD", policies("after", WEB)).exit_code == 0


# ---------------------------------------------------------------- policies that do not load

BROKEN = WEB.replace("resource: deploy-api", "resource: deploy-ap")


@pytest.mark.parametrize("options", [(), ("--exit-zero",)])
def test_new_policies_that_do_not_load_are_shown_and_end_with_1(options):
    done = run(policies("before", WEB), policies("after", BROKEN), *options)
    assert done.exit_code == 1
    assert "after/web.yaml:22: access[0].resource: no Resource is called deploy-ap" in done.stderr
    assert "NEW (after) does not load: what changes cannot be told." in done.stderr
    assert done.stdout == ""


def test_old_policies_that_do_not_load_are_shown_and_never_taken_for_nothing():
    commit(BROKEN)
    done = run("HEAD", policies("policies", WEB))
    assert done.exit_code == 1
    assert "HEAD:policies/web.yaml:22: access[0].resource" in done.stderr
    assert "gateway-policies-" not in done.stderr
    assert run("HEAD", "policies", "--exit-zero").exit_code == 0  # whoever repairs them is not held up


def test_scripts_and_pull_requests_are_told_what_does_not_load():
    before, after = policies("before", BROKEN), policies("after", WEB)
    told = json.loads(run(before, after, "--output", "json").stdout)
    assert (told["ok"], told["which"], told["problems"][0]["file"]) == (False, "old", "before/web.yaml")
    page = run(before, after, "--output", "markdown").stdout
    assert "**Cannot be told: the old policies (`before`) do not load.**" in page
    assert "- `before/web.yaml:22: access[0].resource: no Resource is called deploy-ap" in page


def test_a_test_that_fails_does_not_stand_in_the_way():
    failing = WEB.replace("allow: [deploy:write]", "deny: no_matching_trust")
    assert run(policies("before", WEB), policies("after", failing)).exit_code == 0


# ---------------------------------------------------------------- a comment


def test_a_comment_names_what_changes():
    page = run(policies("before", WEB), policies("after", WIDER), "-o", "markdown").stdout
    assert page == (
        "### What changes in the policies\n\nFrom `before` to `after`: 1 gain.\n\n#### Gains\n\n"
        f"- **+** `{GAIN}`<br>`after/web.yaml:24, rule release, tokens live 10m, widens release`\n"
    )
    assert run("before", "before", "-o", "markdown").stdout.endswith("\n\nNo change of effect.\n")


HOSTILE = "@everyone ![](https://evil.example.com/x.png) <script>alert(1)</script> ``` ` | #1 \u202e\u001b[31m"


def test_a_hostile_name_marks_up_nothing():
    rule = json.dumps({"issuer": "github", "match": {"title": HOSTILE.split("\u202e", maxsplit=1)[0].strip()}})
    evil = WEB.replace("trust:\n", f"trust:\n  - {rule}\n").replace("main may deploy", "</code> @everyone **x**")
    page = run(policies("before", WEB), policies("after", evil), "-o", "markdown").stdout
    (line,) = [line for line in page.splitlines() if "evil.example.com" in line]
    sentence = line.removeprefix("- **+** ").split("<br>")[0]
    fence = sentence[: len(sentence) - len(sentence.lstrip("`"))]
    assert len(fence) == 4  # longer than any run of backticks within
    assert sentence.endswith(f" {fence}")
    assert fence not in sentence[4:-4]


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("plain", "`plain`"),
        ("a`b", "`` a`b ``"),
        ("``", "``` `` ```"),
        (" ", "(blank)"),
        ("a\nb", r"`a\nb`"),
        ("\x1b[31mred\u202e", r"`\x1b[31mred\u202e`"),
        ("x" * 3000, f"`{'x' * 1997}...`"),
    ],
)
def test_a_text_of_others_is_a_code_span(text, span):
    assert code(text) == span


def test_a_comment_is_never_longer_than_github_takes(tmp_path):
    many = "\n---\n".join(
        WEB.replace("web-deployer", f"app-{n}").replace("300400", "x" * 500 + str(n)) for n in range(400)
    )
    page = run(policies("before", WEB), policies("after", many), "-o", "markdown", "--limit", "1000").stdout
    assert len(page) <= MAX_MARKDOWN_CHARACTERS
    assert "- and 3" in page  # so many gains more
    assert "400 service accounts gain deploy:write at deploy-api" in page


def test_so_many_are_shown_and_the_rest_is_counted():
    many = "\n---\n".join(WEB.replace("web-deployer", f"app-{n}").replace("300400", str(n)) for n in range(9))
    done = run(policies("before", WEB), policies("after", many), "--limit", "2")
    assert "Gains: 9\n" in done.stdout
    assert "  ... and 7 more\n" in done.stdout
    assert "9 service accounts gain deploy:write at deploy-api\n" in done.stdout
    told = json.loads(run("before", "after", "--limit", "2", "-o", "json").stdout)
    assert (len(told["gains"]), told["left_out"]["gains"]) == (2, 7)


def test_a_terminal_is_shown_no_control_characters_of_others():
    evil = WEB.replace("main may deploy", "x").replace('"300400"', r'"\u200e300400"')
    done = run(policies("before", WEB), policies("after", evil))
    assert "\u200e" not in done.stdout


@pytest.mark.parametrize("options", [("--output", "yaml"), ("--limit", "0"), ("--nonsense",)])
def test_a_wrong_option_ends_with_2(options):
    assert run(policies("before", WEB), "before", *options).exit_code == 2


# ---------------------------------------------------------------- the page


def console_of(page: str, words: str) -> tuple[list[str], str]:
    """The arguments of a command on a page, and what the page says that it prints."""
    found = (
        one.text for one in blocks(page) if one.language == "console" and one.text.startswith(f"$ gateway {words}")
    )
    line, _, output = next(found).partition("\n")
    return line.split()[2:], output


@pytest.fixture
def page() -> str:
    return (ROOT / "policies" / "craft.md").read_text()


def test_the_change_on_the_page_is_told_as_the_page_shows(page):
    git("init", "--quiet", "--initial-branch=main", ".")
    (written,) = policy_sets(page)["diff"]
    write(Path("policies"), written.text, "deploy.yaml")
    git("add", "--all")
    git("commit", "--quiet", "--message", "policies")
    changed = written.text.replace("[production]", "[production, staging]")
    changed = changed.replace("identifier: https", "token_lifetime: 1h\nidentifier: https")
    write(Path("policies"), changed, "deploy.yaml")
    arguments, output = console_of(page, "policy diff")
    assert CliRunner().invoke(app, arguments).output.strip() == output.strip()


def test_who_can_is_told_as_the_page_shows(page):
    (written,) = policy_sets(page)["diff"]
    write(Path("policies"), written.text, "deploy.yaml")
    arguments, output = console_of(page, "policy who-can")
    assert CliRunner().invoke(app, arguments).output.strip() == output.strip()
