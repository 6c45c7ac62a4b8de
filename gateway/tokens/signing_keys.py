"""The keys in force in this process: which one signs, and which ones are published, from one moment to the next."""

import logging
import math
from collections.abc import Iterable, Mapping

from gateway.model import Clock, SigningAlgorithm
from gateway.oauth.errors import Refusal
from gateway.tokens.key_schedule import (
    PUBLISHED_STATES,
    KeyRow,
    KeyTimings,
    Schedule,
    known_since,
    schedule,
)
from gateway.tokens.signing_key import SigningKey
from gateway.tokens.stores.base import StoredKey

log = logging.getLogger("gateway.keys")


class SigningKeys:
    """What was last read from the store, seen by the clock: a key takes over, and goes, though nobody looks again."""

    def __init__(self, clock: Clock, timings: KeyTimings, algorithm: SigningAlgorithm) -> None:
        """``algorithm`` is the one that signs where nothing else is asked for."""
        self._clock = clock
        self._timings = timings
        self.algorithm: SigningAlgorithm = algorithm
        self._keys: dict[str, SigningKey] = {}
        self._rows: tuple[KeyRow, ...] = ()
        self._known_since: dict[str, float] = {}
        self._revoked: dict[str, KeyRow] = {}
        """Never forgotten by this process: whoever puts an older state of the store back brings no such key back."""
        self._looked_at: float | None = None
        self._schedule = Schedule((), math.inf)
        self._published: tuple[SigningKey, ...] = ()
        self._signers: dict[SigningAlgorithm, SigningKey] = {}
        self._by_header: dict[str, SigningKey] = {}

    @property
    def rows(self) -> tuple[KeyRow, ...]:
        """The rows of all keys, as they were last read."""
        return self._rows

    @property
    def known_since(self) -> Mapping[str, float]:
        """Since when this replica knows each of them, by ``kid``: see ``key_schedule.known_since``."""
        return self._known_since

    def take(self, stored: Iterable[StoredKey]) -> None:
        """Takes over what the store holds now: all that it does not hold is out of use."""
        now, stored = self._clock(), tuple(stored)
        before = {row.kid: row for row in self._rows}
        self._revoked |= {one.row.kid: one.row for one in stored if one.row.revoked_at is not None}
        self._rows = tuple(self._revoked.get(one.row.kid, one.row) for one in stored)
        self._keys = {one.row.kid: one.key for one in stored if one.key is not None}
        self._known_since = {
            row.kid: self._known_since.get(row.kid, known_since(row, now, self._looked_at)) for row in self._rows
        }
        self._looked_at = now
        still_published = {key.kid for key in self._published}
        self._see(now)
        for row in self._rows:
            _log_change(before.pop(row.kid, None), row)
        for kid in before.keys() & still_published:
            log.error("the signing key %s was taken out of the store before its time: its tokens fail", kid)

    def held(self) -> list[StoredKey]:
        """What was last read, to put it back into a store that has lost everything."""
        return [StoredKey(row, self._keys.get(row.kid) if row.revoked_at is None else None) for row in self._rows]

    def current(self, algorithm: SigningAlgorithm | None = None) -> SigningKey:
        """The key that signs now. Raises ``Refusal`` where there is none of the algorithm."""
        self._keep_up()
        key = self._signers.get(algorithm or self.algorithm)
        if key is None:
            raise Refusal("signing_unavailable", internal=f"no {algorithm or self.algorithm} key")
        return key

    def published(self) -> tuple[SigningKey, ...]:
        """All keys that verify our tokens or soon will, newest first: the same object until a key comes or goes."""
        self._keep_up()
        return self._published

    def signer_of(self, header_segment: str) -> SigningKey | None:
        """The published key whose tokens start with this header segment."""
        self._keep_up()
        return self._by_header.get(header_segment)

    def schedule(self) -> Schedule:
        """The states of all keys now."""
        self._keep_up()
        return self._schedule

    def _keep_up(self) -> None:
        now = self._clock()
        if now >= self._schedule.changes_at:
            self._see(now)

    def _see(self, now: float) -> None:
        self._schedule = schedule(self._rows, now, self._timings, self._known_since)
        keys, signers = self._keys, self._schedule.signers()
        published = tuple(keys[row.kid] for row in self._schedule.rows_in(PUBLISHED_STATES))
        for algorithm, row in signers.items():
            before = self._signers.get(algorithm)
            if before is None or before.kid != row.kid:
                log.info("signing key %s (%s) signs from now on", row.kid, algorithm)
        self._signers = {algorithm: keys[row.kid] for algorithm, row in signers.items()}
        if published != self._published:
            self._published = published
            self._by_header = {key.header_segment: key for key in published}


def _log_change(before: KeyRow | None, row: KeyRow) -> None:
    if before == row:
        return
    if row.revoked_at is not None:
        if before is None or before.revoked_at is None:
            log.warning("signing key %s (%s) is revoked: %a", row.kid, row.algorithm, row.note)
    elif before is None:
        log.info("signing key %s (%s) is there, sign_from=%d: %a", row.kid, row.algorithm, row.sign_from, row.note)
    else:
        log.warning(
            "signing key %s (%s) has changed, sign_from=%d: %a", row.kid, row.algorithm, row.sign_from, row.note
        )
