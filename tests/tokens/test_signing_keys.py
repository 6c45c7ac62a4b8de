"""Which key signs, which ones are published, and the document that they are published in."""

import hashlib
import json

import jwt
import pytest

from gateway.oauth.errors import Refusal
from gateway.tokens.key_set_document import KeySetDocument
from gateway.tokens.signing_key import SigningKey
from gateway.tokens.signing_keys import SigningKeys
from gateway.tokens.stores.base import KeyStoreError
from gateway.tokens.stores.memory import MemoryKeyStore

NOW = 1_800_000_000.0


def test_the_first_start_makes_a_key_and_the_next_one_keeps_it():
    store = MemoryKeyStore()
    first = SigningKeys.open(store, "ES256", NOW)
    second = SigningKeys.open(store, "ES256", NOW + 1000)
    assert first.current().kid == second.current().kid
    assert len(second.published()) == 1


def test_the_newest_key_signs_and_every_key_is_published():
    old, new = SigningKey.generate("ES256", NOW - 100), SigningKey.generate("ES256", NOW)
    for keys in ([old, new], [new, old]):
        signing_keys = SigningKeys(keys, "ES256")
        assert signing_keys.current() is new
        assert signing_keys.published() == (new, old)


def test_replicas_agree_on_the_key_that_signs_even_among_keys_of_one_second():
    keys = [SigningKey.generate("ES256", NOW) for _ in range(4)]
    assert SigningKeys(keys, "ES256").current() is SigningKeys(reversed(keys), "ES256").current()


def test_another_algorithm_gets_a_key_of_its_own_and_the_old_one_stays_published():
    store = MemoryKeyStore()
    before = SigningKeys.open(store, "ES256", NOW).current()
    after = SigningKeys.open(store, "EdDSA", NOW + 10)
    assert after.current().algorithm == "EdDSA"
    assert after.current("ES256").kid == before.kid
    assert {key.kid for key in after.published()} == {before.kid, after.current().kid}


def test_without_a_key_of_the_algorithm_nothing_is_signed():
    signing_keys = SigningKeys([SigningKey.generate("ES256", NOW)], "ES256")
    with pytest.raises(Refusal) as caught:
        signing_keys.current("RS256")
    assert caught.value.reason.code == "signing_unavailable"


def test_the_age_is_that_of_the_key_that_signs():
    keys = [SigningKey.generate("ES256", NOW - 5000), SigningKey.generate("ES256", NOW - 60)]
    assert SigningKeys(keys, "ES256").age_seconds(NOW) == 60
    assert SigningKeys(keys, "ES256").age_seconds(NOW - 4000) == 0


def test_a_store_that_forgets_what_it_is_given_stops_the_start():
    class Forgetful(MemoryKeyStore):
        def load(self):
            return []

    with pytest.raises(KeyStoreError, match="does not keep"):
        SigningKeys.open(Forgetful(), "ES256", NOW)


class TestKeySetDocument:
    @pytest.fixture
    def keys(self):
        return [
            SigningKey.generate(algorithm, NOW - age)
            for age, algorithm in enumerate(("ES256", "EdDSA", "RS256", "ES256"))
        ]

    @pytest.fixture
    def document(self, keys):
        return KeySetDocument(SigningKeys(keys, "ES256"))

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
        other = KeySetDocument(SigningKeys(reversed(keys), "ES256"))
        assert (other.body, other.etag) == (document.body, document.etag)

    def test_the_entity_tag_is_strong_and_follows_the_content(self, document, keys):
        assert document.etag == f'"{hashlib.sha256(document.body).hexdigest()[:32]}"'
        assert KeySetDocument(SigningKeys(keys[1:], "ES256")).etag != document.etag

    def test_it_is_built_once(self, document):
        assert document.body is document.body
        assert document.etag is document.etag

    def test_caches_keep_it_for_five_minutes(self, document):
        assert document.cache_control == "public, max-age=300, must-revalidate"
