"""Audit logs read back, as they were written and as the world left them."""

import dataclasses
import gzip
import io
import json
import sys
import tracemalloc

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gateway.audit.reading import MAX_READ_LINE_BYTES, bytes_of, read_records
from gateway.audit.record import to_json_line
from gateway.model import AuditRecord, RecordedDecision
from gateway.standin.shapes import github_actions_claims, kubernetes_claims

NOW = 1_800_000_000
GITHUB = github_actions_claims(NOW, jti="jti-in")
GRANTED = AuditRecord(
    time=NOW + 0.25,
    request_id="req-1",
    grant="token-exchange",
    decision="granted",
    reason="granted",
    stage="granted",
    source="192.0.2.7",
    policy_generation=3,
    client_id="web-deployer",
    issuer="github",
    iss=GITHUB["iss"],
    subject=GITHUB["sub"],
    verified=True,
    rule="production",
    claims=GITHUB,
    claims_complete=True,
    resource_asked="deploy-api",
    scopes_asked=("deploy:write",),
    lifetime_asked_seconds=600,
    resource="https://deploy.example.com",
    scopes_given=("deploy:write",),
    lifetime_given_seconds=600,
    access_token_id="jti-out",
)
DECISION = RecordedDecision(
    time=NOW + 0.25,
    request_id="req-1",
    grant="token-exchange",
    reason="granted",
    stage="granted",
    service_account="web-deployer",
    authentication=None,
    issuer="github",
    subject=GITHUB["sub"],
    rule="production",
    claims=GITHUB,
    claims_are_complete=True,
    known_claims=frozenset(),
    client_id_asked=None,
    resource_asked="deploy-api",
    scopes_asked=("deploy:write",),
    lifetime_asked_seconds=600,
    resource="https://deploy.example.com",
    scopes_given=("deploy:write",),
    lifetime_given_seconds=600,
    delegated=False,
)
DENIED = dataclasses.replace(
    GRANTED,
    decision="denied",
    reason="no_matching_trust",
    stage="policy",
    client_id=None,
    rule=None,
    resource="deploy-api",
    scopes_given=None,
    lifetime_given_seconds=None,
)


def read(tmp_path, *lines, name="audit.jsonl"):
    """What is read of a file with these lines, and the reader."""
    file = tmp_path / name
    file.write_bytes(b"".join(lines))
    reader = read_records([file])
    return list(reader), reader


def line_of(record, **changes):
    return to_json_line(dataclasses.replace(record, **changes))


def changed(record, **members):
    """The line of a record with other members, as somebody else would write it."""
    return json.dumps(json.loads(to_json_line(record)) | members).encode() + b"\n"


def test_a_decision_comes_back_as_it_was_made(tmp_path):
    assert read(tmp_path, line_of(GRANTED))[0] == [DECISION]


def test_a_denial_comes_back_with_what_was_asked_and_nothing_given(tmp_path):
    ((denied,), _) = read(tmp_path, line_of(DENIED, client_id_asked="web", client_id="web"))
    assert denied == dataclasses.replace(
        DECISION,
        reason="no_matching_trust",
        stage="policy",
        service_account="web",
        client_id_asked="web",
        rule=None,
        resource=None,
        scopes_given=None,
        lifetime_given_seconds=None,
    )


def test_names_with_slashes_and_tildes_come_back(tmp_path):
    claims = {"https://sts.amazonaws.com/": {"a/b": 1}, "a~b": 2, "~1": 3, "": 4, "sub": "s"}
    ((record,), _) = read(tmp_path, line_of(GRANTED, claims=claims))
    assert record.claims == claims


def test_of_a_record_that_holds_only_what_was_looked_at_the_known_claims_are_told(tmp_path):
    looked_at = (
        (("kubernetes.io", "pod", "name"), "web-0"),
        (("kubernetes.io", "pod", "uid"), None),
        (("sub",), "s"),
        (("environment",), None),
    )
    ((record,), _) = read(tmp_path, line_of(GRANTED, claims=looked_at, claims_complete=False))
    assert not record.claims_are_complete
    assert record.known_claims == {path for path, _ in looked_at}
    assert record.claims == {
        "kubernetes.io": {"pod": {"name": "web-0", "uid": None}},
        "sub": "s",
        "environment": None,
    }


