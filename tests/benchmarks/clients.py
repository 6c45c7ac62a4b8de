"""What classic clients send: secrets, and assertions that they signed themselves; and the policies about them."""

import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlencode

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.oauth.client_authentication import ASSERTION_TYPE_JWT_BEARER
from gateway.oauth.client_secret import new_client_secret, secret_digest
from tests.benchmarks.workload import ISSUER

ASSERTION_SECONDS = 3600
"""The longest life that there is: a stock of assertions is signed before anything is measured."""

ACCOUNT = """---
kind: ServiceAccount
name: {name}
owner: clients@example.com
access: [{{resource: deploy-api, scopes: [deploy:read, deploy:write]}}]
rate_limit: {rate_limit}
credentials:
  secrets: [{{id: s1, digest: "{digest}"}}]
  keys: {{jwks_file: client-keys.json, max_assertion_lifetime: 1h}}
"""


@dataclass(frozen=True)
class Credentials:
    """What every client here authenticates with."""

    secret: str
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def new(cls) -> Self:
        return cls(new_client_secret(secrets.token_bytes), ec.generate_private_key(ec.SECP256R1()))


def write_policies(folder: Path, credentials: Credentials, rate_limits: Iterable[tuple[str, str]]) -> None:
    """Adds a service account for each name and rate limit to the policies of ``workload.write_policies``."""
    jwk = jwt.algorithms.ECAlgorithm.to_jwk(credentials.key.public_key(), as_dict=True)
    (folder / "client-keys.json").write_text(json.dumps({"keys": [{**jwk, "kid": "client", "alg": "ES256"}]}))
    digest = secret_digest(credentials.secret)
    accounts = (ACCOUNT.format(name=name, rate_limit=limit, digest=digest) for name, limit in rate_limits)
    (folder / "clients.yaml").write_text("".join(accounts))


def secret_form(client_id: str, secret: str) -> str:
    """``client_secret_post``."""
    return urlencode({"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret})


def assertion_form(client_id: str, credentials: Credentials, now: int) -> str:
    """``private_key_jwt``; each one works once."""
    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": ISSUER,
        "iat": now,
        "exp": now + ASSERTION_SECONDS,
        "jti": secrets.token_urlsafe(16),
    }
    return urlencode(
        {
            "grant_type": "client_credentials",
            "client_assertion_type": ASSERTION_TYPE_JWT_BEARER,
            "client_assertion": jwt.encode(claims, credentials.key, "ES256", {"kid": "client"}),
        }
    )
