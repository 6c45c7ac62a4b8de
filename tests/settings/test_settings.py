"""``gateway.yaml`` and the environment: what is read, what is refused, and in which words."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.policy.problems import ConfigurationProblems
from gateway.settings import load_settings, setting_paths, variable

SetVariables = Callable[[dict[str, str]], None]

GOOD = """\
issuer: https://sts.example.com
listen: 0.0.0.0:8080
admin: {listen: 127.0.0.1:8081}
policies: policies/
state: memory://
keys: {store: file:///var/lib/gateway/keys, algorithm: ES256, rotate_every: 7d}
audit: {sinks: [stdout, "file:///var/log/gateway/audit.jsonl"]}
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Sets variables for this test alone; none of the machine's own is seen."""
    for name in [name for name in os.environ if name.startswith("GATEWAY_")]:
        monkeypatch.delenv(name)

    def set_all(variables: dict[str, str]) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all


def written(folder: Path, text: str) -> Path:
    file = folder / "gateway.yaml"
    file.write_text(text)
    return file


def problems_of(folder: Path, text: str) -> list[str]:
    file = written(folder, text)
    with pytest.raises(ConfigurationProblems) as caught:
        load_settings(file)
    return [str(problem).replace(str(folder) + "/", "") for problem in caught.value.problems]


def test_the_file_of_the_design_is_read_whole(tmp_path: Path):
    settings = load_settings(written(tmp_path, GOOD))
    assert settings.issuer == "https://sts.example.com"
    assert settings.keys.rotate_every == 7 * 86400
    assert settings.audit.sinks == ["stdout", "file:///var/log/gateway/audit.jsonl"]
    assert settings.policies == tmp_path / "policies", "relative to the file"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("issuer: https://a.example\nisuer: x\n", "gateway.yaml:2: isuer: no such field (did you mean issuer?)"),
        ("listen: 0.0.0.0:80\n", "gateway.yaml:1: issuer: is missing"),
        (
            "issuer: https://a.example\nlisten: 8080x\n",
            "gateway.yaml:2: listen: is host:port, such as 0.0.0.0:8080 or [::]:8080",
        ),
        (
            "issuer: https://a.example\nlisten: example.com:80\n",
            "gateway.yaml:2: listen: names an IP address before the port, such as 0.0.0.0:8080",
        ),
        (
            "issuer: https://a.example\nkeys: {store: s3://bucket}\n",
            "gateway.yaml:2: keys.store: is one of file://..., memory://..., not s3",
        ),
        (
            "issuer: https://a.example\nstate: redis://localhost\n",
            "gateway.yaml:2: state: is one of memory://..., not redis",
        ),
        (
            "issuer: https://a.example\naudit:\n  sinks:\n    - file://relative\n",
            "gateway.yaml:4: audit.sinks[0]: is file:///absolute/path",
        ),
        ("issuer: https://a.example\naudit: {sinks: []}\n", "gateway.yaml:2: audit.sinks: needs at least one entry"),
        (
            "issuer: https://a.example\nkeys: {algorithm: HS256}\n",
            'gateway.yaml:2: keys.algorithm: must be one of ES256, EdDSA, RS256, not "HS256" (did you mean RS256?)',
        ),
        (
            "issuer: https://a.example/?x=1\n",
            "gateway.yaml:1: issuer: has no query, fragment or user name (RFC 8414 section 2)",
        ),
        (
            "issuer: http://a.example\n",
            "gateway.yaml:1: issuer: must be https; --insecure-http allows http for trying out",
        ),
        (
            "issuer: https://a.example\nshutdown: {delay: 5}\n",
            "gateway.yaml:2: shutdown.delay: a duration is a whole number with a unit: 90s, 10m, 24h, 30d",
        ),
    ],
)
def test_a_mistake_is_told_with_file_line_path_and_the_nearest_name(tmp_path: Path, text: str, expected: str):
    assert expected in problems_of(tmp_path, text)


def test_all_mistakes_are_told_at_once(tmp_path: Path, environment: SetVariables):
    environment({"GATEWAY_LISTN": "x"})
    text = "isuer: https://a.example\nlisten: nowhere\nkeys: {algoritm: ES256}\n"
    assert len(problems_of(tmp_path, text)) >= 4


def test_every_setting_has_a_variable_that_wins_over_the_file(tmp_path: Path, environment: SetVariables):
    environment({
        "GATEWAY_ISSUER": "https://other.example",
        "GATEWAY_ADMIN__LISTEN": "127.0.0.1:9999",
        "GATEWAY_AUDIT__SINKS": "stdout, file:///tmp/a.jsonl",
        "GATEWAY_TRUSTED_PROXIES": "10.0.0.0/8,192.168.0.0/16",
        "GATEWAY_KEYS__ALGORITHM": "EdDSA",
        "GATEWAY_SHUTDOWN__DELAY": "9s",
    })  # fmt: skip
    settings = load_settings(written(tmp_path, GOOD))
    assert settings.issuer == "https://other.example"
    assert settings.admin.listen == "127.0.0.1:9999"
    assert settings.audit.sinks == ["stdout", "file:///tmp/a.jsonl"]
    assert settings.trusted_proxies == ["10.0.0.0/8", "192.168.0.0/16"]
    assert settings.keys.algorithm == "EdDSA"
    assert settings.keys.store == "file:///var/lib/gateway/keys", "the rest of the section stays"
    assert settings.shutdown.delay == 9


def test_a_variable_is_named_after_its_path():
    assert variable(("admin", "listen")) == "GATEWAY_ADMIN__LISTEN"
    assert ("tls", "certificate") in set(setting_paths())


def test_an_unknown_variable_is_a_mistake_with_the_nearest_name(tmp_path: Path, environment: SetVariables):
    environment({"GATEWAY_ADMIN__LISTN": "127.0.0.1:1"})
    found = problems_of(tmp_path, GOOD)
    assert found == ["environment: GATEWAY_ADMIN__LISTN: no such setting (did you mean GATEWAY_ADMIN__LISTEN?)"]


def test_what_is_wrong_with_a_variable_is_said_of_the_variable(tmp_path: Path, environment: SetVariables):
    environment({"GATEWAY_ADMIN__LISTEN": "nowhere"})
    found = problems_of(tmp_path, GOOD)
    assert found == ["environment: GATEWAY_ADMIN__LISTEN: is host:port, such as 0.0.0.0:8080 or [::]:8080"]


def test_what_kubernetes_sets_for_a_service_called_gateway_is_no_mistake(tmp_path: Path, environment: SetVariables):
    environment({
        "GATEWAY_SERVICE_HOST": "10.0.0.1",
        "GATEWAY_SERVICE_PORT": "80",
        "GATEWAY_PORT": "tcp://10.0.0.1:80",
        "GATEWAY_PORT_80_TCP_ADDR": "10.0.0.1",
        "GATEWAY_CONFIG": "x",
        "GATEWAY_TOKEN_SCOPE": "y",
    })  # fmt: skip
    assert load_settings(written(tmp_path, GOOD))


def test_without_a_file_the_environment_is_enough(environment: SetVariables):
    environment({"GATEWAY_ISSUER": "https://sts.example.com"})
    settings = load_settings(None)
    assert settings.listen == "0.0.0.0:8080"
