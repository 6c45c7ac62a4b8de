"""Recorded requests decided again: the same policies change nothing, others what they would."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.model import RecordedDecision
from gateway.policy.conditions import claim_at
from gateway.policy.generation import Generation
from gateway.policy.replay import MAX_GROUPS, MAX_SUBJECTS, Again, Answer, Replay, Undecided
from tests.support.policies import BASE, generation_of
from tests.support.recorded import NOTHING, NOW, recorded

ACCOUNT = """
kind: ServiceAccount
name: deployer
access:
  - {resource: deploy-api, scopes: [deploy:write]}
  - {resource: ledger-api, scopes: [ledger:read, ledger:write]}
trust:
  - name: main
    issuer: github
    match: {repository_id: "7", ref: refs/heads/main}
  - name: topic
    issuer: github
    match: {repository_id: "7"}
    scopes: [ledger:read]
"""
OLD = generation_of(ACCOUNT)
MAIN = {"sub": "repo:acme/web:ref:refs/heads/main", "repository_id": "7", "ref": "refs/heads/main"}
TOPIC = {"sub": "repo:acme/web:ref:refs/heads/topic", "repository_id": "7", "ref": "refs/heads/topic"}
STRANGER = {"sub": "repo:evil/web:ref:refs/heads/main", "repository_id": "8", "ref": "refs/heads/main"}


def replayed(generation: Generation, *records: RecordedDecision, **options) -> Replay:
    replay = Replay(generation, **options)
    for one in records:
        replay.take(one)
    return replay


def only_group(replay: Replay):
    (group,) = replay.groups()
    return group


def changed(old: str, new: str) -> Generation:
    """The policies with other text in one place."""
    assert old in ACCOUNT
    return generation_of(ACCOUNT.replace(old, new))


def asking(claims, **asked) -> RecordedDecision:
    return recorded(OLD, "github", claims, **asked)


def some_traffic() -> Iterable[RecordedDecision]:
    for claims in (MAIN, TOPIC, STRANGER):
        for resource in ("deploy-api", "https://ledger.example.com", "nowhere", None):
            for client_id in ("deployer", "nobody", None):
                for scopes in (None, ("ledger:read",), ("ledger:write",)):
                    yield asking(claims, resource=resource, client_id=client_id, scopes=scopes)


def test_under_the_same_policies_nothing_changes():
    replay = replayed(OLD, *some_traffic())
    assert replay.decided == replay.answers[Answer.UNCHANGED] == replay.records == 108
    assert (replay.changes, replay.groups(), replay.undecided) == (0, [], {})


def test_who_would_be_denied_is_told_by_rule_and_subject_with_the_reason():
    new = changed('match: {repository_id: "7", ref: refs/heads/main}', 'match: {repository_id: "9"}')
    replay = replayed(new, *(asking(MAIN, resource="deploy-api", time=NOW + n, request_id=f"r{n}") for n in range(3)))
    assert replay.answers == {Answer.DENIED: 3}
    group = only_group(replay)
    kind = group.kind
    assert (kind.service_account, kind.rule, kind.issuer) == ("deployer", "main", "github")
    assert kind.reason == "resource_not_granted"
    assert (group.count, group.example, group.first, group.last) == (3, "r0", NOW, NOW + 2)
    assert group.subjects == {MAIN["sub"]: 3}
    assert "deployer/topic grants nothing at deploy-api" in group.wanted


def test_who_would_be_granted_is_told_with_what():
    new = generation_of(ACCOUNT, ACCOUNT.replace("deployer", "other").replace('"7"', '"8"'))
    replay = replayed(new, asking(STRANGER, resource="ledger-api", client_id="other"))
    group = only_group(replay)
    assert replay.answers == {Answer.GRANTED: 1}
    assert (group.kind.service_account, group.kind.rule) == ("other", "main")
    assert group.kind.reason == "unknown_service_account"
    assert group.gives == "ledger:read ledger:write at ledger-api for 900 s"


@pytest.mark.parametrize(
    ("old", "new", "differences"),
    [
        ("scopes: [ledger:read, ledger:write]", "scopes: [ledger:read]", {"scopes"}),
        ("name: main", "name: trunk", {"rule"}),
        (
            '    match: {repository_id: "7", ref: refs/heads/main}',
            '    match: {repository_id: "9"}',
            {"rule", "scopes"},
        ),
        ("name: deployer", "name: deployer\ntoken_lifetime: 5m", {"lifetime"}),
    ],
)
def test_who_would_get_something_else_is_told_what(old, new, differences):
    replay = replayed(changed(old, new), asking(MAIN, resource="ledger-api"))
    assert replay.answers == {Answer.DIFFERENT: 1}
    assert {one.name for one in only_group(replay).kind.differences} == differences


def test_another_resource_or_service_account_is_a_difference():
    record = asking(MAIN, resource="ledger-api")
    moved = BASE.replace("https://ledger.example.com", "https://books.example.com")
    (difference,) = only_group(replayed(generation_of(ACCOUNT, base=moved), record)).kind.differences
    assert (difference.name, difference.before, difference.after) == (
        "resource",
        "https://ledger.example.com",
        "https://books.example.com",
    )
    renamed = generation_of(ACCOUNT.replace("name: deployer", "name: shipper"))
    assert {one.name for one in only_group(replayed(renamed, record)).kind.differences} == {"service_account"}


def test_another_reason_for_the_same_no_is_no_change():
    replay = replayed(generation_of(), asking(STRANGER, client_id="deployer"))
    assert (replay.changes, replay.answers) == (0, {Answer.OTHER_REASON: 1})


@pytest.mark.parametrize(
    ("reason", "stage"),
    [
        ("quota_exceeded", "quota"),
        ("token_replayed", "replay"),
        ("sender_constraint_missing", "target"),
        ("state_unavailable", "server"),
        ("token_expired", "claims"),
    ],
)
def test_a_yes_that_something_else_refused_afterwards_counts_as_that_yes(reason, stage):
    refused = replace(
        asking(MAIN, resource="ledger-api"),
        reason=reason,
        stage=stage,
        resource=None,
        scopes_given=None,
        lifetime_given_seconds=None,
    )
    assert replayed(OLD, refused).answers == {Answer.UNCHANGED: 1}
    if stage in {"quota", "replay"}:  # older records do not name the rule
        assert replayed(OLD, replace(refused, rule=None)).answers == {Answer.UNCHANGED: 1}
    assert replayed(changed('"7"', '"9"'), refused).answers == {Answer.DENIED: 1}


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (replace(NOTHING, reason="bad_signature", stage="signature"), Undecided.BEFORE_POLICY),
        (replace(NOTHING, reason="malformed_scope", stage="scope"), Undecided.BEFORE_POLICY),
        (replace(NOTHING, reason="internal_error", stage="server"), Undecided.NO_ANSWER),
        (replace(NOTHING, rule="narrowed", delegated=True), Undecided.OWN_TOKEN),
        (replace(asking(MAIN, resource="ledger-api"), delegated=True), Undecided.OWN_TOKEN),
    ],
)
def test_what_cannot_be_decided_again_is_counted_with_why(record, why):
    replay = replayed(OLD, record)
    assert (replay.decided, replay.changes, replay.undecided) == (0, 0, {why: 1})


def test_a_client_with_a_credential_of_its_own_is_decided_as_one():
    account = """
    kind: ServiceAccount
    name: batch
    access: [{resource: ledger-api, scopes: [ledger:read]}]
    """
    record = replace(
        NOTHING,
        grant="client_credentials",
        service_account="batch",
        authentication="client_secret_basic/secret:s1",
        resource="https://ledger.example.com",
        scopes_given=("ledger:read",),
        lifetime_given_seconds=900,
    )
    assert replayed(generation_of(account), record).answers == {Answer.UNCHANGED: 1}
    assert replayed(OLD, record).answers == {Answer.DENIED: 1}
    more = generation_of(account.replace("[ledger:read]", "[ledger:read, ledger:write]"))
    assert {one.name for one in only_group(replayed(more, record)).kind.differences} == {"scopes"}


def test_whoever_authenticated_as_a_service_account_asks_for_that_one():
    both = generation_of(ACCOUNT, ACCOUNT.replace("deployer", "other"))
    record = recorded(both, "github", MAIN, client_id="other", resource="ledger-api")
    authenticated = replace(record, client_id_asked=None, authentication="private_key_jwt/key:k1")
    assert replayed(both, authenticated).answers == {Answer.UNCHANGED: 1}


# ---------------------------------------------------------------- issuers


def test_an_issuer_that_is_gone_denies_who_came_from_it():
    gone = generation_of(base=BASE.replace("kind: Issuer\nname: github\npreset: github-actions\n---\n", ""))
    group = only_group(replayed(gone, asking(MAIN, resource="ledger-api")))
    assert (group.kind.answer, group.kind.reason) == (Answer.DENIED, "unknown_issuer")


def test_an_issuer_that_changed_its_name_is_known_by_its_url():
    renamed = generation_of(
        ACCOUNT.replace("issuer: github", "issuer: gh"), base=BASE.replace("name: github", "name: gh")
    )
    assert replayed(renamed, asking(MAIN, resource="ledger-api")).answers == {Answer.UNCHANGED: 1}


def test_an_issuer_with_another_url_is_another_issuer():
    moved = BASE.replace(
        "preset: github-actions", "preset: github-actions\nurl: https://token.actions.githubusercontent.com/acme"
    )
    group = only_group(replayed(generation_of(ACCOUNT, base=moved), asking(MAIN, resource="ledger-api")))
    assert group.kind.reason == "unknown_issuer"


def test_two_issuers_of_one_url_are_not_told_apart_by_it():
    clusters = """
    kind: Issuer
    name: NAME
    url: https://cluster.example.com
    keys: {jwks_file: NAME.json}
    """
    rule = """
    kind: ServiceAccount
    name: pods
    access: [{resource: ledger-api, scopes: [ledger:read]}]
    trust: [{issuer: ISSUER, match: {sub: a}}]
    """
    old = generation_of(rule.replace("ISSUER", "cluster"))
    record = recorded(old, "cluster", {"sub": "a"})
    without = BASE.replace("kind: Issuer\nname: cluster\nurl: https://cluster.example.com\n---\n", "")
    new = generation_of(
        clusters.replace("NAME", "north"),
        clusters.replace("NAME", "south"),
        rule.replace("ISSUER", "north"),
        base=without,
    )
    assert replayed(new, record).undecided == {Undecided.ISSUER_AMBIGUOUS: 1}


def test_an_audience_that_is_no_longer_taken_denies():
    elsewhere = BASE.replace("preset: github-actions", "preset: github-actions\naudiences: [https://new.example.com]")
    new = generation_of(ACCOUNT, base=elsewhere)
    record = asking(MAIN, resource="ledger-api")
    assert only_group(replayed(new, record)).kind.reason == "wrong_audience"
    assert replayed(new, record, assumed_audience="https://new.example.com").changes == 0


# ---------------------------------------------------------------- records with some of the claims


def looked_at(record: RecordedDecision, *names: str) -> RecordedDecision:
    """The record with these top-level claims alone."""
    claims = {name: claim_at(record.claims, (name,)) for name in names}
    known = frozenset((name,) for name in names)
    return replace(record, claims=claims, claims_are_complete=False, known_claims=known)


def test_a_record_with_the_claims_that_the_rules_look_at_is_decided():
    record = looked_at(asking(MAIN, resource="ledger-api"), "repository_id", "ref")
    assert replayed(OLD, record).answers == {Answer.UNCHANGED: 1}


def test_a_rule_that_fails_by_a_known_claim_needs_no_other():
    record = looked_at(asking(MAIN, resource="ledger-api", client_id="deployer"), "repository_id")
    new = changed('match: {repository_id: "7"}', 'match: {repository_id: "9", environment: x}')
    new = generation_of(ACCOUNT.replace('"7"', '"9"').replace("ref: refs/heads/main", "environment: x"))
    assert replayed(new, record).answers == {Answer.DENIED: 1}


@pytest.mark.parametrize(
    "policies",
    [
        ACCOUNT.replace("ref: refs/heads/main", "environment: production"),
        ACCOUNT + "    when: claims.environment == 'x'\n",
        ACCOUNT + "    when: claims['repo' + 'sitory_id'] == '7'\n",
        ACCOUNT + "    token_claims: {env: claims.environment}\n",
        ACCOUNT + "---\nkind: Guardrail\nname: g\ndeny_when: has(claims.actor)\n",
    ],
    ids=["match", "when", "computed", "token_claims", "guardrail"],
)
@pytest.mark.parametrize("client_id", ["deployer", None])
def test_a_rule_that_looks_at_an_unknown_claim_leaves_it_undecided(policies, client_id):
    record = looked_at(asking(MAIN, resource="ledger-api", client_id=client_id), "repository_id", "ref")
    assert replayed(generation_of(policies), record).undecided == {Undecided.CLAIMS_UNKNOWN: 1}


def test_a_claim_that_was_looked_for_and_not_found_is_known_to_be_absent():
    record = looked_at(asking(MAIN, resource="ledger-api"), "repository_id", "ref", "environment")
    new = changed("ref: refs/heads/main", "environment: production")
    assert replayed(new, record).answers == {Answer.DIFFERENT: 1}


PATHS = (("a",), ("b",), ("o",), ("o", "x"), ("o", "y"))
WHOLE = {("a",), ("b",), ("o",)}
values = st.sampled_from(["1", "2", 1, True, None])
some_claims = st.fixed_dictionaries(
    {"a": values, "b": values, "o": st.none() | st.fixed_dictionaries({"x": values, "y": values})}
)
conditions = st.dictionaries(
    st.sampled_from(["a: '1'", "a: [1, '2']", "b: true", "o: {x: '1'}", "o: {y: '2'}"]),
    st.just(None),
    min_size=1,
    max_size=2,
).filter(lambda chosen: len({one[0] for one in chosen}) == len(chosen))
rules = st.lists(
    st.tuples(conditions, st.sampled_from(["", "claims.a == '1'", "!has(claims.o.x)", "claims.b != 1"])),
    min_size=1,
    max_size=4,
)


def policies_of(some_rules) -> Generation:
    trust = "\n".join(
        f"  - issuer: cluster\n    match: {{{', '.join(match)}}}" + (f'\n    when: "{when}"' if when else "")
        for match, when in some_rules
    )
    access = "access: [{resource: ledger-api, scopes: [ledger:read]}]"
    return generation_of(f"kind: ServiceAccount\nname: pods\n{access}\ntrust:\n{trust}\n")


@settings(max_examples=300, deadline=None)
@given(rules, rules, some_claims, st.sets(st.sampled_from(PATHS)), st.sampled_from(["pods", None]))
def test_what_is_decided_from_some_claims_is_what_all_of_them_come_to(old_rules, new_rules, claims, kept, client_id):
    """Whatever a record leaves out, the answer is that of the whole token, or there is none."""
    old, new = policies_of(old_rules), policies_of(new_rules)
    whole = recorded(old, "cluster", claims, client_id=client_id)
    known: dict = {}
    for path in sorted(kept):
        holder = known
        for name in path[:-1]:
            holder = holder.setdefault(name, {}) if holder is not None else None
        if holder is not None:
            holder.setdefault(path[-1], claim_at(claims, path))
    part = replace(whole, claims=known, claims_are_complete=False, known_claims=frozenset(kept))
    expected, found = Again(new).decide(whole), Again(new).decide(part)
    if found is not Undecided.CLAIMS_UNKNOWN:
        assert (found.reason, found.entitlement) == (expected.reason, expected.entitlement)
    if kept >= WHOLE:
        assert found is not Undecided.CLAIMS_UNKNOWN


@settings(max_examples=200, deadline=None)
@given(rules, some_claims, st.sampled_from(["pods", "nobody", None]))
def test_a_generation_never_disagrees_with_its_own_log(some_rules, claims, client_id):
    generation = policies_of(some_rules)
    replay = replayed(generation, recorded(generation, "cluster", claims, client_id=client_id))
    assert replay.answers == {Answer.UNCHANGED: 1}


# ---------------------------------------------------------------- bounds


def test_groups_and_their_subjects_are_bounded_and_what_is_beyond_is_counted():
    replay = Replay(generation_of())
    for number in range(MAX_GROUPS + 5):
        record = replace(asking(MAIN, resource="ledger-api"), rule=f"rule-{number}", subject=f"s-{number}")
        replay.take(record)
    assert len(replay.groups()) == MAX_GROUPS
    assert (replay.ungrouped, replay.changes) == (5, MAX_GROUPS + 5)
    replay = Replay(generation_of())
    for number in range(MAX_SUBJECTS + 5):
        replay.take(replace(asking(MAIN, resource="ledger-api"), subject=f"s-{number}"))
    group = only_group(replay)
    assert (len(group.subjects), group.other_subjects, group.count) == (MAX_SUBJECTS, 5, MAX_SUBJECTS + 5)
