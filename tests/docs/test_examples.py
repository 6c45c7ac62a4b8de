"""Every YAML example loads: policies and settings as the gateway loads them (see ``examples``), the rest as YAML."""

import pytest
from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.settings import load_settings
from tests.docs.examples import ISSUER, is_policies, is_settings, loaded, policy_sets, yaml_blocks
from tests.docs.markdown import PAGES, ROOT, blocks, name_of

SETS = [
    pytest.param(policies, id=f"{name_of(page)} {name}".strip())
    for page in PAGES
    for name, policies in policy_sets(page.read_text()).items()
]
OTHERS = [
    pytest.param(block, id=f"{name_of(page)}:{block.line}")
    for page in PAGES
    for block in yaml_blocks(page.read_text())
    if not is_policies(block)
]


@pytest.mark.parametrize("policies", SETS)
def test_policies_on_a_page_load_without_a_warning(policies, tmp_path):
    warnings = loaded(policies, tmp_path / "policies").warnings
    # The key sets that a page speaks of are the reader's own.
    assert [one for one in warnings if not one.message.startswith("is not there: the key set")] == []


@pytest.mark.parametrize("block", OTHERS)
def test_settings_on_a_page_load(block, tmp_path):
    if not is_settings(block):
        return  # of another program: it was parsed to find that out
    file = tmp_path / "gateway.yaml"
    file.write_text(block.text if "issuer:" in block.text else f"{block.text}\nissuer: {ISSUER}\n")
    load_settings(file)


def test_the_mistakes_on_the_page_are_told_as_the_page_shows(tmp_path, monkeypatch):
    page = (ROOT / "policies" / "README.md").read_text()
    console, _ = (block.text for block in blocks(page) if block.language == "console")
    (first,) = policy_sets(page)["first"]
    wrong = first.text.replace("backup:read, backup:write]}\ntrust", "backup:reed, backup:write]}\ntrust")
    wrong = wrong.replace("issuer: prod-cluster", "issuer: prod-clutser", 1)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "storage.yaml").write_text(wrong)
    monkeypatch.chdir(tmp_path)
    command, _, output = console.partition("\n")
    answer = CliRunner().invoke(app, command.split()[2:])
    assert answer.output.strip() == output.strip()


def test_the_folder_on_the_page_is_held_back_as_the_page_shows(tmp_path, monkeypatch):
    page = (ROOT / "policies" / "README.md").read_text()
    _, console = (block.text for block in blocks(page) if block.language == "console")
    policies = policy_sets(page)["guardrails"]
    loaded(policies, tmp_path / "policies")
    (team,) = (block for block in policies if len(block.words) > 1)
    (tmp_path / "policies" / team.words[1]).write_text(team.text.replace("[backup:write]", "[backup:reed]"))
    monkeypatch.chdir(tmp_path)
    command, _, output = console.partition("\n")
    answer = CliRunner().invoke(app, command.split()[2:])
    assert answer.output.strip() == output.strip()
