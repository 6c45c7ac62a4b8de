"""Isolation: one team's broken file keeps that team as it was, and harms nobody else."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.clock import SteadyClock
from gateway.policy import files as files_module
from gateway.policy import isolation as isolation_module
from gateway.policy.generation import Generation
from gateway.policy.isolation import InForce
from gateway.policy.loading import load_policies_by_folder
from gateway.policy.problems import PolicyProblems
from gateway.policy.store import PolicyStore
from gateway.standin.issuer import StandInIssuer, StandInServer
from gateway.standin.platforms import GITHUB_ACTIONS
from tests.support.policies import BASE, ask, load, settings, write
from tests.support.running import ISSUER, running
from tests.support.running import settings as server_settings

TEAMS = "kind: Guardrail\nname: teams\nfolders: [teams/**]\ncredentials: [keys]\n"
"""With it a folder under ``teams`` may be left out at the start: no guardrail may be in it."""


def account(name: str, *more: str) -> str:
    return "\n".join([
        "kind: ServiceAccount",
        f"name: {name}",
        "access: [{resource: ledger-api, scopes: [ledger:read]}]",
        f"trust: [{{issuer: cluster, match: {{sub: {name}}}}}]",
        *more,
        "",
    ])  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, BASE, "base.yaml")
    write(tmp_path, TEAMS, "guardrails.yaml")
    write(tmp_path / "teams" / "a", account("a"), "app.yaml")
    return write(tmp_path / "teams" / "b", account("b"), "app.yaml").parent.parent


def store_of(folder: Path) -> PolicyStore:
    arguments = {name: value for name, value in settings().items() if name != "number"}
    return PolicyStore(folder, clock=lambda: 1000.0, by_folder=True, **arguments)


def names(store: PolicyStore) -> list[str]:
    return sorted(store.generation.service_accounts)


def told(store: PolicyStore) -> dict[str, list[str]]:
    """What is held back and why, file names seen from the policies folder."""
    return {
        held: [str(problem).replace(f"{store.folder}/", "") for problem in problems]
        for held, problems in store.held_back.items()
    }


BROKEN = [
    ("broken YAML", "kind: [\n", "2: not YAML: while parsing a flow node, did not find expected node content"),
    ("no text at all", "\udcff", "1: is not UTF-8"),
    ("a wrong field", account("a", "acess: []"), "5: acess: no such field (did you mean access?)"),
    ("an unknown kind", "kind: Gaurdrail\nname: x\n",
     ('1: kind: must be one of Issuer, Resource, Role, ServiceAccount, Tests, Guardrail, not "Gaurdrail"'
      " (did you mean Guardrail?)")),
    ("an unknown role", account("a", "roles: [nobody]"), "5: roles[0]: no Role is called nobody"),
    ("the name of another's", account("b"), "2: name: another ServiceAccount is called b (teams/b/app.yaml:1)"),
    ("the name of the organisation's", "kind: Issuer\nname: cluster\nurl: https://a.example.com\n",
     "1: kind: may not stand here, where files hold Resource, Role, ServiceAccount, Tests (guardrail teams)"),
    ("the identifier of another's resource",
     "kind: Resource\nname: x\nidentifier: https://ledger.example.com\nscopes: {x: X}\n",
     "3: identifier: the Resource ledger-api answers to https://ledger.example.com, too"),
    ("a template that makes another's name",
     "kind: ServiceAccount\nname: b{x}\nfor_each: {x: claims.x}\n---\n" + account("bx"),
     "6: name: could be what b{x} makes for some workload: take another name"),
    ("a guardrail violation", account("a", "credentials: {certificates: [{san_dns: a.example.com}]}"),
     "5: credentials.certificates: service accounts here have keys of their own (guardrail teams)"),
    ("a guardrail of its own", "kind: Guardrail\nname: x\ndeny_when: 'true'\n",
     "1: kind: may not stand here, where files hold Resource, Role, ServiceAccount, Tests (guardrail teams)"),
    ("a test that fails",
     account("a", "tests:", "  - name: t", "    issuer: cluster", "    claims: {sub: a}",
             "    expect: {deny: no_matching_trust}"),
     ("9: tests[0].expect.deny: the test 't' failed: expected deny no_matching_trust,"
      " got allow ledger:read at ledger-api by rule-1")),
    ("a test of another's service account",
     ("kind: Tests\nname: t\nservice_account: b\ntests:\n"
      "  - {name: t, issuer: cluster, claims: {sub: b}, expect: {allow: [ledger:read]}}\n"),
     "3: service_account: b is of another folder: where folders are isolated, such tests stand at the top"),
]  # fmt: skip

each_break = pytest.mark.parametrize(
    ("text", "problem"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN]
)


def put(file: Path, text: str) -> None:
    file.write_bytes(text.encode("utf-8", "surrogateescape"))


# ---------------------------------------------------------------- what is held back


@each_break
async def test_a_broken_file_holds_its_own_folder_back_and_no_other(folder, text, problem):
    store = store_of(folder)
    store.load()
    put(folder / "teams" / "a" / "app.yaml", text)
    write(folder / "teams" / "b", account("b") + "---\n" + account("b-new"), "app.yaml")
    outcome = await store.reload_if_changed()
    assert (outcome.result, outcome.number, names(store)) == ("loaded", 2, ["a", "b", "b-new"])
    assert list(told(store)) == ["teams/a"]
    assert f"teams/a/app.yaml:{problem}" in told(store)["teams/a"]
    assert outcome.held_back == store.held_back
    assert ask(store.generation, "cluster", {"sub": "a"}).reason == "granted"
    assert store.failed_reloads == 0
    write(folder / "teams" / "a", account("a-repaired"), "app.yaml")
    assert (await store.reload_if_changed()).held_back == {}
    assert names(store) == ["a-repaired", "b", "b-new"]


@each_break
def test_at_the_start_a_broken_folder_is_left_out(folder, text, problem):
    put(folder / "teams" / "a" / "app.yaml", text)
    store = store_of(folder)
    store.load()
    if text == account("b"):
        assert names(store) == []
    else:
        assert names(store) == ["b"]
        assert list(told(store)) == ["teams/a"]
    assert f"teams/a/app.yaml:{problem}" in told(store)["teams/a"]


async def test_unchanged_files_are_not_loaded_again_while_a_folder_is_held_back(folder):
    store = store_of(folder)
    store.load()
    put(folder / "teams" / "a" / "app.yaml", "[")
    await store.reload_if_changed()
    again = await store.reload_if_changed()
    assert (again.result, again.number, list(again.held_back)) == ("unchanged", 2, ["teams/a"])


async def test_every_change_of_a_folder_that_is_held_back_is_tried(folder):
    store = store_of(folder)
    store.load()
    for turn in range(3):
        put(folder / "teams" / "a" / "app.yaml", f"kind: [ # {turn}\n")
        assert (await store.reload_if_changed()).result == "loaded"
        assert names(store) == ["a", "b"]
    write(folder / "teams" / "a", account("a"), "app.yaml")
    assert (await store.reload_if_changed()).held_back == {}


async def test_what_is_wrong_at_the_top_keeps_everything_as_it_was(folder):
    store = store_of(folder)
    store.load()
    for top in ("kind: [\n", "kind: Guardrail\nname: x\ndeny_when: claims.\n", "kind: Role\nname: r\naccess: []\n"):
        write(folder, top, "more.yaml")
        write(folder / "teams" / "b", account("b-new"), "app.yaml")
        outcome = await store.reload()
        assert (outcome.result, names(store)) == ("failed", ["a", "b"])
        assert str(outcome.problems[0]).startswith(f"{folder}/more.yaml:")
    (folder / "more.yaml").unlink()
    assert (await store.reload()).result == "loaded"
    assert names(store) == ["a", "b-new"]


async def test_what_is_wrong_is_told_of_all_folders_where_nothing_is_taken_over(folder):
    store = store_of(folder)
    store.load()
    write(folder, "kind: [\n", "more.yaml")
    put(folder / "teams" / "a" / "app.yaml", account("a", "acess: []"))
    files = {Path(problem.file).relative_to(folder).as_posix() for problem in (await store.reload()).problems}
    assert files == {"more.yaml", "teams/a/app.yaml"}


async def test_a_folder_that_vanishes_is_a_removal_and_no_error(folder):
    store = store_of(folder)
    store.load()
    shutil.rmtree(folder / "teams" / "a")
    assert (await store.reload()).held_back == {}
    assert names(store) == ["b"]
    write(folder / "teams" / "b", "# nobody any more\n", "app.yaml")
    assert (await store.reload()).held_back == {}
    assert names(store) == []


async def test_a_folder_that_was_held_back_ends_with_its_files(folder):
    """The way to be rid of rights that a broken file keeps."""
    store = store_of(folder)
    store.load()
    put(folder / "teams" / "a" / "app.yaml", "[")
    await store.reload()
    assert names(store) == ["a", "b"]
    (folder / "teams" / "a" / "app.yaml").unlink()
    assert (await store.reload()).held_back == {}
    assert names(store) == ["b"]


async def test_files_that_vanish_at_the_top_are_a_mount_that_failed(folder):
    store = store_of(folder)
    store.load()
    for file in folder.glob("*.yaml"):
        file.unlink()
    outcome = await store.reload()
    assert (outcome.result, names(store)) == ("failed", ["a", "b"])
    assert "a mount that failed?" in str(outcome.problems[0])


async def test_a_folder_that_cannot_be_read_has_not_vanished(folder, monkeypatch):
    write(folder / "teams" / "a" / "nightly", account("a-nightly"), "app.yaml")
    real = os.scandir

    def scandir(path: Path) -> Any:
        if path == folder / "teams" / "a":
            raise PermissionError(13, "Permission denied")
        return real(path)

    await _unreadable(folder, lambda: monkeypatch.setattr("gateway.policy.files.os.scandir", scandir))


async def test_a_file_that_cannot_be_read_has_not_vanished(folder):
    def replace() -> None:
        (folder / "teams" / "a" / "app.yaml").unlink()
        (folder / "teams" / "a" / "app.yaml").symlink_to("nowhere")

    await _unreadable(folder, replace)


async def test_a_folder_within_itself_is_that_folders_fault(folder):
    await _unreadable(folder, lambda: (folder / "teams" / "a" / "loop").symlink_to(folder / "teams" / "a"))


@pytest.mark.parametrize("target", ["/usr", "/"])
async def test_links_out_into_the_machine_are_the_fault_of_whose_folder_they_are_in(folder, target):
    def spoil() -> None:
        for number in range(3):
            (folder / "teams" / "a" / f"link{number}").symlink_to(target)

    await _unreadable(folder, spoil)


async def test_more_than_all_may_have_together_is_the_fault_of_the_largest_folder(folder, monkeypatch):
    write(folder / "teams" / "a", account("a") + "# " + "x" * 5000, "app.yaml")

    def spoil() -> None:
        monkeypatch.setattr(files_module, "MAX_TOTAL_BYTES", 10_000)
        for number in range(9):  # nine times the same bytes: a link is as good as a copy
            (folder / "teams" / "a" / f"{number}.yaml").symlink_to("app.yaml")

    await _unreadable(folder, spoil)


async def _unreadable(folder: Path, spoil: Any) -> None:
    store = store_of(folder)
    store.load()
    spoil()
    write(folder / "teams" / "b", account("b-new"), "app.yaml")
    assert (await store.reload()).result == "loaded"
    assert set(names(store)) - {"a-nightly"} == {"a", "b-new"}
    assert all(held.startswith("teams/a") for held in store.held_back)
    assert {"teams/a/nightly"} & store.held_back.keys() == {"teams/a/nightly"} & store._folders.contents.keys()
    assert store.held_back


# ---------------------------------------------------------------- who is to blame


async def test_a_name_belongs_to_whoever_has_it(folder):
    """Whatever the order of the folders is: here the newcomer's comes first."""
    store = store_of(folder)
    store.load()
    write(folder / "teams" / "0", account("a") + "---\n" + account("zero"), "app.yaml")
    write(folder / "teams" / "a", account("a", "owner: somebody new"), "app.yaml")
    await store.reload()
    assert (names(store), list(told(store))) == (["a", "b"], ["teams/0"])
    assert store.generation.service_accounts["a"].owner == "somebody new"
    assert store.generation.service_accounts["a"].place.file.endswith("teams/a/app.yaml")


