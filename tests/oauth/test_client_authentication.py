"""What a request authenticates with: read in every way that clients send it, and never believed. RFC 6749 §2.3."""

import base64
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import ClientCertificate, PresentedAssertion, PresentedSecret
from gateway.oauth.client_authentication import ASSERTION_TYPE_JWT_BEARER, parse_basic, parse_presented
from gateway.oauth.errors import Refusal

CERTIFICATE = ClientCertificate(b"der", chain_verified=True)
PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x2FF, exclude_characters="\x7f"), min_size=1)
CLIENT_IDS = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,30}[a-z0-9])?", fullmatch=True)


def header(joined: bytes) -> str:
    return f"Basic {base64.b64encode(joined).decode()}"


def reason_of(call, *arguments, **named) -> str:
    with pytest.raises(Refusal) as caught:
        call(*arguments, **named)
    return caught.value.reason.code


@given(CLIENT_IDS, PRINTABLE)
def test_rfc_6749_section_2_3_1_a_form_encoded_pair_is_among_the_spellings(client_id: str, secret: str):
    for encode in (quote_plus, lambda text: quote(text, safe="")):
        sent = parse_basic(header(f"{encode(client_id)}:{encode(secret)}".encode()))
        assert (client_id, secret) in sent.spellings


@given(CLIENT_IDS, PRINTABLE)
def test_a_raw_utf_8_pair_is_among_the_spellings(client_id: str, secret: str):
    assert (client_id, secret) in parse_basic(header(f"{client_id}:{secret}".encode())).spellings


@given(CLIENT_IDS, st.text(st.characters(min_codepoint=0xA0, max_codepoint=0xFF), min_size=1))
def test_a_raw_latin_1_pair_is_among_the_spellings(client_id: str, secret: str):
    assert (client_id, secret) in parse_basic(header(f"{client_id}:{secret}".encode("latin-1"))).spellings


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_whatever_stands_in_the_header_there_are_three_spellings_at_most(client_id: bytes, secret: bytes):
    sent = parse_basic(header(client_id + b":" + secret))
    assert len(sent.spellings) <= 3
    assert len(set(sent.spellings)) == len(sent.spellings)
    assert all(client_id and secret for client_id, secret in sent.spellings)


@given(st.text(max_size=300))
def test_any_other_header_is_refused_and_not_repeated(text: str):
    with pytest.raises(Refusal) as caught:
        parse_basic(f"{text} hunter2")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Basic", "client_authentication_failed"),
        ("Basic ", "client_authentication_failed"),
        ("Basic !!!!", "client_authentication_failed"),
        ("Basic YQ", "client_authentication_failed"),
        ("Basic YQ=", "client_authentication_failed"),
        ("Basic YWJj", "client_authentication_failed"),
        ("Basic " + "QUFB" * 2000, "client_authentication_failed"),
        ("Basic YTpi YTpi", "client_authentication_failed"),
        ("Bearer abc", "client_authentication_unsupported"),
        ("Negotiate abc", "client_authentication_unsupported"),
        ("BasicYTpi", "client_authentication_unsupported"),
        ("", "client_authentication_unsupported"),
    ],
)
def test_what_is_no_basic_header_is_refused(text: str, reason: str):
    assert reason_of(parse_basic, text) == reason


@pytest.mark.parametrize("pair", [b"a:", b":b", b"a:b\0c", b"a\nb:c", b"a:" + b"x" * 2000])
def test_an_empty_controlled_or_huge_pair_is_no_spelling(pair: bytes):
    assert parse_basic(header(pair)).spellings == ()


def test_the_first_colon_ends_the_client_id():
    assert ("a", "b:c") in parse_basic(header(b"a:b:c")).spellings


def test_a_secret_is_in_no_repr():
    sent = parse_basic(header(b"client:hunter2"))
    assert "hunter2" not in repr(sent)
    assert "hunter2" not in repr(PresentedAssertion(ASSERTION_TYPE_JWT_BEARER, "hunter2"))


POST = {"client_id": "a", "client_secret": "b"}
ASSERTION = {"client_assertion": "a.b.c", "client_assertion_type": ASSERTION_TYPE_JWT_BEARER}


@pytest.mark.parametrize(
    ("authorization", "form"),
    [
        (header(b"a:b"), POST),
        (header(b"a:b"), ASSERTION),
        (header(b"a:b"), {"client_assertion_type": ASSERTION_TYPE_JWT_BEARER}),
        (None, POST | ASSERTION),
        ("Bearer x", POST),
    ],
)
def test_oa_07_a_client_uses_one_method_in_a_request(authorization: str | None, form: dict[str, str]):
    assert reason_of(parse_presented, authorization, form, None) == "multiple_client_authentication"


def test_each_method_alone_is_read():
    assert parse_presented(None, {"client_id": "a"}, None) is None
    assert parse_presented(None, POST, None) == PresentedSecret("client_secret_post", (("a", "b"),))
    assert parse_presented(None, ASSERTION, None) == PresentedAssertion(ASSERTION_TYPE_JWT_BEARER, "a.b.c")


def test_a_certificate_counts_where_nothing_else_was_sent_and_client_id_says_whose_it_is():
    assert parse_presented(None, {"client_id": "a"}, CERTIFICATE) is CERTIFICATE
    assert parse_presented(None, {}, CERTIFICATE) is None
    assert parse_presented(None, POST, CERTIFICATE) == PresentedSecret("client_secret_post", (("a", "b"),))


def test_a_secret_in_the_body_needs_client_id():
    assert reason_of(parse_presented, None, {"client_secret": "b"}, None) == "missing_parameter"
