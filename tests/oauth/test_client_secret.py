"""The form of client secrets: what scanners find, and what is kept in their place."""

import hashlib
import re
import secrets

from hypothesis import given
from hypothesis import strategies as st

from gateway.oauth.client_secret import PATTERN, is_client_secret, new_client_secret, secret_digest


def test_a_secret_has_the_characters_that_every_client_encodes_alike():
    secret = new_client_secret(secrets.token_bytes)
    assert re.fullmatch(PATTERN, secret)
    assert re.fullmatch(r"[A-Za-z0-9\-._~]+", secret)
    assert is_client_secret(secret)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_256_bits_go_in_and_none_is_lost(one: bytes, other: bytes):
    assert (new_client_secret(lambda _: one) == new_client_secret(lambda _: other)) == (one == other)


@given(st.binary(min_size=32, max_size=32), st.data())
def test_one_wrong_character_is_no_secret(drawn: bytes, data: st.DataObject):
    secret = new_client_secret(lambda _: drawn)
    position = data.draw(st.integers(0, len(secret) - 1))
    letter = data.draw(st.sampled_from("abcXYZ019_-").filter(lambda other: other != secret[position]))
    assert not is_client_secret(secret[:position] + letter + secret[position + 1 :])


@given(st.text(max_size=80))
def test_no_text_breaks_the_scanner(text: str):
    assert is_client_secret(text) in {True, False}


def test_256_random_bits_are_asked_for():
    asked: list[int] = []

    def draw(count: int) -> bytes:
        asked.append(count)
        return bytes(count)

    new_client_secret(draw)
    assert asked == [32]


@given(st.text(max_size=80))
def test_the_digest_is_sha_256_of_its_utf_8(text: str):
    expected = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    assert secret_digest(text) == f"sha256:{expected}"
