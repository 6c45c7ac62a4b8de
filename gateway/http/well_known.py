"""``GET /.well-known/…``: the metadata of RFC 8414 and the key set of RFC 7517."""

import hashlib
from collections.abc import Callable

import orjson
from aiohttp import web

from gateway.tokens.key_set_document import KeySetDocument

_METADATA_CACHE = "public, max-age=300"


class WellKnown:
    """Serves both documents from memory; whoever asks with a fitting ``If-None-Match`` gets 304."""

    def __init__(self, metadata: Callable[[], dict[str, object]], key_set: KeySetDocument) -> None:
        self._metadata = metadata
        self._key_set = key_set

    async def metadata(self, request: web.Request) -> web.Response:
        """The authorization server metadata, under either name."""
        body = orjson.dumps(self._metadata())
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        return _document(request, body, "application/json", etag, _METADATA_CACHE)

    async def key_set(self, request: web.Request) -> web.Response:
        """The keys that our tokens verify with."""
        document = self._key_set
        return _document(request, document.body, "application/jwk-set+json", document.etag, document.cache_control)


def _document(request: web.Request, body: bytes, content_type: str, etag: str, cache_control: str) -> web.Response:
    headers = {"ETag": etag, "Cache-Control": cache_control, "X-Content-Type-Options": "nosniff"}
    if etag in {tag.strip() for tag in request.headers.get("If-None-Match", "").split(",")}:
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, headers={**headers, "Content-Type": content_type})
