"""Kubernetes: one Secret of the cluster, as pods mount it.

``kubernetes://namespace/name?key=client_secret``. The Secret's data has ``client_id``, the current secret under the
key (``client_secret`` by default), the new one under ``<key>_pending`` while it waits, and the one before under
``<key>_previous``; other keys are left alone. Each change is one merge patch with the ``resourceVersion`` that was
read: the API server refuses it with 409 if anybody has changed the Secret since. A pod sees a change of a mounted
Secret within about a minute; the overlap is to be longer.

Runs in a pod of the cluster: the API server, its CA and a token are those of the pod's service account, which needs
``get`` and ``patch`` on the Secret, and ``create`` on Secrets where it does not exist yet.
"""

import asyncio
import base64
import binascii
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from gateway.client import ClientError
from gateway.client.fetch import Fetcher
from gateway.rotation.base import (
    CLIENT_ID,
    CLIENT_SECRET,
    REQUEST_SECONDS,
    ClientSecret,
    Contents,
    SecretStoreError,
    check_address,
    check_pending,
    parse_store_url,
    secret_in,
)

FORM = "kubernetes://namespace/name?key=client_secret"
POD_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_KEY = re.compile(r"[A-Za-z0-9._-]{1,200}")
_TRIES = 5


@dataclass(frozen=True, slots=True)
class ApiServer:
    """Where the cluster's API is, and the files to speak to it with, which the kubelet renews."""

    address: str
    ca_file: Path | None
    token_file: Path


class KubernetesSecret:
    """One Secret (``SecretStore``)."""

    def __init__(self, namespace: str, name: str, key: str, server: ApiServer) -> None:
        self._namespace = namespace
        self._name = name
        self._key = key
        self._server = server
        self._place = f"the Secret {namespace}/{name}"
        self._fetcher = Fetcher(
            ca_file=str(server.ca_file) if server.ca_file is not None else None,
            insecure_http=server.address.startswith("http:"),  # loopback, see check_address
        )

    @classmethod
    def open(cls, url: str) -> Self:
        """``?api=``, ``?ca_file=`` and ``?token_file=`` replace what a pod finds in its place.

        Raises ``ValueError`` for another form of URL and ``SecretStoreError`` outside of a pod.
        """
        parts = parse_store_url(url, form=FORM, options=frozenset({"key", "api", "ca_file", "token_file"}))
        key = parts.options.get("key", CLIENT_SECRET)
        if not _NAME.fullmatch(parts.place) or not _NAME.fullmatch(parts.path):
            raise ValueError(f"names no namespace and Secret; the form is {FORM}")
        if not _KEY.fullmatch(key) or key == CLIENT_ID:
            raise ValueError("key: letters, digits, dots, dashes and underscores, and not client_id")
        return cls(parts.place, parts.path, key, _api_server(parts.options))

    async def read(self) -> Contents:
        """See ``SecretStore``."""
        return self._contents(await asyncio.to_thread(self._get))

    async def stage(self, secret: ClientSecret) -> None:
        """See ``SecretStore``."""
        await asyncio.to_thread(self._stage, secret)

    async def promote(self, secret: ClientSecret) -> None:
        """See ``SecretStore``."""
        await asyncio.to_thread(self._promote, secret)

    async def close(self) -> None:
        """See ``SecretStore``."""

    def _stage(self, secret: ClientSecret) -> None:
        for _ in range(_TRIES):
            if self._change(self._get(), {CLIENT_ID: secret.client_id, f"{self._key}_pending": secret.secret}):
                return
        raise SecretStoreError(f"{self._place} is being changed by somebody else")

    def _promote(self, secret: ClientSecret) -> None:
        for _ in range(_TRIES):
            found = self._get()
            contents = self._contents(found)
            if not check_pending(contents, secret, self._place):
                return
            previous = contents.current.secret if contents.current is not None else None
            keys = {self._key: secret.secret, f"{self._key}_pending": None, f"{self._key}_previous": previous}
            if self._change(found, {CLIENT_ID: secret.client_id, **keys}):
                return
        raise SecretStoreError(f"{self._place} is being changed by somebody else")

    def _get(self) -> dict[str, Any] | None:
        """The Secret as the API server has it, or None."""
        status, found = self._ask("GET", self._path(self._name))
        if status == 404:
            return None
        self._check(status, found, "read")
        return found

    def _change(self, found: dict[str, Any] | None, keys: dict[str, str | None]) -> bool:
        """Sets keys, and removes those that are None; False if the Secret is not any more as it was found."""
        data = {key: _encoded(value) for key, value in keys.items()}
        if found is None:
            given = {key: value for key, value in data.items() if value is not None}
            body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": self._name}, "type": "Opaque"}
            status, answer = self._ask("POST", self._path(), {**body, "data": given})
        else:
            version = found["metadata"]["resourceVersion"]
            patch = {"metadata": {"resourceVersion": version}, "data": data}
            status, answer = self._ask("PATCH", self._path(self._name), patch)
        if status == 409:
            return False
        self._check(status, answer, "write")
        return True

    def _contents(self, found: dict[str, Any] | None) -> Contents:
        data = (found or {}).get("data") or {}
        pending = f"{self._key}_pending"
        payload = {key: self._decoded(key, data[key]) for key in (CLIENT_ID, self._key, pending) if key in data}
        return Contents(
            current=secret_in(payload, self._key, self._place), pending=secret_in(payload, pending, self._place)
        )

    def _decoded(self, key: str, value: object) -> str:
        try:
            return base64.b64decode(str(value), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise SecretStoreError(f"{self._place} holds under {key} what is no text: name another key") from None

    def _path(self, name: str = "") -> str:
        return f"/api/v1/namespaces/{self._namespace}/secrets{f'/{name}' if name else ''}"

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        try:
            token = self._server.token_file.read_text(encoding="ascii").strip()
            answer = self._fetcher.send(
                method,
                self._server.address + path,
                timeout_seconds=REQUEST_SECONDS,
                headers={"Authorization": f"Bearer {token}", "Accept": "application/json", "Content-Type": kind},
                body=None if body is None else json.dumps(body).encode(),
            )
            document = json.loads(answer.body)
        except (OSError, UnicodeDecodeError):
            raise SecretStoreError(f"Kubernetes: the token file {self._server.token_file} cannot be read") from None
        except ClientError as error:
            raise SecretStoreError(f"Kubernetes, {self._place}: {error}") from None
        except (ValueError, RecursionError):
            raise SecretStoreError(f"Kubernetes, {self._place}: the answer is no JSON") from None
        return answer.status, document if isinstance(document, dict) else {}

    def _check(self, status: int, answer: dict[str, Any], doing: str) -> None:
        if status not in {200, 201}:
            why = f"{answer.get('reason', '')} {answer.get('message', '')}".strip()
            raise SecretStoreError(f"Kubernetes: cannot {doing} {self._place}: {status} {why}")


def _api_server(options: Any) -> ApiServer:
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    address = options.get("api") or (f"https://{f'[{host}]' if ':' in host else host}:{port}" if host else "")
    if not address:
        raise SecretStoreError("Kubernetes: this runs in no pod; ?api=, ?ca_file= and ?token_file= say what to use")
    address = check_address(address)
    ca_file = Path(options.get("ca_file", POD_FOLDER / "ca.crt")) if address.startswith("https:") else None
    return ApiServer(address, ca_file, Path(options.get("token_file", POD_FOLDER / "token")))


def _encoded(text: str | None) -> str | None:
    return None if text is None else base64.b64encode(text.encode()).decode()
