"""Whatever a page names is there: commands and their options, files, links, reasons, metrics, variables, fields."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from gateway.audit.chain import EVENTS
from gateway.cli.main import app
from gateway.client.sources import TOKEN_VARIABLE
from gateway.identity.fetcher import FETCH_OUTCOMES
from gateway.kinds import PRESETS
from gateway.model import AuditRecord, GrantType
from gateway.oauth.parameters import KNOWN_PARAMETERS
from gateway.oauth.reasons import REASONS
from gateway.policy.compiler import RESERVED_CLAIMS
from gateway.policy.documents import KINDS
from gateway.settings import Settings, setting_paths, variable
from gateway.standin.platforms import PLATFORMS
from tests.docs.live import observed
from tests.docs.markdown import (
    PAGES,
    ROOT,
    anchors,
    blocks,
    codes,
    commands,
    inline_code,
    links,
    name_of,
    without_output,
)
from tests.docs.reference import PAGES as REFERENCE

ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
WORDS_OF_OTHERS = {
    "pull_request_target",
    "workflow_run",
    "issue_comment",
    "merge_request_event",
    "private_key_jwt",
    "client_secret_basic",
    "client_secret_post",
    "tls_client_auth",
    "self_signed_tls_client_auth",
    "client_secret_pending",
    "client_secret_previous",
    "auth_request",
    "proxy_set_header",
    "oidc_authority",
}
"""Values that platforms write, and names of RFCs that no code here has."""
FOLDERS = ("gateway", "policies", "deploy", "tests")
_PATH = re.compile(rf"(?<![\w/.:@$-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w")
_METRIC = re.compile(r"\bgateway_[a-z_]+[a-z]\b")
_VARIABLE = re.compile(r"\bGATEWAY_[A-Z][A-Z_]*[A-Z]\b")
_REASON = re.compile(r"""(?:\breason"?|\bdeny): ?"?([a-z]+(?:_[a-z]+)+)\b""")
_SNAKE_CASE = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)+")

COMMANDS = typer.main.get_command(app).commands

each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)
SHOWN = [pytest.param(line, id=f"{name_of(page)}: {line}") for page in PAGES for line in commands(page.read_text())]


def command_of(words: list[str]) -> typer.core.TyperCommand:
    """The command that the words of a command line name, behind ``gateway``."""
    group = COMMANDS
    for word in words:
        assert word in group, word
        command = group[word]
        if not hasattr(command, "commands"):
            return command
        group = command.commands
    raise AssertionError(f"{' '.join(words)} names no command")


def command_lines(group: Any, *above: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.items():
        yield (*above, name)
        yield from command_lines(getattr(command, "commands", {}), *above, name)


@pytest.mark.parametrize("line", SHOWN)
def test_a_command_on_a_page_exists_with_its_options(line):
    _, *words = shlex.split(line, comments=True)
    if words == ["client"]:  # the whole group
        return
    known = {option for parameter in command_of(words).params for option in parameter.opts} | {"--help"}
    used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert used <= known


@pytest.mark.parametrize("words", tuple(command_lines(COMMANDS)), ids=" ".join)
def test_a_command_explains_itself(words):
    assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0


@each_page
def test_a_file_that_a_page_names_is_there(page):
    missing = [path for path in _PATH.findall(without_output(page.read_text())) if not (ROOT / path).exists()]
    assert missing == []


@each_page
def test_a_link_leads_somewhere(page):
    broken = []
    for target in links(page.read_text()):
        path, _, fragment = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (page.parent / path) if path else page
        if not file.exists() or (fragment and fragment not in anchors(file.read_text())):
            broken.append(target)
    assert broken == []


@each_page
def test_a_reason_that_a_page_names_exists(page):
    assert set(_REASON.findall(page.read_text())) <= REASONS.keys()


@each_page
def test_a_metric_that_a_page_names_exists(page):
    text = page.read_text()
    exposed = {name for family in observed().families for name in (family.exposed_name, *family.samples)}
    assert set(_METRIC.findall(text)) <= exposed


@each_page
def test_an_alert_that_a_page_names_exists(page):
    named = re.findall(r"\bGateway[A-Z][A-Za-z]+", page.read_text())
    assert set(named) <= set(re.findall(r"alert: (\w+)", ALERTS.read_text()))


@each_page
def test_a_variable_that_a_page_names_is_read(page):
    assert set(_VARIABLE.findall(page.read_text())) <= _variables()


@pytest.mark.parametrize("page", REFERENCE, ids=name_of)
def test_a_word_that_the_reference_writes_as_code_is_a_word_of_the_code(page):
    words = {word for shown in inline_code(page.read_text()) for word in shown.split() if _SNAKE_CASE.fullmatch(word)}
    assert words <= _vocabulary()


def test_every_field_of_an_audit_record_is_explained():
    rows = [line for line in _section("Audit").split("| field | meaning |")[1].splitlines() if line.startswith("| `")]
    explained = [name for row in rows for name in codes(row.split("|")[1])]
    recorded = [field.name for field in fields(AuditRecord)]
    assert sorted(explained) == sorted([*recorded, "chain", "sequence", "previous"])


def test_the_example_of_an_audit_record_has_the_fields_of_a_real_one():
    (block,) = (block for block in blocks(_section("Audit")) if block.language == "json")
    shown, real = json.loads(block.text), dict(observed().granted)
    assert shown["claims"].keys() <= real["claims"].keys()
    real["claims"] = {name: value for name, value in real["claims"].items() if name in shown["claims"]}
    assert _shape(shown) == _shape(real)


def test_the_example_of_readyz_has_the_fields_of_a_real_one():
    (block,) = (block for block in blocks(_section("Health")) if block.language == "json")
    assert _shape(json.loads(block.text)) == _shape(observed().readiness)


def _section(heading: str) -> str:
    page = (ROOT / "deploy" / "README.md").read_text()
    return page.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def _shape(value: Any) -> Any:
    """The names in a JSON value, at every level, and the types of what they hold."""
    if isinstance(value, dict):
        return {name: _shape(member) for name, member in value.items()}
    return type(value)


def _variables() -> set[str]:
    settings = {variable(path) for path in setting_paths()} | {variable(path[:1]) for path in setting_paths()}
    options = {
        parameter.envvar
        for command in COMMANDS.values()
        for parameter in command.params
        if isinstance(parameter.envvar, str)
    }
    return settings | options | {TOKEN_VARIABLE}


def _vocabulary() -> set[str]:
    """Every name that somebody can meet: in files, requests, answers, tokens, metrics, records."""
    live = observed()
    return (
        set(REASONS)
        | {reason.error for reason in REASONS.values()}
        | {"invalid_grant"}
        | {name for family in live.families for name in (family.exposed_name, *family.samples, *family.labels)}
        | {name for model in KINDS.values() for name in _names_in(model.model_json_schema())}
        | {name for path in setting_paths() for name in path}
        | set(_choices_in(Settings.model_json_schema()))
        | KNOWN_PARAMETERS
        | {grant.value for grant in GrantType}
        | {"access_token", "issued_token_type", "expires_in", "token_type", "request_id", "error_description"}
        | {field.name for field in fields(AuditRecord)}
        | {name for event, said in EVENTS.items() for name in (event, *said)}
        | set(RESERVED_CLAIMS)
        | {name for platform in PLATFORMS for name in _names_in(platform.claims(0))}
        | {name for preset in PRESETS.values() for name in preset.claims.optional}
        | set(_names_in(live.readiness))
        | set(FETCH_OUTCOMES)
        | WORDS_OF_OTHERS
    )


def _choices_in(schema: Any) -> list[str]:
    """The words that a setting may be, where it is one of some."""
    if isinstance(schema, dict):
        return [*schema.get("enum", ()), *(word for member in schema.values() for word in _choices_in(member))]
    if isinstance(schema, list):
        return [word for member in schema for word in _choices_in(member)]
    return []


def _names_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [name for member in value.values() for name in _names_in(member)] + list(value)
    if isinstance(value, list):
        return [name for member in value for name in _names_in(member)]
    return []
