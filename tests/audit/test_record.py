"""The line that a record becomes."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.audit.record import MAX_LINE_BYTES, MAX_TEXT_BYTES, to_json_line
from gateway.model import AuditRecord

GRANTED = AuditRecord(
    time=1_800_000_000.000125,
    request_id="req-1",
    grant="token-exchange",
    decision="granted",
    reason="granted",
    stage="granted",
    source="192.0.2.7",
    policy_generation=3,
    client_id="nightly-backup",
    issuer="prod-cluster",
    iss="https://kubernetes.default.svc",
    subject="system:serviceaccount:storage:nightly-backup",
    verified=True,
    rule="nightly-backup/pod",
    claims=((("kubernetes.io", "pod", "name"), "backup-0"), (("sub",), "s"), (("a/b~c",), None), (("run",), 7)),
    resource="https://backup.example.com",
    scopes_asked=("backup:read",),
    scopes_given=("backup:read",),
    subject_token_sha256="ab" * 32,
    subject_token_id="jti-in",
    key_id="kid-in",
    access_token_id="jti-out",
    access_token_expires_at=1_800_000_900,
    access_token_key_id="kid-out",
)
DENIED = AuditRecord(
    time=1_800_000_000.0,
    request_id="req-2",
    grant="none",
    decision="denied",
    reason="malformed_request",
    stage="request",
    source="192.0.2.7",
    policy_generation=3,
)


def line_of(record, **changes):
    return to_json_line(dataclasses.replace(record, **changes))


def test_a_granted_record_says_everything():
    assert json.loads(to_json_line(GRANTED)) == {
        "time": "2027-01-15T08:00:00.000125Z",
        "request_id": "req-1",
        "grant": "token-exchange",
        "decision": "granted",
        "reason": "granted",
        "stage": "granted",
        "source": "192.0.2.7",
        "policy_generation": 3,
        "endpoint": "token",
        "client_id": "nightly-backup",
        "issuer": "prod-cluster",
        "iss": "https://kubernetes.default.svc",
        "subject": "system:serviceaccount:storage:nightly-backup",
        "verified": True,
        "rule": "nightly-backup/pod",
        "resource": "https://backup.example.com",
        "scopes_asked": ["backup:read"],
        "scopes_given": ["backup:read"],
        "subject_token_sha256": "ab" * 32,
        "subject_token_id": "jti-in",
        "key_id": "kid-in",
        "access_token_id": "jti-out",
        "access_token_expires_at": 1_800_000_900,
        "access_token_key_id": "kid-out",
        "claims": {"/kubernetes.io/pod/name": "backup-0", "/sub": "s", "/a~1b~0c": None, "/run": 7},
    }


def test_what_is_not_known_is_left_out():
    assert json.loads(to_json_line(DENIED)).keys() == {
        *(
            "time",
            "request_id",
            "grant",
            "decision",
            "reason",
            "stage",
            "source",
            "policy_generation",
            "endpoint",
            "verified",
        ),
    }


def test_every_field_of_the_model_has_its_place():
    full = dataclasses.replace(
        GRANTED,
        detail="why",
        actor_token_sha256="cd" * 32,
        actor_token_id="actor-1",
        authentication="private_key_jwt/key:k1",
        client_assertion_id="assertion-1",
        claims_complete=True,
        client_id_asked="nightly-backup",
        resource_asked="backup-api",
        lifetime_asked_seconds=600,
        lifetime_given_seconds=600,
    )
    assert json.loads(to_json_line(full)).keys() == {field.name for field in dataclasses.fields(AuditRecord)}


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000000Z"),
        (1_800_000_000.999999, "2027-01-15T08:00:00.999999Z"),
        (1_800_000_000.9999999, "2027-01-15T08:00:01.000000Z"),
        (1_830_297_599.5, "2027-12-31T23:59:59.500000Z"),
    ],
)
def test_rfc_3339_the_time_is_utc_with_microseconds(time, text):
    assert json.loads(line_of(GRANTED, time=time))["time"] == text


def test_a_claim_name_that_looks_like_a_path_is_not_taken_for_one():
    claims = ((("a", "b"), 1), (("a/b",), 2), (("a.b",), 3), (("",), 4), ((), 5))
    assert json.loads(line_of(GRANTED, claims=claims))["claims"] == {"/a/b": 1, "/a~1b": 2, "/a.b": 3, "/": 4, "": 5}


def test_all_claims_of_a_token_stand_in_its_record_by_their_names_and_say_so():
    claims = {"sub": "s", "kubernetes.io": {"pod": {"name": "web-0"}}, "a/b~c": None, "run": 7}
    record = json.loads(line_of(GRANTED, claims=claims, claims_complete=True))
    assert record["claims"] == {
        "/sub": "s",
        "/kubernetes.io": {"pod": {"name": "web-0"}},
        "/a~1b~0c": None,
        "/run": 7,
    }
    assert record["claims_complete"] is True


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "s", "note": "x" * 2000},
        {"sub": "s", "groups": [{"names": ["x" * 2000]}]},
        {"sub": "s", "x" * 2000: "note"},
        {"sub": "s", "run": 10**20},
        {"sub": "s", "odd": "\ud800"},
        {f"claim-{number}": "x" * 900 for number in range(40)},
    ],
    ids=["a text", "a text within", "a name", "a number", "a surrogate", "all together"],
)
def test_claims_of_which_anything_was_cut_do_not_pass_for_all(claims):
    assert "claims_complete" not in json.loads(line_of(GRANTED, claims=claims, claims_complete=True))


def test_claims_stay_complete_where_something_else_was_cut():
    claims = {"sub": "s", "groups": [{"a": [1, True, None]}]}
    record = json.loads(line_of(GRANTED, claims=claims, claims_complete=True, detail="x" * 5000))
    assert record["claims_complete"] is True
    assert record["claims"] == {"/sub": "s", "/groups": [{"a": [1, True, None]}]}
    assert record["detail"].endswith("[cut: 5000 characters]")


def test_a_record_is_one_line_whatever_is_in_it():
    line = line_of(GRANTED, subject='a\nb\r\x00\x1b[31m"\u2028', detail="x\ny")
    assert line.count(b"\n") == 1
    assert line.endswith(b"}\n")
    assert not any(byte < 0x20 for byte in line[:-1])
    assert json.loads(line)["subject"] == 'a\nb\r\x00\x1b[31m"\u2028'


@pytest.mark.parametrize("letter", ["a", "\x00", '"', "é", "€", "😀"])
def test_a_long_text_is_cut_and_says_so(letter):
    written = line_of(GRANTED, detail=letter * 5000, claims=((("sub",), letter * 6000),))
    record = json.loads(written)
    for text, length in ((record["detail"], 5000), (record["claims"]["/sub"], 6000)):
        assert text.startswith(letter * 50)
        assert text.endswith(f" [cut: {length} characters]")
        assert len(json.dumps(text, ensure_ascii=False).encode()) - 2 <= MAX_TEXT_BYTES
    assert record["subject"] == GRANTED.subject


def test_a_text_of_exactly_the_limit_is_whole():
    assert json.loads(line_of(GRANTED, detail="a" * MAX_TEXT_BYTES))["detail"] == "a" * MAX_TEXT_BYTES
    assert json.loads(line_of(GRANTED, detail="a" * (MAX_TEXT_BYTES + 1)))["detail"] != "a" * (MAX_TEXT_BYTES + 1)


def test_texts_inside_a_claim_are_cut_too():
    claims = ((("groups",), ["a" * 3000, {"b" * 3000: "c" * 3000}]),)
    first, second = json.loads(line_of(GRANTED, claims=claims))["claims"]["/groups"]
    ((name, value),) = second.items()
    assert [len(text) for text in (first, name, value)] == [MAX_TEXT_BYTES] * 3


def test_a_record_too_large_keeps_what_finds_it_again():
    claims = tuple(((f"claim-{n}",), "x" * 900) for n in range(100))
    line = line_of(GRANTED, claims=claims, scopes_given=tuple(f"scope:{n}" for n in range(5000)))
    record = json.loads(line)
    assert len(line) <= MAX_LINE_BYTES
    for name in ("time", "request_id", "decision", "reason", "client_id", "subject", "rule", "subject_token_sha256"):
        assert record[name] == json.loads(to_json_line(GRANTED))[name]
    assert record["access_token_id"] == "jti-out"
    assert len(record["claims"]) == 16
    assert record["claims_left_out"] == 84


@pytest.mark.parametrize(
    "value",
    ["\ud800", ["\udfff"], {"\ud800": 1}, 2**64, -(2**70), 10**5000, 1.5, b"x", object()],
    ids=["high surrogate", "low surrogate", "in a name", "2**64", "-2**70", "10**5000", "float", "bytes", "object"],
)
def test_what_json_cannot_carry_still_leaves_a_record(value):
    record = json.loads(line_of(GRANTED, claims=((("odd",), value), (("sub",), "s")), detail="\udc80"))
    assert record["claims"].keys() == {"/odd", "/sub"}
    assert record["request_id"] == "req-1"


def test_the_deepest_claim_still_leaves_a_record():
    value = []
    for _ in range(5000):
        value = [value]
    assert "[cut: nested deeper]" in line_of(GRANTED, claims=((("deep",), value),)).decode()


texts = st.text(st.characters(codec=None), max_size=3000) | st.builds(
    lambda letter, length: letter * length, st.characters(codec=None), st.integers(0, 40_000)
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(texts, inner, max_size=6),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.lists(texts, max_size=4).map(tuple), values), max_size=40), texts, texts, texts)
def test_no_record_is_longer_than_its_limit_or_more_than_a_line(claims, subject, client_id, detail):
    line = line_of(
        GRANTED, claims=tuple(claims), subject=subject, client_id=client_id, detail=detail, scopes_asked=(detail,)
    )
    assert len(line) <= MAX_LINE_BYTES
    assert line.count(b"\n") == 1
    assert json.loads(line)["request_id"] == "req-1"


def test_even_the_most_hostile_text_in_every_field_fits():
    texts = {
        field.name: "\x00" * 9000
        for field in dataclasses.fields(AuditRecord)
        if field.type in {"str", "str | None", str, str | None}
    }
    claims = tuple((("\x01" * 2000 + str(n),), ["\x02" * 2000] * 5) for n in range(50))
    line = line_of(
        GRANTED, **texts, claims=claims, scopes_asked=("\x03" * 5000,) * 9, scopes_given=("\x03" * 5000,) * 9
    )
    assert len(line) <= MAX_LINE_BYTES
    json.loads(line)
