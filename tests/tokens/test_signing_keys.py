"""Which key signs, which ones are published, and the document that they are published in."""

import hashlib
import json
import logging
from dataclasses import replace

import jwt
import pytest

from gateway.oauth.errors import Refusal
from gateway.tokens.key_set_document import KeySetDocument
from gateway.tokens.signing_key import SigningKey
from gateway.tokens.signing_keys import SigningKeys
from gateway.tokens.stores.base import StoredKey
from tests.support.signing import DAY, HOUR, TIMINGS, row_of, signing_keys, stored
from tests.support.time import HandClock

NOW = 1_800_000_000.0
OLD, NEW = SigningKey.generate("ES256", NOW - 100), SigningKey.generate("ES256", NOW)


def upcoming(key: SigningKey, signs_in: int = DAY) -> StoredKey:
    return StoredKey(row_of(key, sign_from=key.created_at + signs_in), key)


def revoked(key: SigningKey) -> StoredKey:
    return StoredKey(row_of(key, revoked_at=int(NOW)), None)


@pytest.fixture
def clock():
    return HandClock(NOW)


def test_the_newest_key_signs_and_every_key_is_published():
    for keys in ([OLD, NEW], [NEW, OLD]):
        found = signing_keys(keys)
        assert found.current() is NEW
        assert found.published() == (NEW, OLD)


def test_a_key_takes_over_and_goes_by_time_alone(clock):
    keys = SigningKeys(clock, TIMINGS, "ES256")
    keys.take([*stored(OLD), upcoming(NEW)])
    assert (keys.current(), keys.published()) == (OLD, (NEW, OLD))
    published = keys.published()
    clock.now += DAY
    assert keys.current() is NEW
    assert keys.published() is published, "nobody has to verify or fetch anything anew"
    assert keys.signer_of(OLD.header_segment) is OLD
    clock.now += 25 * HOUR
    assert keys.published() == (NEW,)
    assert keys.signer_of(OLD.header_segment) is None


def test_a_revoked_key_is_out_at_once_and_the_other_signs(clock):
    keys = signing_keys([OLD, NEW], clock=clock)
    keys.take([*stored(OLD), revoked(NEW)])
    assert (keys.current(), keys.published()) == (OLD, (OLD,))
    assert keys.signer_of(NEW.header_segment) is None


def test_whoever_puts_an_older_state_of_the_store_back_brings_no_revoked_key_back(clock):
    keys = signing_keys([OLD, NEW], clock=clock)
    keys.take([*stored(OLD), revoked(NEW)])
    keys.take(stored(OLD, NEW))
    assert keys.published() == (OLD,)


def test_a_planned_key_that_was_seen_late_signs_late(clock):
    """It claims to have been there for two days, but a look ten seconds ago did not find it."""
    first = SigningKey.generate("ES256", NOW - DAY)
    keys = signing_keys([first], clock=clock)
    clock.now += 10
    late = SigningKey.generate("ES256", NOW - 2 * DAY)
    keys.take([*stored(first), upcoming(late, 2 * DAY - 400)])
    clock.now += 389
    assert keys.current() is first
    clock.now += 1
    assert keys.current() is late


def test_another_algorithm_has_a_key_of_its_own():
    other = SigningKey.generate("EdDSA", NOW)
    keys = signing_keys([OLD, other], "EdDSA")
    assert keys.current() is other
    assert keys.current("ES256") is OLD
    assert keys.published() == (other, OLD)


def test_without_a_key_of_the_algorithm_nothing_is_signed():
    with pytest.raises(Refusal) as caught:
        signing_keys([NEW]).current("RS256")
    assert caught.value.reason.code == "signing_unavailable"


def test_what_was_read_can_be_put_back(clock):
    keys = SigningKeys(clock, TIMINGS, "ES256")
    held = [*stored(OLD), revoked(NEW)]
    keys.take(held)
    assert sorted(keys.held(), key=lambda one: one.row.kid) == sorted(held, key=lambda one: one.row.kid)


def test_every_change_is_logged_with_who_and_why_and_harmlessly(clock, caplog):
    caplog.set_level(logging.INFO, "gateway.keys")
    keys = SigningKeys(clock, TIMINGS, "ES256")
    keys.take(stored(OLD))
    keys.take([*stored(OLD), upcoming(NEW)])
    gone = replace(row_of(OLD), revoked_at=int(NOW), note="mira@ops: laptop\n\x1b[31m lost")
    keys.take([StoredKey(gone, None), *stored(NEW)])
    text = caplog.text
    assert f"{OLD.kid} (ES256) is revoked: 'mira@ops: laptop\\n\\x1b[31m lost'" in text
    assert f"{NEW.kid} (ES256) is there, sign_from={int(NOW) + DAY}" in text
    assert f"{NEW.kid} (ES256) signs from now on" in text


def test_a_key_that_disappears_before_its_time_is_told(clock, caplog):
    keys = signing_keys([OLD, NEW], clock=clock)
    keys.take(stored(NEW))
    assert f"{OLD.kid} was taken out of the store before its time" in caplog.text


class TestKeySetDocument:
    @pytest.fixture
    def keys(self):
        return [
            SigningKey.generate(algorithm, NOW - age)
            for age, algorithm in enumerate(("ES256", "EdDSA", "RS256", "ES256"))
        ]

    @pytest.fixture
    def document(self, keys):
        return KeySetDocument(signing_keys(keys), 300)

    def test_rfc_7517_section_5_a_library_reads_it_and_verifies_every_keys_token(self, document, keys):
        key_set = jwt.PyJWKSet.from_json(document.body.decode())
        for key in keys:
            claims = jwt.decode(key.sign(b'{"sub":"a"}'), key_set[key.kid], algorithms=[key.algorithm])
            assert claims == {"sub": "a"}

    def test_no_private_member_is_published(self, document, keys):
        published = json.loads(document.body)
        assert published.keys() == {"keys"}
        assert {member for key in published["keys"] for member in key} == {
            *("kty", "kid", "use", "alg", "crv", "x", "y", "n", "e"),
        }
        assert [key["kid"] for key in published["keys"]] == [key.kid for key in keys]

    def test_the_same_keys_give_the_same_bytes_in_whatever_order_the_store_has_them(self, document, keys):
        other = KeySetDocument(signing_keys(reversed(keys)), 300)
        assert (other.body, other.etag) == (document.body, document.etag)

    def test_the_entity_tag_is_strong_and_follows_the_content(self, document, keys):
        assert document.etag == f'"{hashlib.sha256(document.body).hexdigest()[:32]}"'
        assert KeySetDocument(signing_keys(keys[1:]), 300).etag != document.etag

    def test_it_is_built_once(self, document):
        assert document.body is document.body
        assert document.etag is document.etag

    def test_caches_keep_it_as_long_as_the_settings_say(self, document, keys):
        assert document.cache_control == "public, max-age=300, must-revalidate"
        assert "max-age=60," in KeySetDocument(signing_keys(keys), 60).cache_control
