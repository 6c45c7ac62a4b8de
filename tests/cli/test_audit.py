"""``gateway audit``: a log proven, or not, and what is in it found."""

import gzip
import json
import re
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from gateway.audit.chain import ChainWriter, Checkpoints
from gateway.audit.keys import AuditKey
from gateway.audit.search import Condition
from gateway.cli.main import app

KEY = AuditKey(Ed25519PrivateKey.generate())
RECORDS = [
    {
        "time": f"2026-11-25T10:0{number}:00.000000Z",
        "request_id": f"r-{number}",
        "client_id": "web-deployer" if number % 2 else "invoicer",
        "reason": "granted" if number < 4 else "no_matching_trust",
        "claims": {"/repository_id": str(number)},
        "subject": "\x1b[31mred",
    }
    for number in range(6)
]


def run(*arguments: object):
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


@pytest.fixture
def log(tmp_path: Path) -> Path:
    chain = ChainWriter(lambda: "one", lambda: 1_795_600_000.0, Checkpoints(KEY, 4, 1e9, 10))
    (tmp_path / "keys.json").write_bytes(orjson.dumps({"keys": [KEY.public_jwk()]}))
    file = tmp_path / "audit.jsonl"
    for position, record in enumerate(RECORDS, 1):
        group = chain.compose([orjson.dumps(record) + b"\n"], last=position == len(RECORDS))
        chain.accept(group)
        with file.open("ab") as stream:
            stream.write(group.data)
    return file


def test_a_whole_log_is_proven_with_its_keys(log: Path):
    answer = run("verify", log, "--keys", log.parent / "keys.json")
    assert answer.exit_code == 0, answer.output
    told = json.loads(run("verify", log, "--keys", log.parent / "keys.json", "-o", "json").stdout)
    assert (told["ok"], told["signatures"]) == (True, "checked")


def test_a_changed_record_is_named_with_file_and_line(log: Path):
    log.write_bytes(log.read_bytes().replace(b"r-2", b"r-9"))
    answer = run("verify", log, "--keys", log.parent / "keys.json")
    assert answer.exit_code == 1
    assert f"{log}:" in answer.output.replace("\n", "")


def test_a_log_that_was_cut_is_found_by_the_checkpoint_that_was_saved(log: Path):
    saved = log.parent / "last.json"
    assert run("verify", log, "--keys", log.parent / "keys.json", "--save-checkpoint", saved).exit_code == 0
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:5]))
    assert run("verify", log, "--keys", log.parent / "keys.json").exit_code == 0
    assert run("verify", log, "--keys", log.parent / "keys.json", "--since-checkpoint", saved).exit_code == 1


@pytest.mark.parametrize("arguments", [(), ("--keys", "nowhere.json"), ("-o", "xml")])
def test_wrong_use_is_2(log: Path, arguments: tuple[str, ...]):
    files = (log,) if arguments else ()
    assert run("verify", *files, *arguments).exit_code == 2


def test_a_search_finds_by_every_field_and_by_claims(log: Path):
    def found(*conditions: str) -> list[str]:
        answer = run("search", *conditions, log, "-o", "json")
        return [json.loads(line)["request_id"] for line in answer.stdout.splitlines()]

    assert found("client_id=invoicer") == ["r-0", "r-2", "r-4"]
    assert found("client_id=invoicer", "reason=no_matching_trust") == ["r-4"]
    assert found("/repository_id=5") == ["r-5"]
    assert found("--since", "2026-11-25T10:04:00Z") == ["r-4", "r-5"]


def test_a_search_finds_parts_of_texts_members_of_lists_claims_within_claims_and_what_is_absent(tmp_path: Path):
    records = [
        {"request_id": "a", "scopes_given": ["read", "write"], "subject": "repo:acme/web:environment:production"},
        {"request_id": "b", "claims": {"/kubernetes.io": {"pod": {"name": "x/y"}, "groups": ["p", "q"]}, "/n": 7}},
        {"request_id": "c", "verified": True, "subject": "größe*", "detail": 'said "no"'},
    ]
    packed = tmp_path / "audit.jsonl.1.gz"
    packed.write_bytes(gzip.compress(b"\xff\xfe\n[1]\n" + b"".join(orjson.dumps(one) + b"\n" for one in records)))

    def found(*conditions: str) -> list[str]:
        answer = run("search", *conditions, packed, "-o", "json")
        assert answer.exit_code == (0 if answer.stdout else 1)
        return [json.loads(line)["request_id"] for line in answer.stdout.splitlines()]

    assert found("scopes_given=write") == ["a"]
    assert found("subject=repo:acme/*:production") == ["a"]
    assert found("subject=*:production:*") == []
    assert found("subject=gr\u00f6\u00dfe*") == ["c"]
    assert found('detail=*"no"') == ["c"]
    assert found("verified=true") == ["c"]
    assert found("verified=", "subject=*") == ["a"]
    assert found("/kubernetes.io/pod/name=x/y") == ["b"]
    assert found("/kubernetes.io/groups=q") == ["b"]
    assert found("/kubernetes.io/groups/1=q") == ["b"]
    assert found("/n=7") == ["b"]
    assert found("/kubernetes.io/pod/nothing/deeper=x") == []
    assert found("--request", "b") == ["b"]
    assert found("request_id=*", "--limit", "2") == ["a", "b"]


@given(
    st.text('ab*\\"\u00e9\n', max_size=6),
    st.text('ab\\"\u00e9\n', max_size=8) | st.lists(st.text("ab", max_size=3), max_size=3) | st.integers(0, 30),
)
def test_passing_over_lines_before_they_are_read_loses_none(pattern: str, value: object):
    condition = Condition("x", pattern)
    document = {"x": value}
    if condition.holds(document):
        assert condition.needle() in orjson.dumps(document)
    if isinstance(value, str) and pattern:
        fits = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), value, re.DOTALL) is not None
        assert condition.holds(document) is fits


def test_the_public_key_is_printed_once_there_is_one(tmp_path: Path):
    config = tmp_path / "gateway.yaml"
    config.write_text(f"issuer: https://sts.example.com\naudit: {{key: 'file://{tmp_path}/audit.pem'}}\n")
    answer = run("key", "--config", config)
    assert answer.exit_code == 1
    assert not (tmp_path / "audit.pem").exists(), "who asks makes none"
    made = AuditKey.open(tmp_path / "audit.pem")
    answer = run("key", "--config", config)
    assert json.loads(answer.stdout) == {"keys": [made.public_jwk()]}
    config.write_text("issuer: https://sts.example.com\n")
    assert run("key", "--config", config).exit_code == 1


def test_a_search_shows_nothing_that_a_terminal_obeys(log: Path):
    answer = run("search", "client_id=invoicer", log)
    assert answer.exit_code == 0
    assert "\x1b[31m" not in answer.stdout


def test_a_search_that_finds_nothing_ends_with_1(log: Path):
    assert run("search", "client_id=nobody", log).exit_code == 1