def test_an_object_that_was_looked_at_whole_and_in_part_is_kept_whole(tmp_path):
    looked_at = ((("a", "b"), 1), (("a",), {"b": 1, "c": 2}), (("t", "u"), None), (("t",), "text"))
    ((record,), _) = read(tmp_path, line_of(GRANTED, claims=looked_at, claims_complete=False))
    assert record.claims == {"a": {"b": 1, "c": 2}, "t": "text"}


def test_claims_that_were_cut_are_not_known(tmp_path):
    claims = {**GITHUB, "note": "x" * 3000}
    ((record,), _) = read(tmp_path, line_of(GRANTED, claims=claims))
    assert not record.claims_are_complete
    assert ("note",) not in record.known_claims
    assert ("repository_id",) in record.known_claims
    assert "note" not in record.claims


def test_a_number_beyond_64_bits_is_not_known_rather_than_a_text_that_some_rule_may_want(tmp_path):
    claims = {"sub": "x", "serial": 2**70, "ids": [2**70], "of": {"it": -(2**70)}}
    ((found,), _) = read(tmp_path, line_of(GRANTED, claims=claims))
    assert found.claims == {"sub": "x"}
    assert not found.claims_are_complete
    assert found.known_claims == {("sub",)}


def test_a_record_that_was_cut_hard_has_no_claims(tmp_path):
    claims = {f"claim-{number}": "x" * 900 for number in range(40)}
    ((record,), _) = read(tmp_path, line_of(GRANTED, claims=claims, scopes_asked=None, scopes_given=None))
    assert (record.claims, record.known_claims, record.claims_are_complete) == ({}, frozenset(), False)


def test_an_older_grant_asked_for_what_it_was_given(tmp_path):
    looked_at = ((("repository_id",), "300400"),)
    new_fields = ("resource_asked", "lifetime_asked_seconds", "lifetime_given_seconds")
    older = dataclasses.replace(GRANTED, claims=looked_at, claims_complete=False, **dict.fromkeys(new_fields))
    ((record,), _) = read(tmp_path, to_json_line(older))
    assert (record.client_id_asked, record.resource_asked) == ("web-deployer", "https://deploy.example.com")
    assert record.lifetime_given_seconds is None


def test_a_narrowed_and_a_passed_on_token_are_told_from_those_of_workloads(tmp_path):
    narrowed = line_of(GRANTED, issuer="self", rule="narrowed", claims=(), claims_complete=False)
    passed_on = line_of(GRANTED, actor_token_sha256="ab" * 32)
    issuer_called_self = line_of(GRANTED, issuer="self")
    records, _ = read(tmp_path, narrowed, passed_on, issuer_called_self)
    assert [(record.delegated, record.issuer) for record in records] == [
        (True, None),
        (True, "github"),
        (False, "self"),
    ]


def test_what_was_not_verified_is_not_told(tmp_path):
    records, reader = read(
        tmp_path,
        line_of(DENIED, verified=False, claims=(), claims_complete=False, reason="unknown_issuer", stage="issuer"),
        changed(DENIED, verified=False),
    )
    assert [(record.issuer, record.subject) for record in records] == [(None, None)]
    assert reader.skipped == {"not_a_record": 1}


