"""Project Wycheproof's raw signatures under each JOSE algorithm, with the keys read from JWKs as issuers send them."""

from base64 import urlsafe_b64encode
from typing import Any

import pytest

from gateway.jose.jwks import VerificationKey, parse_key
from tests.support.vectors import needs_vectors, wycheproof

pytestmark = needs_vectors


def jwk_of(group: Any) -> dict[str, Any]:
    """The public members alone: the vectors' own ``kid`` and ``alg`` are not what is tested."""
    jwk = group.get("publicKeyJwk") or group.get("keyJwk")
    if jwk is None:
        jwk = from_numbers(group["publicKey"])
    return {name: value for name, value in jwk.items() if name in {"kty", "crv", "x", "y", "n", "e"}}


CURVES = {"secp256r1": ("P-256", 32), "secp384r1": ("P-384", 48), "secp521r1": ("P-521", 66)} | {
    "secp256k1": ("secp256k1", 32)
}


def from_numbers(public_key: Any) -> dict[str, str]:
    if "modulus" in public_key:
        return {"kty": "RSA", "n": number(public_key["modulus"]), "e": number(public_key["publicExponent"])}
    crv, length = CURVES[public_key["curve"]]
    return {
        "kty": "EC",
        "crv": crv,
        "x": number(public_key["wx"], length),
        "y": number(public_key["wy"], length),
    }


def number(digits: str, length: int = 0) -> str:
    value = int(digits, 16)
    return urlsafe_b64encode(value.to_bytes(length or (value.bit_length() + 7) // 8)).rstrip(b"=").decode()


def groups(name: str) -> list[Any]:
    return [pytest.param(group, id=f"{name}-{i}") for i, group in enumerate(wycheproof(name)["testGroups"])]


def key_for(group: Any, algorithm: str) -> VerificationKey:
    return parse_key(jwk_of(group), algorithms=frozenset({algorithm}))


def wrong_answers(key: VerificationKey, algorithm: str, tests: list[Any]) -> list[tuple[int, str, bool]]:
    """The cases whose answer is not Wycheproof's; ``acceptable`` ones may go either way."""
    wrong = []
    for test in tests:
        answer = key.verifiers[algorithm](bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"]))
        if test["result"] != "acceptable" and answer != (test["result"] == "valid"):
            wrong.append((test["tcId"], test["comment"], answer))
    return wrong


RAW = [
    ("ecdsa_secp256r1_sha256_p1363_test", "ES256"),
    ("ecdsa_secp384r1_sha384_p1363_test", "ES384"),
    ("ecdsa_secp521r1_sha512_p1363_test", "ES512"),
    ("ed25519_test", "EdDSA"),
    ("ed25519_test", "Ed25519"),
    ("rsa_signature_2048_sha256_test", "RS256"),
    ("rsa_signature_3072_sha384_test", "RS384"),
    ("rsa_signature_4096_sha512_test", "RS512"),
    ("rsa_pss_2048_sha256_mgf1_32_test", "PS256"),
]


@pytest.mark.parametrize(("name", "algorithm"), RAW, ids=[f"{name}-{algorithm}" for name, algorithm in RAW])
def test_raw_signatures_verify_exactly_when_wycheproof_says_so(name: str, algorithm: str) -> None:
    refused_keys, answered = 0, 0
    for group in wycheproof(name)["testGroups"]:
        try:
            key = key_for(group, algorithm)
        except ValueError:
            refused_keys += 1
            continue
        assert wrong_answers(key, algorithm, group["tests"]) == []
        answered += len(group["tests"])
    assert answered > 0
    # Only RSA has groups whose very key is not for us: with an exponent of 3, say.
    assert refused_keys == 0 or name.startswith("rsa_")


@pytest.mark.parametrize("group", groups("ecdsa_secp256r1_sha256_test"))
def test_an_ecdsa_signature_in_der_never_verifies(group: Any) -> None:
    """RFC 7518 §3.4. Some of the vectors' broken encodings have 64 bytes by chance; they do not verify either."""
    key = key_for(group, "ES256")
    assert not any(
        key.verifiers["ES256"](bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"])) for test in group["tests"]
    )


@pytest.mark.parametrize("group", groups("ecdsa_secp256k1_sha256_p1363_test"))
def test_a_secp256k1_key_is_left_out(group: Any) -> None:
    with pytest.raises(ValueError, match="its crv is not"):
        key_for(group, "ES256")


OTHER_ALGORITHMS = [
    ("rsa_signature_2048_sha256_test", "PS256"),
    ("rsa_signature_2048_sha256_test", "RS384"),
    ("rsa_pss_2048_sha256_mgf1_32_test", "RS256"),
    ("rsa_pss_2048_sha256_mgf1_32_test", "PS512"),
]


@pytest.mark.parametrize(("name", "algorithm"), OTHER_ALGORITHMS)
def test_no_signature_verifies_under_another_algorithm_of_the_same_key(name: str, algorithm: str) -> None:
    for group in wycheproof(name)["testGroups"]:
        try:
            key = key_for(group, algorithm)
        except ValueError:
            continue
        for test in group["tests"]:
            if test["result"] == "valid":
                assert not key.verifiers[algorithm](bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"]))
