"""The gateway as an API sees it: a signing key, the tokens that it signs, the key set that it serves."""

import json
from collections.abc import Callable
from typing import Any

import orjson

from gateway.resource_server import ApiRequest, Verifier
from gateway.resource_server.fetch import Fetched, FetchError
from gateway.tokens.signing_key import SigningKey
from tests.support.proofs import ProvingClient
from tests.support.tokens import ABSENT, NOW

ISSUER = "https://sts.example.com"
AUDIENCE = "https://ledger.example.com"
JWKS_URI = f"{ISSUER}/.well-known/jwks.json"
WORKLOAD = {"iss": "https://kubernetes.default.svc", "sub": "system:serviceaccount:billing:invoicer"}


class Mint:
    """A gateway without HTTP: ``token`` is what it mints, ``fetch`` what an API gets when it asks for keys."""

    def __init__(self, algorithm: Any = "ES256") -> None:
        self.key = SigningKey.generate(algorithm, NOW)
        self.published = [self.key]
        self.away = False
        self.fetches: list[str] = []
        """The URL of each fetch."""
        self.max_age_seconds: int | None = 300
        self.discovery: dict[str, Any] = {}
        """Members that replace those of the metadata."""

    def rotate(self) -> SigningKey:
        """A new key signs from now on; both are published. The old one comes back."""
        old, self.key = self.key, SigningKey.generate(self.key.algorithm, NOW)
        self.published = [self.key, old]
        return old

    def claims(self, *, now: float = NOW, **overrides: Any) -> dict[str, Any]:
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "sub": "invoicer",
            "client_id": "invoicer",
            "aud": AUDIENCE,
            "iat": int(now),
            "nbf": int(now) - 5,
            "exp": int(now) + 900,
            "jti": "token-1",
            "scope": "ledger:read",
            "act": WORKLOAD,
        }
        return {name: value for name, value in (claims | overrides).items() if value is not ABSENT}

    def token(self, *, now: float = NOW, **overrides: Any) -> str:
        return self.key.sign(orjson.dumps(self.claims(now=now, **overrides)))

    @property
    def jwks(self) -> dict[str, Any]:
        return {"keys": [key.public_jwk() for key in self.published]}

    def fetch(self, url: str, etag: str | None) -> Fetched:
        self.fetches.append(url)
        if self.away:
            raise FetchError("no answer")
        document: Any = self.jwks
        if url != JWKS_URI:
            document = {"issuer": ISSUER, "jwks_uri": JWKS_URI} | self.discovery
        return Fetched(200, json.dumps(document).encode(), self.max_age_seconds, None)

    def verifier(self, clock: Callable[[], float] = lambda: NOW, **options: Any) -> Verifier:
        """A verifier whose fetches end before they are waited for."""
        settings = {"issuer": ISSUER, "audience": AUDIENCE, "jwks_uri": JWKS_URI, "fetch": self.fetch, "clock": clock}
        return Verifier(**{**settings, "background": lambda work: work(), "jitter": lambda: 0.5, **options})


def api_request(token: str | None = None, *, scheme: str = "Bearer", **options: Any) -> ApiRequest:
    """``GET /entries`` with a token."""
    values: dict[str, Any] = {"method": "GET", "path": "/entries", **options}
    if token is not None:
        values.setdefault("authorization", (f"{scheme} {token}",))
    return ApiRequest(**values)


def bound(mint: Mint, client: ProvingClient, *, now: float = NOW, **claims: Any) -> str:
    """A token that is bound to a client's key (RFC 9449 §6.1)."""
    return mint.token(now=now, cnf={"jkt": client.jkt}, **claims)
