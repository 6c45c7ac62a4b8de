"""Keys in the shared state, so that all replicas have the same ones: ``state://``.

All keys and their schedule are one record, put in one step. It is sealed as a whole (AES-256-GCM) with a key of the
gateways alone: who has the state can neither read a private key nor decide which one signs.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.jose import base64url
from gateway.state.base import StateUnavailableError
from gateway.state.mirror import Mirror
from gateway.state.table import MAX_RECORD_BYTES
from gateway.tokens.key_schedule import KeyRow
from gateway.tokens.signing_key import SigningKey
from gateway.tokens.stores.base import MAX_KEYS, KeyStoreError, KeyStoreUnavailableError, StoredKey
from gateway.tokens.stores.rows import parse_row, row_as_json
from gateway.tokens.stores.secret_file import read_secret_file

KIND = "signing keys"
"""The kind of its record in the shared state."""

_NAME = "all"
_PURPOSE = b"workload identity gateway: signing keys, 1"
"""What the seal is for: nothing that was sealed for another purpose is taken for the keys (associated data)."""
_KEY_BYTES, _KEY_ID_BYTES, _NONCE_BYTES = 32, 8, 12
_MAX_SEALED_BYTES = MAX_RECORD_BYTES - 1024
_LOOK_EVERY_SECONDS = 60.0
"""The mirror tells of changes within a fraction of a second; this is for what it may have missed."""


class Sealer:
    """Seals with the first of some keys, and opens with whichever it was: so that the key can be exchanged."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """``keys`` are of 32 bytes each."""
        self._ids = [hashlib.sha256(_PURPOSE + key).digest()[:_KEY_ID_BYTES] for key in keys]
        self._keys = dict(zip(self._ids, map(AESGCM, keys), strict=True))

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """The keys of a file, one a line, base64url. Raises ``KeyStoreError``."""
        keys = []
        for number, line in enumerate(read_secret_file(path).splitlines(), start=1):
            try:
                key = base64url.parse(line.strip().rstrip("="))
            except ValueError:
                key = b""
            if len(key) != _KEY_BYTES:
                raise KeyStoreError(
                    f"{path}:{number}: is not 32 random bytes in base64url; make them with: "
                    "openssl rand -base64 32 | tr +/ -_"
                )
            keys.append(key)
        return cls(keys)

    def seal(self, data: bytes) -> bytes:
        """The sealed form of some bytes, different each time."""
        key_id, nonce = self._ids[0], secrets.token_bytes(_NONCE_BYTES)
        return key_id + nonce + self._keys[key_id].encrypt(nonce, data, _PURPOSE)

    def open(self, sealed: bytes) -> bytes:
        """What was sealed. Raises ``KeyStoreError``."""
        key_id, rest = sealed[:_KEY_ID_BYTES], sealed[_KEY_ID_BYTES:]
        key = self._keys.get(key_id)
        if key is None:
            raise KeyStoreError(
                "the signing keys in the shared state are sealed with another key than those in "
                "keys.encryption_key_file: give every replica the same file, and while it is exchanged both keys"
            )
        try:
            return key.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], _PURPOSE)
        except (InvalidTag, ValueError):
            raise KeyStoreError("the signing keys in the shared state were changed by somebody else") from None


class StateKeyStore:
    """``state://`` (``KeyStore``)."""

    look_every_seconds = _LOOK_EVERY_SECONDS

    def __init__(self, mirror: Mirror, encryption_key_file: Path | None) -> None:
        """Raises ``KeyStoreError`` for a file without a key to seal with."""
        if encryption_key_file is None:
            raise KeyStoreError("state:// needs keys.encryption_key_file")
        self._mirror = mirror
        self._sealer = Sealer.of_file(encryption_key_file)
        self._loaded: dict[str, SigningKey] = {}

    async def load(self) -> Sequence[StoredKey]:
        """See ``KeyStore``."""
        try:
            await self._mirror.refresh()
        except StateUnavailableError as error:
            raise KeyStoreUnavailableError(f"the signing keys cannot be read: {error}") from error
        return [await self._stored(row, pem) for row, pem in self._read()]

    async def replace(
        self, before: Collection[KeyRow], after: Collection[KeyRow], new: Iterable[SigningKey] = ()
    ) -> bool:
        """See ``KeyStore``."""
        record = self._mirror.of(KIND).get(_NAME)
        held = self._read()
        if {row for row, _ in held} != set(before):
            return False
        pems = {row.kid: pem for row, pem in held} | {key.kid: key.private_pem().decode("ascii") for key in new}
        document = [
            {**row_as_json(row), **({"private": pems[row.kid]} if row.revoked_at is None else {})} for row in after
        ]
        sealed = self._sealer.seal(orjson.dumps(document))
        if len(sealed) > _MAX_SEALED_BYTES:
            raise KeyStoreError("there are too many signing keys for the shared state; rotate less often")
        try:
            return await self._mirror.put(KIND, _NAME, sealed, if_version=record.version if record else 0)
        except StateUnavailableError as error:
            raise KeyStoreUnavailableError(f"the signing keys cannot be changed: {error}") from error

    def on_change(self, callback: Callable[[], None]) -> None:
        """See ``KeyStore``."""
        self._mirror.subscribe(KIND, lambda _: callback())

    def _read(self) -> list[tuple[KeyRow, str | None]]:
        """The rows with their private keys. Raises ``KeyStoreError``."""
        record = self._mirror.of(KIND).get(_NAME)
        if record is None or record.value is None:
            return []
        documents = orjson.loads(self._sealer.open(record.value))
        if not isinstance(documents, list) or len(documents) > MAX_KEYS:
            raise _strange()
        return [_parse(document) for document in documents]

    async def _stored(self, row: KeyRow, pem: str | None) -> StoredKey:
        if pem is None:
            return StoredKey(row, None)
        key = self._loaded.get(row.kid)
        if key is None:
            try:
                key = await asyncio.to_thread(SigningKey.from_pem, pem.encode("ascii"), row.created_at)
            except ValueError:
                raise _strange() from None
            if (key.kid, key.algorithm) != (row.kid, row.algorithm):
                raise _strange()
            self._loaded[row.kid] = key
        return StoredKey(row, key)


def _parse(document: Any) -> tuple[KeyRow, str | None]:
    if not isinstance(document, dict):
        raise _strange()
    pem = document.pop("private", None)
    row = parse_row(document)
    if row is None or (row.revoked_at is None) != isinstance(pem, str):
        raise _strange()
    return row, pem


def _strange() -> KeyStoreError:
    return KeyStoreError("the signing keys in the shared state were written by another version of the gateway")
