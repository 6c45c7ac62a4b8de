"""A stand-in for the API server of Kubernetes: Secrets of the core group, as far as rotation uses them.

No kube-apiserver is to be had where these tests run, so this is written from the API's conventions: read, create (409
``AlreadyExists``), merge patch (RFC 7386) with optimistic concurrency (409 ``Conflict`` where the patch names a
``resourceVersion`` that is not the present one), immutable Secrets (422), values that must be base64 (400), and
``Status`` objects for errors (401, 403, 404).
"""

import base64
import binascii
import itertools
from copy import deepcopy
from typing import Any

from aiohttp import web

TOKEN = "pod-token"


class KubernetesStandIn:
    """The Secrets of one cluster, by namespace and name."""

    def __init__(self) -> None:
        self.secrets: dict[tuple[str, str], dict[str, Any]] = {}
        self.forbidden: set[str] = set()
        """Methods that the service account may not use."""
        self.before_write: list[Any] = []
        """Called, each once, before a write is looked at: somebody else was quicker."""
        self._versions = itertools.count(100)

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_post("/api/v1/namespaces/{namespace}/secrets", self._create)
        application.router.add_route("*", "/api/v1/namespaces/{namespace}/secrets/{name}", self._serve)
        return application

    def put(self, namespace: str, name: str, keys: dict[str, str], **fields: Any) -> None:
        """What somebody else applies."""
        data = {key: base64.b64encode(value.encode()).decode() for key, value in keys.items()}
        self._store(namespace, name, {"type": "Opaque", "data": data, **fields})

    def keys(self, namespace: str, name: str) -> dict[str, str]:
        """The Secret as a pod sees it."""
        data = self.secrets[namespace, name]["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def _store(self, namespace: str, name: str, secret: dict[str, Any]) -> dict[str, Any]:
        metadata = {"namespace": namespace, "name": name, "resourceVersion": str(next(self._versions))}
        self.secrets[namespace, name] = {"apiVersion": "v1", "kind": "Secret", **secret, "metadata": metadata}
        return self.secrets[namespace, name]

    async def _create(self, request: web.Request) -> web.Response:
        refusal, body = await self._begin(request)
        if refusal is not None:
            return refusal
        namespace, name = request.match_info["namespace"], body["metadata"]["name"]
        if (namespace, name) in self.secrets:
            return _status(409, "AlreadyExists", f'secrets "{name}" already exists')
        if not _is_base64(body):
            return _status(400, "BadRequest", "illegal base64 data at input byte 0")
        return web.json_response(self._store(namespace, name, body), status=201)

    async def _serve(self, request: web.Request) -> web.Response:
        refusal, body = await self._begin(request)
        if refusal is not None:
            return refusal
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        secret = self.secrets.get((namespace, name))
        if secret is None:
            return _status(404, "NotFound", f'secrets "{name}" not found')
        if request.method == "GET":
            return web.json_response(secret)
        if request.content_type != "application/merge-patch+json":
            return _status(415, "UnsupportedMediaType", "the body of the request was in an unknown format")
        named = body.get("metadata", {}).get("resourceVersion")
        if named is not None and named != secret["metadata"]["resourceVersion"]:
            return _status(
                409, "Conflict", "the object has been modified; please apply your changes to the latest version"
            )
        if secret.get("immutable"):
            return _status(422, "Invalid", "data: Forbidden: field is immutable when `immutable` is set")
        patched = _merged(secret, body)
        if not _is_base64(patched):
            return _status(400, "BadRequest", "illegal base64 data at input byte 0")
        return web.json_response(self._store(namespace, name, patched))

    async def _begin(self, request: web.Request) -> tuple[web.Response | None, dict[str, Any]]:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return _status(401, "Unauthorized", "Unauthorized"), {}
        if request.method in self.forbidden:
            return _status(
                403, "Forbidden", 'secrets is forbidden: User "system:serviceaccount:a:b" cannot do that'
            ), {}
        if request.method != "GET":
            while self.before_write:
                self.before_write.pop()()
        return None, await request.json() if request.can_read_body else {}


def _merged(target: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    merged = deepcopy(target)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            inner = merged.get(name)
            merged[name] = _merged(inner if isinstance(inner, dict) else {}, value)
        else:
            merged[name] = value
    return merged


def _is_base64(secret: dict[str, Any]) -> bool:
    try:
        for value in secret.get("data", {}).values():
            base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError):
        return False
    return True


def _status(code: int, reason: str, message: str) -> web.Response:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": code,
    }
    return web.json_response(body, status=code)
