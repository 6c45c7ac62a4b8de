"""How far a rotation has come, kept where every process sees it, and the lease that lets one of them go on.

The record holds the new secret's id and digest, never the secret. Each change of it is a compare-and-set: whoever was
overtaken learns so at its next step.
"""

import json
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from gateway.model import Clock
from gateway.state.base import Record, SharedRecords

KIND = "rotation"
LEASE_SECONDS = 180
"""How long a step may take before another process may think that this one is gone."""


class RotationError(Exception):
    """The rotation cannot go on now. What was reached is kept: the next run goes on from there."""


class RotationBusyError(RotationError):
    """Another process is at it, or was until a moment ago."""


class Step(StrEnum):
    """What is done, in the order in which it is done."""

    MAKING = "making"
    """The new secret's digest is noted; whether it reached the gateway or any store is not known."""
    STAGED = "staged"
    """It is registered for a short while, and pending in every store."""
    PROVEN = "proven"
    """The gateway gave a token for it: from here the way is forward."""
    PROMOTED = "promoted"
    """It is current in every store."""
    DONE = "done"
    """The ones before it have an end."""


_ORDER = tuple(Step)


@dataclass(frozen=True, slots=True)
class Progress:
    """A rotation of one client's secret. Times are seconds since the epoch."""

    step: Step
    secret_id: str
    digest: str
    targets: tuple[str, ...]
    """URLs of the stores."""
    began_at: float
    provisional_until: float
    """When the new secret ends if it is never proven."""
    expires_at: float | None
    """When it ends once it is."""
    overlap_seconds: int
    promoted_at: float | None = None
    finished_at: float | None = None

    def reached(self, step: Step) -> bool:
        """Whether this step is behind it."""
        return _ORDER.index(self.step) >= _ORDER.index(step)


class Lease:
    """The right to change one client's rotation. Lapses by itself where its holder is gone."""

    def __init__(self, records: SharedRecords, client_id: str, holder: str, clock: Clock) -> None:
        self._records = records
        self._client_id = client_id
        self._holder = holder
        self._clock = clock
        self._seen = 0
        self._record: Record | None = None
        self._lost = False
        self.progress: Progress | None = None
        """What is recorded; None before the first rotation."""

    async def acquire(self) -> None:
        """Takes the lease and reads how far the rotation is.

        Raises ``RotationBusyError`` while another has it, ``StateUnavailableError`` without the state.
        """
        self._record = await self._read()
        if self._record is not None:
            found = _parsed(self._record)
            if found.holder and found.leased_until > self._clock():
                seconds = round(found.leased_until - self._clock())
                raise RotationBusyError(
                    f"another process is rotating {self._client_id}; if it is gone, run this in {seconds} seconds"
                )
            self.progress = found.progress
        await self._put(_Lock(self._holder, self._clock() + LEASE_SECONDS, self.progress))

    async def renew(self) -> None:
        """Makes sure, before anything is done, that the lease is still held. Raises ``RotationBusyError``."""
        await self._put(_Lock(self._holder, self._clock() + LEASE_SECONDS, self.progress))

    async def save(self, progress: Progress) -> None:
        """Records how far it is. Raises ``RotationBusyError`` where somebody else has taken over."""
        await self._put(_Lock(self._holder, self._clock() + LEASE_SECONDS, progress))
        self.progress = progress

    async def release(self) -> None:
        """Lets the next one begin at once. Raises ``RotationBusyError`` where somebody else has taken over."""
        await self._put(_Lock("", 0, self.progress))

    async def _put(self, lock: "_Lock") -> None:
        value = _rendered(lock)
        version = self._record.version if self._record is not None else 0
        if not self._lost and await self._records.put(KIND, self._client_id, value, if_version=version):
            self._record = await self._read()
            if self._record is not None and self._record.value == value:
                return
        self._lost = True  # for good: what stands there now is somebody else's, and must not be built upon
        raise RotationBusyError(f"another process has taken over the rotation of {self._client_id}")

    async def _read(self) -> Record | None:
        changes = await self._records.changes(self._seen)
        self._seen = changes.version
        found = None if changes.whole else self._record
        for record in changes.records:
            if (record.kind, record.key) == (KIND, self._client_id):
                found = record
        return found if found is not None and found.value is not None else None


async def read_progress(records: SharedRecords) -> dict[str, Progress]:
    """By client id: how far its last rotation is. Raises ``StateUnavailableError``, ``RotationError``."""
    changes = await records.changes(0)
    found = {
        record.key: _parsed(record).progress
        for record in changes.records
        if record.kind == KIND and record.value is not None
    }
    return {client_id: progress for client_id, progress in found.items() if progress is not None}


@dataclass(frozen=True, slots=True)
class _Lock:
    """The record's content: who may go on, until when, and from where."""

    holder: str
    leased_until: float
    progress: Progress | None


_FIELDS = frozenset(one.name for one in fields(Progress))


def _rendered(lock: _Lock) -> bytes:
    return json.dumps(asdict(lock), separators=(",", ":")).encode()


def _parsed(record: Record) -> _Lock:
    try:
        document: dict[str, Any] = json.loads(record.value or b"")
        inner = document["progress"]
        return _Lock(
            holder=str(document["holder"]),
            leased_until=float(document["leased_until"]),
            progress=None if inner is None else _progress({name: inner[name] for name in inner if name in _FIELDS}),
        )
    except (ValueError, TypeError, LookupError, AttributeError):
        raise RotationError(
            f"the record of the rotation of {record.key} in the shared state cannot be read: was it written by a "
            "newer version of this program?"
        ) from None


def _progress(members: dict[str, Any]) -> Progress:
    members["step"] = Step(members["step"])
    members["targets"] = tuple(str(url) for url in members["targets"])
    return Progress(**members)
