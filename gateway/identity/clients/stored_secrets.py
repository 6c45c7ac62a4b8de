"""Client secrets in the shared state: their digests, their ends, and when each was last used.

One record for each secret, ``client-secret`` under ``<client id>/<secret id>``, and one for its last use,
``client-secret-use`` under the same key. The server reads them from its mirror of the state; the command line changes
them, each change a compare-and-set.
"""

import asyncio
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from cachetools import LRUCache

from gateway.model import Clock, RegisteredSecret
from gateway.state.base import Record, SharedRecords, StateUnavailableError

KIND = "client-secret"
USE_KIND = "client-secret-use"
REMEMBER_ENDED_SECONDS = 30 * 86400
"""How long a secret is still listed after its end."""
REMEMBER_USE_SECONDS = 400 * 86400
NOTE_EVERY_SECONDS = 60
"""How often one secret's last use is written at most."""

_DIGEST_CHARACTERS = frozenset("0123456789abcdef")
_LATEST_TIME_SECONDS = 1e11  # the year 5138
_TRIES = 10
_NOTED = 65_536
"""Secrets whose last use is remembered; one that was forgotten is written once more."""

log = logging.getLogger(__name__)


class RecordView(Protocol):
    """What a process sees of the shared records without asking the backend: ``gateway.state.mirror.Mirror``."""

    def of(self, kind: str) -> Mapping[str, Record]:
        """The live records of a kind by their keys."""

    def subscribe(self, kind: str, callback: Callable[[Record], None]) -> None:
        """Has ``callback`` called with every record of a kind that is new, changed or removed from now on."""


class StoredSecrets:
    """The secrets of the shared state as this process has them. Asks no backend: an outage changes nothing."""

    def __init__(self, view: RecordView) -> None:
        self._live = view.of(KIND)
        self._by_client: dict[str, tuple[RegisteredSecret, ...]] = {}
        for record in self._live.values():
            self._take(record)
        view.subscribe(KIND, self._take)

    def of(self, client_id: str) -> tuple[RegisteredSecret, ...]:
        """Those of one client, ended ones included."""
        return self._by_client.get(client_id, ())

    def _take(self, record: Record) -> None:
        """Takes over one record, and drops what is forgotten of the same client."""
        client_id, secret_id = _ids(record)
        held = [one for one in self.of(client_id) if one.id != secret_id and f"{client_id}/{one.id}" in self._live]
        secret = _secret(record)
        if secret is not None:
            held.append(secret)
        self._by_client[client_id] = tuple(held)
        if not held:
            del self._by_client[client_id]


class LastUse:
    """Notes when secrets were used, in the background: no request waits for it, and none fails by it."""

    def __init__(self, records: SharedRecords) -> None:
        self._records = records
        self._noted: LRUCache[str, float] = LRUCache(_NOTED)
        self._waiting: dict[str, float] = {}
        self._writing: asyncio.Task[None] | None = None

    def note(self, client_id: str, secret_id: str, now: float) -> None:
        """A secret has just proven its client. Of many uses within a minute one is written."""
        key = f"{client_id}/{secret_id}"
        if now - self._noted.get(key, -math.inf) < NOTE_EVERY_SECONDS:
            return
        self._noted[key] = self._waiting[key] = now
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def close(self) -> None:
        """Waits until what was noted is written."""
        if self._writing is not None:
            await self._writing

    async def _write(self) -> None:
        while self._waiting:
            key, at = self._waiting.popitem()
            try:
                await self._records.put(
                    USE_KIND, key, json.dumps({"at": int(at)}).encode(), until=at + REMEMBER_USE_SECONDS
                )
            except StateUnavailableError as error:
                # The next use is written again: nothing is decided by it.
                log.debug("last use of %s is not written: %s", key, error)
                self._noted.pop(key, None)


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """A secret of the register, as the backend has it now."""

    client_id: str
    secret: RegisteredSecret