@pytest.mark.parametrize("newcomer", ["0", "z"])
async def test_a_template_that_makes_anothers_name_is_told_and_not_who_has_it(folder, newcomer):
    store = store_of(folder)
    store.load()
    template = "kind: ServiceAccount\nname: a{x}\nfor_each: {x: claims.x}\n"
    write(folder / "teams" / "b", account("b") + "---\n" + template.replace("a{x}", "b.{x}"), "app.yaml")
    write(folder / "teams" / "a", account("a") + "---\n" + account("ax"), "app.yaml")
    await store.reload()
    assert names(store) == ["a", "ax", "b", "b.{x}"]
    write(folder / "teams" / newcomer, template + "---\n" + account("b.y"), "app.yaml")
    write(folder / "teams" / "a", account("a") + "---\n" + account("ax", "owner: new"), "app.yaml")
    write(folder / "teams" / "b", account("b", "owner: new") + "---\n" + template.replace("a{x}", "b.{x}"), "app.yaml")
    await store.reload()
    assert list(told(store)) == [f"teams/{newcomer}"]
    assert [one.partition("name: ")[2].partition(" ")[0] for one in told(store)[f"teams/{newcomer}"]] == ["could"] * 2
    assert store.generation.service_accounts["ax"].owner == store.generation.service_accounts["b"].owner == "new"