def test_introspection_and_revocation_are_counted_apart(tmp_path):
    records, reader = read(tmp_path, line_of(GRANTED, endpoint="revocation"), line_of(GRANTED))
    assert len(records) == reader.read == reader.others == 1
    assert not reader.skipped


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"\x00\x01\x02\n", "not_json"),
        (b"\xff\xfe{}\n", "not_json"),
        (b"[" * 20000 + b"\n", "not_json"),
        (b'{"a":' * 1500 + b"1" + b"}" * 1500 + b"\n", "not_json"),
        (b"[1, 2]\n", "not_a_record"),
        (b'"text"\n', "not_a_record"),
        (b"{}\n", "not_a_record"),
        (b"{" + b" " * MAX_READ_LINE_BYTES + b"}\n", "too_long"),
        (changed(GRANTED, time="yesterday"), "not_a_record"),
        (changed(GRANTED, time="2026-11-25T13:27:54"), "not_a_record"),
        (changed(GRANTED, time=NOW), "not_a_record"),
        (changed(GRANTED, time="0001-01-01T00:00:00+23:59"), "not_a_record"),
        (changed(GRANTED, reason="no_matching_trust"), "not_a_record"),
        (changed(GRANTED, decision="perhaps"), "not_a_record"),
        (changed(GRANTED, decision=["granted"]), "not_a_record"),
        (changed(GRANTED, client_id=7), "not_a_record"),
        (changed(GRANTED, client_id=""), "not_a_record"),
        (changed(GRANTED, subject="x" * 2000), "not_a_record"),
        (changed(GRANTED, scopes_given="deploy:write"), "not_a_record"),
        (changed(GRANTED, scopes_given=[7]), "not_a_record"),
        (changed(GRANTED, lifetime_given_seconds=True), "not_a_record"),
        (changed(GRANTED, lifetime_given_seconds=-1), "not_a_record"),
        (changed(GRANTED, lifetime_given_seconds=10**15), "not_a_record"),
        (changed(GRANTED, claims=["sub"]), "not_a_record"),
        (changed(GRANTED, claims={"sub": "s"}), "not_a_record"),
        (changed(GRANTED, claims={"/a/b": "s"}), "not_a_record"),
        (changed(GRANTED, claims={"/~": 1, "/~0": 2}), "not_a_record"),
        (changed(GRANTED, claims={"/a": 1.5}), "not_a_record"),
        (changed(GRANTED, claims={"/a": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}), "not_a_record"),
        (changed(GRANTED, issuer=None), "not_a_record"),
        (line_of(GRANTED)[:-2] + b',"rule":"other"}\n', "repeated_name"),
        (line_of(GRANTED).replace(b'"/ref":', b'"/sha":"","/ref":'), "repeated_name"),
        (line_of(GRANTED)[:-20], "torn"),
        (line_of(GRANTED)[:-20] + b"\n", "not_json"),
    ],
)
def test_a_line_that_is_no_record_is_counted_and_the_next_one_read(tmp_path, line, why):
    first, reader = read(tmp_path, line_of(GRANTED), line)
    assert (first, reader.skipped) == ([DECISION], {why: 1})
    if line.endswith(b"\n"):
        assert read(tmp_path, line, b"\n", b" \r\n", line_of(GRANTED))[0] == [DECISION]


def test_a_last_line_without_its_line_feed_is_read(tmp_path):
    records, reader = read(tmp_path, line_of(GRANTED).rstrip(b"\n"))
    assert (records, reader.skipped) == ([DECISION], {})


def test_records_that_another_tool_wrote_anew_are_read(tmp_path):
    pretty = json.dumps(json.loads(line_of(GRANTED)) | {"host": "node-1", "weight": 0.5}, ensure_ascii=True).encode()
    assert read(tmp_path, pretty + b"\r\n")[0] == [DECISION]


def test_rotated_and_compressed_files_are_read_in_the_order_given(tmp_path):
    names = ("audit.jsonl.2.gz", "audit.jsonl.1", "audit.jsonl")
    for number, name in enumerate(names):
        line = line_of(GRANTED, request_id=f"req-{number}")
        (tmp_path / name).write_bytes(gzip.compress(line) if name.endswith(".gz") else line)
    assert [record.request_id for record in read_records([tmp_path / name for name in names])] == [
        "req-0",
        "req-1",
        "req-2",
    ]


