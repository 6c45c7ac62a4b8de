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
ANSWERS = {"yes": True, "no": False}

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


def holds(condition, claims):
    """Whether claims fulfil ``match: ...``, ``like: ...`` or ``when: ...`` as a page writes it."""
    kind, _, rest = condition.partition(": ")
    if kind == "when":
        return parse_condition(rest).holds(claims, "prod")
    written, _ = parse_yaml_document(condition, "page")
    conditions, errors = {"match": parse_match, "like": parse_like}[kind](written[kind])
    assert not errors
    return all(one.holds(claims) for one in conditions)


def test_the_page_has_a_table_for_each_thing_that_is_executed():
    assert CONDITIONS
    assert GLOBS
    assert REQUESTS
    assert RESERVED


@pytest.mark.parametrize(("condition", "claims", "answer"), CONDITIONS)
def test_a_condition_holds_as_the_page_says(condition, claims, answer):
    assert holds(condition, json.loads(claims)) is ANSWERS[answer]


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
