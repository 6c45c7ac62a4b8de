"""What a verified access token says: the value that an API works with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.model import Claims
from gateway.resource_server.denied import insufficient_scope


@dataclass(frozen=True, slots=True)
class AccessTokenClaims:
    """The claims of a token that was verified (RFC 9068 §2.2)."""

    client_id: str
    """The service account that the token was minted for."""
    subject: str
    scopes: tuple[str, ...]
    act: Mapping[str, Any] | None
    """Who acted: ``iss`` and ``sub`` of the workload, with the actor before it as its own ``act`` (RFC 8693 §4.1)."""
    issuer: str
    audience: str
    """This API, as the token names it."""
    expires_at: int
    """Seconds since the epoch."""
    token_id: str
    cnf: Mapping[str, str]
    """What the token is bound to (RFC 7800 §3.1); its holder has proven to have it. Empty for a bearer token."""
    claims: Claims = field(repr=False)
    """Everything, with what the policy put in."""

    def require(self, *scopes: str) -> None:
        """Returns if the token has all of the scopes. Raises ``AccessDenied`` with 403 if it has not."""
        if not set(scopes).issubset(self.scopes):
            raise insufficient_scope(scopes, self.audience, "DPoP" if "jkt" in self.cnf else "Bearer")
