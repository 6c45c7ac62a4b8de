"""The examples of RFC 7520, RFC 8037 and RFC 7797: compact ones verify, every other way to write a token is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.identity.verification import verify_compact
from gateway.jose.compact import parse_token
from gateway.jose.jwks import ALGORITHMS, PRIVATE_KEY, parse_key, parse_key_set
from gateway.oauth.errors import Refusal
from tests.support.tokens import NOW, SigningIssuer
from tests.support.vectors import cookbook, needs_vectors

pytestmark = needs_vectors

ISSUER = SigningIssuer("ES256").issuer(algorithms=ALGORITHMS, allow_missing_kid=True)
PRIVATE = {"d", "p", "q", "dp", "dq", "qi"}
VERIFIABLE = {"4_1.rsa_v15_signature", "4_2.rsa-pss_signature", "4_3.ecdsa_signature", "jws"}


def examples(folder: str) -> list[Any]:
    return [pytest.param(path, id=path.stem) for path in cookbook(folder)]


def signed_examples() -> list[Any]:
    return [*examples("jws"), *examples("curve25519"), *examples("rfc7797")]


def public(jwk: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in jwk.items() if name not in PRIVATE}


def written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize("path", [example for example in signed_examples() if example.id in VERIFIABLE])
def test_a_compact_jws_verifies_when_its_key_is_public(path: Path) -> None:
    example = json.loads(path.read_bytes())
    keys = parse_key_set({"keys": [public(example["input"]["key"])]}, algorithms=ALGORITHMS)
    with pytest.raises(Refusal) as refused:
        verify_compact(example["output"]["compact"], ISSUER, keys, NOW)
    # The signature is good; the hobbits' payload is no JSON object.
    assert refused.value.reason.code == "malformed_claims"


@pytest.mark.parametrize("path", [*signed_examples(), *examples("jwe")])
def test_every_other_way_to_write_a_token_is_refused(path: Path) -> None:
    output = json.loads(path.read_bytes()).get("output", {})
    verifiable = path.stem in VERIFIABLE
    for form, token in output.items():
        if form == "compact" and verifiable:
            continue
        with pytest.raises(Refusal) as refused:
            verify_compact(written(token), ISSUER, SigningIssuer("ES256").key_set, NOW)
        assert refused.value.reason.stage in {"malformed", "algorithm"}


@pytest.mark.parametrize("path", examples("jwe"))
def test_an_encrypted_token_is_not_even_taken_apart(path: Path) -> None:
    for token in json.loads(path.read_bytes())["output"].values():
        with pytest.raises(Refusal, match="malformed_token"):
            parse_token(written(token))


@pytest.mark.parametrize("path", examples("jwk"))
def test_only_public_signing_keys_are_read(path: Path) -> None:
    jwk = json.loads(path.read_bytes())
    if path.stem.endswith("public_key"):
        assert parse_key(jwk, algorithms=ALGORITHMS).key_id == "bilbo.baggins@hobbiton.example"
    else:
        with pytest.raises(ValueError, match=PRIVATE_KEY):
            parse_key(jwk, algorithms=ALGORITHMS)
