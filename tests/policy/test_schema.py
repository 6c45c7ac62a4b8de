"""The JSON Schema of policy files: real documents fit it, documents with mistakes do not; judged by ``jsonschema``."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from gateway.kinds import PRESETS
from gateway.policy.compiler import DECISION_REASONS
from gateway.policy.documents import KINDS
from gateway.policy.schema import json_schema
from gateway.policy.yaml_reader import read_documents
from tests.docs.examples import policy_sets
from tests.docs.markdown import PAGES, name_of

ROOT = Path(__file__).parents[2]
SCHEMA = json_schema(PRESETS)
COMMAND = "gateway policy schema > policies/schema.json"
FILES = sorted([*(ROOT / "policies").glob("*.yaml"), *(ROOT / "deploy" / "kubernetes" / "policies").glob("*.yaml")])


def documents_of(text: str) -> list[Any]:
    problems: list[Any] = []
    found = [one.value for one in read_documents(text, "file", problems)]
    assert problems == []
    return found


def errors(document: Any, schema: dict[str, Any] = SCHEMA) -> list[str]:
    return [error.message for error in Draft7Validator(schema).iter_errors(document)]


def test_it_is_a_schema_of_draft_7():
    Draft7Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"


def test_the_file_beside_the_samples_is_current():
    written = (ROOT / "policies" / "schema.json").read_text()
    assert json.loads(written) == SCHEMA, f"policies/schema.json is stale; run: {COMMAND}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_sample_fits(file):
    for document in documents_of(file.read_text()):
        assert errors(document) == []
        assert errors(document, json_schema(PRESETS, document["kind"])) == []


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=f"{name_of(page)}:{block.line}")
        for page in PAGES
        for blocks in policy_sets(page.read_text()).values()
        for block in blocks
    ],
)
def test_every_example_on_a_page_fits(block):
    for document in documents_of(block.text):
        assert errors(document) == []


RULE = "trust: [{issuer: c, match: {sub: x}}]"
MISTAKES = {
    "a kind that is none": "kind: ServiceAcount\nname: a",
    "no kind": "name: a",
    "no name": "kind: Guardrail\ndeny_when: 'true'",
    "a field that is misspelt": "kind: ServiceAccount\nname: a\ntrsut: []",
    "a field of another kind": "kind: Role\nname: a\naccess: [{resource: r, scopes: [s]}]\nidentifier: x",
    "a field within that is misspelt": "kind: ServiceAccount\nname: a\ntrust: [{isuer: c, match: {sub: x}}]",
    "a name with capitals": "kind: ServiceAccount\nname: App",
    "a number as a name": "kind: ServiceAccount\nname: 12",
    "a list where one value stands": "kind: ServiceAccount\nname: a\nowner: [x]",
    "one value where a list stands": "kind: ServiceAccount\nname: a\nroles: reader",
    "a duration without a unit": f"kind: ServiceAccount\nname: a\ntoken_lifetime: 300\n{RULE}",
    "a duration with a unit that is none": f"kind: ServiceAccount\nname: a\ntoken_lifetime: 5min\n{RULE}",
    "a rate without a period": "kind: ServiceAccount\nname: a\nrate_limit: 60",
    "a preset that is none": "kind: Issuer\nname: i\npreset: github-action",
    "a URL without a scheme": "kind: Issuer\nname: i\nurl: issuer.example.com",
    "a URL with a wildcard": "kind: Issuer\nname: i\nurl: https://*.example.com",
    "an algorithm that is none": "kind: Issuer\nname: i\nalgorithms: [HS256]",
    "text for a boolean": "kind: Issuer\nname: i\nallow_missing_kid: 'yes'",
    "an empty list": "kind: Issuer\nname: i\naudiences: []",
    "a rule without conditions": "kind: ServiceAccount\nname: a\ntrust: [{issuer: c}]",
    "a null that matches nothing": "kind: ServiceAccount\nname: a\ntrust: [{issuer: c, match: {sub: }}]",
    "a null within": "kind: ServiceAccount\nname: a\ntrust: [{issuer: c, match: {a: {b: [null]}}}]",
    "a number for a glob": "kind: ServiceAccount\nname: a\ntrust: [{issuer: c, like: {ref: 1}}]",
    "a scope with a blank": "kind: Role\nname: a\naccess: [{resource: r, scopes: ['a b']}]",
    "a scope with a quote": "kind: Resource\nname: r\nidentifier: x\nscopes: {'a\"': x}",
    "a placeholder with a dash": "kind: ServiceAccount\nname: a\nfor_each: {a-b: claims.c}",
    "a test that expects nothing": (
        "kind: Tests\nname: t\nservice_account: a\ntests: [{name: t, issuer: c, claims: {}, expect: {}}]"
    ),
    "a test that expects both": (
        "kind: Tests\nname: t\nservice_account: a\ntests: [{name: t, issuer: c, claims: {}, "
        "expect: {allow: [s], deny: no_matching_trust}}]"
    ),
    "a test without claims": (
        "kind: Tests\nname: t\nservice_account: a\ntests: [{name: t, issuer: c, expect: {deny: no_matching_trust}}]"
    ),
    "a reason that is none": (
        "kind: Tests\nname: t\nservice_account: a\ntests: [{name: t, issuer: c, claims: {}, expect: {deny: no_trust}}]"
    ),
    "no tests": "kind: Tests\nname: t\nservice_account: a\ntests: []",
    "a list of documents": "- kind: ServiceAccount\n  name: a",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_does_not_fit(mistake):
    (document,) = documents_of(MISTAKES[mistake])
    assert errors(document) != []


def definition(name: str) -> dict[str, Any]:
    return SCHEMA["definitions"][name]


def test_editors_are_told_what_each_field_is_for():
    for name, model in SCHEMA["definitions"].items():
        if "properties" in model:
            assert model["description"], name
            assert all(field["description"] for field in model["properties"].values()), name


def test_editors_are_offered_the_kinds_the_presets_and_the_reasons():
    kinds = [definition(one["$ref"].rpartition("/")[2])["properties"]["kind"]["const"] for one in SCHEMA["oneOf"]]
    assert kinds == list(KINDS)
    assert definition("IssuerDocument")["properties"]["preset"]["enum"] == sorted(PRESETS)
    assert definition("Expectation")["properties"]["deny"]["anyOf"][0]["enum"] == list(DECISION_REASONS)


def test_a_default_is_written_as_in_a_file():
    for model in SCHEMA["definitions"].values():
        for field in model.get("properties", {}).values():
            if "default" in field:
                assert errors(field["default"], {**field, "definitions": SCHEMA["definitions"]}) == []
    assert definition("ResourceDocument")["properties"]["token_lifetime"]["default"] == "15m"


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_of_one_kind_takes_that_kind_alone(kind):
    schema = json_schema(PRESETS, kind)
    Draft7Validator.check_schema(schema)
    assert schema["properties"]["kind"]["const"] == kind
    assert errors({"kind": "Nonsense", "name": "a"}, schema) != []


def test_a_kind_that_is_none_is_refused():
    with pytest.raises(ValueError, match="did you mean ServiceAccount"):
        json_schema(PRESETS, "ServiceAcount")
