"""Project Wycheproof's JSON Web Signature, Key and Encryption cases against the pure verification."""

import json
from collections.abc import Iterator
from time import perf_counter
from typing import Any

import pytest

from gateway.identity.verification import verify_compact
from gateway.jose.jwks import ALGORITHMS, parse_key_set
from gateway.oauth.errors import Refusal
from tests.support.tokens import NOW, SigningIssuer
from tests.support.vectors import needs_vectors, wycheproof

pytestmark = needs_vectors

ISSUER = SigningIssuer("ES256").issuer(algorithms=ALGORITHMS, allow_missing_kid=True)
"""The most lenient issuer that can be configured."""

STAGES_BEFORE_CLAIMS = {"malformed", "algorithm", "key", "signature"}


def stage_of_refusal(token: str, jwks: Any) -> str:
    """How far the token comes; a key set without a usable key refuses it as the issuer's keys do."""
    try:
        keys = parse_key_set(jwks, algorithms=ALGORITHMS)
    except ValueError:
        return "key"
    with pytest.raises(Refusal) as refused:
        verify_compact(token, ISSUER, keys, NOW)
    return refused.value.reason.stage


def made_ready() -> list[Any]:
    cases = wycheproof("wycheproof_jws_expect")
    return cases if isinstance(cases, list) else []


@pytest.mark.parametrize("case", made_ready(), ids=lambda case: f"{case['tcId']}-{case['comment']}")
def test_a_signature_verifies_exactly_when_wycheproof_says_so(case: Any) -> None:
    # The payloads are no JSON objects: a good signature leads to their refusal, and a bad one ends before.
    stage = stage_of_refusal(case["token"], case["jwks"])
    if case["comment"] == "emptyPayload":
        assert stage == "malformed"  # a segment of nothing: a JWT always has claims (RFC 7519 §7.2)
    elif case["stage"] == "claims":
        assert stage == "claims"
    else:
        assert stage in STAGES_BEFORE_CLAIMS


UPSTREAM_DEFECTS = {367, 370, 372, 373}


def jws_cases() -> Iterator[Any]:
    for group in wycheproof("json_web_signature_test")["testGroups"]:
        for test in group["tests"]:
            yield pytest.param(group.get("public"), test, id=f"{test['tcId']}-{test['comment']}")


@pytest.mark.parametrize(("public", "test"), list(jws_cases()))
def test_no_signature_that_the_original_calls_invalid_verifies(public: Any, test: Any) -> None:
    stage = stage_of_refusal(test["jws"], as_key_set(public))
    if test["result"] == "invalid" and test["tcId"] not in UPSTREAM_DEFECTS:
        assert stage in STAGES_BEFORE_CLAIMS


def key_cases() -> Iterator[Any]:
    for group in wycheproof("json_web_key_test")["testGroups"]:
        for test in group["tests"]:
            keys = group.get("public") or group["private"]
            yield pytest.param(keys, test, id=f"{test['tcId']}-{test['comment']}")


@pytest.mark.parametrize(("keys", "test"), list(key_cases()))
def test_no_key_that_wycheproof_calls_invalid_verifies(keys: Any, test: Any) -> None:
    jws = test.get("jws")
    if jws is None:
        with pytest.raises(ValueError):
            parse_key_set(as_key_set(keys), algorithms=ALGORITHMS)
        return
    stage = stage_of_refusal(jws, as_key_set(keys))
    if test["result"] == "invalid":
        assert stage in STAGES_BEFORE_CLAIMS


@pytest.mark.parametrize(("keys", "test"), list(key_cases()))
def test_a_bad_key_does_not_take_the_others_down(keys: Any, test: Any) -> None:
    good = SigningIssuer("ES256", kid="the good one")
    document = {"keys": [*as_key_set(keys)["keys"], good.jwk()]}
    assert "the good one" in parse_key_set(document, algorithms=ALGORITHMS).by_key_id


def encrypted() -> Iterator[Any]:
    for name in ("json_web_encryption_test", "json_web_crypto_test"):
        for group in wycheproof(name)["testGroups"]:
            for test in group["tests"]:
                if "jwe" in test:
                    jwe = test["jwe"] if isinstance(test["jwe"], str) else json.dumps(test["jwe"])
                    yield pytest.param(jwe, id=f"{name}-{test['tcId']}-{test['comment']}")


@pytest.mark.parametrize("jwe", list(encrypted()))
def test_an_encrypted_token_is_refused_unread_and_at_once(jwe: str) -> None:
    started = perf_counter()
    with pytest.raises(Refusal) as refused:
        verify_compact(jwe, ISSUER, SigningIssuer("ES256").key_set, NOW)
    assert refused.value.reason.code in {"malformed_token", "token_too_large"}
    assert perf_counter() - started < 0.5


def crypto_cases() -> Iterator[Any]:
    for group in wycheproof("json_web_crypto_test")["testGroups"]:
        for test in group["tests"]:
            if "jws" in test:
                keys = group.get("public") or group["private"]
                yield pytest.param(keys, test, id=f"{test['tcId']}-{test['comment']}")


@pytest.mark.parametrize(("keys", "test"), list(crypto_cases()))
def test_no_mixture_of_signing_and_encrypting_verifies(keys: Any, test: Any) -> None:
    stage = stage_of_refusal(test["jws"], as_key_set(keys))
    if test["result"] == "invalid":
        assert stage in STAGES_BEFORE_CLAIMS


def as_key_set(keys: Any) -> Any:
    if keys is None:
        return {"keys": []}
    return keys if "keys" in keys else {"keys": [keys]}
