"""One signing key: what it signs, how it is published, how it is written down.

The algorithm is a property of the key, never of a token. Every access token starts with the key's one header segment,
made when the key is made. What else the key signs says by its ``typ`` that it is something else (RFC 8725 §3.11).
"""

from collections.abc import Callable
from typing import Self

import orjson
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from gateway.jose import base64url
from gateway.jose.jwks import MAX_RSA_BITS
from gateway.jose.thumbprint import jwk_thumbprint
from gateway.model import SigningAlgorithm

ACCESS_TOKEN_TYPE = "at+jwt"  # RFC 9068 §2.1

_RSA_BITS = 2048
_RSA_EXPONENT = 65537
_P256_BYTES = 32
_Sign = Callable[[bytes], bytes]
_Verify = Callable[[bytes, bytes], None]
_SELF_TEST = b"The public half of this key verifies what its private half signs."


class SigningKey:
    """A private key with its name (``kid``), made or loaded once and never changed.

    ``kid`` is the RFC 7638 thumbprint of the public half; ``created_at`` is in seconds since the epoch;
    ``header_segment`` is the base64url of ``{"alg": …, "kid": …, "typ": "at+jwt"}`` (RFC 9068 §2.1).
    """

    __slots__ = ("_jwk", "_prefixes", "_private_key", "_sign", "_verify", "algorithm", "created_at", "header_segment",
                 "kid")  # fmt: skip

    algorithm: SigningAlgorithm
    kid: str
    created_at: int
    header_segment: str

    def __init__(self, private_key: PrivateKeyTypes, created_at: int) -> None:
        """Raises ``ValueError`` for a key that no algorithm here fits, or whose halves do not belong together."""
        self._private_key = private_key
        self.algorithm, self._jwk, self._sign, self._verify = _scheme(private_key)
        self.kid = jwk_thumbprint(self._jwk)
        self.created_at = created_at
        self._prefixes: dict[str, bytes] = {}
        self.header_segment = self._prefix(ACCESS_TOKEN_TYPE)[:-1].decode("ascii")
        if not self.has_signed(_SELF_TEST, self._sign(_SELF_TEST)):
            raise ValueError("the private key does not fit its public half")

    @classmethod
    def generate(cls, algorithm: SigningAlgorithm, now: float) -> Self:
        """A new key, created at ``now``. Its name does not begin with a dash: command lines would take that for an
        option.
        """
        while True:
            key = cls(_generate(algorithm), int(now))
            if not key.kid.startswith("-"):
                return key

    @classmethod
    def from_pem(cls, pem: bytes, created_at: int, passphrase: bytes | None = None) -> Self:
        """The key in a PKCS#8 PEM (RFC 5958, RFC 7468 §10), which may be encrypted only where there is a passphrase.

        Raises ``ValueError``.
        """
        try:
            private_key = serialization.load_pem_private_key(pem, passphrase if is_encrypted(pem) else None)
        except (TypeError, UnsupportedAlgorithm) as error:
            raise ValueError(str(error)) from error
        return cls(private_key, created_at)

    def private_pem(self, passphrase: bytes | None = None) -> bytes:
        """The secret itself, as PKCS#8 PEM: for a key store and nobody else. With a passphrase it is encrypted."""
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase is not None:
            encryption = serialization.BestAvailableEncryption(passphrase)
        return self._private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )

    def public_jwk(self) -> dict[str, str]:
        """The public half as it is published (RFC 7517 §4)."""
        return {**self._jwk, "kid": self.kid, "use": "sig", "alg": self.algorithm}

    def sign(self, payload: bytes, typ: str = ACCESS_TOKEN_TYPE) -> str:
        """The compact JWS over a payload, under the key's own header (RFC 7515 §5.1).

        ``typ`` is a constant of the code that signs. Only an access token has that of an access token.
        """
        signing_input = self._prefix(typ) + base64url.encode(payload)
        return (signing_input + b"." + base64url.encode(self._sign(signing_input))).decode("ascii")

    def has_signed(self, signing_input: bytes, signature: bytes) -> bool:
        """Whether the signature over these bytes is this key's (RFC 7515 §5.2)."""
        try:
            self._verify(signing_input, signature)
        except InvalidSignature:
            return False
        return True

    def _prefix(self, typ: str) -> bytes:
        prefix = self._prefixes.get(typ)
        if prefix is None:
            header = orjson.dumps({"alg": self.algorithm, "kid": self.kid, "typ": typ})
            prefix = self._prefixes[typ] = base64url.encode(header) + b"."
        return prefix

    def __repr__(self) -> str:
        return f"SigningKey({self.algorithm} {self.kid})"