def test_of_two_newcomers_nobody_gets_the_name(folder):
    """At a start nobody knows whose it was: the first by the alphabet must not take another team's identity."""
    write(folder / "teams" / "0", account("b") + "---\n" + account("zero"), "app.yaml")
    store = store_of(folder)
    store.load()
    assert (names(store), list(told(store))) == (["a"], ["teams/0", "teams/b"])


@pytest.mark.parametrize("team", ["0", "z"])
def test_at_the_start_a_guardrail_says_whose_name_it_is(folder, team):
    limit = f"kind: Guardrail\nname: names\nfolders: [teams/{team}]\nnames: [{team}-*]\n"
    write(folder, limit, "names.yaml")
    write(folder / "teams" / team, account("b") + "---\n" + account(f"{team}-app"), "app.yaml")
    store = store_of(folder)
    store.load()
    assert (names(store), list(told(store))) == (["a", "b"], [f"teams/{team}"])


def test_what_the_organisation_names_is_no_teams(folder):
    write(folder / "teams" / "a", "kind: Role\nname: r\naccess: [{resource: ledger-api, scopes: [ledger:write]}]\n")
    write(folder, "kind: Role\nname: r\naccess: [{resource: ledger-api, scopes: [ledger:read]}]\n", "z.yaml")
    store = store_of(folder)
    store.load()
    assert list(told(store)) == ["teams/a"]
    assert store.generation.roles["r"] == {"ledger-api": ("ledger:read",)}


def test_two_resources_of_one_name_harm_nobody_who_refers_to_it(folder):
    resource = "kind: Resource\nname: {}\nidentifier: https://{}.example.com\nscopes: {{{}: X}}\n"
    write(folder / "teams" / "a", resource.format("ledger-api", "other", "other:read"), "resource.yaml")
    store = store_of(folder)
    store.load()
    assert (names(store), list(told(store))) == (["b"], ["teams/a"])


SHARED = "kind: Role\nname: shared\naccess: [{{resource: ledger-api, scopes: [{}]}}]\n"


