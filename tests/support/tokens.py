"""Signed tokens of made-up issuers, with real keys. Keys are made once per test run."""

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm, RSAPSSAlgorithm, get_default_algorithms

from gateway.identity.presets import generic
from gateway.jose.jwks import KeySet, parse_key_set
from gateway.model import KeySource, Preset, TrustedIssuer

NOW = 1_793_610_000
AUDIENCE = "https://sts.example.com"
ABSENT: Any = object()
"""As a value: the claim or header is left out."""

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1, "ES256K": ec.SECP256K1}


@cache
def private_key(algorithm: str, number: int = 0, *, rsa_bits: int = 2048) -> PrivateKey:
    """A key for an algorithm; another ``number`` is another key."""
    del number
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm]())
    if algorithm in {"EdDSA", "Ed25519"}:
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, rsa_bits)


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def encode_json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def public_jwk(key: Any, **members: Any) -> dict[str, Any]:
    """The public half of a private key as a JWK with further members."""
    public = key.public_key()
    kind = {rsa.RSAPublicKey: RSAAlgorithm, ec.EllipticCurvePublicKey: ECAlgorithm}
    algorithm = next((one for base, one in kind.items() if isinstance(public, base)), OKPAlgorithm)
    jwk = {name: value for name, value in algorithm.to_jwk(public, as_dict=True).items() if name != "key_ops"}
    return jwk | members


def sign(algorithm: str, key: Any, signing_input: bytes) -> bytes:
    primitive = OKPAlgorithm() if algorithm == "Ed25519" else get_default_algorithms()[algorithm]
    assert isinstance(primitive, RSAAlgorithm | RSAPSSAlgorithm | ECAlgorithm | OKPAlgorithm)
    return primitive.sign(signing_input, key)


def compact(header: Any, payload: Any, algorithm: str, key: Any) -> str:
    """A compact JWS; bytes are taken as they are, anything else is written as JSON."""
    header_bytes, payload_bytes = (part if isinstance(part, bytes) else encode_json(part) for part in (header, payload))
    signing_input = f"{base64url(header_bytes)}.{base64url(payload_bytes)}"
    return f"{signing_input}.{base64url(sign(algorithm, key, signing_input.encode()))}"


class SigningIssuer:
    """An issuer with one signing key: its configuration, its key set, its tokens.

    ``number`` makes a second one with another key. Times lie around ``NOW`` unless ``now`` says otherwise.
    """

    def __init__(
        self,
        algorithm: str = "RS256",
        *,
        number: int = 0,
        name: str = "issuer",
        url: str = "https://issuer.example",
        kid: str | None = None,
        preset: Preset = generic.PRESET,
    ) -> None:
        self.algorithm = algorithm
        self.name = name
        self.url = url
        self.kid = kid or f"{algorithm}-{number}"
        self.preset = preset
        self.key = private_key(algorithm, number)

    def issuer(self, **overrides: Any) -> TrustedIssuer:
        """The issuer as the policies have it, with its key set inline."""
        issuer = TrustedIssuer(
            name=self.name,
            preset=self.preset.name,
            url=self.url,
            audiences=frozenset({AUDIENCE}),
            algorithms=frozenset({self.algorithm}),
            keys=KeySource(jwks=self.jwks()),
            claims=self.preset.claims,
            reserved_audiences=self.preset.reserved_audiences,
            token_types=self.preset.token_types,
            subject_pattern=self.preset.subject_pattern,
            max_token_age_seconds=self.preset.max_token_age_seconds,
            max_token_lifetime_seconds=self.preset.max_token_lifetime_seconds,
        )
        return replace(issuer, **overrides)

    def jwk(self, **members: Any) -> dict[str, Any]:
        jwk = public_jwk(self.key, kid=self.kid, use="sig", alg=self.algorithm)
        return {name: value for name, value in (jwk | members).items() if value is not ABSENT}

    def jwks(self, *others: Mapping[str, Any]) -> dict[str, Any]:
        return {"keys": [self.jwk(), *others]}

    @property
    def key_set(self) -> KeySet:
        return parse_key_set(self.jwks(), algorithms=frozenset({self.algorithm}))

    def claims(self, overrides: Mapping[str, Any] | None = None, *, now: float = NOW) -> dict[str, Any]:
        """Claims that verify at ``now``."""
        claims = {
            "iss": self.url,
            "sub": "workload",
            "aud": AUDIENCE,
            "iat": int(now),
            "nbf": int(now),
            "exp": int(now) + 300,
            "jti": "token-1",
        }
        return {name: value for name, value in (claims | dict(overrides or {})).items() if value is not ABSENT}

    def token(
        self,
        overrides: Mapping[str, Any] | bytes | None = None,
        *,
        header: Mapping[str, Any] | bytes | None = None,
        key: Any = None,
        now: float = NOW,
    ) -> str:
        """A token; mappings replace or remove (``ABSENT``) members, bytes replace the whole part."""
        payload = overrides if isinstance(overrides, bytes) else self.claims(overrides, now=now)
        members: Any = header
        if not isinstance(header, bytes):
            members = {"alg": self.algorithm, "kid": self.kid, "typ": "JWT"} | dict(header or {})
            members = {name: value for name, value in members.items() if value is not ABSENT}
        return compact(members, payload, self.algorithm, key or self.key)
