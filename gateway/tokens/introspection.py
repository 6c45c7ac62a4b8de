"""What an API is told of an access token (RFC 7662 §2.2), in plain JSON or signed (RFC 9701 §5). Pure."""

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.tokens.own_token import OwnToken
from gateway.tokens.signing_key import SigningKey

INTROSPECTION_TYPE = "token-introspection+jwt"  # RFC 9701 §5

Introspection = Mapping[str, Any]
"""The members of an introspection response."""

INACTIVE: Introspection = {"active": False}
"""All that is ever said of a token that is not good, or that whoever asks may not see."""


def token_type(confirmation: Mapping[str, str] | None) -> str:
    """How a token with this ``cnf`` is sent: ``DPoP`` where it is bound to a key of DPoP (RFC 9449 §6.2)."""
    return "DPoP" if confirmation is not None and "jkt" in confirmation else "Bearer"


def introspection(own: OwnToken) -> Introspection:
    """All that a good token says: its claims as they are, the mapped ones included (RFC 7662 §2.2, RFC 8693 §4.1,
    RFC 8705 §3.2, RFC 9449 §6.2).
    """
    return {**own.claims, "active": True, "token_type": token_type(own.confirmation)}


def signed_introspection(members: Introspection, key: SigningKey, *, issuer: str, audience: str, now: float) -> str:
    """The answer as a JWT for one reader (RFC 9701 §5).

    ``audience`` is the client id of whoever asked. The token's claims stay inside ``token_introspection``, so that
    the JWT passes nowhere for an access token or an assertion.
    """
    claims = {"iss": issuer, "aud": audience, "iat": int(now), "token_introspection": members}
    return key.sign(orjson.dumps(claims), INTROSPECTION_TYPE)
