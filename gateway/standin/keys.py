"""Key pairs of the stand-in issuers, and the compact signature made with them (RFC 7515 §3.1)."""

import base64
import hashlib
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
KeyIdRule = Callable[[PublicKey], str]

_RSA = {"RS256": RSAAlgorithm(RSAAlgorithm.SHA256)}
_EC: dict[str, tuple[ECAlgorithm, ec.EllipticCurve]] = {
    "ES256": (ECAlgorithm(ECAlgorithm.SHA256), ec.SECP256R1()),
    "ES384": (ECAlgorithm(ECAlgorithm.SHA384), ec.SECP384R1()),
    "ES512": (ECAlgorithm(ECAlgorithm.SHA512), ec.SECP521R1()),
}
ALGORITHMS = frozenset(_RSA) | frozenset(_EC)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key pair with its name and its public half as it is published (RFC 7517 §4)."""

    key_id: str
    algorithm: str
    private_key: PrivateKey
    jwk: Mapping[str, Any]

    def sign(self, header: Mapping[str, Any], payload: bytes) -> str:
        """The compact serialisation of a JWS with this header and payload, neither of them looked at."""
        signing_input = f"{_base64url(_json(header))}.{_base64url(payload)}"
        return f"{signing_input}.{_base64url(self._signature(signing_input.encode()))}"

    def _signature(self, message: bytes) -> bytes:
        if isinstance(self.private_key, rsa.RSAPrivateKey):
            return _RSA[self.algorithm].sign(message, self.private_key)
        return _EC[self.algorithm][0].sign(message, self.private_key)

    def __repr__(self) -> str:
        return f"SigningKey(key_id={self.key_id!r}, algorithm={self.algorithm!r})"


def new_signing_key(algorithm: str, key_id_rule: KeyIdRule) -> SigningKey:
    """A fresh key pair: RSA of 2048 bits, or the curve that belongs to the algorithm (RFC 7518 §3.4)."""
    private_key: PrivateKey
    if algorithm in _RSA:
        private_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        jwk = RSAAlgorithm.to_jwk(private_key.public_key(), as_dict=True)
    else:
        private_key = ec.generate_private_key(_EC[algorithm][1])
        jwk = ECAlgorithm.to_jwk(private_key.public_key(), as_dict=True)
    key_id = key_id_rule(private_key.public_key())
    members = {name: value for name, value in jwk.items() if name != "key_ops"}
    return SigningKey(key_id, algorithm, private_key, {"use": "sig", "alg": algorithm, "kid": key_id, **members})


def spki_sha256(key: PublicKey) -> str:
    """Kubernetes' rule: base64url of the SHA-256 over the DER SubjectPublicKeyInfo."""
    return _base64url(hashlib.sha256(_spki(key)).digest())


def uuid_of_key(key: PublicKey) -> str:
    """A UUID in the form of GitHub's key ids, made from the key."""
    return str(uuid.UUID(bytes=hashlib.sha256(_spki(key)).digest()[:16], version=5))


def thumbprint(key: PublicKey) -> str:
    """The JWK thumbprint (RFC 7638 §3): over the required members, sorted, without blanks."""
    jwk = _public_jwk(key)
    required = ("e", "kty", "n") if isinstance(key, rsa.RSAPublicKey) else ("crv", "kty", "x", "y")
    return _base64url(hashlib.sha256(_json({name: jwk[name] for name in required})).digest())


def spki_sha1(key: PublicKey) -> str:
    """Twenty bytes in the place of ``x5t`` (RFC 7515 §4.1.7): the stand-ins have keys, not certificates."""
    return _base64url(hashlib.sha1(_spki(key), usedforsecurity=False).digest())


def _public_jwk(key: PublicKey) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPublicKey):
        return RSAAlgorithm.to_jwk(key, as_dict=True)
    return ECAlgorithm.to_jwk(key, as_dict=True)


def _spki(key: PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
