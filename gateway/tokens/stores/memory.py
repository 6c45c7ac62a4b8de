"""Keys in memory, for development: gone at exit, and with them every token that they signed."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence

from gateway.tokens.key_schedule import KeyRow
from gateway.tokens.signing_key import SigningKey
from gateway.tokens.stores.base import StoredKey


class MemoryKeyStore:
    """``memory://`` (``KeyStore``). Nothing is awaited between look and change."""

    look_every_seconds = math.inf

    def __init__(self) -> None:
        self._rows: dict[str, KeyRow] = {}
        self._keys: dict[str, SigningKey] = {}

    async def load(self) -> Sequence[StoredKey]:
        """See ``KeyStore``."""
        return [StoredKey(row, self._keys.get(kid)) for kid, row in self._rows.items()]

    async def replace(
        self, before: Collection[KeyRow], after: Collection[KeyRow], new: Iterable[SigningKey] = ()
    ) -> bool:
        """See ``KeyStore``."""
        if set(self._rows.values()) != set(before):
            return False
        self._rows = {row.kid: row for row in after}
        keys = self._keys | {key.kid: key for key in new}
        self._keys = {row.kid: keys[row.kid] for row in after if row.revoked_at is None}
        return True

    def on_change(self, callback: Callable[[], None]) -> None:
        """See ``KeyStore``. Nobody else changes it."""
