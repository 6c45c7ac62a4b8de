"""Signing keys of a test, as if they had been read from a store."""

from collections.abc import Iterable

from gateway.model import SigningAlgorithm
from gateway.tokens.key_schedule import KeyRow, KeyTimings
from gateway.tokens.signing_key import SigningKey
from gateway.tokens.signing_keys import SigningKeys
from gateway.tokens.stores.base import StoredKey
from tests.support.time import HandClock

HOUR, DAY = 3600, 86400

TIMINGS = KeyTimings(cache_for_seconds=300, publish_ahead_seconds=DAY, keep_for_seconds=25 * HOUR)
"""The defaults of the settings: nothing is automatic."""


def row_of(key: SigningKey, *, sign_from: int | None = None, revoked_at: int | None = None) -> KeyRow:
    """The row of a key, which signs from when it was made unless something else is said."""
    return KeyRow(
        key.kid, key.algorithm, key.created_at, key.created_at if sign_from is None else sign_from, revoked_at
    )


def stored(*keys: SigningKey) -> list[StoredKey]:
    """Keys that sign from when they were made."""
    return [StoredKey(row_of(key), key) for key in keys]


def signing_keys(
    keys: Iterable[SigningKey], algorithm: SigningAlgorithm = "ES256", *, clock: HandClock | None = None
) -> SigningKeys:
    """Keys in force, at the time of the newest one unless there is a clock."""
    keys = list(keys)
    found = SigningKeys(clock or HandClock(max(key.created_at for key in keys)), TIMINGS, algorithm)
    found.take(stored(*keys))
    return found
