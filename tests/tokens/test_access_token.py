"""What is minted, and what is accepted when it comes back."""

import dataclasses
import hashlib
import json
import types

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.jose import base64url
from gateway.model import Entitlement
from gateway.oauth.errors import Refusal
from gateway.tokens.access_token import OUR_CLAIMS, mint
from gateway.tokens.own_token import verify_own_token
from gateway.tokens.signing_key import SigningKey
from tests.support.signing import signing_keys

NOW = 1_800_000_000.25
ISSUER = "https://sts.example.com"
ENTITLEMENT = Entitlement(
    service_account="nightly-backup",
    rule="nightly-backup/pod",
    resource="backup-api",
    audience="https://backup.example.com",
    scopes=("backup:read", "backup:write"),
    lifetime_seconds=900,
    claims={},
)
ACT = {"iss": "https://kubernetes.default.svc", "sub": "system:serviceaccount:storage:nightly-backup"}
KEYS = {algorithm: SigningKey.generate(algorithm, NOW) for algorithm in ("ES256", "EdDSA", "RS256")}
SIGNING_KEYS = signing_keys(KEYS.values())


def minted(entitlement=ENTITLEMENT, act=ACT, algorithm="ES256", **changes):
    arguments = {"issuer": ISSUER, "now": NOW, "token_id": "jti-1", "entitled_by": "cluster/pod"} | changes
    return mint(entitlement, act, KEYS[algorithm], **arguments)


def claims_of(access_token):
    return json.loads(base64url.parse(access_token.token.split(".")[1]))


def entitled(**changes):
    return dataclasses.replace(ENTITLEMENT, **changes)


def reason_of(call, *arguments, **named):
    with pytest.raises(Refusal) as caught:
        call(*arguments, **named)
    return caught.value.reason.code


class TestMinting:
    def test_rfc_9068_section_2_2_every_required_claim_is_there(self):
        assert claims_of(minted()) == {
            "iss": ISSUER,
            "sub": "nightly-backup",
            "client_id": "nightly-backup",
            "aud": "https://backup.example.com",
            "iat": 1_800_000_000,
            "nbf": 1_799_999_995,
            "exp": 1_800_000_900,
            "jti": "jti-1",
            "scope": "backup:read backup:write",
            "act": ACT,
            "entitled_by": "cluster/pod",
        }

    def test_a_client_with_a_credential_of_its_own_has_no_actor(self):
        assert "act" not in claims_of(minted(act=None))

    def test_rfc_7800_section_3_a_bound_token_names_its_key(self):
        token = minted(confirmation={"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"})
        assert claims_of(token)["cnf"] == {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}

    @pytest.mark.parametrize("algorithm", KEYS)
    def test_rfc_9068_section_4_a_resource_server_accepts_it(self, algorithm):
        token = minted(algorithm=algorithm)
        published = jwt.PyJWK(KEYS[algorithm].public_jwk())
        decoded = jwt.decode(
            token.token,
            published,
            algorithms=[algorithm],
            audience="https://backup.example.com",
            issuer=ISSUER,
            options={"require": ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"], "verify_exp": False,
                     "verify_nbf": False, "verify_iat": False},
        )  # fmt: skip
        assert decoded["client_id"] == "nightly-backup"
        assert jwt.get_unverified_header(token.token)["typ"] == "at+jwt"

    def test_what_is_said_about_the_token_is_what_is_in_it(self):
        token = minted()
        claims = claims_of(token)
        assert (token.issued_at, token.expires_at, token.token_id) == (claims["iat"], claims["exp"], claims["jti"])
        assert token.key_id == KEYS["ES256"].kid
        assert token.entitlement is ENTITLEMENT

    def test_the_token_does_not_show_in_its_repr(self):
        assert minted().token not in repr(minted())

    def test_without_scopes_there_is_no_scope_claim(self):
        assert "scope" not in claims_of(minted(entitled(scopes=())))

    def test_rfc_8693_section_4_1_the_actor_before_is_nested(self):
        act = {**ACT, "act": {"iss": "https://gitlab.com", "sub": "a"}}
        assert claims_of(minted(act=act))["act"] == act

    def test_it_never_outlives_the_subject_token_that_it_is_bound_to(self):
        assert minted(not_after=1_800_000_060).expires_at == 1_800_000_060
        assert minted(not_after=1_800_009_999).expires_at == 1_800_000_900

    @pytest.mark.parametrize("not_after", [1_800_000_000, 1_799_999_000, 0, -5])
    def test_a_subject_token_that_has_less_than_a_second_left_mints_nothing(self, not_after):
        assert reason_of(minted, not_after=not_after) == "token_expired"

    @pytest.mark.parametrize("lifetime_seconds", [0, -1])
    def test_a_lifetime_under_a_second_mints_nothing(self, lifetime_seconds):
        assert reason_of(minted, entitled(lifetime_seconds=lifetime_seconds)) == "token_expired"

    def test_mapped_claims_are_in_the_token(self):
        claims = types.MappingProxyType({"team": "storage", "groups": ["a", "b"], "run": 7, "prod": True})
        assert claims_of(minted(entitled(claims=claims))) | claims == claims_of(minted(entitled(claims=claims)))

    @pytest.mark.parametrize("name", sorted(OUR_CLAIMS))
    @pytest.mark.parametrize("scopes", [(), ("backup:read",)], ids=["no scopes", "scopes"])
    def test_a_mapped_claim_can_never_pass_for_one_of_ours(self, name, scopes):
        entitlement = entitled(claims={name: "forged"}, scopes=scopes)
        assert reason_of(minted, entitlement) == "unmappable_claim"

    @pytest.mark.parametrize("value", ["\ud800", 2**70, {1: "a"}], ids=["lone surrogate", "71 bits", "number as name"])
    def test_a_claim_that_json_cannot_carry_mints_nothing(self, value):
        assert reason_of(minted, entitled(claims={"team": value})) == "unmappable_claim"


