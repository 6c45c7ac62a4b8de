"""The port of a key store: keys with their schedule, which outlive the process, or are at hand in it."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gateway.state.mirror import Mirror
from gateway.tokens.key_schedule import KeyRow
from gateway.tokens.signing_key import SigningKey

MAX_KEYS = 100
"""Keys in one store. Beyond it nothing is read: nobody has made so many on purpose."""


class KeyStoreError(Exception):
    """The store cannot be read or written, or must not be trusted. The message says what to do about it."""


class KeyStoreUnavailableError(KeyStoreError):
    """The store cannot be reached right now; it is worth trying again."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One key of a store. ``key`` is None for one that was revoked: its private half is destroyed with that."""

    row: KeyRow
    key: SigningKey | None


@dataclass(frozen=True, slots=True)
class KeyStoreParts:
    """What the settings say of a key store, and the shared state for one that lies there."""

    url: str
    mirror: Mirror
    encryption_key_file: Path | None = None
    passphrase_file: Path | None = None


class KeyStore(Protocol):
    """Keeps private keys for this replica and, where the kind is shared, for the others."""

    look_every_seconds: float
    """How often to look for what others have changed; infinite where nobody else can."""

    async def load(self) -> Sequence[StoredKey]:
        """Every key of the store, each checked against its name. A key that was loaded before is the same object.

        Raises ``KeyStoreError``.
        """

    async def replace(
        self, before: Collection[KeyRow], after: Collection[KeyRow], new: Iterable[SigningKey] = ()
    ) -> bool:
        """Makes the rows ``after`` of the rows ``before``, durably, if the store still holds exactly these. ``new`` are
        the keys of the rows that are new.

        Returns False, with nothing changed, when somebody else was first: load again, and drop the keys. So any number
        of replicas that start at once on an empty store end up with one key. Raises ``KeyStoreError``.
        """

    def on_change(self, callback: Callable[[], None]) -> None:
        """Has ``callback`` called in the event loop where the store tells of changes by itself."""
