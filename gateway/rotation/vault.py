"""HashiCorp Vault and OpenBao: one path of a KV version 2 engine.

``vault://mount/path?address=https://vault.example.com`` (a slash in the mount's name is written ``%2F``). The data has
``client_id`` and ``client_secret``, whose other members are kept. Readers take the newest version, so a new secret
waits beside the current one, as ``client_secret_pending``, and takes its place in a version of its own; the version
before still has the old one. Every write is a check-and-set on the version that was read. The custom metadata says
which version the last rotation made, for people; a token that may not write it does without.

The address is the option or ``VAULT_ADDR``. The token is that of ``VAULT_TOKEN``, or one of the Kubernetes method for
the option ``role`` (``auth`` names its mount, ``kubernetes`` by default).
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import hvac
from hvac.exceptions import Forbidden, InvalidPath, VaultError
from requests.exceptions import RequestException

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

FORM = "vault://mount/path?address=https://vault.example.com"
POD_TOKEN_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")

_PENDING = f"{CLIENT_SECRET}_pending"
_METADATA = "gateway_client_secret_version"


class Vault:
    """One path (``SecretStore``). ``client`` is hvac's, with a token or about to log in with ``log_in``."""

    def __init__(self, mount: str, path: str, client: Any, log_in: Callable[[], object] | None = None) -> None:
        self._mount = mount
        self._path = path
        self._client = client
        self._log_in = log_in
        self._place = f"{mount}/{path}"

    @classmethod
    def open(cls, url: str) -> Self:
        """Raises ``ValueError`` for another form of URL and ``SecretStoreError`` without address or token."""
        parts = parse_store_url(url, form=FORM, options=frozenset({"address", "role", "auth", "namespace"}))
        if not parts.place or not parts.path:
            raise ValueError(f"names no mount and path; the form is {FORM}")
        address = parts.options.get("address") or os.environ.get("VAULT_ADDR", "")
        if not address:
            raise SecretStoreError("Vault: set VAULT_ADDR, or ?address= in the URL")
        namespace = parts.options.get("namespace") or os.environ.get("VAULT_NAMESPACE")
        client = hvac.Client(
            url=check_address(address), namespace=namespace, timeout=REQUEST_SECONDS, allow_redirects=False
        )
        role = parts.options.get("role")
        if role is None:
            if not client.token:
                raise SecretStoreError("Vault: set VAULT_TOKEN, or ?role= of its Kubernetes method in the URL")
            return cls(parts.place, parts.path, client)
        auth = parts.options.get("auth", "kubernetes")
        return cls(parts.place, parts.path, client, lambda: _log_in(client, role, auth))

    async def read(self) -> Contents:
        """See ``SecretStore``."""
        return self._contents((await asyncio.to_thread(self._newest))[1])

    async def stage(self, secret: ClientSecret) -> None:
        """See ``SecretStore``."""
        await asyncio.to_thread(self._stage, secret)

    async def promote(self, secret: ClientSecret) -> None:
        """See ``SecretStore``."""
        await asyncio.to_thread(self._promote, secret)

    async def close(self) -> None:
        """See ``SecretStore``."""
        self._client.adapter.close()

    def _stage(self, secret: ClientSecret) -> None:
        version, data = self._newest()
        self._write({**data, CLIENT_ID: secret.client_id, _PENDING: secret.secret}, version)

    def _promote(self, secret: ClientSecret) -> None:
        version, data = self._newest()
        if not check_pending(self._contents(data), secret, self._place):
            return
        rest = {name: value for name, value in data.items() if name != _PENDING}
        self._label(self._write({**rest, CLIENT_ID: secret.client_id, CLIENT_SECRET: secret.secret}, version))

    def _contents(self, data: dict[str, Any]) -> Contents:
        return Contents(
            current=secret_in(data, CLIENT_SECRET, self._place), pending=secret_in(data, _PENDING, self._place)
        )

    def _newest(self) -> tuple[int, dict[str, Any]]:
        """The newest version's number and data. A deleted one has none; where there never was one, it is 0."""
        kv = self._client.secrets.kv.v2
        answer = self._call(
            lambda: kv.read_secret_version(self._path, mount_point=self._mount, raise_on_deleted_version=False),
            absent={"data": {"metadata": {"version": 0}, "data": None}},
        )
        return int(answer["data"]["metadata"]["version"]), dict(answer["data"]["data"] or {})

    def _write(self, data: dict[str, Any], version: int) -> int:
        """Writes the version after this one, and returns its number. Refused if there is a newer one already."""
        kv = self._client.secrets.kv.v2
        answer = self._call(
            lambda: kv.create_or_update_secret(self._path, secret=data, cas=version, mount_point=self._mount)
        )
        return int(answer["data"]["version"])

    def _label(self, version: int) -> None:
        kv = self._client.secrets.kv.v2
        try:
            metadata = kv.read_secret_metadata(self._path, mount_point=self._mount)["data"]
            kv.update_metadata(
                self._path,
                mount_point=self._mount,
                delete_version_after=metadata.get("delete_version_after", "0s"),  # hvac would set it to 0s
                custom_metadata={**(metadata.get("custom_metadata") or {}), _METADATA: str(version)},
            )
        except Forbidden:
            return
        except (VaultError, RequestException) as error:
            raise _store_error(error, self._place) from None

    def _call(self, request: Callable[[], dict[str, Any]], absent: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer of Vault; ``absent`` where the path is not there."""
        try:
            if self._log_in is not None:
                self._log_in()
                self._log_in = None
            return request()
        except InvalidPath as error:
            if absent is not None and not error.errors:  # with a text: the engine itself is not there
                return absent
            raise _store_error(error, self._place) from None
        except (VaultError, RequestException) as error:
            raise _store_error(error, self._place) from None


def _store_error(error: VaultError | RequestException, place: str) -> SecretStoreError:
    if isinstance(error, VaultError):
        return SecretStoreError(f"Vault, {place}: {type(error).__name__}: {'; '.join(error.errors or [])}")
    return SecretStoreError(f"Vault, {place}: no answer ({type(error).__name__})")


def _log_in(client: Any, role: str, mount: str) -> None:
    try:
        token = POD_TOKEN_FILE.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise SecretStoreError(f"Vault: no token of this pod at {POD_TOKEN_FILE}; ?role= needs one") from None
    client.auth.kubernetes.login(role=role, jwt=token, mount_point=mount)
