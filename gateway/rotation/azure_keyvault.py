"""Azure Key Vault: a secret and its versions.

``azure-keyvault://vault-name/secret-name``. The value is the client secret itself, as readers of Key Vault expect; the
tag ``client_id`` says whose it is. Readers take the newest version, and are refused where that one is disabled, so a
new secret waits in a secret of its own, ``<secret-name>-pending``. It becomes the newest version of the one that is
read; the version before stays. The one that waited is then disabled. Key Vault has no check-and-set: two rotations at
once are kept apart by the lease alone.

Authenticates as ``DefaultAzureCredential`` does (workload identity in a pod, managed identity, environment). Needs the
permissions ``get`` and ``set`` for secrets (the role Key Vault Secrets Officer).
"""

import asyncio
import re
from collections.abc import Callable
from typing import Self, TypeVar

from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError
from azure.identity import DefaultAzureCredential
from azure.keyvault.secrets import KeyVaultSecret, SecretClient

from gateway.rotation.base import (
    CLIENT_ID,
    REQUEST_SECONDS,
    ClientSecret,
    Contents,
    SecretStoreError,
    check_address,
    check_pending,
    parse_store_url,
)

FORM = "azure-keyvault://vault-name/secret-name"

_VAULT = re.compile(r"[A-Za-z0-9-]{3,24}")
_NAME = re.compile(r"[A-Za-z0-9-]{1,119}")  # 127 with the ending
_PENDING = "-pending"

Answer = TypeVar("Answer")


class AzureKeyVault:
    """One secret (``SecretStore``). ``client`` is azure-keyvault-secrets' ``SecretClient``."""

    def __init__(self, name: str, client: SecretClient) -> None:
        self._name = name
        self._client = client

    @classmethod
    def open(cls, url: str) -> Self:
        """Raises ``ValueError`` for another form of URL."""
        parts = parse_store_url(url, form=FORM, options=frozenset({"endpoint"}))
        if not _VAULT.fullmatch(parts.place) or not _NAME.fullmatch(parts.path):
            raise ValueError(f"names no vault and secret of letters, digits and dashes; the form is {FORM}")
        endpoint = parts.options.get("endpoint") or f"https://{parts.place}.vault.azure.net"
        client = SecretClient(
            check_address(endpoint),
            DefaultAzureCredential(),
            connection_timeout=REQUEST_SECONDS,
            read_timeout=REQUEST_SECONDS,
            retry_total=2,
            permit_redirects=False,
        )
        return cls(parts.path, client)

    async def read(self) -> Contents:
        """See ``SecretStore``."""
        return await asyncio.to_thread(self._read)

    async def stage(self, secret: ClientSecret) -> None:
        """See ``SecretStore``."""
        await asyncio.to_thread(self._set, self._name + _PENDING, secret)

    async def promote(self, secret: ClientSecret) -> None:
        """See ``SecretStore``."""
        await asyncio.to_thread(self._promote, secret)

    async def close(self) -> None:
        """See ``SecretStore``."""
        self._client.close()

    def _read(self) -> Contents:
        return Contents(current=_secret(self._get(self._name)), pending=_secret(self._get(self._name + _PENDING)))

    def _promote(self, secret: ClientSecret) -> None:
        contents = self._read()
        if check_pending(contents, secret, self._name):
            self._set(self._name, secret)
        if contents.pending is not None and contents.pending.digest == secret.digest:
            self._call(lambda: self._client.update_secret_properties(self._name + _PENDING, enabled=False))

    def _get(self, name: str) -> KeyVaultSecret | None:
        """The newest version; None where there is none, or where it is disabled."""
        try:
            found: KeyVaultSecret = self._client.get_secret(name)
        except ResourceNotFoundError:
            return None
        except HttpResponseError as error:
            if _inner_code(error) == "SecretDisabled":
                return None
            raise _store_error(error, name) from None
        except AzureError as error:
            raise _store_error(error, name) from None
        return found

    def _set(self, name: str, secret: ClientSecret) -> None:
        """Writes a version with the tags of the one before."""
        before = self._get(name)
        tags = {**((before.properties.tags or {}) if before is not None else {}), CLIENT_ID: secret.client_id or ""}
        self._call(lambda: self._client.set_secret(name, secret.secret, tags=tags, content_type="text/plain"))

    def _call(self, request: Callable[[], Answer]) -> Answer:
        try:
            return request()
        except AzureError as error:
            raise _store_error(error, self._name) from None


def _secret(found: KeyVaultSecret | None) -> ClientSecret | None:
    if found is None:
        return None
    return ClientSecret((found.properties.tags or {}).get(CLIENT_ID), found.value or "")


def _inner_code(error: HttpResponseError) -> str:
    """Key Vault's own code for a refusal, such as ``SecretDisabled``."""
    inner = getattr(error.error, "innererror", None) or {}
    return str(inner.get("code", ""))


def _store_error(error: AzureError, name: str) -> SecretStoreError:
    if isinstance(error, HttpResponseError) and error.status_code is not None:
        code = getattr(error.error, "code", None) or error.status_code
        inner = _inner_code(error)
        return SecretStoreError(f"Key Vault, {name}: {code}{f' ({inner})' if inner else ''}")
    first_line = next(iter(str(error).splitlines()), "")  # no credential, no answer
    return SecretStoreError(f"Key Vault, {name}: {type(error).__name__}: {first_line}")
