"""The tables that say what a condition, a glob, a request comes to: read from the page and executed."""

import json

import pytest

from gateway.identity.presets.common import is_reserved_audience
from gateway.model import GrantType, TokenRequest, Workload
from gateway.oauth.parameters import TOKEN_TYPE_JWT, parse_scope
from gateway.policy.cel import parse_condition
from gateway.policy.conditions import parse_glob, parse_like, parse_match
from gateway.policy.decision import decide
from gateway.policy.documents import duration_text
from gateway.policy.yaml_reader import parse_yaml_document
from tests.docs.examples import loaded, policy_sets
from tests.docs.markdown import ROOT, codes, executed_tables

PAGE = (ROOT / "policies" / "README.md").read_text()
ANSWERS = {"yes": True, "no": False, "error": None}
KINDS_OF_CLAIM = {
    "absent": lambda claims: "c" not in claims,
    "null": lambda claims: claims.get("c", 0) is None,
    "text": lambda claims: isinstance(claims.get("c"), str),
    "number": lambda claims: type(claims.get("c")) is int,
    "boolean": lambda claims: isinstance(claims.get("c"), bool),
    "list": lambda claims: isinstance(claims.get("c"), list),
    "nested": lambda claims: isinstance(claims.get("c"), dict),
}

CONDITIONS = [
    pytest.param(codes(condition)[0], codes(row[0])[0], cell, id=f"{codes(row[0])[0]} {codes(condition)[0]}")
    for table in executed_tables(PAGE, "conditions")
    for row in table.rows
    for condition, cell in zip(table.header[1:], row[1:], strict=True)
]
GLOBS = [
    pytest.param(codes(glob)[0], text, fits, id=f"{codes(glob)[0]} {text}")
    for table in executed_tables(PAGE, "globs")
    for glob, fitting, other in table.rows
    for texts, fits in ((fitting, True), (other, False))
    for text in codes(texts)
]
REQUESTS = [row for table in executed_tables(PAGE, "requests") for row in table.rows]
RESERVED = [
    audience
    for table in executed_tables(PAGE, "reserved audiences")
    for row in table.rows
    for audience in codes(row[-1])
]


def outcome(condition, claims):
    """Whether claims fulfil ``match: ...``, ``like: ...`` or ``when: ...`` as a page writes it; None for an error."""
    kind, _, rest = condition.partition(": ")
    if kind == "when":
        parsed = parse_condition(rest)
        holds, is_false = parsed.holds(claims, "prod"), parsed.is_false(claims, "prod")
        assert (parsed.why_unknown(claims, "prod") == "") is (holds or is_false)
        return holds or (False if is_false else None)
    written, _ = parse_yaml_document(condition, "page")
    conditions, errors = {"match": parse_match, "like": parse_like}[kind](written[kind])
    assert not errors
    return all(one.holds(claims) for one in conditions)


def test_the_page_has_a_table_for_each_thing_that_is_executed():
    assert CONDITIONS
    assert GLOBS
    assert REQUESTS
    assert RESERVED


@pytest.mark.parametrize("kind", ["match", "like", "when"])
def test_every_kind_of_claim_meets_every_kind_of_condition_on_the_page(kind):
    shown = [json.loads(claims.values[1]) for claims in CONDITIONS if claims.values[0].startswith(f"{kind}: ")]
    assert [name for name, is_one in KINDS_OF_CLAIM.items() if not any(map(is_one, shown))] == []


def test_every_condition_on_the_page_holds_of_some_claims_and_not_of_others():
    answers: dict[str, set[str]] = {}
    for shown in CONDITIONS:
        condition, _, answer = shown.values
        answers.setdefault(condition, set()).add(answer)
    one_sided = [condition for condition, found in answers.items() if "yes" not in found or found == {"yes"}]
    assert one_sided == ['when: claims.c == "5" || true']  # which shows that the error on the left is forgiven


@pytest.mark.parametrize(("condition", "claims", "answer"), CONDITIONS)
def test_a_condition_holds_as_the_page_says(condition, claims, answer):
    assert outcome(condition, json.loads(claims)) is ANSWERS[answer]


@pytest.mark.parametrize(("glob", "text", "fits"), GLOBS)
def test_a_glob_fits_as_the_page_says(glob, text, fits):
    assert parse_glob(glob).fits(text) is fits


@pytest.mark.parametrize("row", REQUESTS, ids=lambda row: " ".join(row[:-1]))
def test_a_request_is_answered_as_the_page_says(row, tmp_path):
    claims, client_id, resource, scope, answer = row
    generation = loaded(policy_sets(PAGE)["worked"], tmp_path / "policies")
    (issuer,) = generation.issuers
    workload = Workload(issuer, "", json.loads(codes(claims)[0]), 0, None, None, "", None)
    request = TokenRequest(
        grant_type=GrantType.TOKEN_EXCHANGE,
        token="",
        token_type=TOKEN_TYPE_JWT,
        client_id=next(iter(codes(client_id)), None),
        resource=next(iter(codes(resource)), None),
        scopes=parse_scope(codes(scope)[0]) if codes(scope) else None,
    )
    decision = decide(generation, workload, request)
    given = decision.entitlement
    if given is None:
        assert codes(answer) == [decision.reason]
    else:
        rule = f"{given.service_account}/{given.rule}"
        assert codes(answer) == [rule, given.resource, *given.scopes, duration_text(given.lifetime_seconds)]


@pytest.mark.parametrize("audience", RESERVED)
def test_an_audience_is_reserved_as_the_page_says(audience):
    assert is_reserved_audience(audience)