async def test_a_change_that_harms_a_folder_that_did_not_change_is_held_back_alone(folder):
    write(folder / "teams" / "c", SHARED.format("ledger:read"), "role.yaml")
    write(folder / "teams" / "b", account("b", "roles: [shared]"), "app.yaml")
    store = store_of(folder)
    store.load()
    (folder / "teams" / "c" / "role.yaml").unlink()
    for name in "defgh":
        write(folder / "teams" / name, account(name), "app.yaml")
    await store.reload()
    assert names(store) == ["a", "b", "d", "e", "f", "g", "h"]
    assert told(store) == {"teams/c": ["teams/b/app.yaml:5: roles[0]: no Role is called shared"]}


async def test_a_change_of_the_organisation_that_harms_a_folder_is_not_taken_over(folder):
    store = store_of(folder)
    store.load()
    write(folder, "kind: Guardrail\nname: short\nmax_token_lifetime: 5m\n", "short.yaml")
    write(folder / "teams" / "a", account("a", "token_lifetime: 5m"), "app.yaml")
    outcome = await store.reload()
    assert outcome.result == "failed"
    assert [str(problem).replace(f"{folder}/", "").replace(str(folder), ".") for problem in outcome.problems] == [
        ".: nothing is taken over: teams/b did not change, yet does not load now",
        "teams/b/app.yaml:1: token_lifetime: tokens for ledger-api last 15m: write 5m at most (guardrail short)",
    ]
    write(folder / "teams" / "b", account("b", "token_lifetime: 5m"), "app.yaml")
    assert (await store.reload()).result == "loaded"


async def test_a_test_of_the_organisation_keeps_a_teams_change_out_and_no_other(folder):
    tests = """
    kind: Tests
    name: t
    service_account: a
    tests: [{name: t, issuer: cluster, claims: {sub: a}, expect: {allow: [ledger:read]}}]
    """
    write(folder, tests, "tests.yaml")
    store = store_of(folder)
    store.load()
    write(folder / "teams" / "a", account("a").replace("sub: a", "sub: z"), "app.yaml")
    write(folder / "teams" / "b", account("b-new"), "app.yaml")
    await store.reload()
    assert names(store) == ["a", "b-new"]
    assert list(told(store)) == ["teams/a"]
    assert ask(store.generation, "cluster", {"sub": "z"}, client_id="a").reason == "no_matching_trust"


# ---------------------------------------------------------------- nothing that neither would give


async def test_what_changes_with_something_that_is_held_back_is_held_back_as_well(folder):
    """One change narrows a role here and lets more workloads have it there: half of it would be too much."""
    write(folder / "teams" / "c", SHARED.format("ledger:read, ledger:write"), "role.yaml")
    write(folder / "teams" / "b", account("b", "roles: [shared]"), "app.yaml")
    store = store_of(folder)
    store.load()
    write(folder / "teams" / "c", SHARED.format("ledger:read"), "role.yaml")
    write(folder / "teams" / "c", "kind: [", "broken.yaml")
    write(folder / "teams" / "b", account("b", "roles: [shared]").replace("sub: b", "sub: [b, stranger]"), "app.yaml")
    write(folder / "teams" / "a", account("a-new"), "app.yaml")
    await store.reload()
    assert names(store) == ["a-new", "b"]
    assert told(store)["teams/b"] == [
        "teams/b/app.yaml:5: roles[0]: refers to the Role shared, whose change in teams/c is held back"
    ]
    assert ask(store.generation, "cluster", {"sub": "stranger"}).reason == "no_matching_trust"


async def test_what_changes_with_something_that_it_has_through_a_role_is_held_back_as_well(folder):
    resource = "kind: Resource\nname: deep-api\nidentifier: https://deep.example.com\nscopes: {x: X}\ntoken_lifetime: "
    role = "kind: Role\nname: deep\naccess: [{resource: deep-api, scopes: [x]}]\n"
    write(folder / "teams" / "c", resource + "24h\n", "resource.yaml")
    write(folder / "teams" / "d", role, "role.yaml")
    write(folder / "teams" / "b", account("b", "roles: [deep]"), "app.yaml")
    store = store_of(folder)
    store.load()
    write(folder / "teams" / "c", resource + "5m\n", "resource.yaml")
    write(folder / "teams" / "c", "kind: [", "broken.yaml")
    write(folder / "teams" / "b", account("b", "roles: [deep]").replace("sub: b", "sub: [b, stranger]"), "app.yaml")
    await store.reload()
    assert told(store)["teams/b"] == [
        "teams/b/app.yaml:5: roles[0]: refers to the Resource deep-api, whose change in teams/c is held back"
    ]
    assert ask(store.generation, "cluster", {"sub": "stranger"}).reason == "no_matching_trust"


async def test_what_changes_beside_a_broken_file_is_free_to_change(folder):
    """The broken file says nothing of the role: whoever has it may change."""
    write(folder / "teams" / "c", SHARED.format("ledger:read, ledger:write"), "role.yaml")
    write(folder / "teams" / "b", account("b", "roles: [shared]"), "app.yaml")
    store = store_of(folder)
    store.load()
    write(folder / "teams" / "c", "kind: [", "broken.yaml")
    write(folder / "teams" / "b", account("b-new", "roles: [shared]"), "app.yaml")
    await store.reload()
    assert (names(store), list(told(store))) == (["a", "b-new"], ["teams/c"])


