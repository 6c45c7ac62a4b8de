"""The authorization server metadata (RFC 8414 §2), served under both well-known names.

It says what this server does and nothing that it does not: a member appears only when its feature is on.
"""

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from gateway.model import GrantType

AUTHORIZATION_SERVER = "/.well-known/oauth-authorization-server"
OPENID_CONFIGURATION = "/.well-known/openid-configuration"
JWKS = "/.well-known/jwks.json"


def metadata(issuer: str, scopes: Iterable[str]) -> dict[str, Any]:
    """The document for an issuer URL and the scopes that its resources declare."""
    base = issuer.rstrip("/")
    document: dict[str, Any] = {
        "issuer": issuer,
        "token_endpoint": f"{base}/token",
        "jwks_uri": f"{base}{JWKS}",
        "scopes_supported": sorted(set(scopes)),
        # Required by RFC 8414 §2, though no authorization endpoint is here to answer one.
        "response_types_supported": ["none"],
        "grant_types_supported": [grant.value for grant in GrantType],
        "token_endpoint_auth_methods_supported": ["none"],
    }
    return {name: value for name, value in document.items() if value != []}


def well_known_paths(issuer: str, name: str) -> tuple[str, ...]:
    """Where a client looks for ``name``: at the root, and for an issuer with a path both between host and path
    (RFC 8414 §3.1) and behind the path (OpenID Connect Discovery §4.1).
    """
    path = urlsplit(issuer).path.rstrip("/")
    if not path:
        return (name,)
    return (name, f"{name}{path}", f"{path}{name}")


def endpoint_paths(issuer: str, name: str) -> tuple[str, ...]:
    """An endpoint's path at the root, and under the issuer's own path where a proxy passes it on unchanged."""
    path = urlsplit(issuer).path.rstrip("/")
    return (name,) if not path else (name, f"{path}{name}")
