"""``gateway.yaml`` and the environment: what is read, what is refused, and in which words."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.policy.documents import RateLimit
from gateway.policy.problems import ConfigurationProblems
from gateway.settings import load_settings, setting_paths, variable
from gateway.tokens.key_schedule import KeyTimings

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
            "gateway.yaml:2: keys.store: is one of file://..., state://..., memory://..., not s3",
        ),
        (
            "issuer: https://a.example\nstate: postgres://localhost\n",
            (
                "gateway.yaml:2: state: is one of memory://..., sqlite://..., redis://..., rediss://..., "
                "redis+unix://..., not postgres"
            ),
        ),
        (
            "issuer: https://a.example\nstate: sqlite://state.db\n",
            "gateway.yaml:2: state: is sqlite:///absolute/path.db",
        ),
        (
            "issuer: https://a.example\nstate: redis:///0\n",
            "gateway.yaml:2: state: names a host, such as redis://redis.example.com:6379/0",
        ),
        (
            "issuer: https://a.example\nstate: redis://r.example/first\n",
            "gateway.yaml:2: state: names a database by its number, such as redis://redis.example.com:6379/0",
        ),
        (
            "issuer: https://a.example\nstate: redis://r.example?ca=/ca.pem\n",
            "gateway.yaml:2: state: has an option that does not exist; there is ?ca=/path/of/ca.pem for rediss",
        ),
        (
            "issuer: https://a.example\naudit:\n  sinks:\n    - file://relative\n",
            "gateway.yaml:4: audit.sinks[0]: is file:///absolute/path",
        ),
        ("issuer: https://a.example\naudit: {sinks: []}\n", "gateway.yaml:2: audit.sinks: needs at least one entry"),
        (
            "issuer: https://a.example\naudit: {key: audit.pem}\n",
            "gateway.yaml:2: audit.key: is one of file://..., not audit.pem",
        ),
        (
            "issuer: https://a.example\nkeys: {store: file:///a/keys}\naudit: {key: file:///a/keys/audit.pem}\n",
            (
                "gateway.yaml:3: audit: has its key in keys.store: what signs tokens and what signs the log are kept "
                "apart"
            ),
        ),
        (
            "issuer: https://a.example\naudit: {rotate_size: 100MB}\n",
            "gateway.yaml:2: audit.rotate_size: is a whole number with a unit: 512KiB, 100MiB, 1GiB",
        ),
        (
            "issuer: https://a.example\naudit: {rotate_keep: 7}\n",
            "gateway.yaml:2: audit.rotate_keep: goes with rotate_size or rotate_every",
        ),
        (
            "issuer: https://a.example\nkeys:\n  cache_for: 1h\n  publish_ahead: 1h\n",
            (
                "gateway.yaml:4: keys.publish_ahead: is at least cache_for and 90 seconds (3690s): caches have to know "
                "a key before it signs"
            ),
        ),
        (
            "issuer: https://a.example\nkeys: {keep_for: 24h}\n",
            (
                "gateway.yaml:2: keys.keep_for: is at least 87390s: a token may live 24h, caches and replicas follow a "
                "little late, clocks differ"
            ),
        ),
        (
            "issuer: https://a.example\nkeys: {cache_for: 24h, publish_ahead: 48h}\n",
            (
                "gateway.yaml:2: keys.keep_for: is at least 173490s: a token may live 24h, caches and replicas follow "
                "a little late, clocks differ"
            ),
        ),
        (
            "issuer: https://a.example\nkeys: {rotate_every: 12h}\n",
            "gateway.yaml:2: keys.rotate_every: is at least publish_ahead (24h): a key is published as long first",
        ),
        (
            "issuer: https://a.example\nkeys: {publish_ahead: 10m, rotate_every: 1h}\n",
            ("gateway.yaml:2: keys.rotate_every: would leave more than 24 keys published, as each is kept for 25h"),
        ),
        (
            "issuer: https://a.example\nkeys: {store: 'state://'}\nstate: sqlite:///var/lib/gateway/state.db\n",
            (
                "gateway.yaml:2: keys: with store: state:// needs encryption_key_file: private keys are not kept in "
                "clear"
            ),
        ),
        (
            "issuer: https://a.example\nkeys: {store: 'state://', encryption_key_file: k}\n",
            "gateway.yaml:2: keys: with store: state:// needs another state than memory://, which is lost at exit",
        ),
        (
            "issuer: https://a.example\nkeys: {store: 'file:///k', encryption_key_file: k}\n",
            "gateway.yaml:2: keys.encryption_key_file: goes with store: state://",
        ),
        (
            "issuer: https://a.example\nkeys: {store: 'memory://', passphrase_file: k}\n",
            "gateway.yaml:2: keys.passphrase_file: goes with store: file:///path",
        ),
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
            "issuer: https://a.example\nquotas: {service_account: 60}\n",
            "gateway.yaml:2: quotas.service_account: a rate is a number per second, minute, hour or day: 60/minute",
        ),
        (
            "issuer: https://a.example\nquotas: {workload: 0/minute}\n",
            "gateway.yaml:2: quotas.workload: a rate is a number per second, minute, hour or day: 60/minute",
        ),
        (
            "issuer: https://a.example\nquotas: {without_state: deny}\n",
            'gateway.yaml:2: quotas.without_state: must be one of local, refuse, allow, not "deny"',
        ),
        (
            "issuer: https://a.example\nquotas: {workloads: 1/second}\n",
            "gateway.yaml:2: quotas.workloads: no such field (did you mean workload?)",
        ),
        (
            "issuer: https://a.example\nshutdown: {delay: 5}\n",
            "gateway.yaml:2: shutdown.delay: a duration is a whole number with a unit: 90s, 10m, 24h, 30d",
        ),
    ],
)
def test_a_mistake_is_told_with_file_line_path_and_the_nearest_name(tmp_path: Path, text: str, expected: str):
    assert expected in problems_of(tmp_path, text)


@pytest.mark.parametrize(
    "url",
    [
        "memory://",
        "sqlite:///var/lib/gateway/state.db",
        "redis://:hunter2@r.example:6379/0",
        "rediss://r.example?ca=/etc/ca.pem",
        "redis+unix:///run/redis.sock?db=1",
    ],
)
def test_every_kind_of_state_has_a_url_that_no_repr_tells(tmp_path: Path, url: str):
    settings = load_settings(written(tmp_path, f'issuer: https://a.example\nstate: "{url}"\n'))
    assert settings.state == url
    assert "hunter2" not in repr(settings) + str(settings)


@pytest.mark.parametrize("password", ["hun/ter2", "hun#ter2", "hun?ter2", "hun ter2"])
def test_the_password_in_a_state_url_that_cannot_be_read_is_not_repeated(tmp_path: Path, password: str):
    (problem,) = problems_of(tmp_path, f'issuer: https://a.example\nstate: "redis://:{password}@r.example"\n')
    assert "state: has " in problem
    assert "ter2" not in problem


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


def test_quotas_are_on_and_read_as_the_rates_of_policies_do(tmp_path: Path, environment: SetVariables):
    environment({"GATEWAY_QUOTAS__WORKLOAD": "7/hour"})
    quotas = load_settings(written(tmp_path, GOOD + "quotas: {service_account: 60/minute}\n")).quotas
    assert quotas.enabled
    assert quotas.ceiling == RateLimit(5000, 1)
    assert quotas.service_account == RateLimit(60, 60)
    assert quotas.workload == RateLimit(7, 3600)
    assert quotas.failures_per_source == RateLimit(600, 60)
    assert quotas.without_state == "local"


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


def test_the_timings_of_the_signing_keys_are_those_of_the_settings(tmp_path: Path):
    text = "issuer: https://a.example\nkeys: {cache_for: 1m, publish_ahead: 2h, keep_for: 30h, rotate_every: 7d}\n"
    assert load_settings(written(tmp_path, text)).keys.timings == KeyTimings(60, 7200, 108_000, 7 * 86400)


def test_the_defaults_of_the_signing_keys_hold_together(tmp_path: Path):
    timings = load_settings(written(tmp_path, "issuer: https://a.example\n")).keys.timings
    assert timings == KeyTimings(300, 86400, 90_000, None)


def test_files_with_secrets_are_relative_to_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = "issuer: https://a.example\nkeys: {store: 'file:///k', passphrase_file: secret/passphrase}\n"
    file = written(tmp_path, text)
    assert load_settings(file).keys.passphrase_file == tmp_path / "secret" / "passphrase"
    monkeypatch.setenv("GATEWAY_KEYS__PASSPHRASE_FILE", "here")
    assert load_settings(file).keys.passphrase_file == Path("here")