async def test_what_is_held_back_gets_no_more_than_it_had(folder):
    """The broken file may have given a role up because that was to give more."""
    write(folder, SHARED.format("ledger:read"), "role.yaml")
    write(folder / "teams" / "a", account("a", "roles: [shared]"), "app.yaml")
    store = store_of(folder)
    store.load()
    for turn in range(2):
        write(folder, SHARED.format("ledger:read, ledger:write"), "role.yaml")
        put(folder / "teams" / "a" / "app.yaml", f"[ # {turn}\n")
        await store.reload()
        assert store.generation.service_accounts["a"].access == {"ledger-api": ("ledger:read",)}
        assert ask(store.generation, "cluster", {"sub": "a"}, scopes=("ledger:write",)).reason == "scope_not_granted"
    write(folder / "teams" / "a", account("a", "roles: [shared]"), "app.yaml")
    await store.reload()
    assert store.generation.service_accounts["a"].access == {"ledger-api": ("ledger:read", "ledger:write")}


async def test_what_is_taken_from_a_role_is_taken_from_whom_is_held_back(folder):
    write(folder, SHARED.format("ledger:read, ledger:write"), "role.yaml")
    write(folder / "teams" / "a", account("a", "roles: [shared]"), "app.yaml")
    store = store_of(folder)
    store.load()
    write(folder, SHARED.format("ledger:read"), "role.yaml")
    put(folder / "teams" / "a" / "app.yaml", "[")
    await store.reload()
    assert store.generation.service_accounts["a"].access == {"ledger-api": ("ledger:read",)}


GRANTED = frozenset[tuple[str, str, str]]
SUBJECTS = ("w1", "w2")
FOLDERS = ("teams/a", "teams/b", "teams/c")
SCOPES = st.lists(st.sampled_from(["read", "write"]), min_size=1, max_size=2, unique=True)
TOP_DOCUMENTS = [
    {"kind": "Issuer", "name": "c", "url": "https://c.example.com"},
    {"kind": "Resource", "name": "r", "identifier": "https://r.example.com", "scopes": {"read": "", "write": ""}},
    {"kind": "Guardrail", "name": "teams", "folders": ["teams/**"], "credentials": []},
]


def role(name: str, scopes: Sequence[str]) -> dict[str, Any]:
    return {"kind": "Role", "name": name, "access": [{"resource": "r", "scopes": scopes}]}


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, list[dict[str, Any]]]:
    """The documents of the top and of three folders, which have each other's roles. They load."""
    world = {"": [*TOP_DOCUMENTS, role("top", draw(SCOPES))]}
    roles = ["top", *(f"role-{folder[-1]}" for folder in FOLDERS)]
    for folder in FOLDERS:
        world[folder] = [role(f"role-{folder[-1]}", draw(SCOPES))]
        for number in range(draw(st.integers(0, 2))):
            subjects = draw(st.lists(st.sampled_from(SUBJECTS), min_size=1, max_size=2, unique=True))
            world[folder].append(
                {
                    "kind": "ServiceAccount",
                    "name": f"{folder[-1]}{number}",
                    "roles": draw(st.lists(st.sampled_from(roles), min_size=1, max_size=2, unique=True)),
                    "trust": [{"issuer": "c", "match": {"sub": subjects}}],
                }
            )
    return world


SPOILT = (
    '{"kind": [',
    '{"kind": "ServiceAccount", "name": "x", "roles": ["nobody"]}',
    '{"kind": "Role", "name": "top", "access": [{"resource": "r", "scopes": ["write"]}]}',
    '{"kind": "Role", "name": "role-@", "access": [{"resource": "r", "scopes": ["write"]}]}',
    '{"kind": "ServiceAccount", "name": "x", "roles": ["top"], "credentials": {"certificates": [{"san_dns": "x"}]}}',
    (
        '{"kind": "ServiceAccount", "name": "x", "roles": ["top"], "trust": [{"issuer": "c", "match": {"sub": "w1"}}],'
        ' "tests": [{"name": "t", "issuer": "c", "claims": {"sub": "w1"}, "expect": {"deny": "no_matching_trust"}}]}'
    ),
)


def put_world(root: Path, world: Mapping[str, list[dict[str, Any]]], spoilt: Mapping[str, tuple[str, bool]]) -> None:
    """Writes the files of each folder. A spoilt one has a file too many, or that instead of all others."""
    shutil.rmtree(root, ignore_errors=True)
    for folder, documents in world.items():
        text, instead = spoilt.get(folder, ("", False))
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number, document in enumerate(documents if not instead else ()):
            (root / folder / f"{number}.yaml").write_text(json.dumps(document))
        if text:
            neighbour = {"a": "b", "b": "c", "c": "a"}[folder[-1]]
            (root / folder / "spoilt.yaml").write_text(text.replace("@", neighbour))


def granted(generation: Generation) -> GRANTED:
    """Who gets which scope as which service account."""
    return frozenset(
        (subject, name, scope)
        for subject in SUBJECTS
        for name in generation.service_accounts
        for scope in ("read", "write")
        if ask(generation, "c", {"sub": subject}, client_id=name, resource="r", scopes=(scope,)).entitlement is not None
    )


