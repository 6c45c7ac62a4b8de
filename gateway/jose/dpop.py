"""A DPoP proof (RFC 9449 §4): whoever sends this request, now, holds the private half of this key.

Pure: no I/O, the clock is handed in, and whether a proof was seen before is for the caller to find out.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import SplitResult, urlsplit

from gateway.jose import base64url
from gateway.jose.compact import parse_proof, parse_unverified_claims
from gateway.jose.jwks import VerificationKey, parse_key
from gateway.jose.thumbprint import key_thumbprint
from gateway.model import Claims, UnverifiedToken
from gateway.oauth.errors import Refusal

PROOF_ALGORITHMS = ("ES256", "ES384", "PS256", "EdDSA", "Ed25519")
"""What a proof may be signed with (``dpop_signing_alg_values_supported``, RFC 9449 §5.1)."""

PAST_SECONDS = 60
"""How old a proof may be."""
FUTURE_SECONDS = 10
"""How far a client's clock may be ahead."""
MAX_TOKEN_ID_LENGTH = 256
MAX_URL_LENGTH = 2048

_TYPE = "dpop+jwt"
_ALGORITHMS = frozenset(PROOF_ALGORITHMS)
_MARGIN_SECONDS = 5  # a clock that is set back a little must not open a window behind the mark of a jti
_MAX_NUMERIC_DATE = 2**53
_URL = re.compile(rf"[\x21-\x7e]{{1,{MAX_URL_LENGTH}}}")
_DEFAULT_PORTS = {"https": 443, "http": 80}
_PERCENT_ENCODED = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


@dataclass(frozen=True, slots=True)
class DpopProof:
    """A proof that was verified for one request."""

    jkt: str
    """The thumbprint of the key that it was made with (RFC 7638): what ``cnf`` of a token names."""
    jti: str
    """Works once with this key: the mark of ``(jkt, jti)`` is for the caller to set."""
    until: int
    """Seconds since the epoch: from then on the proof is refused by its age, and its mark may be forgotten."""


def verify_sole_proof(
    headers: Sequence[str],
    *,
    method: str,
    url: str,
    now: float,
    access_token: str | None = None,
    jkt: str | None = None,
) -> DpopProof:
    """``verify_proof`` for the values of all ``DPoP`` headers of a request, of which there is exactly one
    (RFC 9449 §4.3, check 1).
    """
    if len(headers) != 1:
        _refuse("The request has no DPoP header." if not headers else "The request has more than one DPoP header.")
    return verify_proof(headers[0], method=method, url=url, now=now, access_token=access_token, jkt=jkt)


def verify_proof(
    text: str,
    *,
    method: str,
    url: str,
    now: float,
    access_token: str | None = None,
    jkt: str | None = None,
) -> DpopProof:
    """The proof in ``text``, for a request with ``method`` to ``url`` (as the client knows it) at ``now``, if all of
    this holds (RFC 9449 §4.3):

    1. it is a compact JWS with a sane header
    2. its ``typ`` is ``dpop+jwt``
    3. its ``alg`` is one of ``PROOF_ALGORITHMS``
    4. its ``jwk`` is a strong public key for that ``alg``, and nothing private
    5. the signature verifies with that key
    6. the payload is one strict JSON object with a short ``jti``
    7. ``htm`` is the method
    8. ``htu`` is the URL, query and fragment aside
    9. ``iat`` lies at most 60 seconds back and 10 ahead; ``exp`` and ``nbf``, where present, allow it now
    10. ``ath`` is the digest of ``access_token``, where one comes with the proof
    11. the key is the one with the thumbprint ``jkt``, where one is expected

    Raises ``Refusal`` ``invalid_dpop_proof``, whose ``public`` says what is wrong and repeats nothing of the proof.
    """
    proof = _parse(text)  # 1
    _check_type(proof)  # 2
    key = _key(proof)  # 3, 4
    if not key.verifiers[proof.unverified_header["alg"]](proof.signing_input, proof.signature):  # 5
        _refuse("The signature of the DPoP proof does not verify with its own jwk.")
    claims = _parse_claims(proof)  # 6
    token_id = _token_id(claims)
    if _text(claims, "htm") != method:  # 7
        _refuse("htm of the DPoP proof is not the method of the request.")
    _check_url(_text(claims, "htu"), url)  # 8
    issued_at = _check_times(claims, now)  # 9
    if access_token is not None and _text(claims, "ath") != access_token_hash(access_token):  # 10
        _refuse("ath of the DPoP proof is not the hash of the access token.")
    proven = key_thumbprint(key.public_key)
    if jkt is not None and jkt != proven:  # 11
        _refuse("The DPoP proof was made with another key than the expected one.")
    return DpopProof(jkt=proven, jti=token_id, until=issued_at + PAST_SECONDS + _MARGIN_SECONDS)


