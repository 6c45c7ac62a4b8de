"""A stand-in for Vault and OpenBao: KV version 2 and the Kubernetes method, as far as rotation uses them.

No binary of either is to be had where these tests run, so this is written from the documentation of the HTTP API
(kv/kv-v2, auth/kubernetes): versions, check-and-set with its error text, custom metadata, deleted versions, 403, 404
with and without an engine. It keeps no time, and a list of forbidden operations stands for policies. hvac speaks to it.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

TOKEN = "hvs.test"
ROLE = "rotation"
POD_TOKEN = "pod.jwt.signature"
CREATED = "2026-11-25T10:00:00.000000Z"


@dataclass
class _Entry:
    versions: list[dict[str, Any] | None] = field(default_factory=list)
    """The data of each, None for a deleted one; the first is version 1."""
    custom_metadata: dict[str, str] | None = None
    delete_version_after: str = "0s"


class VaultStandIn:
    """Serves one engine at ``mount``."""

    def __init__(self, mount: str = "secret") -> None:
        self.mount = mount
        self.entries: dict[str, _Entry] = {}
        self.forbidden: set[tuple[str, str]] = set()
        """Pairs of method and ``data`` or ``metadata``."""
        self.requests: list[str] = []

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_post("/v1/auth/kubernetes/login", self._log_in)
        application.router.add_route("*", "/v1/{mount}/{part:data|metadata}/{path:.+}", self._serve)
        return application

    def put(self, path: str, data: dict[str, Any], *, cas: int | None = None) -> int | None:
        """Writes a version; None where the check fails."""
        entry = self.entries.setdefault(path, _Entry())
        if cas is not None and cas != len(entry.versions):
            return None
        entry.versions.append(data)
        return len(entry.versions)

    def delete(self, path: str) -> None:
        """Deletes the newest version, as ``vault kv delete`` does: its number stays taken."""
        self.entries[path].versions[-1] = None

    async def _log_in(self, request: web.Request) -> web.Response:
        body = await request.json()
        if (body.get("role"), body.get("jwt")) != (ROLE, POD_TOKEN):
            return _errors(403, "permission denied")
        return _json({"auth": {"client_token": TOKEN, "lease_duration": 3600, "policies": ["default"]}})

    async def _serve(self, request: web.Request) -> web.Response:
        mount, part, path = (request.match_info[name] for name in ("mount", "part", "path"))
        self.requests.append(f"{request.method} {part}")
        if request.headers.get("X-Vault-Token") != TOKEN or (request.method, part) in self.forbidden:
            return _errors(403, "permission denied")
        if mount != self.mount:
            return _errors(404, f'no handler for route "{mount}/{part}/{path}". route entry not found.')
        body = await request.json() if request.can_read_body else {}
        handler = self._data if part == "data" else self._metadata
        return handler(request.method, path, body)

    def _data(self, method: str, path: str, body: dict[str, Any]) -> web.Response:
        entry = self.entries.get(path)
        if method == "GET":
            if entry is None or not entry.versions:
                return _json({"errors": []}, status=404)
            data, deleted = entry.versions[-1], entry.versions[-1] is None
            metadata = self._version(entry, len(entry.versions), CREATED if deleted else "")
            return _json({"data": {"data": data, "metadata": metadata}}, status=404 if deleted else 200)
        version = self.put(path, body["data"], cas=body.get("options", {}).get("cas"))
        if version is None:
            return _errors(400, "check-and-set parameter did not match the current version")
        return _json({"data": self._version(self.entries[path], version, "")})

    def _metadata(self, method: str, path: str, body: dict[str, Any]) -> web.Response:
        if method == "GET":
            entry = self.entries.get(path)
            if entry is None:
                return _json({"errors": []}, status=404)
            return _json(
                {
                    "data": {
                        "current_version": len(entry.versions),
                        "custom_metadata": entry.custom_metadata,
                        "delete_version_after": entry.delete_version_after,
                        "max_versions": 0,
                        "cas_required": False,
                    }
                }
            )
        entry = self.entries.setdefault(path, _Entry())
        if "custom_metadata" in body:
            entry.custom_metadata = body["custom_metadata"]
        entry.delete_version_after = body.get("delete_version_after", entry.delete_version_after)
        return web.Response(status=204)

    @staticmethod
    def _version(entry: _Entry, number: int, deletion_time: str) -> dict[str, Any]:
        return {
            "version": number,
            "created_time": CREATED,
            "deletion_time": deletion_time,
            "destroyed": False,
            "custom_metadata": entry.custom_metadata,
        }


def _json(document: dict[str, Any], status: int = 200) -> web.Response:
    # The media type bare, as the real one sends it: hvac reads the texts of errors of no other.
    return web.Response(body=json.dumps(document).encode(), status=status, headers={"Content-Type": "application/json"})


def _errors(status: int, *texts: str) -> web.Response:
    return _json({"errors": list(texts)}, status=status)
