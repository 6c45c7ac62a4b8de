"""JSON Schema of policy documents, made from their models: for editors, and for whoever checks files without a gateway.

Of draft 7, the newest one that the editors' YAML servers take as a whole. It says what one document can say by itself;
references, globs and conditions are checked at load. Pure.
"""

from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from gateway.policy.compiler import DECISION_REASONS
from gateway.policy.documents import DURATION_PATTERN, KINDS, Document, duration_text
from gateway.policy.problems import nearest

DRAFT = "http://json-schema.org/draft-07/schema#"

_REFERENCE = "#/definitions/"
_SCALAR = {"type": ["string", "integer", "boolean"]}
_GLOB = {"type": "string", "minLength": 1}


def json_schema(presets: Collection[str], kind: str | None = None) -> dict[str, Any]:
    """The schema of one policy document: of this kind, or of any (``oneOf``, told apart by ``kind``).

    ``presets`` are the names that ``preset`` may have. Raises ``ValueError`` for a kind that there is not.
    """
    if kind is not None and kind not in KINDS:
        near = nearest(kind, KINDS)
        raise ValueError(f"is one of {', '.join(KINDS)}" + (f" (did you mean {near}?)" if near else ""))
    documents: Any = Annotated[Document, Field(discriminator="kind")]
    made = TypeAdapter(documents if kind is None else KINDS[kind]).json_schema(
        ref_template=f"{_REFERENCE}{{model}}", schema_generator=_Draft7
    )
    definitions = made.pop("$defs", {})
    made.pop("discriminator", None)  # of OpenAPI: here each kind says its own name in const
    _say_more({**definitions, **({KINDS[kind].__name__: made} if kind is not None else {})}, presets)
    definitions |= {
        name: _wanted(name, one)
        for name, one in (("MatchValue", _SCALAR), ("LikeValue", _GLOB))
        if "TrustDocument" in definitions
    }
    title = "Policies" if kind is None else kind
    return {"$schema": DRAFT, "title": f"Workload Identity Gateway: {title}", **made, "definitions": definitions}


class _Draft7(GenerateJsonSchema):
    """Pydantic's schema in the words of the files: defaults as a person would write them, no names beside the names."""

    schema_dialect = DRAFT

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """With durations as durations, and without the defaults that stand for nothing."""
        made = super().default_schema(schema)
        if "default" in made and made["default"] in (None, []):
            del made["default"]
        elif made.get("pattern") == DURATION_PATTERN and isinstance(made.get("default"), int):
            made["default"] = duration_text(made["default"])
        return made

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """With no key but those that fit."""
        made = super().dict_schema(schema)
        return {**made, "additionalProperties": False} if "patternProperties" in made else made

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never: a title is the name once more."""
        return False


def _say_more(models: Mapping[str, dict[str, Any]], presets: Collection[str]) -> None:
    """Adds what is checked in code: names of presets, reasons, values of claims, and what one of must be there."""
    for model, field, more in (
        ("IssuerDocument", "preset", {"enum": sorted(presets)}),
        ("PolicyTest", "like_preset", {"enum": sorted(presets)}),
        ("Expectation", "deny", {"enum": list(DECISION_REASONS)}),
        ("TrustDocument", "match", {"additionalProperties": {"$ref": f"{_REFERENCE}MatchValue"}}),
        ("TrustDocument", "like", {"additionalProperties": {"$ref": f"{_REFERENCE}LikeValue"}}),
    ):
        if model in models:
            properties = models[model]["properties"]
            properties[field] = _narrowed(properties[field], more)
    for model, keyword, names in (
        ("PolicyTest", "anyOf", ("claims", "like_preset")),
        ("Expectation", "oneOf", ("allow", "deny")),
        ("TrustDocument", "anyOf", ("match", "like", "when")),
    ):
        if model in models:
            models[model][keyword] = [{"required": [name]} for name in names]
    for name, model_schema in models.items():
        model_schema["title"] = name.removesuffix("Document")


def _narrowed(field: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """A field's schema with more said of it; of one that may be null, of what it is otherwise."""
    if "anyOf" in field:
        return {**field, "anyOf": [one if one.get("type") == "null" else {**one, **more} for one in field["anyOf"]]}
    return {**field, **more}


def _wanted(name: str, one: Mapping[str, Any]) -> dict[str, Any]:
    """What ``match`` or ``like`` wants of a claim: one value, a list of them, or the same of an object's members."""
    return {
        "title": name,
        "anyOf": [
            dict(one),
            {"type": "array", "items": dict(one), "minItems": 1},
            {"type": "object", "additionalProperties": {"$ref": f"{_REFERENCE}{name}"}, "minProperties": 1},
        ],
    }
