"""``GET /.well-known/…``: the metadata of RFC 8414 and the key set of RFC 7517."""

import hashlib
from collections.abc import Callable
from typing import Protocol

import orjson
from aiohttp import web

_METADATA_CACHE = "public, max-age=300"


class Document(Protocol):
    """A document that is kept ready."""

    @property
    def body(self) -> bytes:
        """Its bytes."""

    @property
    def etag(self) -> str:
        """Its strong entity tag, with quotes."""

    @property
    def cache_control(self) -> str:
        """How long it may be kept."""


class WellKnown:
    """Serves both documents from memory; whoever asks with a fitting ``If-None-Match`` gets 304."""

    def __init__(
        self, metadata: Callable[[], dict[str, object]], version: Callable[[], int], key_set: Document
    ) -> None:
        """``metadata`` is asked again only when ``version`` says another number."""
        self._metadata = metadata
        self._version = version
        self._key_set = key_set
        self._made_for: int | None = None
        self._body = b""
        self._etag = ""

    async def metadata(self, request: web.Request) -> web.Response:
        """The authorization server metadata, under either name."""
        if self._made_for != self._version():
            self._made_for = self._version()
            self._body = orjson.dumps(self._metadata())
            self._etag = f'"{hashlib.sha256(self._body).hexdigest()[:32]}"'
        return _document(request, self._body, "application/json", self._etag, _METADATA_CACHE)

    async def key_set(self, request: web.Request) -> web.Response:
        """The keys that our tokens verify with."""
        document = self._key_set
        return _document(request, document.body, "application/jwk-set+json", document.etag, document.cache_control)


def _document(request: web.Request, body: bytes, content_type: str, etag: str, cache_control: str) -> web.Response:
    headers = {"ETag": etag, "Cache-Control": cache_control, "X-Content-Type-Options": "nosniff"}
    # Weak comparison (RFC 9110 §13.1.2): a proxy that compresses marks the tag as weak.
    if etag in {tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")}:
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, headers={**headers, "Content-Type": content_type})
