"""The command line as its users run it: real processes, exit codes, and words that say what to do."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from tests.support.certificates import START, issue

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


def test_check_points_whoever_has_policies_alone_at_the_option_for_them():
    done = gateway("check")  # in this repository there are policies, and no gateway.yaml
    assert done.returncode == 1
    assert "gateway check --policies policies/" in done.stderr


def test_check_calls_the_gateways_issuer_as_the_policy_commands_do():
    for option in ("--gateway-issuer", "--issuer"):
        assert gateway("check", "-p", "policies", option, "https://sts.example.com").returncode == 0


def test_a_full_disk_behind_the_output_is_told_in_one_line():
    command = [sys.executable, "-m", "gateway", "policy", "schema"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "gateway: the output could not be written: No space left on device\n"


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


def settings_file(folder: Path, *lines: str) -> str:
    """A settings file with a folder of policies that load."""
    (folder / "policies").mkdir(exist_ok=True)
    (folder / "policies" / "resource.yaml").write_text(
        "kind: Resource\nname: api\nidentifier: https://api.example.com\nscopes: {read: Read}\n"
    )
    (folder / "gateway.yaml").write_text("\n".join(["issuer: https://sts.example.com", *lines]))
    return str(folder / "gateway.yaml")


def test_serve_says_which_address_is_taken_and_what_to_do(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for setting, lines in (
            ("listen", (f"listen: {address}", "admin: {listen: 127.0.0.1:0}")),
            ("admin.listen", ("listen: 127.0.0.1:0", f"admin: {{listen: {address}}}")),
        ):
            done = gateway("serve", "--config", settings_file(tmp_path, *lines))
            assert done.returncode == 1
            told = done.stderr.splitlines()[-1]
            assert told.startswith(f"gateway: {setting}: {address} is taken by another program (ss -ltnp ")
            assert f"set {setting} or GATEWAY_{setting.upper().replace('.', '__')} to a free address" in told
            assert "Errno" not in done.stderr
            assert "Traceback" not in done.stderr


def test_neither_serve_nor_check_takes_the_parser_in_python(tmp_path: Path):
    file = settings_file(tmp_path, "listen: 127.0.0.1:0", "admin: {listen: 127.0.0.1:0}")
    assert gateway("check", "--config", file).returncode == 0
    for command in ("serve", "check"):
        done = gateway(command, "--config", file, AIOHTTP_NO_EXTENSIONS="1")
        assert done.returncode == 1
        assert "Unset AIOHTTP_NO_EXTENSIONS, or install a wheel of aiohttp" in done.stderr
        assert "Traceback" not in done.stderr
    answer = json.loads(gateway("check", "--config", file, "-o", "json", AIOHTTP_NO_EXTENSIONS="1").stdout)
    assert [problem["file"] for problem in answer["problems"]] == ["aiohttp"]


def test_check_looks_at_the_files_of_tls(tmp_path: Path):
    file = settings_file(tmp_path, "tls: {certificate: tls.crt, key: tls.key}")
    one, other = issue(), issue()
    expired = issue(end=START.replace(year=2021))
    encrypted = one.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    (tmp_path / "tls.crt").write_bytes(one.pem)
    for key, told in (
        (None, "No such file"),
        (b"nonsense", "tls.key"),
        (other.pem_with_key, "MISMATCH"),
        (encrypted, "encrypted with a passphrase"),
    ):
        (tmp_path / "tls.key").unlink(missing_ok=True)
        if key is not None:
            (tmp_path / "tls.key").write_bytes(key)
        done = gateway("check", "--config", file)
        assert (done.returncode, told in done.stderr) == (1, True), done.stderr
    (tmp_path / "policies" / "broken.yaml").write_text(BROKEN)
    everything = gateway("check", "--config", file)
    assert "encrypted with a passphrase" in everything.stderr
    assert "did you mean github-actions?" in everything.stderr
    (tmp_path / "policies" / "broken.yaml").unlink()
    (tmp_path / "tls.key").write_bytes(one.pem_with_key)
    done = gateway("check", "--config", file)
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).write_bytes(expired.pem_with_key)
    done = gateway("check", "--config", file)
    assert done.returncode == 0
    assert f"warning: {file}: tls.certificate: {tmp_path / 'tls.crt'} has expired" in done.stderr


def test_plain_http_may_be_allowed_by_a_variable(tmp_path: Path):
    file = settings_file(tmp_path)
    Path(file).write_text("issuer: http://127.0.0.1:8080\n")
    assert "--insecure-http" in gateway("check", "--config", file).stderr
    assert gateway("check", "--config", file, GATEWAY_INSECURE_HTTP="true").returncode == 0
    assert gateway("check", "--config", file, GATEWAY_INSECURE_HTTP="false").returncode == 1


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
