"""Guardrails over files: each limit refuses what it says, lets the rest be, and cannot be got around."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.documents import KINDS, LIMITS, GuardrailDocument, KindName, parse_pin
from gateway.policy.guardrails import GlobError, parse_folders
from tests.support.policies import ask, generation_of, load, problems_of_folder, write

BASE = """
kind: Issuer
name: github
preset: github-actions
---
kind: Issuer
name: cluster
url: https://cluster.example.com
---
kind: Resource
name: backup-api
identifier: https://backup.example.com
owner: Storage
scopes: {backup:read: Read, backup:write: Write}
token_lifetime: 10m
---
kind: Resource
name: billing-api
identifier: https://billing.example.com
owner: Billing
scopes: {billing:read: Read, billing:write: Write}
token_lifetime: 1h
---
kind: Resource
name: common-api
identifier: https://common.example.com
scopes: {common:read: Read}
---
kind: Role
name: biller
access: [{resource: billing-api, scopes: [billing:write]}]
"""

TEAM = "teams/storage/app.yaml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path, BASE, "base.yaml")


def guardrail(*lines: str, folders: str | None = "[teams/storage/**]") -> str:
    about = [f"folders: {folders}"] if folders is not None else []
    return "\n".join(["kind: Guardrail", "name: storage", *about, *lines])


def account(*lines: str, name: str = "app") -> str:
    return "\n".join(["kind: ServiceAccount", f"name: {name}", *lines])


def told(folder: Path, limits: str, files: dict[str, str]) -> list[str]:
    """What is told of these files under a guardrail, without the guardrail's name at the end of each line."""
    write(folder, limits, "guardrails.yaml")
    for path, text in files.items():
        write(folder / Path(path).parent, text, Path(path).name)
    by, found = " (guardrail storage)", problems_of_folder(folder)
    assert [line for line in found if not line.endswith(by)] == []
    return [line.removesuffix(by) for line in found]


# ---------------------------------------------------------------- each limit