def is_encrypted(pem: bytes) -> bool:
    """Whether a PKCS#8 PEM says that it is encrypted (RFC 7468 §11)."""
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in pem


def _generate(algorithm: SigningAlgorithm) -> PrivateKeyTypes:
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(_RSA_EXPONENT, _RSA_BITS)


def _scheme(private_key: PrivateKeyTypes) -> tuple[SigningAlgorithm, dict[str, str], _Sign, _Verify]:
    """The one algorithm that a key is for (RFC 8725 §3.1): its name, the public JWK, both operations."""
    match private_key:
        case ec.EllipticCurvePrivateKey():
            return "ES256", *_es256(private_key)
        case ed25519.Ed25519PrivateKey():
            return "EdDSA", *_eddsa(private_key)
        case rsa.RSAPrivateKey():
            return "RS256", *_rs256(private_key)
    raise ValueError(f"no algorithm here signs with {type(private_key).__name__}")


def _es256(private_key: ec.EllipticCurvePrivateKey) -> tuple[dict[str, str], _Sign, _Verify]:
    if private_key.curve.name != ec.SECP256R1.name:
        raise ValueError(f"ES256 needs a key on P-256, not on {private_key.curve.name}")
    ecdsa, public_key = ec.ECDSA(hashes.SHA256()), private_key.public_key()
    point = public_key.public_numbers()

    # JWS has r and s at full length side by side (RFC 7518 §3.4), the library has them in DER.
    def sign(signing_input: bytes) -> bytes:
        r, s = decode_dss_signature(private_key.sign(signing_input, ecdsa))
        return r.to_bytes(_P256_BYTES, "big") + s.to_bytes(_P256_BYTES, "big")

    def verify(signing_input: bytes, signature: bytes) -> None:
        if len(signature) != 2 * _P256_BYTES:
            raise InvalidSignature
        r, s = int.from_bytes(signature[:_P256_BYTES], "big"), int.from_bytes(signature[_P256_BYTES:], "big")
        public_key.verify(encode_dss_signature(r, s), signing_input, ecdsa)

    return (
        {"kty": "EC", "crv": "P-256", "x": _number(point.x, _P256_BYTES), "y": _number(point.y, _P256_BYTES)},
        sign,
        verify,
    )


def _eddsa(private_key: ed25519.Ed25519PrivateKey) -> tuple[dict[str, str], _Sign, _Verify]:
    public_key = private_key.public_key()

    def verify(signing_input: bytes, signature: bytes) -> None:
        public_key.verify(signature, signing_input)

    x = base64url.encode(public_key.public_bytes_raw()).decode("ascii")
    return {"kty": "OKP", "crv": "Ed25519", "x": x}, private_key.sign, verify


def _rs256(private_key: rsa.RSAPrivateKey) -> tuple[dict[str, str], _Sign, _Verify]:
    if not _RSA_BITS <= private_key.key_size <= MAX_RSA_BITS:
        raise ValueError(f"RS256 needs a key of {_RSA_BITS} to {MAX_RSA_BITS} bits, not of {private_key.key_size}")
    pkcs1, sha256, public_key = padding.PKCS1v15(), hashes.SHA256(), private_key.public_key()
    numbers = public_key.public_numbers()
    if numbers.e != _RSA_EXPONENT:
        raise ValueError(f"RS256 needs the public exponent {_RSA_EXPONENT}, not {numbers.e}")

    def sign(signing_input: bytes) -> bytes:
        return private_key.sign(signing_input, pkcs1, sha256)

    def verify(signing_input: bytes, signature: bytes) -> None:
        public_key.verify(signature, signing_input, pkcs1, sha256)

    return {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}, sign, verify


def _number(value: int, length: int | None = None) -> str:
    """A big-endian number: left-padded to ``length`` (EC), or without a leading zero byte (RSA; RFC 7518 §2)."""
    return base64url.encode(value.to_bytes(length or (value.bit_length() + 7) // 8, "big")).decode("ascii")
