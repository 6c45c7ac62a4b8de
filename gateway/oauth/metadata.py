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
AUTHORIZE = "/authorize"
INTROSPECT = "/introspect"
REVOKE = "/revoke"
VERIFY = "/verify"


def token_endpoint(issuer: str) -> str:
    """The URL of the token endpoint."""
    return f"{issuer.rstrip('/')}/token"


def metadata(
    issuer: str,
    scopes: Iterable[str],
    *,
    authentication_methods: Iterable[str],
    assertion_algorithms: Iterable[str],
    proof_algorithms: Iterable[str],
    signing_algorithm: str,
    client_certificates: bool,
) -> dict[str, Any]:
    """The document for an issuer URL and the scopes that its resources declare.

    ``authentication_methods`` are those of RFC 7591 and RFC 8705 that are served, ``assertion_algorithms`` what a
    client may sign its assertions with unless its registration says otherwise, ``proof_algorithms`` those of DPoP
    proofs, ``signing_algorithm`` that of our own tokens; ``client_certificates`` says whether client certificates reach
    this server at all.
    """
    base = issuer.rstrip("/")
    methods = [name for name in dict.fromkeys(authentication_methods) if client_certificates or "tls" not in name]
    document: dict[str, Any] = {
        "issuer": issuer,
        # There is no authorization endpoint to speak of; some clients do not start without this member (MSAL).
        "authorization_endpoint": f"{base}{AUTHORIZE}",
        "token_endpoint": token_endpoint(issuer),
        "jwks_uri": f"{base}{JWKS}",
        "scopes_supported": sorted(set(scopes)),
        # Required by RFC 8414 §2, though the authorization endpoint answers none.
        "response_types_supported": ["none"],
        "grant_types_supported": [grant.value for grant in GrantType],
        # A workload token is the credential itself: whoever exchanges one need not authenticate besides.
        "token_endpoint_auth_methods_supported": [*methods, "none"],
        "token_endpoint_auth_signing_alg_values_supported": sorted(assertion_algorithms),
        "dpop_signing_alg_values_supported": sorted(proof_algorithms),
        "introspection_endpoint": f"{base}{INTROSPECT}",
        "introspection_endpoint_auth_methods_supported": methods,
        "introspection_endpoint_auth_signing_alg_values_supported": sorted(assertion_algorithms),
        "introspection_signing_alg_values_supported": [signing_algorithm],  # RFC 9701 §7
        "revocation_endpoint": f"{base}{REVOKE}",
        # Whoever holds a token may end it.
        "revocation_endpoint_auth_methods_supported": [*methods, "none"],
        "revocation_endpoint_auth_signing_alg_values_supported": sorted(assertion_algorithms),
    }
    if client_certificates:
        document["tls_client_certificate_bound_access_tokens"] = True
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
