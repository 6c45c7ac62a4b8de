"""``gateway policy schema``: what editors read."""

import json

from jsonschema import Draft7Validator
from typer.testing import CliRunner, Result

from gateway.cli.main import app


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["policy", "schema", *arguments], env={"NO_COLOR": "1", "COLUMNS": "200"})


def test_it_prints_the_schema_of_every_kind():
    done = run()
    assert done.exit_code == 0
    schema = json.loads(done.stdout)
    Draft7Validator.check_schema(schema)
    Draft7Validator(schema).validate({"kind": "Issuer", "name": "github", "preset": "github-actions"})


def test_it_prints_the_schema_of_one_kind():
    schema = json.loads(run("--kind", "Guardrail").stdout)
    assert Draft7Validator(schema).is_valid({"kind": "Guardrail", "name": "g", "deny_when": "false"})
    assert not Draft7Validator(schema).is_valid({"kind": "Issuer", "name": "github", "preset": "github-actions"})


def test_a_kind_that_is_none_is_used_wrongly():
    done = run("--kind", "guardrail")
    assert done.exit_code == 2
    assert "did you mean Guardrail" in done.output
