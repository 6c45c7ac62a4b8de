"""The command line as its users run it: real processes, exit codes, and words that say what to do."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
BROKEN = """\
kind: Issuer
name: github
preset: github-action
---
kind: ServiceAccount
name: a
access: [{resource: nowhere, scopes: [x]}]
trust: [{issuer: github, match: {repository_id: "1"}}]
"""


def gateway(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    variables = {**clean, "NO_COLOR": "1", "COLUMNS": "120", **environment}
    command = [sys.executable, "-m", "gateway", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env=variables)


def test_check_says_that_the_samples_are_good():
    done = gateway("check", "--policies", "policies")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Good: ")


def test_check_tells_every_mistake_with_file_and_line(tmp_path: Path):
    (tmp_path / "broken.yaml").write_text(BROKEN)
    done = gateway("check", "--policies", str(tmp_path))
    assert done.returncode == 1
    assert "broken.yaml:3: preset: " in done.stderr
    assert "did you mean github-actions?" in done.stderr
    assert "broken.yaml:7: access[0].resource: " in done.stderr


def test_check_speaks_json_to_scripts(tmp_path: Path):
    (tmp_path / "broken.yaml").write_text(BROKEN)
    done = gateway("check", "--policies", str(tmp_path), "--output", "json")
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert answer["ok"] is False
    assert {problem["line"] for problem in answer["problems"]} >= {3, 7}
    assert json.loads(gateway("check", "-p", "policies", "-o", "json").stdout)["ok"] is True


def test_a_wrong_option_exits_with_2():
    assert gateway("check", "--polices", "x").returncode == 2
    assert gateway("nonsense").returncode == 2


@pytest.mark.parametrize("command", [[], ["dev"], ["serve"], ["check"], ["token"]])
def test_every_command_has_help_that_teaches(command: list[str]):
    done = gateway(*command, "--help")
    assert done.returncode == 0
    assert "gateway " in done.stdout


def test_serve_refuses_settings_that_are_wrong_and_says_why(tmp_path: Path):
    (tmp_path / "gateway.yaml").write_text("isuer: https://sts.example.com\n")
    done = gateway("serve", "--config", str(tmp_path / "gateway.yaml"))
    assert done.returncode == 1
    assert "did you mean issuer?" in done.stderr


def test_serve_refuses_plain_http_without_being_told_to(tmp_path: Path):
    (tmp_path / "gateway.yaml").write_text("issuer: http://sts.example.com\n")
    assert "--insecure-http" in gateway("serve", "--config", str(tmp_path / "gateway.yaml")).stderr


def test_serve_refuses_policies_that_are_wrong(tmp_path: Path):
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "broken.yaml").write_text(BROKEN)
    (tmp_path / "gateway.yaml").write_text("issuer: https://sts.example.com\nlisten: 127.0.0.1:0\n")
    done = gateway("serve", "--config", str(tmp_path / "gateway.yaml"))
    assert done.returncode == 1
    assert "broken.yaml:3" in done.stderr


def test_serve_says_where_a_key_folder_is_too_open(tmp_path: Path):
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o777)
    keys.chmod(0o777)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "resource.yaml").write_text(
        "kind: Resource\nname: api\nidentifier: https://api.example.com\nscopes: {read: Read}\n"
    )
    (tmp_path / "gateway.yaml").write_text(
        f"issuer: https://sts.example.com\nlisten: 127.0.0.1:0\nadmin: {{listen: 127.0.0.1:0}}\n"
        f"keys: {{store: 'file://{keys}'}}\n"
    )
    done = gateway("serve", "--config", str(tmp_path / "gateway.yaml"))
    assert done.returncode == 1
    assert "chmod" in done.stderr
    assert "Traceback" not in done.stderr


def test_dev_exchanges_one_token_of_each_platform_and_shows_a_denial():
    done = gateway("dev", "--once", "--port", "0")
    assert done.returncode == 0, done.stderr
    for title in ("A pod in Kubernetes", "GitHub Actions", "GitLab CI", "AWS"):
        assert title in done.stdout
    assert done.stdout.count("\n200\n") == 4
    assert "denied_by_guardrail" in done.stdout


def test_dev_serves_until_it_is_interrupted_and_its_curl_line_works():
    command = [sys.executable, "-u", "-m", "gateway", "dev", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Serving on"):
                break
        text = "".join(lines)
        curl = text[text.index("curl -s ") :].split("\n\n")[0]
        answer = subprocess.run(curl, shell=True, capture_output=True, text=True, timeout=30)
        admin = text[text.index("/readyz") - 40 :].split("curl -s ")[1].split()[0]
        with urllib.request.urlopen(admin) as ready:
            assert json.load(ready)["ready"] is True
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
    assert json.loads(answer.stdout)["token_type"] == "Bearer"
