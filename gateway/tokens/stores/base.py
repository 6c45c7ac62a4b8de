"""The port of a key store: keys that outlive the process, or are at hand in it."""

from collections.abc import Collection
from typing import Protocol

from gateway.tokens.signing_key import SigningKey


class KeyStoreError(Exception):
    """The store cannot be read or written, or must not be trusted. The message says what to do about it."""


class KeyStore(Protocol):
    """Keeps private keys for this replica and, where the kind is shared, for the others."""

    def load(self) -> list[SigningKey]:
        """Every key of the store, each checked against its name. Raises ``KeyStoreError``."""

    def save(self, key: SigningKey, known: Collection[str]) -> bool:
        """Adds a key durably if the store still holds exactly the keys named in ``known`` (their ``kid``).

        Returns False, with nothing changed, when somebody else was first: load again, and drop the key. So any
        number of replicas that start at once on an empty store end up with one key. Raises ``KeyStoreError``.
        """