PINNED = account("trust:", "  - issuer: github", "    match: {repository_id: '1', repository_owner_id: '2'}")
LIMITED: list[tuple[str, str, str, str, list[str]]] = [
    (
        "pins: a rule that fixes one of two claims",
        guardrail("issuer: github", "pins: [repository_id, repository_owner_id]"),
        PINNED,
        account("trust:", "  - issuer: github", "    match: {repository_id: '1'}"),
        ["4: trust[0]: has to fix repository_owner_id by match"],
    ),
    (
        "pins: a glob fixes nothing",
        guardrail("issuer: github", "pins: [repository_id]"),
        PINNED,
        account("trust:", "  - issuer: github", "    like: {repository_id: '1*'}", "    when: claims.ref == 'main'"),
        ["4: trust[0]: has to fix repository_id by match"],
    ),
    (
        "pins: a list means any of",
        guardrail("issuer: github", "pins: [[repository_id, repository_owner_id]]"),
        account("trust:", "  - issuer: github", "    match: {repository_owner_id: '2'}"),
        account("trust:", "  - issuer: github", "    match: {ref: main}"),
        ["4: trust[0]: has to fix repository_id or repository_owner_id by match"],
    ),
    (
        "pins: a claim within an object",
        guardrail("issuer: cluster", "pins: [{kubernetes.io: {serviceaccount: name}}]"),
        account("trust: [{issuer: cluster, match: {kubernetes.io: {serviceaccount: {name: x}}}}]"),
        account("trust: [{issuer: cluster, match: {kubernetes.io: {namespace: x}, name: x}}]"),
        ['3: trust[0]: has to fix ["kubernetes.io"].serviceaccount.name by match'],
    ),
    (
        "pins: of another issuer nothing is wanted, of all without a name",
        guardrail("pins: [sub]"),
        account("trust: [{issuer: cluster, match: {sub: x}}, {issuer: github, match: {sub: x}}]"),
        account("trust: [{issuer: cluster, match: {sub: x}}, {issuer: github, match: {ref: x}}]"),
        ["3: trust[1]: has to fix sub by match"],
    ),
    (
        "issuers",
        guardrail("issuers: [github]"),
        PINNED,
        account("trust:", "  - {issuer: github, match: {ref: x}}", "  - {issuer: cluster, match: {sub: x}}"),
        ["5: trust[1].issuer: files here trust github, not cluster"],
    ),
    (
        "resource_owners: another's resource",
        guardrail("resource_owners: [Storage]"),
        account("access: [{resource: backup-api, scopes: [backup:read]}]"),
        account("access:", "  - {resource: backup-api, scopes: [backup:read]}",
                "  - {resource: billing-api, scopes: [billing:read]}"),
        ["5: access[1].resource: billing-api belongs to Billing: files here speak of what belongs to Storage"],
    ),
    (
        "resource_owners: nobody's resource",
        guardrail("resource_owners: [Storage]"),
        account("access: [{resource: backup-api, scopes: [backup:read]}]"),
        account("access: [{resource: common-api, scopes: [common:read]}]"),
        ["3: access[0].resource: common-api has no owner: files here speak of what belongs to Storage"],
    ),
    (
        "resource_owners: upper and lower case are two owners",
        guardrail("resource_owners: [STORAGE]"),
        account("roles: []"),
        account("access: [{resource: backup-api, scopes: [backup:read]}]"),
        ["3: access[0].resource: backup-api belongs to Storage: files here speak of what belongs to STORAGE"],
    ),
    (
        "resource_owners: through a role that is written elsewhere",
        guardrail("resource_owners: [Storage]"),
        account("roles: []"),
        account("roles: [biller]"),
        ["3: roles[0]: billing-api belongs to Billing: files here speak of what belongs to Storage"],
    ),
    (
        "resource_owners: a role of its own for others to have",
        guardrail("resource_owners: [Storage]"),
        "kind: Role\nname: r\naccess: [{resource: backup-api, scopes: [backup:read]}]\n",
        "kind: Role\nname: r\naccess: [{resource: billing-api, scopes: [billing:read]}]\n",
        ["3: access[0].resource: billing-api belongs to Billing: files here speak of what belongs to Storage"],
    ),
    (
        "access kept for other folders",
        guardrail("access: [{resource: billing-api, scopes: [billing:write]}]", "only_in: [teams/billing/**]"),
        account("access: [{resource: billing-api, scopes: [billing:read]}]"),
        account("access:", "  - resource: billing-api", "    scopes:", "      - billing:read", "      - billing:write"),
        ["7: access[0].scopes[1]: billing:write of billing-api is granted in teams/billing/** alone"],
    ),
    (
        "access kept for other folders, through a role",
        guardrail("access: [{resource: billing-api, scopes: [billing:write]}]", "only_in: [teams/billing/**]"),
        account("roles: []"),
        account("roles: [biller]"),
        ["3: roles[0]: billing:write of billing-api is granted in teams/billing/** alone"],
    ),
    (
        "max_token_lifetime: the resource's own",
        guardrail("max_token_lifetime: 10m"),
        account("access: [{resource: backup-api, scopes: [backup:read]}]"),
        account("access: [{resource: billing-api, scopes: [billing:read]}]"),
        ["1: token_lifetime: tokens for billing-api last 60m: write 10m at most"],
    ),
    (
        "max_token_lifetime: that of the service account",
        guardrail("max_token_lifetime: 10m"),
        account("token_lifetime: 10m", "access: [{resource: billing-api, scopes: [billing:read]}]"),
        account("access: [{resource: billing-api, scopes: [billing:read]}]", "token_lifetime: 11m"),
        ["4: token_lifetime: tokens for billing-api last 11m: write 10m at most"],
    ),
    (
        "max_token_lifetime: rules alone do not do, for a secret passes them by",
        guardrail("max_token_lifetime: 10m"),
        account("token_lifetime: 9m", "access: [{resource: billing-api, scopes: [billing:read]}]",
                "trust: [{issuer: cluster, match: {sub: x}, token_lifetime: 1h}]"),
        account("access: [{resource: billing-api, scopes: [billing:read]}]",
                "trust: [{issuer: cluster, match: {sub: x}, token_lifetime: 5m}]"),
        ["1: token_lifetime: tokens for billing-api last 60m: write 10m at most"],
    ),
    (
        "max_token_lifetime: each rule of a template, which can have no secret",
        guardrail("max_token_lifetime: 10m"),
        account("for_each: {n: claims.n}", "access: [{resource: billing-api, scopes: [billing:read]}]",
                "trust: [{issuer: cluster, match: {sub: x}, token_lifetime: 5m}]", name="t.{n}"),
        account("for_each: {n: claims.n}", "access: [{resource: billing-api, scopes: [billing:read]}]", "trust:",
                "  - {issuer: cluster, match: {sub: x}, token_lifetime: 5m}",
                "  - {issuer: cluster, match: {sub: y}}", name="t.{n}"),
        ["7: trust[1].token_lifetime: tokens for billing-api last 60m: write 10m at most"],
    ),
    (
        "kinds",
        guardrail("kinds: [ServiceAccount, Tests]"),
        account("roles: []"),
        "kind: Role\nname: r\naccess: [{resource: backup-api, scopes: [backup:read]}]\n",
        ["1: kind: may not stand here, where files hold ServiceAccount, Tests"],
    ),
    (
        "names",
        guardrail("names: [storage-*, 'st.**']"),
        account(name="storage-app") + "\n---\n" + account(name="st.app"),
        account(name="billing-app") + "\n---\n" + account("for_each: {n: claims.n}", name="many-{n}"),
        ["2: name: has to be like storage-* or st.** in files here",
         "5: name: has to be like storage-* or st.** in files here"],
    ),
    (
        "identifiers",
        guardrail("identifiers: ['https://*.storage.example.com']"),
        "kind: Resource\nname: r\nidentifier: https://a.storage.example.com\nscopes: {a: A}\n",
        "kind: Resource\nname: r\nidentifier: https://evil.example.com/.storage.example.com\nscopes: {a: A}\n",
        ["3: identifier: has to be like https://*.storage.example.com of resources declared here"],
    ),
    (
        "credentials: none",
        guardrail("credentials: []"),
        PINNED,
        account("credentials: {certificates: [{san_dns: a.example.com}]}"),
        ["3: credentials.certificates: service accounts here have no credentials of their own"],
    ),
    (
        "credentials: no secrets, and no schedule for some",
        guardrail("credentials: [keys, certificates]"),
        account("credentials: {keys: {jwks_uri: https://a.example.com/k}, certificates: [{san_dns: a.example.com}]}"),
        account("credentials:", f"  secrets: [{{id: s, digest: 'sha256:{'0' * 64}'}}]",
                "  rotate: {every: 30d, to: ['vault://x']}"),
        ["4: credentials.secrets: service accounts here have keys or certificates of their own",
         "5: credentials.rotate: service accounts here have keys or certificates of their own"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "good", "bad", "lines"), [case[1:] for case in LIMITED], ids=[case[0] for case in LIMITED]
)
class TestEachLimit:
    def test_refuses_a_file_that_breaks_it_on_the_exact_line(self, folder, limits, good, bad, lines):
        assert told(folder, limits, {TEAM: bad}) == [f"{TEAM}:{line}" for line in lines]

    def test_lets_a_file_be_that_keeps_to_it(self, folder, limits, good, bad, lines):
        assert told(folder, limits, {TEAM: good}) == []

    def test_says_nothing_of_files_elsewhere(self, folder, limits, good, bad, lines):
        assert told(folder, limits, {"teams/other/app.yaml": bad}) == []

    def test_holds_for_all_files_where_it_names_no_folders(self, folder, limits, good, bad, lines):
        everywhere = limits.replace("folders: [teams/storage/**]\n", "")
        found = told(folder, everywhere, {"anywhere/app.yaml": bad})
        assert {f"anywhere/app.yaml:{line}" for line in lines} <= set(found)


def test_each_limit_of_the_model_is_among_those_that_are_tried():
    assert {"deny_when", *(limit for limit in LIMITS if any(f"\n{limit}: " in case[1] for case in LIMITED))} == set(
        LIMITS
    )
    assert {"kind", "name", "folders", "issuer", "only_in", *LIMITS} == GuardrailDocument.model_fields.keys()


def test_the_kinds_that_a_guardrail_can_name_are_those_that_there_are():
    assert set(get_args(KindName)) == set(KINDS)


# ---------------------------------------------------------------- ways around


def test_a_folder_that_a_guardrail_names_holds_no_issuers_and_guardrails_unless_it_says_so(folder):
    """Whoever can declare an issuer of its own needs no claim, and whoever can limit others can stop them."""
    issuer = "kind: Issuer\nname: own\nurl: https://own.example.com\n"
    limit = "kind: Guardrail\nname: wide\nkinds: [Issuer, Guardrail]\nfolders: [teams/**]\n"
    words = "may not stand here, where files hold Resource, Role, ServiceAccount, Tests"
    files = {"teams/storage/issuer.yaml": issuer, "teams/storage/limit.yaml": limit}
    found = told(folder, guardrail("max_token_lifetime: 1h"), files)
    assert found == [f"teams/storage/issuer.yaml:1: kind: {words}", f"teams/storage/limit.yaml:1: kind: {words}"]


def test_a_guardrail_in_a_teams_folder_takes_nothing_from_another(folder):
    """Where it may stand at all: what one refuses, no other allows."""
    write(folder, guardrail("kinds: [ServiceAccount, Guardrail]", "max_token_lifetime: 5m"), "guardrails.yaml")
    wide = "kind: Guardrail\nname: wide\nfolders: [teams/storage]\nkinds: [ServiceAccount, Guardrail, Issuer, Role]\n"
    write(folder / "teams/storage", wide + "max_token_lifetime: 24h\n", "wide.yaml")
    write(folder / "teams/storage", account("access: [{resource: backup-api, scopes: [backup:read]}]"), "app.yaml")
    write(folder / "teams/storage", "kind: Issuer\nname: own\nurl: https://own.example.com\n", "issuer.yaml")
    assert [line.partition(": ")[2] for line in problems_of_folder(folder)] == [
        "token_lifetime: tokens for backup-api last 10m: write 5m at most (guardrail storage)",
        "kind: may not stand here, where files hold ServiceAccount, Guardrail (guardrail storage)",
    ]


@pytest.mark.parametrize("limit", ["pins: [repository_id]", "deny_when: 'true'"])
def test_a_second_issuer_of_the_same_platform_is_under_the_limits_of_the_first(folder, limit):
    write(folder, guardrail("issuer: github", limit, folders=None), "guardrails.yaml")
    second = """
    kind: Issuer
    name: hub
    url: https://token.actions.githubusercontent.com
    keys: {jwks_uri: https://token.actions.githubusercontent.com/.well-known/jwks}
    ---
    kind: ServiceAccount
    name: app
    access: [{resource: backup-api, scopes: [backup:read]}]
    trust: [{issuer: hub, match: {ref: main}}]
    """
    write(folder, second, "second.yaml")
    if limit.startswith("pins"):
        assert problems_of_folder(folder) == [
            "second.yaml:9: trust[0]: has to fix repository_id by match (guardrail storage)"
        ]
    else:
        assert ask(load(folder), "hub", {"ref": "main"}).reason == "denied_by_guardrail"
        assert ask(load(folder), "cluster", {"ref": "main"}).reason == "no_matching_trust"


def test_a_resource_of_ones_own_is_no_way_to_anothers(folder):
    declared = """
    kind: Resource
    name: payroll
    identifier: https://payroll.example.com
    owner: {owner}
    scopes: {{pay: Pay}}
    """
    limits = guardrail("resource_owners: [Storage]")
    refused = ["identifier: has to be one that the guardrail allows in identifiers, and it has none"]
    ours, theirs = (declared.format(owner=owner) for owner in ("Storage", "Billing"))
    assert told(folder, limits, {TEAM: ours}) == [f"{TEAM}:3: {refused[0]}"]
    assert told(folder, limits, {TEAM: theirs}) == [
        f"{TEAM}:3: {refused[0]}",
        f"{TEAM}:4: owner: has to be Storage of resources declared here",
    ]
    allowed = limits + "\nidentifiers: ['https://payroll.example.com']"
    assert told(folder, allowed, {TEAM: ours}) == []


def test_a_scope_that_is_kept_is_not_had_by_a_role_of_those_who_may_grant_it(folder):
    limits = guardrail(
        "access: [{resource: billing-api, scopes: [billing:write]}]",
        "only_in: [teams/billing/**, base.yaml]",
        folders=None,
    )
    role = "kind: Role\nname: ours\naccess: [{resource: billing-api, scopes: [billing:write]}]\n"
    files = {"teams/billing/role.yaml": role, "teams/billing/app.yaml": account("roles: [ours]", name="bill")}
    assert told(folder, limits, files) == []
    assert told(folder, limits, {TEAM: account("roles: [ours]")}) == [
        f"{TEAM}:3: roles[0]: billing:write of billing-api is granted in teams/billing/** or base.yaml alone"
    ]


def test_a_link_in_a_teams_folder_is_the_teams(folder):
    write(folder / ".elsewhere", account("access: [{resource: billing-api, scopes: [billing:read]}]"), "app.yaml")
    (folder / "teams" / "storage").mkdir(parents=True)
    (folder / "teams" / "storage" / "linked").symlink_to(folder / ".elsewhere")
    assert [line.partition(":")[0] for line in told(folder, guardrail("max_token_lifetime: 10m"), {})] == [
        "teams/storage/linked/app.yaml"
    ]


@pytest.mark.parametrize(
    "path", ["teams/Storage/app.yaml", "TEAMS/storage/x/app.yaml", "teams/ＳＴＯＲＡＧＥ/app.yaml"]
)
def test_a_folder_that_only_looks_like_one_under_a_guardrail_is_refused(folder, path):
    assert told(folder, guardrail("credentials: []"), {path: account()}) == [
        f"{path}: lies in teams/storage/** but for upper and lower case: rename it"
    ]


def test_a_role_that_is_a_guardrails_business_is_told_of_once_for_whoever_has_it(folder):
    """Each file that is wrong is told, and no other: the role in billing's folder is none of storage's."""
    files = {
        "teams/billing/role.yaml": "kind: Role\nname: r\naccess: [{resource: billing-api, scopes: [billing:read]}]\n",
        TEAM: account("roles: [r, biller]"),
    }
    found = told(folder, guardrail("resource_owners: [Storage]"), files)
    assert [line.split(": ")[1] for line in found] == ["roles[0]", "roles[1]"]


@pytest.mark.parametrize(
    ("names", "name", "is_like"),
    [
        ("storage-*", "storage-{x}", True),
        ("storage-*-job", "storage-{x}.{y}-job", True),
        ("'*storage*'", "w{storage}", False),
        ("'*-{x}'", "w-{x}", False),
        ("'storage-{x}*'", "storage-{x}", False),
    ],
)
def test_every_name_that_a_template_makes_has_to_be_like_those_of_its_folder(folder, names, name, is_like):
    claims = ", ".join(f"{one}: claims.{one}" for one in ("x", "y", "storage") if "{" + one + "}" in name)
    text = account(f"for_each: {{{claims}}}", name=f"'{name}'")
    found = told(folder, guardrail(f"names: [{names}]"), {TEAM: text})
    assert (found == []) is is_like, found


def test_tests_in_a_teams_folder_grant_nothing_and_may_be_kept_out(folder):
    tests = """
    kind: Tests
    name: t
    service_account: app
    tests: [{name: x, issuer: github, claims: {ref: x}, expect: {deny: no_matching_trust}}]
    """
    files = {"app.yaml": account(), TEAM: tests}
    assert told(folder, guardrail("credentials: []"), files) == []
    assert told(folder, guardrail("kinds: [ServiceAccount]"), files) == [
        f"{TEAM}:1: kind: may not stand here, where files hold ServiceAccount"
    ]


def test_a_schedule_for_secrets_is_allowed_where_secrets_are(folder):
    text = account("credentials: {rotate: {every: 30d, to: ['vault://x']}}")
    assert told(folder, guardrail("credentials: [secrets]"), {TEAM: text}) == []


# ---------------------------------------------------------------- guardrails themselves


def test_a_guardrail_that_is_about_no_file_is_warned_of(folder):
    limits = guardrail("access: [{resource: billing-api, scopes: [billing:write]}]", "only_in: [teams/biling/**]")
    write(folder, limits, "guardrails.yaml")
    write(folder, BASE.partition("---\nkind: Role")[0], "base.yaml")
    warnings = [str(one).removeprefix(f"{folder}/") for one in load(folder).warnings]
    assert warnings == [
        "guardrails.yaml:3: folders: no file lies in teams/storage/**",
        "guardrails.yaml:5: only_in: no file lies in teams/biling/**",
    ]


def test_a_pinned_claim_that_the_platform_does_not_have_is_warned_of(folder):
    write(folder, guardrail("issuer: github", "pins: [repositry_id]", folders=None), "guardrails.yaml")
    (warning,) = load(folder).warnings
    assert str(warning).endswith(
        "pins[0]: no token of github is known to have the claim repositry_id (did you mean repository_id?)"
    )


@pytest.mark.parametrize(
    ("written", "claims"),
    [
        ("sub", (("sub",),)),
        ("kubernetes.io", (("kubernetes.io",),)),
        ({"kubernetes.io": "namespace"}, (("kubernetes.io", "namespace"),)),
        ({"a": {"b": {"c": "d"}}}, (("a", "b", "c", "d"),)),
        (["a", {"b": "c"}], (("a",), ("b", "c"))),
    ],
)
def test_a_pinned_claim_is_written_as_in_match(written, claims):
    assert parse_pin(written) == claims


@pytest.mark.parametrize(
    "written", [None, 7, "", "a b", [], {}, {"a": "b", "c": "d"}, {"a": ["b"]}, [["a"]], "exp", {"iat": "x"}]
)
def test_what_no_rule_could_fix_is_no_pin(written):
    with pytest.raises(ValueError, match=r"claim|clock"):
        parse_pin(written)


@given(
    st.recursive(
        st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_a_pin_of_any_shape_is_read_or_refused(written: Any):
    try:
        claims = parse_pin(written)
    except ValueError:
        return
    assert claims
    assert all(path and all(isinstance(step, str) and step for step in path) for path in claims)


# ---------------------------------------------------------------- folders


@pytest.mark.parametrize(
    ("glob", "covered", "not_covered"),
    [
        ("teams/storage/**", ["teams/storage/a.yaml", "teams/storage/b/c.yaml", "teams/storage/b:c.yaml"],
         ["teams/storage.yaml", "teams/storages/a.yaml", "teams/a.yaml", "storage/a.yaml", "x/teams/storage/a.yaml"]),
        ("teams/storage", ["teams/storage/a.yaml", "teams/storage/b/c.yaml"], ["teams/storage-2/a.yaml"]),
        ("teams/storage/", ["teams/storage/a.yaml"], ["teams/storage"]),
        ("teams/*", ["teams/a.yaml", "teams/b/c.yaml", "teams/b:c/d/e.yaml"], ["a.yaml", "teamsters/a.yaml"]),
        ("teams/*/**", ["teams/b/c.yaml", "teams/b/c/d.yaml"], ["teams/a.yaml"]),
        ("teams/storage/*.yaml", ["teams/storage/a.yaml", "teams/storage/a:b.yaml"],
         ["teams/storage/a.yml", "teams/storage/b/c.yaml"]),
        ("**", ["a.yaml", "a/b.yaml"], []),
        ("a:b/**", ["a:b/c.yaml"], ["a/b/c.yaml", "ab/c.yaml"]),
        ("storage-*.yaml", ["storage-a.yaml"], ["a/storage-a.yaml", "storage.yaml"]),
        ("**/secret", ["a/secret/x.yaml", "a/b/secret/x/y.yaml"], ["secret/x.yaml"]),
    ],
)  # fmt: skip
def test_a_glob_covers_files_and_whole_folders(glob: str, covered: Sequence[str], not_covered: Sequence[str]):
    folders = parse_folders([glob])
    assert [path for path in covered if not folders.cover(path)] == []
    assert [path for path in not_covered if folders.cover(path)] == []


@pytest.mark.parametrize("glob", ["", "/teams", "../x", "a/./b", "a//b", "./a", "***", "a\nb", "/", "//**", "x" * 600])
def test_a_glob_that_is_no_path_below_the_folder_is_refused(glob):
    with pytest.raises(GlobError) as caught:
        parse_folders(["teams/**", glob])
    assert caught.value.position == 1


SEGMENT = st.sampled_from(["a", "b", "A", "a:b", "teams", "x.yaml", "é", "ß"])


@given(st.lists(SEGMENT, min_size=1, max_size=4), st.lists(SEGMENT, min_size=1, max_size=4))
def test_whatever_a_folder_covers_it_covers_with_all_that_is_in_it(outer: list[str], inner: list[str]):
    folders = parse_folders(["/".join(outer)])
    assert folders.cover("/".join([*outer, *inner]))
    assert folders.differ_in_case("/".join([*outer, *inner])) is None
    other = "/".join([*(one.swapcase() for one in outer), *inner])
    assert folders.cover(other) or folders.differ_in_case(other) is not None


def test_guardrails_over_files_change_no_decision():
    """They are settled when the files are loaded."""
    text = account(
        "access: [{resource: ledger-api, scopes: [ledger:read]}]", "trust: [{issuer: cluster, match: {sub: x}}]"
    )
    plain, limited = generation_of(text), generation_of(text, guardrail("max_token_lifetime: 1h", folders=None))
    assert ask(plain, "cluster", {"sub": "x"}) == ask(limited, "cluster", {"sub": "x"})
    assert limited.guardrails == {}