@pytest.mark.parametrize("damage", ["cut", "garbage behind", "bit"])
def test_a_damaged_archive_gives_what_comes_before_the_damage(tmp_path, damage):
    lines = b"".join(line_of(GRANTED, request_id=f"req-{number}") for number in range(5000))
    packed = gzip.compress(lines)
    packed = {
        "cut": packed[:-2000],
        "garbage behind": packed + b"\x01garbage",
        "bit": packed[: len(packed) // 2] + b"\xff\xff\xff\xff" + packed[len(packed) // 2 + 4 :],
    }[damage]
    (tmp_path / "next.jsonl").write_bytes(line_of(GRANTED, request_id="next"))
    (tmp_path / "audit.jsonl.gz").write_bytes(packed)
    reader = read_records([tmp_path / "audit.jsonl.gz", tmp_path / "next.jsonl"])
    found = [record.request_id for record in reader]
    assert found[-1] == "next"
    assert found[0] == "req-0"
    assert reader.skipped["damaged_archive"] == 1


def test_a_line_that_never_ends_takes_no_memory(tmp_path):
    packed = gzip.compress(b"{" + b" " * (64 << 20) + b"}\n" + line_of(GRANTED))
    (tmp_path / "bomb.gz").write_bytes(packed)
    tracemalloc.start()
    try:
        reader = read_records([tmp_path / "bomb.gz"])
        assert list(reader) == [DECISION]
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert reader.skipped == {"too_long": 1}


def test_standard_input_is_a_dash(monkeypatch):
    stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(line_of(GRANTED))))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert list(read_records(["-"])) == [DECISION]
    assert bytes_of(["-"]) is None


def test_progress_is_told_in_bytes_of_the_files(tmp_path):
    files = [tmp_path / "plain.jsonl", tmp_path / "packed.jsonl.gz"]
    lines = line_of(GRANTED) * 3000
    files[0].write_bytes(lines)
    files[1].write_bytes(gzip.compress(lines))
    told = []
    assert len(list(read_records(files, told.append))) == 6000
    assert sum(told) == bytes_of(files) == sum(file.stat().st_size for file in files)
    assert len(told) > 4


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(OSError):
        list(read_records([tmp_path / "missing.jsonl"]))
    with pytest.raises(OSError):
        bytes_of([tmp_path / "missing.jsonl", "-"])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
records = st.builds(
    dataclasses.replace,
    st.sampled_from([GRANTED, DENIED]),
    claims=st.dictionaries(st.text(max_size=20), json_values, min_size=1, max_size=12),
    subject=st.none() | st.text(min_size=1, max_size=80),
    scopes_asked=st.none() | st.lists(st.text(min_size=1, max_size=20), max_size=4).map(tuple),
)


@settings(max_examples=200, deadline=None)
@given(records)
def test_whatever_claims_were_recorded_whole_come_back_with_their_types(tmp_path_factory, record):
    ((found,), _) = read(tmp_path_factory.mktemp("audit"), to_json_line(record))
    assert found.claims_are_complete
    assert json.dumps(found.claims) == json.dumps(record.claims)
    assert (found.subject, found.scopes_asked) == (record.subject, record.scopes_asked)


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=300)
    | st.builds(
        lambda line, at, put: line[:at] + put + line[at + len(put) :],
        st.sampled_from([line_of(GRANTED), line_of(DENIED), line_of(GRANTED, claims=kubernetes_claims(NOW))]),
        st.integers(0, 2500),
        st.binary(min_size=1, max_size=8),
    )
    | st.dictionaries(
        st.sampled_from([field.name for field in dataclasses.fields(AuditRecord)]), json_values, max_size=30
    ).map(lambda members: changed(GRANTED, **members))
)
def test_no_file_stops_the_reading(tmp_path_factory, content):
    assume(not content.startswith(b"\x1f\x8b"))  # that is an archive, and what follows is in it
    found, reader = read(tmp_path_factory.mktemp("audit"), content, b"\n", line_of(GRANTED))
    assert found[-1] == DECISION
    assert len(found) == reader.read