def access_token_hash(access_token: str) -> str:
    """``ath`` of a proof that comes with this token (RFC 9449 §4.2)."""
    return base64url.encode(hashlib.sha256(access_token.encode(errors="surrogatepass")).digest()).decode("ascii")


# ---------------------------------------------------------------- the header


def _parse(text: str) -> UnverifiedToken:
    try:
        return parse_proof(text)
    except Refusal as refusal:
        _refuse_unreadable(refusal)


def _check_type(proof: UnverifiedToken) -> None:
    typ: str = proof.unverified_header.get("typ", "")
    if typ.lower().removeprefix("application/") != _TYPE:
        _refuse(f"typ of the DPoP proof is not {_TYPE}.")


def _key(proof: UnverifiedToken) -> VerificationKey:
    algorithm, jwk = proof.unverified_header["alg"], proof.unverified_header.get("jwk")
    if algorithm not in _ALGORITHMS:
        _refuse(f"alg of the DPoP proof is none of {', '.join(PROOF_ALGORITHMS)}.")
    if jwk is None:
        _refuse("The DPoP proof holds no jwk.")
    try:
        return parse_key(jwk, algorithms=frozenset({algorithm}))
    except ValueError as error:
        _refuse(f"jwk of the DPoP proof is not usable with its alg: {error}.")


# ---------------------------------------------------------------- the claims


def _parse_claims(proof: UnverifiedToken) -> Claims:
    try:
        return parse_unverified_claims(proof)
    except Refusal as refusal:
        _refuse_unreadable(refusal)


def _token_id(claims: Claims) -> str:
    token_id = _text(claims, "jti")
    if not 1 <= len(token_id) <= MAX_TOKEN_ID_LENGTH:
        _refuse(f"jti of the DPoP proof has not 1 to {MAX_TOKEN_ID_LENGTH} characters.")
    return token_id


def _check_url(htu: str, url: str) -> None:
    try:
        equal = _normal(htu) == _normal(url)
    except ValueError:
        _refuse("htu of the DPoP proof is not an absolute http or https URL.")
    if not equal:
        _refuse("htu of the DPoP proof is not the URL of the request.")


def _normal(url: str) -> tuple[str, str, int | None, str]:
    """The URL without query and fragment, normalised by syntax and scheme (RFC 3986 §6.2.2, §6.2.3).

    Dot segments stay: no client sends them, and what a server makes of them is not known here.
    """
    parts: SplitResult | None = urlsplit(url) if _URL.fullmatch(url) else None
    if parts is None or parts.scheme not in _DEFAULT_PORTS or not parts.hostname or "@" in parts.netloc:
        raise ValueError("is not an absolute URL")
    path = _PERCENT_ENCODED.sub(_decoded_unreserved, parts.path) or "/"
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS[parts.scheme], path


def _decoded_unreserved(found: re.Match[str]) -> str:
    character = chr(int(found[1], 16))
    return character if character in _UNRESERVED else found[0].upper()


def _check_times(claims: Claims, now: float) -> int:
    issued_at = _numeric_date(claims, "iat")
    if issued_at > now + FUTURE_SECONDS:
        _refuse(f"iat of the DPoP proof lies {issued_at - now:.0f} seconds ahead: compare the clocks.")
    if issued_at < now - PAST_SECONDS:
        _refuse(f"The DPoP proof is {now - issued_at:.0f} seconds old (iat); {PAST_SECONDS} are accepted.")
    if "exp" in claims and now >= _numeric_date(claims, "exp") + FUTURE_SECONDS:
        _refuse("The DPoP proof has expired (exp).")
    if "nbf" in claims and _numeric_date(claims, "nbf") > now + FUTURE_SECONDS:
        _refuse("The DPoP proof is not valid yet (nbf).")
    return issued_at


def _numeric_date(claims: Claims, name: str) -> int:
    value: Any = claims.get(name)
    if type(value) is not int or not 1 <= value <= _MAX_NUMERIC_DATE:
        _refuse(f"{name} of the DPoP proof is not a number of seconds since 1970.")
    return value


def _text(claims: Claims, name: str) -> str:
    value = claims.get(name)
    if type(value) is not str:
        _refuse(f"The DPoP proof has no {name} that is a string.")
    return value


def _refuse_unreadable(refusal: Refusal) -> NoReturn:
    _refuse(f"The DPoP proof cannot be read. {refusal.public.replace('token', 'proof')}")


def _refuse(why: str) -> NoReturn:
    raise Refusal("invalid_dpop_proof", why)
