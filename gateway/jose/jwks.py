"""An issuer's key set (RFC 7517): which of its keys may verify, with which algorithms, and why the others may not.

One bad key never takes the set down; a set that leaves doubt about which key is meant is refused whole.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm, RSAPSSAlgorithm

from gateway.jose.compact import MAX_KEY_ID_LENGTH, parse_base64url
from gateway.jose.strict_json import parse_json_object
from gateway.jose.weak_keys import is_roca_modulus, is_small_order_point, small_factor
from gateway.oauth.errors import Refusal

MAX_KEY_SET_BYTES = 100 * 1024
MAX_KEYS = 100
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
RSA_EXPONENT = 65537

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | Ed25519PublicKey
Verify = Callable[[bytes, bytes], bool]
"""Whether the second bytes are a signature of the first."""

PRIVATE_KEY = "it holds a private key"
"""The one reason for leaving a key out that is an alarm: the issuer publishes its secret."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """One public key with the algorithms that it may be used with: never more than its issuer's list."""

    key_id: str | None
    public_key: PublicKey
    verifiers: Mapping[str, Verify] = field(repr=False)
    """By ``alg``: the key's own primitive, bound to it when the set was read."""

    @property
    def algorithms(self) -> frozenset[str]:
        """The ``alg`` values that this key verifies."""
        return frozenset(self.verifiers)


@dataclass(frozen=True, slots=True, eq=False)
class KeySet:
    """The usable keys of one issuer. Compared by identity: a new object is a new state of the issuer."""

    by_key_id: Mapping[str, VerificationKey]
    without_key_id: tuple[VerificationKey, ...]
    keys: tuple[VerificationKey, ...]
    """All of them, each public key once."""
    ignored: tuple[tuple[str, str], ...]
    """Keys that were left out: what the issuer calls them, and why."""
    sha256: str
    """Of the document, to tell whether anything changed."""

    @property
    def leaks_private_key(self) -> bool:
        """Whether the issuer published a private or symmetric key: an alarm, whoever reads it can sign."""
        return any(why == PRIVATE_KEY for _, why in self.ignored)


def parse_key_set(document: bytes | Mapping[str, Any], *, algorithms: frozenset[str]) -> KeySet:
    """Reads a JWK set for an issuer that may use ``algorithms``.

    Raises ``ValueError`` with a short reason: too large, no object with a list of keys, more than 100 keys, two
    different keys under one ``kid``, or no usable key left.
    """
    body = document if isinstance(document, bytes) else _json(document)
    if len(body) > MAX_KEY_SET_BYTES:
        raise ValueError(f"is larger than {MAX_KEY_SET_BYTES} bytes")
    jwks = parse_json_object(body).get("keys")
    if type(jwks) is not list:
        raise ValueError("has no list of keys")
    if len(jwks) > MAX_KEYS:
        raise ValueError(f"has more than {MAX_KEYS} keys")
    by_key_id: dict[str, VerificationKey] = {}
    without_key_id: list[VerificationKey] = []
    ignored: list[tuple[str, str]] = []
    for position, jwk in enumerate(jwks):
        try:
            key = parse_key(jwk, algorithms=algorithms)
        except ValueError as error:
            ignored.append((_label(jwk, position), str(error)))
            continue
        if key.key_id is None:
            without_key_id.append(key)
        else:
            by_key_id[key.key_id] = _sole_key(by_key_id.get(key.key_id), key)
    if not by_key_id and not without_key_id:
        raise ValueError("has no usable key" + "".join(f"; {label}: {why}" for label, why in ignored[:5]))
    return KeySet(
        by_key_id=MappingProxyType(by_key_id),
        without_key_id=tuple(without_key_id),
        keys=_distinct([*by_key_id.values(), *without_key_id]),
        ignored=tuple(ignored),
        sha256=hashlib.sha256(body).hexdigest(),
    )