class SecretRegister:
    """The register of client secrets, for the command line. Raises ``StateUnavailableError`` throughout."""

    def __init__(self, records: SharedRecords, clock: Clock) -> None:
        self._records = records
        self._clock = clock

    async def all(self) -> tuple[list[StoredSecret], Mapping[tuple[str, str], float]]:
        """Every secret, and by client id and secret id every last use, those of secrets in policy files too."""
        records = (await self._records.changes(0)).records
        uses = {
            _ids(record): at for record in records if record.kind == USE_KIND and (at := _used_at(record)) is not None
        }
        found = [
            StoredSecret(_ids(record)[0], secret)
            for record in records
            if record.kind == KIND and (secret := _secret(record)) is not None
        ]
        return sorted(found, key=lambda one: (one.client_id, one.secret.created_at or 0, one.secret.id)), uses

    async def of(self, client_id: str) -> Sequence[RegisteredSecret]:
        """Those of one client, ended ones included, the oldest first."""
        secrets, _ = await self.all()
        return [one.secret for one in secrets if one.client_id == client_id]

    async def add(self, client_id: str, secret: RegisteredSecret) -> bool:
        """Registers a secret; False, and nothing is changed, if the client has one of that id."""
        return await self._put(client_id, secret, if_version=0)

    async def end(self, client_id: str, secret_id: str, at: float) -> bool:
        """Lets a secret end at this time, never later than it did; False if there is none of that id."""
        for _ in range(_TRIES):
            version, secret = await self._read(client_id, secret_id)
            if secret is None:
                return False
            if secret.expires_at is not None and secret.expires_at <= at:
                return True
            if await self._put(client_id, replace(secret, expires_at=at), if_version=version):
                return True
        raise StateUnavailableError(f"the secret {secret_id} of {client_id} is being changed by somebody else")

    async def prolong(self, client_id: str, secret_id: str, *, ends_at: float, until: float | None) -> bool:
        """Lets a secret that ends at ``ends_at`` end at ``until`` (None: never); True if it ends then already.

        False, and nothing is changed, if it is gone or ends at any other time: somebody else has decided.
        """
        for _ in range(_TRIES):
            version, secret = await self._read(client_id, secret_id)
            if secret is None or secret.expires_at not in {ends_at, until}:
                return False
            if secret.expires_at == until or await self._put(
                client_id, replace(secret, expires_at=until), if_version=version
            ):
                return True
        raise StateUnavailableError(f"the secret {secret_id} of {client_id} is being changed by somebody else")

    async def _read(self, client_id: str, secret_id: str) -> tuple[int, RegisteredSecret | None]:
        key = f"{client_id}/{secret_id}"
        for record in (await self._records.changes(0)).records:
            if (record.kind, record.key) == (KIND, key):
                return record.version, _secret(record)
        return 0, None

    async def _put(self, client_id: str, secret: RegisteredSecret, *, if_version: int) -> bool:
        value = {"digest": secret.digest, "created": secret.created_at, "expires": secret.expires_at}
        return await self._records.put(
            KIND,
            f"{client_id}/{secret.id}",
            json.dumps(value, separators=(",", ":")).encode(),
            until=None if secret.expires_at is None else secret.expires_at + REMEMBER_ENDED_SECONDS,
            if_version=if_version,
        )


def _ids(record: Record) -> tuple[str, str]:
    """The client's id and the secret's; neither has a slash in it."""
    client_id, _, secret_id = record.key.partition("/")
    return client_id, secret_id


def _secret(record: Record) -> RegisteredSecret | None:
    """The secret of a record. One that cannot be read is none: it lets nobody in, and keeps nobody else out."""
    client_id, secret_id = _ids(record)
    members = _members(record)
    digest = members.get("digest")
    times = [members.get(name) for name in ("created", "expires")]
    if not (client_id and secret_id and _is_digest(digest) and "expires" in members and all(map(_is_time, times))):
        if record.value is not None:
            log.warning("the record %a of a client secret cannot be read and is left out", record.key)
        return None
    return RegisteredSecret(secret_id, str(digest), *times)


def _used_at(record: Record) -> float | None:
    at = _members(record).get("at")
    return at if isinstance(at, int | float) and _is_time(at) else None


def _members(record: Record) -> dict[str, Any]:
    try:
        members = json.loads(record.value or b"null")
    except (ValueError, RecursionError):
        return {}
    return members if isinstance(members, dict) else {}


def _is_digest(digest: object) -> bool:
    return (
        isinstance(digest, str)
        and digest.startswith("sha256:")
        and len(digest) == len("sha256:") + 64
        and _DIGEST_CHARACTERS.issuperset(digest[7:])
    )


def _is_time(time: object) -> bool:
    """Absent, or a number that is a time: neither a boolean nor one of JSON's infinities, nor beyond every clock."""
    return time is None or (
        isinstance(time, int | float) and not isinstance(time, bool) and abs(time) <= _LATEST_TIME_SECONDS
    )
