"""Verifies a token of our own that comes back as the subject of an exchange. Pure: no I/O, the clock is handed in.

A token of ours starts with the header segment of one of our published keys, to the letter. Nothing else is parsed,
so that neither ``alg`` nor ``kid`` nor ``typ`` is ever taken from a caller.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson

from gateway.jose import base64url
from gateway.model import PassedOn
from gateway.oauth.errors import Refusal
from gateway.tokens.signing_keys import SigningKeys

MAX_TOKEN_CHARACTERS = 16 * 1024
_COMPACT_JWS = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class OwnToken:
    """What a verified access token of this server says."""

    service_account: str
    audience: str
    scopes: tuple[str, ...]
    expires_at: int
    issued_at: int
    token_id: str
    act: Mapping[str, Any] | None
    """Who acts: the workload, with those before it inside; None where a client got it with its own credential."""
    entitled_by: str
    """By which issuer and rule, or by which credential, it was got."""
    confirmation: Mapping[str, str] | None
    """``cnf``: what it is bound to."""
    claims: Mapping[str, Any]
    """All of them."""
    token_sha256: str

    @property
    def passed_on(self) -> PassedOn:
        """What the policy decides about."""
        return PassedOn(self.service_account, self.audience, self.scopes, self.act, self.entitled_by)


def verify_own_token(text: str, signing_keys: SigningKeys, issuer: str, now: float) -> OwnToken:
    """What the token says. Raises ``Refusal`` with the reasons that a workload token would have.

    The conditions, in order: 1. a compact JWS of bounded size; 2. the header of a published key, which fixes ``typ``,
    ``alg`` and ``kid``; 3. its signature, in canonical form; 4. minted under this issuer URL; 5. within ``nbf`` and
    ``exp``, without leeway, as both clocks are ours; 6. the claims that every token of ours has.
    """
    header, payload, signature = _parse_segments(text)  # 1
    key = signing_keys.signer_of(header)
    if key is None:
        _refuse_header(header)  # 2
    if not key.has_signed(f"{header}.{payload}".encode("ascii"), _parse_base64url(signature)):  # 3
        raise Refusal("bad_signature")
    claims = _parse_claims(payload)
    if claims.get("iss") != issuer:  # 4
        raise Refusal("unknown_issuer", "The token was minted under another issuer URL.")
    _check_time(claims, now)  # 5
    return _own_token(claims, hashlib.sha256(text.encode("ascii")).hexdigest())  # 6


def _parse_segments(text: str) -> tuple[str, str, str]:
    if len(text) > MAX_TOKEN_CHARACTERS:
        raise Refusal("token_too_large")
    if not _COMPACT_JWS.fullmatch(text):
        raise Refusal("malformed_token")
    header, payload, signature = text.split(".")
    return header, payload, signature


def _refuse_header(header: str) -> NoReturn:
    """Tells a token of another kind from one of ours whose key is gone. Only the choice of words depends on this."""
    try:
        unverified_header = orjson.loads(_parse_base64url(header))
    except orjson.JSONDecodeError:
        raise Refusal("malformed_header") from None
    if not isinstance(unverified_header, dict) or unverified_header.get("typ") != "at+jwt":
        raise Refusal(
            "wrong_token_type", "This is not an access token of this server; name its real subject_token_type."
        )
    raise Refusal("unknown_key", "The token was not signed by a key of this server that is in use.")


def _parse_base64url(segment: str) -> bytes:
    try:
        return base64url.parse(segment)
    except ValueError:
        raise Refusal("malformed_token") from None


def _parse_claims(payload: str) -> dict[str, Any]:
    claims = orjson.loads(_parse_base64url(payload))
    assert isinstance(claims, dict)  # we signed it
    return claims


def _check_time(claims: dict[str, Any], now: float) -> None:
    not_before, expires_at = claims.get("nbf"), claims.get("exp")
    if type(not_before) is not int or type(expires_at) is not int:
        raise Refusal("missing_claim")
    if now >= expires_at:
        raise Refusal("token_expired")
    if now < not_before:
        raise Refusal("token_not_yet_valid")


def _own_token(claims: dict[str, Any], token_sha256: str) -> OwnToken:
    match claims:
        case {
            "sub": str(service_account), "client_id": str(client_id), "aud": str(audience), "iat": int(issued_at),
            "exp": int(expires_at), "jti": str(token_id), "entitled_by": str(entitled_by),
        } if service_account == client_id and _are_objects(claims, ("act", "cnf")):  # fmt: skip
            return OwnToken(
                service_account=service_account,
                audience=audience,
                scopes=tuple(str(claims.get("scope", "")).split()),
                issued_at=issued_at,
                expires_at=expires_at,
                token_id=token_id,
                act=claims.get("act"),
                entitled_by=entitled_by,
                confirmation=claims.get("cnf"),
                claims=claims,
                token_sha256=token_sha256,
            )
    raise Refusal("missing_claim")


def _are_objects(claims: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Whether each of these claims is an object or not there."""
    return all(isinstance(claims.get(name, {}), dict) for name in names)