@given(
    st.lists(worlds(), min_size=2, max_size=4),
    st.dictionaries(
        st.sampled_from(FOLDERS), st.tuples(st.sampled_from(SPOILT), st.booleans()), min_size=1, max_size=2
    ),
)
@hypothesis_settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_load_by_folder_never_grants_what_neither_the_new_files_nor_the_last_good_ones_would(
    tmp_path, steps: list[dict[str, list[dict[str, Any]]]], spoilt: dict[str, tuple[str, bool]]
):
    root = tmp_path / "policies"
    put_world(root, steps[0], {})
    in_force = load_policies_by_folder(root, **settings())
    before = granted(in_force.generation)
    assert before == granted(load(root))
    for world in steps[1:]:
        put_world(root, world, {})
        meant = granted(load(root))
        put_world(root, world, spoilt)
        in_force = load_policies_by_folder(root, in_force, **settings())
        now = granted(in_force.generation)
        assert now <= before | meant
        assert not spoilt.keys() - in_force.held_back.keys()
        assert_held_back_for_a_reason(in_force, world, spoilt)
        before |= meant  # what is in force by then may be of either
    put_world(root, steps[-1], {})
    in_force = load_policies_by_folder(root, in_force, **settings())
    assert (in_force.held_back, granted(in_force.generation)) == ({}, meant)


def assert_held_back_for_a_reason(
    in_force: InForce, world: Mapping[str, list[dict[str, Any]]], spoilt: Mapping[str, Any]
) -> None:
    """A good folder is held back only where a service account of it has a role of another that is."""
    for held in in_force.held_back.keys() - spoilt.keys():
        others = {f"role-{folder[-1]}" for folder in in_force.held_back if folder != held}
        assert any(others & set(document.get("roles", ())) for document in world[held])


@given(
    worlds(), st.dictionaries(st.sampled_from(FOLDERS), st.tuples(st.sampled_from(SPOILT), st.booleans()), min_size=1)
)
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_first_load_by_folder_never_grants_what_the_files_would_not(tmp_path, world, spoilt):
    root = tmp_path / "policies"
    put_world(root, world, {})
    meant = granted(load(root))
    put_world(root, world, spoilt)
    in_force = load_policies_by_folder(root, **settings())
    assume(in_force.held_back)
    assert granted(in_force.generation) <= meant


# ---------------------------------------------------------------- guardrails


def test_guardrails_stand_at_the_top(folder):
    """Whatever becomes of a folder: no limit on others may go with it."""
    write(folder / "organisation", "kind: Guardrail\nname: x\ndeny_when: 'true'\n", "x.yaml")
    with pytest.raises(PolicyProblems) as caught:
        store_of(folder).load()
    words = "cannot be left out at the start: it may hold guardrails, unless one at the top names this folder"
    assert [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems] == [
        f"organisation: {words}",
        "organisation/x.yaml:1: kind: stands at the top of the policies folder where folders are isolated",
    ]


@pytest.mark.parametrize("text", ["kind: [\n", "kind: Guardrial\nname: x\ndeny_when: 'true'\n"])
def test_at_the_start_nothing_is_left_out_that_might_be_a_guardrail(folder, text):
    write(folder / "organisation", text, "x.yaml")
    with pytest.raises(PolicyProblems, match="may hold guardrails"):
        store_of(folder).load()
    write(folder / "organisation", account("x", "roles: [nobody]"), "x.yaml")
    store = store_of(folder)
    store.load()
    assert list(told(store)) == ["organisation"]


@pytest.mark.parametrize(
    "about", ["folders: [teams/*.yaml]", "folders: [teams/**]\nkinds: [Guardrail, ServiceAccount]"]
)
def test_a_guardrail_that_does_not_keep_others_out_of_a_folder_does_not_let_it_be_left_out(folder, about):
    write(folder, f"kind: Guardrail\nname: teams\n{about}\ncredentials: []\n", "guardrails.yaml")
    put(folder / "teams" / "a" / "app.yaml", "[")
    with pytest.raises(PolicyProblems, match="may hold guardrails"):
        store_of(folder).load()


# ---------------------------------------------------------------- bounds, mounts, the rest


async def test_a_load_compiles_so_often_and_no_more(folder, monkeypatch):
    store = store_of(folder)
    store.load()
    compiled = 0
    real = isolation_module._Load._compiled

    def counted(load: Any) -> Generation:
        nonlocal compiled
        compiled += 1
        return real(load)

    monkeypatch.setattr(isolation_module._Load, "_compiled", counted)
    monkeypatch.setattr(isolation_module, "MAX_COMPILATIONS", 6)
    write(folder / "teams" / "b", account("b-new"), "app.yaml")
    write(folder / "teams" / "harm", SHARED.format("ledger:read"), "role.yaml")
    write(folder / "teams" / "a", account("a", "roles: [shared]"), "app.yaml")
    await store.reload()
    (folder / "teams" / "harm" / "role.yaml").unlink()
    for number in range(64):
        write(folder / "teams" / f"n{number:02}", account(f"n{number}"), "app.yaml")
    compiled = 0
    assert (await store.reload()).result == "loaded"
    assert compiled <= 6
    assert "teams/harm" in store.held_back
    assert {"a", "b-new"} <= set(names(store))


async def test_very_many_mistakes_of_one_team_hold_back_that_team_alone(folder):
    store = store_of(folder)
    store.load()
    for number in range(40):
        mistakes = "\n---\n".join(f"kind: Nonsense\nname: n{number}-{one}" for one in range(300))
        write(folder / "teams" / "a" / f"sub{number:02}", mistakes, "x.yaml")
    write(folder / "teams" / "b", account("b-new"), "app.yaml")
    await store.reload()
    assert names(store) == ["a", "b-new"]
    assert len(store.held_back) == 40