class TestComingBack:
    @pytest.mark.parametrize("algorithm", KEYS)
    def test_a_token_of_ours_says_what_was_minted(self, algorithm):
        token = minted(algorithm=algorithm)
        own = verify_own_token(token.token, SIGNING_KEYS, ISSUER, NOW)
        assert own.service_account == "nightly-backup"
        assert own.audience == "https://backup.example.com"
        assert own.scopes == ("backup:read", "backup:write")
        assert own.expires_at == token.expires_at
        assert own.token_id == "jti-1"
        assert own.act == ACT
        assert own.token_sha256 == hashlib.sha256(token.token.encode()).hexdigest()

    def test_a_token_without_scopes_has_none(self):
        assert verify_own_token(minted(entitled(scopes=())).token, SIGNING_KEYS, ISSUER, NOW).scopes == ()

    def test_it_is_valid_from_nbf_until_just_before_exp(self):
        token = minted().token
        assert verify_own_token(token, SIGNING_KEYS, ISSUER, 1_799_999_995)
        assert verify_own_token(token, SIGNING_KEYS, ISSUER, 1_800_000_899.999)
        assert reason_of(verify_own_token, token, SIGNING_KEYS, ISSUER, 1_800_000_900) == "token_expired"
        assert reason_of(verify_own_token, token, SIGNING_KEYS, ISSUER, 1_799_999_994.9) == "token_not_yet_valid"

    def test_a_token_under_another_issuer_url_is_refused(self):
        for issuer in ("https://sts.example.com/", "https://STS.example.com", "https://other.example.com"):
            assert (
                reason_of(verify_own_token, minted(issuer=issuer).token, SIGNING_KEYS, ISSUER, NOW) == "unknown_issuer"
            )

    def test_a_key_that_is_no_longer_published_no_longer_counts(self):
        others = signing_keys([KEYS["EdDSA"]], "EdDSA")
        assert reason_of(verify_own_token, minted().token, others, ISSUER, NOW) == "unknown_key"

    def test_a_key_of_the_same_name_does_not_make_a_token_ours(self):
        attacker = SigningKey.generate("ES256", NOW)
        payload, signature = attacker.sign(b'{"iss":"https://sts.example.com"}').split(".")[1:]
        forged = f"{KEYS['ES256'].header_segment}.{payload}.{signature}"
        assert reason_of(verify_own_token, forged, SIGNING_KEYS, ISSUER, NOW) == "bad_signature"

    @pytest.mark.parametrize(
        ("header", "reason"),
        [
            ({"alg": "none", "typ": "at+jwt"}, "unknown_key"),
            ({"alg": "HS256", "kid": KEYS["ES256"].kid, "typ": "at+jwt"}, "unknown_key"),
            ({"kid": KEYS["ES256"].kid, "alg": "ES256", "typ": "at+jwt"}, "unknown_key"),
            ({"alg": "ES256", "kid": KEYS["ES256"].kid, "typ": "JWT"}, "wrong_token_type"),
            ({"alg": "ES256", "kid": KEYS["ES256"].kid, "typ": "AT+JWT"}, "wrong_token_type"),
            ({"alg": "ES256", "kid": KEYS["ES256"].kid}, "wrong_token_type"),
            ({"alg": "RS256", "kid": "k1", "typ": "JWT"}, "wrong_token_type"),
            ([], "wrong_token_type"),
            ({"typ": ["at+jwt"]}, "wrong_token_type"),
        ],
    )
    def test_only_the_very_header_of_a_published_key_is_ours(self, header, reason):
        segment = base64url.encode(json.dumps(header, separators=(",", ":")).encode()).decode()
        _, payload, signature = minted().token.split(".")
        assert reason_of(verify_own_token, f"{segment}.{payload}.{signature}", SIGNING_KEYS, ISSUER, NOW) == reason

    def test_no_more_is_read_of_a_header_that_is_not_json(self):
        segment = base64url.encode(b"{" * 3000).decode()
        assert reason_of(verify_own_token, f"{segment}.e30.AAAA", SIGNING_KEYS, ISSUER, NOW) == "malformed_header"

    @pytest.mark.parametrize(
        "text", ["", ".", "..", "a.b", "a.b.c.d", "a.b.c.d.e", "{}", "a b.c.d", "ä.b.c", "a.b.c\n", "a.b.c="]
    )
    def test_what_is_not_a_compact_jws_is_refused(self, text):
        assert reason_of(verify_own_token, text, SIGNING_KEYS, ISSUER, NOW) == "malformed_token"

    def test_a_token_of_more_than_16_kib_is_refused_unread(self):
        assert reason_of(verify_own_token, "a" * 16_385, SIGNING_KEYS, ISSUER, NOW) == "token_too_large"

    def test_rfc_7515_section_2_a_signature_with_stray_bits_is_refused(self):
        token = minted().token
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        twins = [token[:-1] + letter for letter in alphabet if letter != token[-1]]
        same_bytes = [twin for twin in twins if alphabet.index(twin[-1]) >> 4 == alphabet.index(token[-1]) >> 4]
        assert len(same_bytes) == 15
        for twin in same_bytes:
            assert reason_of(verify_own_token, twin, SIGNING_KEYS, ISSUER, NOW) == "malformed_token"

    def test_a_signature_with_one_more_character_is_refused(self):
        # Two widespread Apache modules accept this one.
        assert reason_of(verify_own_token, minted().token + "A", SIGNING_KEYS, ISSUER, NOW) == "bad_signature"

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_no_change_of_one_character_goes_unnoticed(self, data):
        token = minted().token
        position = data.draw(st.integers(0, len(token) - 1))
        letter = data.draw(st.characters(max_codepoint=0x17F).filter(lambda other: other != token[position]))
        changed = token[:position] + letter + token[position + 1 :]
        with pytest.raises(Refusal):
            verify_own_token(changed, SIGNING_KEYS, ISSUER, NOW)

    def test_what_our_key_signed_but_mint_did_not_make_is_refused(self):
        good = claims_of(minted())
        for name in ("sub", "client_id", "aud", "iat", "exp", "nbf", "jti", "entitled_by"):
            for changed in ({k: v for k, v in good.items() if k != name}, {**good, name: [good[name]]}):
                token = KEYS["ES256"].sign(json.dumps(changed).encode())
                assert reason_of(verify_own_token, token, SIGNING_KEYS, ISSUER, NOW) == "missing_claim"
        for changed in ({**good, "act": [ACT]}, {**good, "cnf": "key"}):
            token = KEYS["ES256"].sign(json.dumps(changed).encode())
            assert reason_of(verify_own_token, token, SIGNING_KEYS, ISSUER, NOW) == "missing_claim"
        token = KEYS["ES256"].sign(json.dumps({**good, "client_id": "another"}).encode())
        assert reason_of(verify_own_token, token, SIGNING_KEYS, ISSUER, NOW) == "missing_claim"
