"""Whether an access token is one of the gateway for this API: pure functions, from a text to ``AccessTokenClaims``.

RFC 9068 §4, RFC 9449 §7, RFC 8705 §3. No I/O, no clock, no state.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.jose.compact import parse_token, parse_unverified_claims
from gateway.jose.dpop import DpopProof
from gateway.jose.jwks import KeySet
from gateway.jose.thumbprint import certificate_thumbprint
from gateway.model import Claims, UnverifiedToken
from gateway.oauth.errors import Refusal
from gateway.resource_server.claims import AccessTokenClaims

_TYPES = frozenset({"at+jwt", "application/at+jwt"})
_CONFIRMATIONS = frozenset({"jkt", "x5t#S256"})
_MAX_NUMERIC_DATE = 2**53
_PRINTABLE = re.compile(r"[\x20-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class Rules:
    """What is wanted of a token."""

    issuer: str
    audience: str
    algorithms: frozenset[str]
    leeway_seconds: int


def parse_access_token(text: str, rules: Rules) -> UnverifiedToken:
    """The token taken apart, if it can be one of the gateway at all:

    1. it is a compact JWS with a sane header
    2. its ``typ`` is ``at+jwt``
    3. its ``alg`` is allowed, and it names a key

    Raises ``Refusal``.
    """
    token = parse_token(text)  # 1
    typ: str = token.unverified_header.get("typ", "")
    if typ.lower() not in _TYPES:  # 2
        raise Refusal("wrong_token_type", "typ of the token is not at+jwt: it is no access token.")
    if token.unverified_header["alg"] not in rules.algorithms:  # 3
        raise Refusal("algorithm_not_allowed", "The token's alg is not accepted here.")
    if "kid" not in token.unverified_header:
        raise Refusal("missing_key_id")
    return token


def verify_access_token(token: UnverifiedToken, keys: KeySet, rules: Rules, now: float) -> AccessTokenClaims:
    """What the token says, if with the gateway's ``keys`` and at ``now`` all of this holds:

    4. its ``kid`` names one of the keys, and that key is made for its ``alg``
    5. the signature verifies with that key
    6. ``iss`` is the gateway, byte for byte
    7. ``aud`` names this API
    8. ``exp``, ``iat`` and, where present, ``nbf`` say that it is valid now
    9. ``sub``, ``client_id`` and ``jti`` are there, and ``scope``, ``act`` and ``cnf`` are what they should be

    Raises ``Refusal``. What the token is bound to is for ``check_confirmation``.
    """
    key = keys.by_key_id.get(token.unverified_header["kid"])  # 4
    if key is None:
        raise Refusal("unknown_key")
    verify = key.verifiers.get(token.unverified_header["alg"])
    if verify is None:
        raise Refusal("algorithm_not_allowed", "The token's alg is not that of its key.")
    if not verify(token.signing_input, token.signature):  # 5
        raise Refusal("bad_signature")
    claims = parse_unverified_claims(token)
    if claims.get("iss") != rules.issuer:  # 6
        raise Refusal("unknown_issuer", "The token was minted by another server (iss).")
    _check_audience(claims, rules.audience)  # 7
    expires_at = _check_times(claims, rules.leeway_seconds, now)  # 8
    return AccessTokenClaims(  # 9
        client_id=_text(claims, "client_id"),
        subject=_text(claims, "sub"),
        scopes=_scopes(claims),
        act=_act(claims),
        issuer=rules.issuer,
        audience=rules.audience,
        expires_at=expires_at,
        token_id=_text(claims, "jti"),
        cnf=_cnf(claims),
        claims=claims,
    )


def check_confirmation(claims: AccessTokenClaims, proof: DpopProof | None, der: bytes | None) -> None:
    """The sender has what the token is bound to: the key of the DPoP proof, the TLS certificate, or both.

    ``proof`` is None for a token that came as ``Bearer``: a bound one is refused then, which is the one thing that
    binding is for (RFC 9449 §7.2). ``der`` is the client certificate of the connection. Raises ``Refusal``.
    """
    jkt, x5t = claims.cnf.get("jkt"), claims.cnf.get("x5t#S256")
    if jkt is not None and proof is None:
        raise Refusal("confirmation_failed", "The token is bound to a key: it needs a DPoP proof.")
    if proof is not None and proof.jkt != jkt:
        raise Refusal("confirmation_failed", "The token is not bound to the key of the DPoP proof.")
    if x5t is not None and (der is None or certificate_thumbprint(der) != x5t):
        raise Refusal("confirmation_failed", "The token is bound to another TLS client certificate than is used.")


def _check_audience(claims: Claims, audience: str) -> None:
    aud = claims.get("aud")
    audiences = [aud] if type(aud) is str else aud
    if type(audiences) is not list or not all(type(name) is str for name in audiences):
        raise Refusal("missing_claim", "aud is neither a string nor an array of strings.")
    if audience not in audiences:
        raise Refusal("wrong_audience", "The token was made for another API (aud).")


def _check_times(claims: Claims, leeway_seconds: int, now: float) -> int:
    expires_at, issued_at = _numeric_date(claims, "exp"), _numeric_date(claims, "iat")
    not_before = _numeric_date(claims, "nbf") if "nbf" in claims else issued_at
    if now >= expires_at + leeway_seconds:
        raise Refusal("token_expired")
    if max(issued_at, not_before) > now + leeway_seconds:
        raise Refusal("token_not_yet_valid")
    return expires_at


def _numeric_date(claims: Claims, name: str) -> int:
    value = _required(claims, name)
    if type(value) is not int or not 1 <= value <= _MAX_NUMERIC_DATE:
        raise Refusal("invalid_claim", f"{name} is not a number of seconds since 1970.")
    return value


def _text(claims: Claims, name: str) -> str:
    value = _required(claims, name)
    if type(value) is not str or not _PRINTABLE.fullmatch(value):
        raise Refusal("invalid_claim", f"{name} is not a string of 1 to 255 printable characters.")
    return value


def _scopes(claims: Claims) -> tuple[str, ...]:
    scope = claims.get("scope", "")
    if type(scope) is not str:
        raise Refusal("invalid_claim", "scope is not a string.")
    return tuple(scope.split())


def _act(claims: Claims) -> Mapping[str, Any] | None:
    if "act" not in claims:
        return None
    act = claims["act"]
    if type(act) is not dict or type(act.get("sub")) is not str:
        raise Refusal("invalid_claim", "act does not say who acts.")
    return act


def _cnf(claims: Claims) -> Mapping[str, str]:
    """A confirmation that nobody here can check is none that holds (RFC 7800 §3.1)."""
    if "cnf" not in claims:
        return {}
    cnf = claims["cnf"]
    if type(cnf) is not dict or not cnf or not cnf.keys() <= _CONFIRMATIONS:
        raise Refusal("invalid_claim", "The token is bound to something that is not known here (cnf).")
    if not all(type(value) is str for value in cnf.values()):
        raise Refusal("invalid_claim", "cnf holds a thumbprint that is not a string.")
    return cnf


def _required(claims: Claims, name: str) -> Any:
    value = claims.get(name)
    if value is None:
        raise Refusal("missing_claim", f"{name} is missing.")
    return value
