"""Where an issuer's key set is read from: the configuration itself, a file, or the issuer over HTTP.

Each source reads once when asked and keeps no schedule; when to ask is the business of ``issuer_keys``.
"""

import asyncio
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from gateway.identity.fetcher import Fetched, Fetcher, FetchError
from gateway.identity.regular_file import stat_regular_file
from gateway.jose.jwks import MAX_KEY_SET_BYTES, KeySet, parse_key_set
from gateway.jose.strict_json import parse_json_object
from gateway.model import TrustedIssuer


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a source answered. ``keys`` is the very object of the time before where nothing changed."""

    keys: KeySet
    changed: bool = True
    max_age_seconds: int | None = None


class KeyLoader(Protocol):
    """Reads an issuer's key set."""

    async def load(self) -> Loaded:
        """The key set as it is now. Raises ``FetchError``."""


def loader_for(issuer: TrustedIssuer, fetcher: Fetcher) -> KeyLoader:
    """The source that an issuer's configuration names."""
    source = issuer.keys
    if source.jwks is not None:
        return _InlineKeys(issuer)
    if source.jwks_file is not None:
        return _FileKeys(source.jwks_file, issuer.algorithms)
    return _RemoteKeys(issuer, fetcher)


class _InlineKeys:
    """A key set that stands in the policies."""

    def __init__(self, issuer: TrustedIssuer) -> None:
        assert issuer.keys.jwks is not None
        self._jwks = issuer.keys.jwks
        self._algorithms = issuer.algorithms
        self._keys: KeySet | None = None

    async def load(self) -> Loaded:
        if self._keys is not None:
            return Loaded(self._keys, changed=False)
        try:
            self._keys = parse_key_set(self._jwks, algorithms=self._algorithms)
        except ValueError as error:
            raise FetchError("content", f"the key set {error}") from error
        return Loaded(self._keys)


class _FileKeys:
    """A key set in a file, which is read only when it has changed: in place, by a rename or by a symlink swap."""

    def __init__(self, path: str, algorithms: frozenset[str]) -> None:
        self._path = Path(path)
        self._algorithms = algorithms
        self._seen: tuple[int, ...] = ()
        self._keys: KeySet | None = None

    async def load(self) -> Loaded:
        return await asyncio.to_thread(self._read)

    def _read(self) -> Loaded:
        try:
            seen = _identity(stat_regular_file(self._path))
            if self._keys is not None and seen == self._seen:
                return Loaded(self._keys, changed=False)
            with self._path.open("rb") as file:
                body = file.read(MAX_KEY_SET_BYTES + 1)
        except OSError as error:
            raise FetchError("connect", f"the file cannot be read: {error}") from error
        loaded = _parsed(body, self._algorithms, self._keys)
        self._keys, self._seen = loaded.keys, seen
        return loaded


class _RemoteKeys:
    """A key set behind ``jwks_uri``, which is configured or named by the issuer's discovery document."""

    def __init__(self, issuer: TrustedIssuer, fetcher: Fetcher) -> None:
        self._issuer_url = issuer.url
        self._source = issuer.keys
        self._algorithms = issuer.algorithms
        self._fetcher = fetcher
        self._keys: KeySet | None = None
        self._fetched_from = ""
        self._etag: str | None = None

    async def load(self) -> Loaded:
        jwks_uri = self._source.jwks_uri or await self._discover()
        etag = self._etag if jwks_uri == self._fetched_from else None
        fetched = await self._get(jwks_uri, etag)
        if fetched.status == 304 and self._keys is not None:
            return Loaded(self._keys, changed=False, max_age_seconds=fetched.max_age_seconds)
        loaded = _parsed(fetched.body, self._algorithms, self._keys, fetched.max_age_seconds)
        self._keys, self._fetched_from, self._etag = loaded.keys, jwks_uri, fetched.etag
        return loaded

    async def _discover(self) -> str:
        """``jwks_uri`` of the document whose ``issuer`` is the configured URL, code point by code point
        (RFC 8414 §3.3, OpenID Connect Discovery §4.3). Nothing else in the document is looked at.
        """
        assert self._source.discovery_url is not None
        fetched = await self._get(self._source.discovery_url, None)
        try:
            document = parse_json_object(fetched.body)
        except ValueError as error:
            raise FetchError("content", f"the discovery document {error}") from error
        if document.get("issuer") != self._issuer_url:
            raise FetchError("content", f"the discovery document's issuer is not {self._issuer_url}")
        jwks_uri = document.get("jwks_uri")
        if type(jwks_uri) is not str:
            raise FetchError("content", "the discovery document has no jwks_uri")
        return jwks_uri

    async def _get(self, url: str, etag: str | None) -> Fetched:
        configured = self._source.discovery_url or self._source.jwks_uri or ""
        return await self._fetcher.get(
            url,
            ca_file=self._source.ca_file,
            # Goes where the operator's file says, and not where a document of the peer says.
            bearer_token_file=self._source.bearer_token_file if _origin(url) == _origin(configured) else None,
            private_network=self._source.private_network,
            insecure_http=self._source.insecure_http,
            etag=etag,
        )


def _parsed(body: bytes, algorithms: frozenset[str], known: KeySet | None, max_age: int | None = None) -> Loaded:
    """The key set in ``body``, or the known one when the bytes are the same: whatever hangs on it stays valid."""
    if known is not None and hashlib.sha256(body).hexdigest() == known.sha256:
        return Loaded(known, changed=False, max_age_seconds=max_age)
    try:
        return Loaded(parse_key_set(body, algorithms=algorithms), max_age_seconds=max_age)
    except ValueError as error:
        raise FetchError("content", f"the key set {error}") from error


def _identity(stat: os.stat_result) -> tuple[int, ...]:
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


def _origin(url: str) -> tuple[Any, ...]:
    try:
        parts = urlsplit(url)
        return (parts.scheme, parts.hostname, parts.port)
    except ValueError:
        return (url,)
