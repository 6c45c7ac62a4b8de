import base64
from time import perf_counter
from typing import Any

import pytest

from gateway.jose.compact import MAX_TOKEN_LENGTH, parse_token, parse_unverified_claims, token_sha256
from gateway.oauth.errors import Refusal
from tests.support.tokens import SigningIssuer, base64url

SIGNER = SigningIssuer("ES256")
GOOD = SIGNER.token()


def refusal_of(text: str) -> str:
    with pytest.raises(Refusal) as refused:
        parse_token(text)
    return refused.value.reason.code


def with_header(header: Any) -> str:
    return SIGNER.token(header=header)


def test_a_compact_jws_is_taken_apart() -> None:
    token = parse_token(GOOD)
    assert token.unverified_header == {"alg": "ES256", "kid": "ES256-0", "typ": "JWT"}
    assert token.signing_input.decode() == GOOD.rpartition(".")[0]
    assert len(token.signature) == 64
    assert token.sha256 == token_sha256(GOOD)
    assert parse_unverified_claims(token)["sub"] == "workload"


@pytest.mark.parametrize("text", ["", "a", "a.b", "a.b.c.d", "a.b.c.d.e", "..", "a..c", "a.b.", ".b.c", "a.b.c."])
def test_anything_but_three_segments_is_refused(text: str) -> None:
    """RFC 7515 §7.1; five segments are a JWE, which is never decrypted."""
    assert refusal_of(text) == "malformed_token"


@pytest.mark.parametrize("text", ['{"payload":"e30","signatures":[]}', '{"payload":"e30","protected":"e30"}', "{}"])
def test_the_json_serialisations_are_refused(text: str) -> None:
    """RFC 7515 §7.2, RFC 8725 bis §3.14."""
    assert refusal_of(text) == "malformed_token"


@pytest.mark.parametrize("extra", [" ", "\n", "\r\n", "\t", "\ufeff", "\x00", '"', "'"])
def test_nothing_around_the_token_is_stripped(extra: str) -> None:
    assert refusal_of(GOOD + extra) == "malformed_token"
    assert refusal_of(extra + GOOD) == "malformed_token"


@pytest.mark.parametrize("letter", ["\uff21", "\u0410", "\u0661", "\u212a", "\udc80", "\u00e9"])
def test_letters_that_only_look_like_base64url_are_refused(letter: str) -> None:
    assert refusal_of(letter + GOOD[1:]) == "malformed_token"


@pytest.mark.parametrize("padding", ["=", "==", "==="])
def test_padding_is_refused_on_every_segment(padding: str) -> None:
    """RFC 7515 §2."""
    for position in range(3):
        segments = GOOD.split(".")
        segments[position] += padding
        assert refusal_of(".".join(segments)) == "malformed_token"


def test_the_other_base64_alphabet_is_refused() -> None:
    header, payload, _ = GOOD.split(".")
    assert refusal_of(f"{header}.{payload}.{'+/' * 43}") == "malformed_token"


def test_stray_bits_at_the_end_of_a_segment_are_refused() -> None:
    """Two spellings of one token would be two names for it."""
    header, payload, signature = GOOD.split(".")
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twin = signature[:-1] + last[last.index(signature[-1]) + 1]
    assert base64.urlsafe_b64decode(twin + "==") == base64.urlsafe_b64decode(signature + "==")
    assert refusal_of(f"{header}.{payload}.{twin}") == "malformed_token"


def test_a_segment_of_an_impossible_length_is_refused() -> None:
    assert refusal_of(GOOD.rpartition(".")[0] + ".AAAAA") == "malformed_token"


