"""Mints access tokens (RFC 9068 §2, RFC 8693 §4.1) for an entitlement, and never beyond it."""

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.model import AccessToken, Entitlement
from gateway.oauth.errors import Refusal
from gateway.tokens.signing_key import SigningKey

OUR_CLAIMS = frozenset({
    "iss", "sub", "client_id", "aud", "iat", "nbf", "exp", "jti", "scope", "act", "may_act", "cnf",
    "entitled_by",
})  # fmt: skip
"""The claims that say who may do what. No policy maps anything onto them."""

NBF_ALLOWANCE_SECONDS = 5
"""How far ``nbf`` lies before ``iat``, for resource servers whose clock is a little slow."""


def mint(
    entitlement: Entitlement,
    act: Mapping[str, Any] | None,
    key: SigningKey,
    *,
    issuer: str,
    now: float,
    token_id: str,
    entitled_by: str,
    confirmation: Mapping[str, str] | None = None,
    not_after: int | None = None,
) -> AccessToken:
    """The signed token for one entitlement.

    ``act`` is who acts: ``{"iss", "sub"}`` of the workload, with the actor before it as its own ``act``; None for a
    client with a credential of its own. ``issuer`` is this server's URL, ``token_id`` becomes ``jti`` and is unique,
    ``entitled_by`` says by which issuer and rule, or by which credential, it was got, so that it can be revoked by
    that. ``confirmation`` is ``cnf``: what the token is bound to. ``not_after`` (seconds since the epoch) is the end of
    a subject token that this one must not outlive. Raises ``Refusal`` when less than a second would be left, or
    for a mapped claim that would pass for one of ours.
    """
    issued_at = int(now)
    expires_at = issued_at + entitlement.lifetime_seconds
    if not_after is not None:
        expires_at = min(expires_at, not_after)
    if expires_at - issued_at < 1:
        raise Refusal("token_expired", "The token ends too soon to be exchanged.")
    if not OUR_CLAIMS.isdisjoint(entitlement.claims):
        taken = ", ".join(sorted(OUR_CLAIMS.intersection(entitlement.claims)))
        raise Refusal("unmappable_claim", internal=f"the policy maps onto {taken}")
    claims = {
        **entitlement.claims,
        "iss": issuer,
        "sub": entitlement.service_account,
        "client_id": entitlement.service_account,
        "aud": entitlement.audience,
        "iat": issued_at,
        "nbf": issued_at - NBF_ALLOWANCE_SECONDS,
        "exp": expires_at,
        "jti": token_id,
        "entitled_by": entitled_by,
    }
    if act is not None:
        claims["act"] = act
    if confirmation is not None:
        claims["cnf"] = confirmation
    if entitlement.scopes:
        claims["scope"] = " ".join(entitlement.scopes)
    return AccessToken(key.sign(_payload(claims)), token_id, key.kid, issued_at, expires_at, entitlement, confirmation)


def _payload(claims: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(claims)
    except TypeError as error:  # a lone surrogate, a number beyond 64 bits
        raise Refusal("unmappable_claim", internal=str(error)) from error