CHAINED = """
kind: ServiceAccount
name: n{number}
access: [{{resource: ledger-api, scopes: [ledger:read]}}]
trust: [{{issuer: cluster, match: {{sub: [s{number}, s{next}]}}}}]
---
kind: ServiceAccount
name: t{number}.{{x}}
for_each: {{x: claims.x}}
access: [{{resource: ledger-api, scopes: [ledger:read]}}]
trust: [{{issuer: cluster, match: {{sub: nobody}}}}]
tests: [{{name: t, issuer: cluster, claims: {{sub: s{number}}}, expect: {{deny: ambiguous_service_account}}}}]
"""
"""Its test passes as long as the one before is there."""


async def test_a_long_chain_of_tests_of_one_team_holds_back_that_team_alone(folder):
    store = store_of(folder)
    store.load()
    for number in range(40):
        write(folder / "teams" / "a" / f"{number:02}", CHAINED.format(number=number, next=number + 1), "app.yaml")
    write(folder / "teams" / "b", account("b-new"), "app.yaml")
    assert (await store.reload()).result == "loaded"
    assert names(store) == ["a", "b-new"]
    assert len(store.held_back) == 40


async def test_a_long_chain_of_names_that_one_team_passes_on_holds_back_that_team_alone(folder):
    for number in range(40):
        write(folder / "teams" / "a" / f"{number:02}", account(f"n{number}"), "app.yaml")
    store = store_of(folder)
    store.load()
    for number in range(40):
        write(folder / "teams" / "a" / f"{number:02}", account(f"n{(number - 1) % 40}"), "app.yaml")
    write(folder / "teams" / "a" / "00", account("n39", "roles: [nobody]"), "app.yaml")
    write(folder / "teams" / "b", account("b-new"), "app.yaml")
    await store.reload()
    assert {"a", "b-new", *(f"n{number}" for number in range(40))} == set(names(store))
    assert len(store.held_back) == 40


def test_a_long_chain_of_roles_that_hang_together_leaves_nobody_else_out(folder):
    role = "kind: Role\nname: r{}\naccess: [{{resource: ledger-api, scopes: [ledger:read]}}]\n"
    for number in range(40):
        text = account(f"n{number}", f"roles: [r{number - 1}]") + "---\n" + role.format(number)
        write(folder / "teams" / "a" / f"{number:02}", text, "app.yaml")
    store = store_of(folder)
    store.load()
    assert (names(store), len(store.held_back)) == (["a", "b"], 40)


async def test_a_config_map_for_each_team_is_followed_through_its_links(tmp_path):
    write(tmp_path, BASE, "base.yaml")
    write(tmp_path, TEAMS, "guardrails.yaml")

    def mount(team: str, version: str, text: str) -> None:
        volume = tmp_path / "teams" / team
        write(volume / f"..{version}", text, "app.yaml")
        (volume / "..new").symlink_to(f"..{version}")
        (volume / "..new").rename(volume / "..data")
        if not (volume / "app.yaml").is_symlink():
            (volume / "app.yaml").symlink_to("..data/app.yaml")

    mount("a", "1", account("a"))
    mount("b", "1", account("b"))
    store = store_of(tmp_path)
    store.load()
    mount("a", "2", "kind: [")
    mount("b", "2", account("b-new"))
    assert (await store.reload_if_changed()).result == "loaded"
    assert (names(store), list(told(store))) == (["a", "b-new"], ["teams/a"])


async def test_in_a_flat_folder_all_stands_or_falls_together(tmp_path):
    write(tmp_path, BASE, "base.yaml")
    write(tmp_path, account("a"), "a.yaml")
    store = store_of(tmp_path)
    store.load()
    write(tmp_path, "kind: [", "a.yaml")
    write(tmp_path, account("b"), "b.yaml")
    outcome = await store.reload()
    assert (outcome.result, names(store), outcome.held_back) == ("failed", ["a"], {})


async def test_folders_within_a_folder_are_folders_of_their_own(folder):
    write(folder / "teams" / "a" / "nightly", account("a-nightly"), "app.yaml")
    store = store_of(folder)
    store.load()
    put(folder / "teams" / "a" / "nightly" / "app.yaml", "[")
    write(folder / "teams" / "a", account("a-new"), "app.yaml")
    await store.reload()
    assert (names(store), list(told(store))) == (["a-new", "a-nightly", "b"], ["teams/a/nightly"])


async def test_what_is_in_force_does_not_depend_on_the_order_of_changes(folder):
    store, other = store_of(folder), store_of(folder)
    store.load()
    write(folder / "teams" / "b", account("b") + "---\n" + account("0b"), "app.yaml")
    await store.reload()
    other.load()
    assert list(store.generation.service_accounts) == list(other.generation.service_accounts)
    assert store.generation.sha256 == other.generation.sha256 == load(folder).sha256


async def test_lines_are_those_of_the_text_that_was_loaded(folder):
    """Of what is held back the file says something else by now."""
    store = store_of(folder)
    write(
        folder / "teams" / "a",
        "# a comment\n" * 10 + account("a").replace("issuer: cluster", "issuer: github"),
        "app.yaml",
    )
    store.load()
    put(folder / "teams" / "a" / "app.yaml", "[")
    await store.reload()
    assert store.generation.service_accounts["a"].place.line == 11
    assert store.generation.sha256 != load_of_nothing_else(folder)


