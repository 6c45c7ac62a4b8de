"""Names that anybody can work out: of a public key (RFC 7638, RFC 8037 §2), of a certificate (RFC 8705 §3.1)."""

import hashlib
from collections.abc import Mapping

import orjson
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from gateway.jose import base64url
from gateway.jose.jwks import PublicKey

_REQUIRED_MEMBERS = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


def jwk_thumbprint(jwk: Mapping[str, str]) -> str:
    """The SHA-256 thumbprint of a public JWK whose members are in canonical form (RFC 7638 §3, RFC 8037 §2)."""
    canonical = orjson.dumps({name: jwk[name] for name in _REQUIRED_MEMBERS[jwk["kty"]]})
    return base64url.encode(hashlib.sha256(canonical).digest()).decode("ascii")


def key_thumbprint(key: PublicKey) -> str:
    """The SHA-256 thumbprint of a public key: the same for one key, however its JWK was spelled (RFC 7638 §7)."""
    return jwk_thumbprint(_canonical_jwk(key))


def certificate_thumbprint(der: bytes) -> str:
    """``x5t#S256``: the base64url SHA-256 of a DER certificate, without padding."""
    return base64url.encode(hashlib.sha256(der).digest()).decode("ascii")


def _canonical_jwk(key: PublicKey) -> dict[str, str]:
    """Without a zero byte in front of RSA's numbers, with coordinates at the full size of their curve (RFC 7518 §6)."""
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}
    if isinstance(key, ec.EllipticCurvePublicKey):
        point, length = key.public_numbers(), (key.key_size + 7) // 8
        return {
            "kty": "EC",
            "crv": _CURVES[key.curve.name],
            "x": _number(point.x, length),
            "y": _number(point.y, length),
        }
    return {"kty": "OKP", "crv": "Ed25519", "x": base64url.encode(key.public_bytes_raw()).decode("ascii")}


def _number(value: int, length: int | None = None) -> str:
    return base64url.encode(value.to_bytes(length or (value.bit_length() + 7) // 8, "big")).decode("ascii")
