"""A stand-in for Azure Key Vault: the secrets of its REST API (7.5 and later), as far as rotation uses them.

No emulator of Key Vault is to be had where these tests run, so this is written from the reference: versions, the
newest one as default, tags, attributes, 401 with the challenge of the real one, 403 ``SecretDisabled`` for a disabled
version (the newest one included), 404 ``SecretNotFound``. Azure's own client speaks to it.
"""

import itertools
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

TOKEN = "entra-access-token"


@dataclass
class _Version:
    id: str
    value: str
    tags: dict[str, str]
    content_type: str | None
    attributes: dict[str, Any] = field(default_factory=lambda: {"enabled": True, "created": 1, "updated": 1})


class KeyVaultStandIn:
    """One vault. ``url`` is set once it listens."""

    def __init__(self) -> None:
        self.secrets: dict[str, list[_Version]] = {}
        self.forbidden: set[str] = set()
        """Methods that the caller may not use."""
        self.url = ""
        self._ids = itertools.count(1)

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_route("*", "/secrets/{name}{version:/?[^/]*}", self._serve)
        return application

    def put(self, name: str, value: str, tags: dict[str, str] | None = None, content_type: str | None = None) -> None:
        self.secrets.setdefault(name, []).append(_Version(f"{next(self._ids):032x}", value, tags or {}, content_type))

    def newest(self, name: str) -> _Version:
        return self.secrets[name][-1]

    async def _serve(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            challenge = 'Bearer authorization="https://login.example.com/tenant", resource="https://vault.azure.net"'
            return web.json_response({}, status=401, headers={"WWW-Authenticate": challenge})
        if request.method in self.forbidden:
            return _error(
                403, "Forbidden", "Caller is not authorized to perform action on resource.", "ForbiddenByRbac"
            )
        name, version = request.match_info["name"], request.match_info["version"].strip("/")
        body = await request.json() if request.can_read_body else {}
        if request.method == "PUT":
            self.put(name, body["value"], body.get("tags"), body.get("contentType"))
            return web.json_response(self._bundle(name, self.newest(name)))
        found = [one for one in self.secrets.get(name, []) if version in {"", one.id}]
        if not found:
            return _error(404, "SecretNotFound", f"A secret with (name/id) {name} was not found in this key vault.")
        if request.method == "PATCH":
            found[-1].attributes |= body.get("attributes", {})
            return web.json_response(self._bundle(name, found[-1], with_value=False))
        if not found[-1].attributes["enabled"]:
            return _error(403, "Forbidden", "Operation get is not allowed on a disabled secret.", "SecretDisabled")
        return web.json_response(self._bundle(name, found[-1]))

    def _bundle(self, name: str, version: _Version, *, with_value: bool = True) -> dict[str, Any]:
        value = {"value": version.value} if with_value else {}
        return {
            **value,
            "id": f"{self.url}/secrets/{name}/{version.id}",
            "attributes": version.attributes,
            "tags": version.tags,
            "contentType": version.content_type,
        }


def _error(status: int, code: str, message: str, inner: str | None = None) -> web.Response:
    error: dict[str, Any] = {"code": code, "message": message}
    if inner is not None:
        error["innererror"] = {"code": inner}
    return web.json_response({"error": error}, status=status)