def parse_key(jwk: Any, *, algorithms: frozenset[str]) -> VerificationKey:
    """One public key. Raises ``ValueError`` that says why it is not used (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2)."""
    if type(jwk) is not dict:
        raise ValueError("it is not a JSON object")
    if jwk.get("kty") == "oct" or _PRIVATE_MEMBERS & jwk.keys():
        raise ValueError(PRIVATE_KEY)
    if jwk.get("use", "sig") != "sig":
        raise ValueError("its use is not sig")
    if "key_ops" in jwk and (type(jwk["key_ops"]) is not list or "verify" not in jwk["key_ops"]):
        raise ValueError("its key_ops do not hold verify")
    parse_public_key = _KEY_TYPES.get(jwk["kty"]) if type(jwk.get("kty")) is str else None
    if parse_public_key is None:
        raise ValueError("its kty is not RSA, EC or OKP")
    key_id = _key_id(jwk)
    public_key = parse_public_key(jwk)
    accepted = algorithms & _algorithms_named_by(jwk)
    verifiers = {name: verify for name, verify in _verifiers(public_key).items() if name in accepted}
    if not verifiers:
        raise ValueError("no algorithm accepted for its issuer fits it")
    return VerificationKey(key_id, public_key, MappingProxyType(verifiers))


# ---------------------------------------------------------------- the set


def _json(document: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(document, sort_keys=True).encode()
    except (TypeError, RecursionError):
        raise ValueError("is not JSON") from None


def _sole_key(known: VerificationKey | None, key: VerificationKey) -> VerificationKey:
    """The one key of a ``kid``. The same key may be listed once for each of its algorithms; two keys may not."""
    if known is None:
        return key
    if known.public_key != key.public_key:
        raise ValueError("has two different keys under one kid")
    return VerificationKey(key.key_id, key.public_key, MappingProxyType({**known.verifiers, **key.verifiers}))


def _distinct(keys: list[VerificationKey]) -> tuple[VerificationKey, ...]:
    """Each public key once: some issuers list the same one with and without a ``kid``."""
    distinct: list[VerificationKey] = []
    for key in keys:
        if all(key.public_key != other.public_key for other in distinct):
            distinct.append(key)
    return tuple(distinct)


def _label(jwk: Any, position: int) -> str:
    key_id = jwk.get("kid") if type(jwk) is dict else None
    return key_id[:MAX_KEY_ID_LENGTH] if type(key_id) is str and key_id else f"#{position}"


def _key_id(jwk: Mapping[str, Any]) -> str | None:
    """None for a key without one; the empty string counts as none, as old Kubernetes releases wrote it."""
    key_id = jwk.get("kid", "")
    if type(key_id) is not str or len(key_id) > MAX_KEY_ID_LENGTH:
        raise ValueError(f"its kid is not a string of at most {MAX_KEY_ID_LENGTH} characters")
    return key_id or None


def _algorithms_named_by(jwk: Mapping[str, Any]) -> frozenset[str]:
    """The key's own ``alg`` binds it; without one the issuer's list and the key's type do (RFC 8725 §3.1)."""
    if "alg" not in jwk:
        return ALGORITHMS
    algorithm = jwk["alg"]
    if type(algorithm) is not str:
        raise ValueError("its alg is not a string")
    return _TWO_NAMES if algorithm in _TWO_NAMES else frozenset({algorithm})


# ---------------------------------------------------------------- public keys


def _rsa_public_key(jwk: Mapping[str, Any]) -> rsa.RSAPublicKey:
    modulus, exponent = _integer(jwk, "n"), _integer(jwk, "e")
    if not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS:
        raise ValueError(f"its modulus has not {MIN_RSA_BITS} to {MAX_RSA_BITS} bits")
    if exponent != RSA_EXPONENT:  # a huge one costs a hundred times the work of a verification, a tiny one is unsafe
        raise ValueError(f"its exponent is not {RSA_EXPONENT}")
    if small_factor(modulus) is not None:
        raise ValueError("its modulus has a small factor")
    if is_roca_modulus(modulus):
        raise ValueError("its modulus was made by a broken generator (CVE-2017-15361)")
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


def _ec_public_key(jwk: Mapping[str, Any]) -> ec.EllipticCurvePublicKey:
    curve = _CURVES.get(jwk["crv"]) if type(jwk.get("crv")) is str else None
    if curve is None:
        raise ValueError("its crv is not P-256, P-384 or P-521")
    length = _coordinate_bytes(curve)
    x, y = _octets(jwk, "x", length), _octets(jwk, "y", length)
    try:
        return ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), curve).public_key()
    except ValueError:
        raise ValueError("its point is not on its curve") from None


def _ed25519_public_key(jwk: Mapping[str, Any]) -> Ed25519PublicKey:
    if jwk.get("crv") != "Ed25519":
        raise ValueError("its crv is not Ed25519")
    x = _octets(jwk, "x", 32)
    if is_small_order_point(x):
        raise ValueError("its point is of small order")
    return Ed25519PublicKey.from_public_bytes(x)


