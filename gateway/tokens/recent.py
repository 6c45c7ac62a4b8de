"""Verified tokens of our own, remembered for a minute: an API asks about the same one at every request.

Only that the signature was good is remembered. Whether a token has expired or was revoked is asked each time, and when
a key comes or goes nothing is remembered any more.
"""

import hashlib

from cachetools import TLRUCache

from gateway.model import Clock
from gateway.tokens.own_token import MAX_TOKEN_CHARACTERS, OwnToken, verify_own_token
from gateway.tokens.signing_key import SigningKey
from gateway.tokens.signing_keys import SigningKeys

REMEMBERED_TOKENS = 4096
REMEMBERED_SECONDS = 60


class RecentTokens:
    """Verifies as ``verify_own_token`` does; keeps the digests of good tokens, never the tokens."""

    def __init__(
        self, signing_keys: SigningKeys, issuer: str, clock: Clock, *, capacity: int = REMEMBERED_TOKENS
    ) -> None:
        self._signing_keys = signing_keys
        self._issuer = issuer
        self._clock = clock
        self._keys: tuple[SigningKey, ...] = ()
        self._verified: TLRUCache[bytes, OwnToken] = TLRUCache(capacity, ttu=_until, timer=clock)

    def verify(self, text: str) -> OwnToken:
        """What the token says. Raises ``Refusal``."""
        keys = self._signing_keys.published()
        if keys is not self._keys:
            self._verified.clear()
            self._keys = keys
        if len(text) > MAX_TOKEN_CHARACTERS:
            return self._verified_anew(text)
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
        own = self._verified.get(digest)
        if own is None:
            own = self._verified[digest] = self._verified_anew(text)
        return own

    def _verified_anew(self, text: str) -> OwnToken:
        return verify_own_token(text, self._signing_keys, self._issuer, self._clock())


def _until(_digest: bytes, own: OwnToken, now: float) -> float:
    return min(own.expires_at, now + REMEMBERED_SECONDS)
