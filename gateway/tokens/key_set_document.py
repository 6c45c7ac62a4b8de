"""The key set that the world verifies our tokens with (RFC 7517 §5), ready to be sent."""

import hashlib

import orjson

from gateway.tokens.signing_key import SigningKey
from gateway.tokens.signing_keys import SigningKeys


class KeySetDocument:
    """The JWKS as bytes with its entity tag, made anew only when a key comes or goes."""

    def __init__(self, signing_keys: SigningKeys, cache_for_seconds: int) -> None:
        """``cache_for_seconds`` is how long verifiers may keep it."""
        self.cache_control = f"public, max-age={cache_for_seconds}, must-revalidate"
        self._signing_keys = signing_keys
        self._keys: tuple[SigningKey, ...] | None = None
        self._body = b""
        self._etag = ""

    @property
    def body(self) -> bytes:
        """The document, keys in a stable order, newest first."""
        self._refresh()
        return self._body

    @property
    def etag(self) -> str:
        """A strong entity tag, with its quotes (RFC 9110 §8.8.3): equal on every replica with the same keys."""
        self._refresh()
        return self._etag

    def _refresh(self) -> None:
        keys = self._signing_keys.published()
        if keys is self._keys:
            return
        self._body = orjson.dumps({"keys": [key.public_jwk() for key in keys]})
        self._etag = f'"{hashlib.sha256(self._body).hexdigest()[:32]}"'
        self._keys = keys