@pytest.mark.parametrize("text", ["." * 1_000_000, "a" * 10_000_000, "a." * (MAX_TOKEN_LENGTH // 2) + "a"])
def test_a_huge_text_is_refused_by_its_length_alone(text: str) -> None:
    started = perf_counter()
    assert refusal_of(text) == "token_too_large"
    assert perf_counter() - started < 0.2


def test_a_huge_header_and_a_huge_payload_are_refused() -> None:
    assert refusal_of(with_header({"x": "y" * 2048})) == "token_too_large"
    assert refusal_of(SIGNER.token({"x": "y" * 12_288})) == "token_too_large"
    parse_token(SIGNER.token({"x": "y" * 11_000}))


@pytest.mark.parametrize("name", ["crit", "b64", "jku", "jwk", "x5u", "zip", "cty"])
@pytest.mark.parametrize("value", [None, False, True, "", [], ["exp"], {}, "false", "https://evil.example/jwks"])
def test_a_header_that_is_never_honoured_refuses_the_token(name: str, value: Any) -> None:
    """RFC 7515 §4.1.11, RFC 7797 §3, RFC 8725 §3.10."""
    assert refusal_of(with_header({name: value})) == "forbidden_header"


@pytest.mark.parametrize("name", ["x5c", "x5t", "x5t#S256", "epk", "nonce", "Alg", "anything"])
def test_other_headers_are_ignored(name: str) -> None:
    parse_token(with_header({name: ["anything"]}))


@pytest.mark.parametrize("alg", [None, 1, True, [], ["ES256"], {}, 256])
def test_an_alg_that_is_no_string_is_refused(alg: Any) -> None:
    assert refusal_of(with_header({"alg": alg})) == "malformed_header"


def test_a_header_without_alg_is_refused() -> None:
    assert refusal_of(with_header(b'{"kid":"ES256-0"}')) == "malformed_header"


@pytest.mark.parametrize("kid", ["", None, 1, [], {}, "x" * 257, "a\u0000b", "a\nb", "\u0085", True])
def test_a_kid_that_is_no_short_string_is_refused(kid: Any) -> None:
    assert refusal_of(with_header({"kid": kid})) == "malformed_header"


@pytest.mark.parametrize("kid", ["../../dev/null", "' OR 1=1 --", "https://evil.example", "x" * 256, "k\u00e9y"])
def test_a_strange_kid_is_but_a_name(kid: str) -> None:
    assert parse_token(with_header({"kid": kid})).unverified_header["kid"] == kid


@pytest.mark.parametrize("typ", [None, 1, [], {}, True])
def test_a_typ_that_is_no_string_is_refused(typ: Any) -> None:
    assert refusal_of(with_header({"typ": typ})) == "malformed_header"


@pytest.mark.parametrize(
    "header",
    [
        b"[]", b"null", b'"ES256"', b"{", b'{"alg":"ES256","alg":"none"}', b'\xef\xbb\xbf{"alg":"ES256"}',
        '{"alg":"ES256"}'.encode("utf-16"), b'{"alg":"ES256","x":1.5}', b'{"alg":"ES256"} x', b'{"alg":"\xff"}',
        b'{"alg":"ES256","x":"\\ud800"}', b'{"alg":"ES256","x":' + b"[" * 900 + b"]" * 900 + b"}",
    ],
)  # fmt: skip
def test_a_header_that_is_no_strict_json_object_is_refused(header: bytes) -> None:
    assert refusal_of(with_header(header)) == "malformed_header"


def test_a_refused_header_is_refused_again() -> None:
    for _ in range(2):
        assert refusal_of(with_header({"crit": ["exp"]})) == "forbidden_header"


def test_a_header_that_was_read_cannot_be_changed() -> None:
    header: Any = parse_token(GOOD).unverified_header
    with pytest.raises(TypeError):
        header["alg"] = "none"


@pytest.mark.parametrize("payload", [b"[1]", b'"x"', b"null", b"{} {}", b'{"sub":"a","sub":"b"}', b'{"exp":NaN}'])
def test_claims_that_are_no_strict_json_object_are_refused(payload: bytes) -> None:
    token = parse_token(SIGNER.token(payload))
    with pytest.raises(Refusal, match="malformed_claims"):
        parse_unverified_claims(token)


def test_a_refusal_before_the_signature_repeats_nothing_of_the_token() -> None:
    for text in (with_header({"alg": ["hunter2"]}), with_header({"crit": "hunter2"}), f"{base64url(b'{}')}.hunter2.x"):
        with pytest.raises(Refusal) as refused:
            parse_token(text)
        assert "hunter2" not in refused.value.public
