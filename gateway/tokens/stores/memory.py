"""Keys in memory, for development: gone at exit, and with them every token that they signed."""

from collections.abc import Collection

from gateway.tokens.signing_key import SigningKey


class MemoryKeyStore:
    """``memory://`` (``KeyStore``)."""

    def __init__(self) -> None:
        self._keys: dict[str, SigningKey] = {}

    def load(self) -> list[SigningKey]:
        """See ``KeyStore``."""
        return list(self._keys.values())

    def save(self, key: SigningKey, known: Collection[str]) -> bool:
        """See ``KeyStore``."""
        if self._keys.keys() != set(known):
            return False
        self._keys[key.kid] = key
        return True
