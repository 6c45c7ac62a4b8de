"""Everything that can be wrong with policy files, with the exact words in which it is told."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.model import KeySource
from gateway.policy.documents import KINDS
from gateway.policy.problems import PolicyProblems
from tests.support.policies import BASE, generation_of, load, problems_of_folder, settings, write

RULE = "{issuer: cluster, match: {sub: x}}"


def account(*lines: str) -> str:
    return "\n".join(["kind: ServiceAccount", "name: app", *lines])


def issuer(*lines: str) -> str:
    return "\n".join(["kind: Issuer", "name: other", *lines])


TABLE = (Path(__file__).parent / "load_errors.txt").read_text(encoding="utf-8")


def mistakes() -> Iterator[Any]:
    """Each block of the table: a file, and the lines that tell of it."""
    for block in re.split(r"^--------\n", TABLE, flags=re.MULTILINE)[1:]:
        text, *told = re.split(r"^=> ", block.partition("\n####")[0], flags=re.MULTILINE)
        yield pytest.param(text, [line.strip() for line in told], id=told[0].strip()[:70])


@pytest.mark.parametrize(("text", "told"), list(mistakes()))
def test_a_mistake_is_told_with_file_line_path_and_the_nearest_valid_name(tmp_path, text, told):
    write(tmp_path, BASE, "base.yaml")
    (tmp_path / "policy.yaml").write_text(text)
    assert problems_of_folder(tmp_path) == [f"policy.yaml:{line}" for line in told]


def test_all_mistakes_of_all_files_are_told_at_once(tmp_path):
    write(tmp_path, BASE, "base.yaml")
    write(tmp_path, "kind: Role\nname: r\naccess: [{resource: nope, scopes: [x]}]\n---\nname: r\n", "a.yaml")
    write(tmp_path, "kind: ServiceAccount\nname: app\nfoo: 1\nbar: 2\ntrust: [{issuer: cluster}]\n", "b.yaml")
    write(tmp_path, "a: [\n", "c.yaml")
    assert problems_of_folder(tmp_path) == [
        "a.yaml:5: kind: is missing",
        "b.yaml:3: foo: no such field",
        "b.yaml:4: bar: no such field",
        "b.yaml:5: trust[0]: would trust every token of the issuer: add match, like or when",
        "c.yaml:2: not YAML: while parsing a flow node, did not find expected node content",
    ]


def test_what_refers_to_a_broken_document_is_not_called_wrong_as_well(tmp_path):
    write(tmp_path, "kind: Resource\nname: api\nidentifier: https://a.example.com\nscops: {a: A}\n", "a.yaml")
    write(tmp_path, "kind: Role\nname: r\naccess: [{resource: api, scopes: [a]}]\n", "b.yaml")
    assert problems_of_folder(tmp_path) == ["a.yaml:4: scops: no such field (did you mean scopes?)"]


def test_a_misspelt_name_hides_nothing_else_of_its_document(tmp_path):
    text = (
        "kind: ServiceAccount\nname: app\nacess: [{resource: nowhere, scopes: [x]}]\n"
        "trust:\n  - issuer: nobody\n    mach: {sub: x}\n    when: claims.sub ==\n"
    )
    write(tmp_path, BASE, "base.yaml")
    write(tmp_path, text, "app.yaml")
    told = "\n".join(problems_of_folder(tmp_path))
    assert "app.yaml:3: acess: no such field (did you mean access?)" in told
    assert "app.yaml:6: trust[0].mach: no such field (did you mean match?)" in told
    assert "app.yaml:7: trust[0].when: does not type-check" in told
    assert "no Issuer is called nobody" in told
    assert "no Resource is called nowhere" in told
    assert "would trust every token" not in told


@pytest.mark.parametrize(
    ("document", "warning"),
    [
        (
            "kind: Guardrail\nname: g\nissuer: github\ndeny_when: claims.event_nme == 'push'\n",
            "deny_when: no token of github is known to have the claim event_nme (did you mean event_name?)",
        ),
        (
            "kind: ServiceAccount\nname: a\ntrust:\n  - issuer: github\n    match: {repositry_id: '1'}\n",
            (
                "trust[0].match.repositry_id: no token of github is known to have the claim repositry_id"
                " (did you mean repository_id?)"
            ),
        ),
        (
            "kind: ServiceAccount\nname: a\ntrust:\n  - {issuer: github, when: has(claims.reff)}\n",
            "trust[0].when: no token of github is known to have the claim reff (did you mean ref?)",
        ),
        ("kind: Guardrail\nname: g\nissuer: github\ndeny_when: claims.repo_property_tier == 'x'\n", None),
        ("kind: Guardrail\nname: g\nissuer: github\ndeny_when: claims.sub == 'x'\n", None),
    ],
)
def test_a_claim_that_the_platform_does_not_have_is_warned_of(document, warning):
    found = [str(one).partition(": ")[2] for one in generation_of(document).warnings if "known to have" in one.message]
    assert found == ([warning] if warning else [])


def test_of_very_many_mistakes_the_first_two_hundred_are_told(tmp_path):
    write(tmp_path, "\n---\n".join(f"kind: Nonsense\nname: n{n}" for n in range(300)))
    with pytest.raises(PolicyProblems) as caught:
        load(tmp_path)
    assert len(caught.value.problems) == 200
    assert str(caught.value).endswith("... and 100 more")


def test_http_is_accepted_where_the_operator_says_so():
    text = issuer("url: http://o.example.com", "keys: {jwks_uri: http://127.0.0.1/k}")
    generation = generation_of(text, insecure_http=True)
    assert generation.issuers[-1].keys.insecure_http
    with pytest.raises(PolicyProblems):
        generation_of(text)


def test_a_reserved_audience_needs_a_word_of_the_operator():
    text = issuer("url: https://o.example.com", "audiences: [vault]", "allow_reserved_audiences: true")
    trusted = generation_of(text).issuers[-1]
    assert trusted.audiences == {"vault"}
    assert "vault" not in trusted.reserved_audiences
    assert "https://o.example.com" in trusted.reserved_audiences


def test_a_gateway_whose_own_name_is_reserved_is_told():
    with pytest.raises(PolicyProblems, match=r"audiences: vault belongs to another relying party"):
        generation_of(gateway_issuer="vault")


@pytest.mark.parametrize(
    ("written", "source"),
    [
        ("{}", {"discovery_url": "https://o.example.com/x/.well-known/openid-configuration"}),
        ("{discovery_url: https://d.example.com/d}", {"discovery_url": "https://d.example.com/d"}),
        ("{jwks_uri: https://o.example.com/k, ca_file: ca.pem, bearer_token_file: /run/token, private_network: true}",
         {"jwks_uri": "https://o.example.com/k", "ca_file": "/policies/ca.pem", "bearer_token_file": "/run/token",
          "private_network": True}),
        ("{jwks_file: keys/k.json}", {"jwks_file": "/policies/keys/k.json"}),
        ("{jwks: {keys: [{kty: EC}]}}", {"jwks": {"keys": [{"kty": "EC"}]}}),
        ("{refresh_every: 10m, max_age: 30d}",
         {"discovery_url": "https://o.example.com/x/.well-known/openid-configuration", "refresh_every_seconds": 600,
          "max_age_seconds": 2592000}),
    ],
)  # fmt: skip
def test_keys_come_from_where_the_file_says(written, source):
    generation = generation_of(issuer("url: https://o.example.com/x/", f"keys: {written}"))
    assert generation.issuers[-1].keys == KeySource(**source)


def test_the_demo_can_put_its_own_keys_in_place():
    source = KeySource(discovery_url="http://127.0.0.1:1/d", private_network=True, insecure_http=True)
    generation = generation_of(key_sources={"https://token.actions.githubusercontent.com": source})
    assert {one.name: one.keys for one in generation.issuers}["github"] == source


def test_an_issuer_takes_over_what_its_preset_says_and_what_the_file_says_wins():
    plain, told = generation_of(
        """
        kind: Issuer
        name: told
        preset: github-actions
        keys: {jwks_uri: https://o.example.com/k}
        leeway: 0s
        max_token_age: 5m
        max_token_lifetime: 1h
        token_types: ["", application/JWT]
        algorithms: [RS256, ES256]
        companion_audiences: [https://companion.example.com]
        bound_to_subject_token: true
        explain_denials: full
        replay: reject
        """
    ).issuers[1:]
    assert (plain.leeway_seconds, plain.max_token_age_seconds, plain.algorithms) == (30, 900, {"RS256"})
    assert plain.url == told.url == "https://token.actions.githubusercontent.com"
    assert plain.audiences == {"https://sts.example.com"}
    assert (told.leeway_seconds, told.max_token_age_seconds, told.max_token_lifetime_seconds) == (0, 300, 3600)
    assert told.token_types == {"", "jwt"}
    assert told.algorithms == {"RS256", "ES256"}
    assert told.companion_audiences == {"https://companion.example.com"}
    assert (told.bound_to_subject_token, told.explain_denials, told.replay) == (True, "full", "reject")


def test_everything_that_the_design_shows_is_accepted(tmp_path):
    write(tmp_path, BASE, "base.yaml")
    write(
        tmp_path,
        f"""
        kind: Resource
        name: backup-api
        identifier: https://backup.example.com
        scopes: {{backup:read: Read backups, backup:write: Write backups}}
        token_lifetime: 15m
        sender_constraint: none
        served_by: [backup-service]
        ---
        kind: Role
        name: backup-operator
        access: [{{resource: backup-api, scopes: [backup:read, backup:write]}}]
        ---
        kind: ServiceAccount
        name: backup-service
        credentials:
          secrets:
            - {{id: s1, digest: "sha256:{"0" * 64}", created: 2026-11-01, expires: 2027-02-01}}
            - {{id: s2, digest: "sha256:{"1" * 64}"}}
          keys: {{jwks_file: client.json}}
          certificates: [{{san_dns: backup.example.com}}, {{thumbprint: "{"A" * 43}"}}]
        ---
        kind: ServiceAccount
        name: nightly-backup
        owner: storage@example.com
        roles: [backup-operator]
        access:
          - {{resource: backup-api, scopes: [backup:read, backup:write]}}
        trust:
          - issuer: cluster
            match: {{sub: "system:serviceaccount:storage:nightly-backup"}}
          - name: release-pipeline
            issuer: github
            match: {{repository_id: "1296269", environment: [production, staging]}}
            like: {{ref: refs/heads/release/*}}
            when: claims.event_name == "push"
            scopes: [backup:read]
        rate_limit: 60/minute
        tests:
          - name: release branch may read
            issuer: github
            claims: {{repository_id: "1296269", environment: staging, ref: refs/heads/release/1, event_name: push}}
            expect: {{allow: [backup:read]}}
          - {{name: no fork, issuer: github, claims: {{repository_id: "7"}}, expect: {{deny: no_matching_trust}}}}
        ---
        kind: Guardrail
        name: no-pull-request-targets
        issuer: github
        deny_when: has(claims.event_name) && claims.event_name in ["pull_request_target", "workflow_run"]
        """,
    )
    generation = load(tmp_path)
    account = generation.service_accounts["nightly-backup"]
    assert (account.rate_limit.requests, account.rate_limit.period_seconds) == (60, 60)
    assert [rule.name for rule in account.rules] == ["rule-1", "release-pipeline"]
    registered = generation.registered_client("backup-service")
    assert registered.keys.source.jwks_file == str(tmp_path / "client.json")
    assert [(secret.id, secret.expires_at) for secret in registered.secrets] == [("s1", 1_801_440_000.0), ("s2", None)]
    assert [(one.field, one.value[:6]) for one in registered.certificates] == [
        ("san_dns", "backup"),
        ("thumbprint", "AAAAAA"),
    ]
    assert generation.resources["backup-api"].served_by == {"backup-service"}
    assert generation.counts.tests == 2
    assert len(generation.sha256) == 64


def test_warnings_are_told_and_do_not_stop_the_load(tmp_path):
    write(tmp_path, BASE, "base.yaml")
    write(
        tmp_path,
        """
        kind: Issuer
        name: hub
        preset: github-actions
        url: https://github.com
        ---
        kind: ServiceAccount
        name: app
        trust: [{issuer: cluster, match: {sub: x}}]
        """,
    )
    assert [str(warning).replace(f"{tmp_path}/", "") for warning in load(tmp_path).warnings] == [
        "policy.yaml:4: url: https://github.com does not look like an issuer of GitHub Actions",
        "policy.yaml:6: app has trust rules, but no access to anything",
    ]


@pytest.mark.parametrize("keys", ["", "keys: {jwks_uri: https://o.example.com/k}", "keys: {jwks_file: k.json}"])
def test_two_issuers_with_one_url_and_the_same_keys_are_refused(tmp_path, keys):
    text = "\n---\n".join(f"kind: Issuer\nname: n{n}\nurl: https://twice.example.com\n{keys}" for n in (1, 2))
    write(tmp_path, text, "a.yaml")
    (told,) = problems_of_folder(tmp_path)
    assert told.endswith("url: n1 has this url and the same keys: nothing tells the two apart")


def test_two_issuers_may_share_one_url():
    generation = generation_of(issuer("url: https://cluster.example.com", "keys: {jwks_uri: https://o.example.com/k}"))
    assert [one.url for one in generation.issuers].count("https://cluster.example.com") == 2
    assert generation.warnings == ()


def test_every_field_of_every_kind_is_described():
    for model in KINDS.values():
        schema = model.model_json_schema()
        for part in [schema, *schema.get("$defs", {}).values()]:
            for name, field in part.get("properties", {}).items():
                assert "description" in field, (part["title"], name)


def test_compiling_is_pure_and_repeatable():
    first, second = generation_of(account(f"trust: [{RULE}]")), generation_of(account(f"trust: [{RULE}]"))
    assert first.issuers == second.issuers
    assert first.counts == second.counts
    assert settings()["number"] == first.number