def load_of_nothing_else(folder: Path) -> str:
    with pytest.raises(PolicyProblems):
        load(folder)
    return ""


# ---------------------------------------------------------------- gateway check


def check(folder: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["check", "--policies", str(folder), *arguments])


def test_check_tells_which_folders_would_be_held_back(folder):
    assert check(folder, "--isolation", "per_folder").exit_code == 0
    put(folder / "teams" / "a" / "app.yaml", account("a", "roles: [nobody]", "acess: []"))
    answer = check(folder, "--isolation", "per_folder")
    assert answer.exit_code == 1
    assert answer.output.replace(f"{folder}/", "").splitlines() == [
        "teams/a/app.yaml:5: roles[0]: no Role is called nobody",
        "teams/a/app.yaml:6: acess: no such field (did you mean access?)",
        "2 problems; all would load but teams/a.",
    ]
    assert check(folder).output.splitlines()[-1] == "2 problems; nothing was loaded."


def test_check_tells_scripts_which_folders_would_be_held_back(folder):
    put(folder / "teams" / "a" / "app.yaml", "[")
    answer = check(folder, "--isolation", "per_folder", "--output", "json")
    told = json.loads(answer.output)
    assert (answer.exit_code, told["ok"], list(told["held_back"])) == (1, False, ["teams/a"])
    assert told["held_back"]["teams/a"] == told["problems"]
    write(folder, "[", "top.yaml")
    assert "held_back" not in json.loads(check(folder, "--isolation", "per_folder", "--output", "json").output)


def test_check_does_as_the_settings_say(folder, tmp_path):
    put(folder / "teams" / "a" / "app.yaml", "[")
    file = tmp_path.parent / f"{tmp_path.name}.yaml"
    file.write_text(f"issuer: {ISSUER}\npolicies: {folder}\nisolation: per_folder\n")
    answer = CliRunner().invoke(app, ["check", "--config", str(file)])
    assert answer.output.splitlines()[-1] == "1 problem; all would load but teams/a."
    answer = CliRunner().invoke(app, ["check", "--config", str(file)], env={"GATEWAY_ISOLATION": "none"})
    assert answer.output.splitlines()[-1] == "1 problem; nothing was loaded."


@pytest.mark.parametrize("arguments", [["--isolation", "per_file"], ["--isolation"]])
def test_check_knows_the_ways_of_isolation(folder, arguments):
    assert check(folder, *arguments).exit_code == 2
    assert CliRunner().invoke(app, ["check", "--isolation", "per_folder"]).exit_code == 2


# ---------------------------------------------------------------- a running gateway

TOP = """
kind: Issuer
name: github
preset: github-actions
keys: {{discovery_url: "{discovery_url}", private_network: true}}
---
kind: Resource
name: deploy-api
identifier: https://deploy.example.com
scopes: {{deploy:write: Deploy}}
"""
TEAM = """
kind: ServiceAccount
name: {name}
access: [{{resource: deploy-api, scopes: [deploy:write]}}]
trust: [{{issuer: github, match: {{repository_id: "{repository}"}}}}]
"""


async def test_a_running_gateway_keeps_a_teams_rights_through_its_mistake_and_takes_over_anothers_change(tmp_path):
    clock = SteadyClock()
    github = StandInIssuer(GITHUB_ACTIONS, clock=clock)
    async with StandInServer(github):
        policies = write(tmp_path / "policies", TOP.format(discovery_url=github.discovery_url), "top.yaml")
        write(policies / "teams" / "a", TEAM.format(name="a", repository="1"))
        write(policies / "teams" / "b", TEAM.format(name="b", repository="2"))
        async with running(server_settings(tmp_path, isolation="per_folder"), clock=clock) as gateway:

            async def reason(repository: str) -> str:
                _, body = await gateway.exchange(github.token(ISSUER, repository_id=repository))
                return body.get("reason", "granted")

            async def told() -> tuple[dict[str, list[str]], float]:
                async with gateway.session.get(f"{gateway.admin_url}/readyz") as answer:
                    assert answer.status == 200
                    held_back = (await answer.json())["policies"]["held_back"]
                metrics = await gateway.get(f"{gateway.admin_url}/metrics")
                (line,) = (one for one in metrics.splitlines() if one.startswith("gateway_policy_folders_held_back "))
                return held_back, float(line.split()[1])

            assert [await reason(one) for one in "123"] == ["granted", "granted", "no_matching_trust"]
            assert await told() == ({}, 0)

            write(policies / "teams" / "a", TEAM.format(name="a", repository="3").replace("trust:", "trsut:"))
            write(policies / "teams" / "b", TEAM.format(name="b", repository="3"))
            assert (await gateway.gateway.reload()).result == "loaded"
            assert [await reason(one) for one in "123"] == ["granted", "no_matching_trust", "granted"]
            held_back, count = await told()
            line = f"{policies}/teams/a/policy.yaml:4: trsut: no such field (did you mean trust?)"
            assert (held_back, count) == ({"teams/a": [line]}, 1)

            write(policies / "teams" / "a", TEAM.format(name="a", repository="4"))
            assert (await gateway.gateway.reload()).result == "loaded"
            assert [await reason(one) for one in "134"] == ["no_matching_trust", "granted", "granted"]
            assert await told() == ({}, 0)