def _integer(jwk: Mapping[str, Any], name: str) -> int:
    """A ``Base64urlUInt`` (RFC 7518 §2). Zero bytes in front are tolerated: some issuers write them."""
    return int.from_bytes(_member(jwk, name))


def _octets(jwk: Mapping[str, Any], name: str, length: int) -> bytes:
    octets = _member(jwk, name)
    if len(octets) != length:
        raise ValueError(f"its {name} has not {length} bytes")
    return octets


def _member(jwk: Mapping[str, Any], name: str) -> bytes:
    text = jwk.get(name)
    if type(text) is not str or not text.isascii() or not text:
        raise ValueError(f"its {name} is not a base64url string")
    try:
        return parse_base64url(text)
    except Refusal:
        raise ValueError(f"its {name} is not a base64url string") from None


# ---------------------------------------------------------------- algorithms (RFC 7518 §3, RFC 8037 §3.1)


class _Primitive(Protocol):
    def verify(self, msg: bytes, key: Any, sig: bytes) -> bool: ...


def _verifiers(key: PublicKey) -> Mapping[str, Verify]:
    """Every algorithm that fits the type and curve of a key, with its primitive bound to the key."""
    if isinstance(key, rsa.RSAPublicKey):
        primitives, is_well_formed = _RSA, _has_length((key.key_size + 7) // 8)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        primitives, is_well_formed = _ECDSA[type(key.curve)], _is_raw_ecdsa(key.curve)
    else:
        primitives, is_well_formed = _EDDSA, _has_length(64)
    return {name: _bound(primitive, key, is_well_formed) for name, primitive in primitives.items()}


def _bound(primitive: _Primitive, key: PublicKey, is_well_formed: Callable[[bytes], bool]) -> Verify:
    def verify(signing_input: bytes, signature: bytes) -> bool:
        return is_well_formed(signature) and primitive.verify(signing_input, key, signature)

    return verify


def _has_length(length: int) -> Callable[[bytes], bool]:
    return lambda signature: len(signature) == length


def _is_raw_ecdsa(curve: ec.EllipticCurve) -> Callable[[bytes], bool]:
    """R and S one behind the other, each from 1 to n - 1 (RFC 7518 §3.4; CVE-2022-21449). DER is never read."""
    length, order = _coordinate_bytes(curve), curve.group_order

    def is_raw_ecdsa(signature: bytes) -> bool:
        return (
            len(signature) == 2 * length
            and 0 < int.from_bytes(signature[:length]) < order
            and 0 < int.from_bytes(signature[length:]) < order
        )

    return is_raw_ecdsa


def _coordinate_bytes(curve: ec.EllipticCurve) -> int:
    return (curve.key_size + 7) // 8


_RSA: Mapping[str, _Primitive] = {
    "RS256": RSAAlgorithm(RSAAlgorithm.SHA256),
    "RS384": RSAAlgorithm(RSAAlgorithm.SHA384),
    "RS512": RSAAlgorithm(RSAAlgorithm.SHA512),
    "PS256": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA256),
    "PS384": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA384),
    "PS512": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA512),
}
_ECDSA: Mapping[type[ec.EllipticCurve], Mapping[str, _Primitive]] = {
    ec.SECP256R1: {"ES256": ECAlgorithm(ECAlgorithm.SHA256, ec.SECP256R1)},
    ec.SECP384R1: {"ES384": ECAlgorithm(ECAlgorithm.SHA384, ec.SECP384R1)},
    ec.SECP521R1: {"ES512": ECAlgorithm(ECAlgorithm.SHA512, ec.SECP521R1)},
}
_EDDSA: Mapping[str, _Primitive] = {"EdDSA": OKPAlgorithm(), "Ed25519": OKPAlgorithm()}
_TWO_NAMES = frozenset(_EDDSA)  # RFC 9864 §2.2: the new name of the same algorithm with the same curve

ALGORITHMS = frozenset({*_RSA, *_EDDSA, *(name for primitives in _ECDSA.values() for name in primitives)})
"""Every ``alg`` that can be verified. There is no symmetric one, and there is no ``none``."""

_CURVES: Mapping[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
_KEY_TYPES: Mapping[str, Callable[[Mapping[str, Any]], PublicKey]] = {
    "RSA": _rsa_public_key,
    "EC": _ec_public_key,
    "OKP": _ed25519_public_key,
}
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})  # RFC 7518 §6.2.2, §6.3.2, §6.4.1
