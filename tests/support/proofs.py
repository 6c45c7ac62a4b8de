"""DPoP proofs (RFC 9449) of made-up clients, with real keys: good ones, and every way for them to go wrong."""

from collections.abc import Mapping
from itertools import count
from typing import Any

from gateway.jose.dpop import access_token_hash
from gateway.jose.jwks import ALGORITHMS, parse_key
from gateway.jose.thumbprint import key_thumbprint
from tests.support.tokens import ABSENT, NOW, compact, private_key, public_jwk

_COUNTER = count()


class ProvingClient:
    """A client with a key of its own; another ``number`` is another client."""

    def __init__(self, algorithm: str = "ES256", *, number: int = 100) -> None:
        self.algorithm = algorithm
        self.key = private_key(algorithm, number)
        self.jwk = public_jwk(self.key)
        self.jkt = key_thumbprint(parse_key(self.jwk, algorithms=ALGORITHMS).public_key)

    def proof(
        self,
        method: str,
        url: str,
        *,
        now: float = NOW,
        access_token: str | None = None,
        header: Mapping[str, Any] | None = None,
        claims: Mapping[str, Any] | None = None,
        key: Any = None,
    ) -> str:
        """A proof with a fresh ``jti``; ``header`` and ``claims`` replace or remove (``ABSENT``) members."""
        members: dict[str, Any] = {"typ": "dpop+jwt", "alg": self.algorithm, "jwk": self.jwk} | dict(header or {})
        payload: dict[str, Any] = {"jti": f"proof-{next(_COUNTER)}", "htm": method, "htu": url, "iat": int(now)}
        if access_token is not None:
            payload["ath"] = access_token_hash(access_token)
        payload |= dict(claims or {})
        present = [{name: value for name, value in part.items() if value is not ABSENT} for part in (members, payload)]
        return compact(present[0], present[1], self.algorithm, key or self.key)
