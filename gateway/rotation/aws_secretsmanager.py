"""AWS Secrets Manager: versions that staging labels move between.

``aws-secretsmanager://NAME-or-ARN?region=eu-central-1``. The secret must exist; its value is a JSON object with
``client_id`` and ``client_secret``, whose other members are kept. A new version is put under ``AWSPENDING``; then
``AWSCURRENT`` is moved to it, and Secrets Manager moves ``AWSPREVIOUS`` to the one before. The version's id is the
digest of the new secret, so that putting it again after a crash makes no second version. Needs
``secretsmanager:DescribeSecret``, ``GetSecretValue``, ``PutSecretValue`` and ``UpdateSecretVersionStage``.
"""

import asyncio
import json
from typing import Any, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from gateway.rotation.base import (
    CLIENT_ID,
    CLIENT_SECRET,
    REQUEST_SECONDS,
    ClientSecret,
    Contents,
    SecretStoreError,
    check_address,
    check_pending,
    parse_payload,
    parse_store_url,
    secret_in,
)

FORM = "aws-secretsmanager://NAME-or-ARN?region=eu-central-1"

_CURRENT, _PENDING = "AWSCURRENT", "AWSPENDING"


class AwsSecretsManager:
    """One secret (``SecretStore``). ``client`` is boto3's."""

    def __init__(self, name: str, client: Any) -> None:
        self._name = name
        self._client = client

    @classmethod
    def open(cls, url: str) -> Self:
        """Raises ``ValueError`` for another form of URL and ``SecretStoreError`` without a region."""
        parts = parse_store_url(url, form=FORM, options=frozenset({"region", "endpoint"}))
        name = f"{parts.place}/{parts.path}" if parts.path else parts.place
        if not name:
            raise ValueError(f"names no secret; the form is {FORM}")
        endpoint = parts.options.get("endpoint")
        return cls(name, _client(parts.options.get("region"), check_address(endpoint) if endpoint else None))

    async def read(self) -> Contents:
        """See ``SecretStore``."""
        return await asyncio.to_thread(self._read)

    async def stage(self, secret: ClientSecret) -> None:
        """See ``SecretStore``."""
        await asyncio.to_thread(self._stage, secret)

    async def promote(self, secret: ClientSecret) -> None:
        """See ``SecretStore``."""
        await asyncio.to_thread(self._promote, secret)

    async def close(self) -> None:
        """See ``SecretStore``."""
        self._client.close()

    def _read(self) -> Contents:
        versions = self._versions()
        return Contents(
            current=self._secret(versions.get(_CURRENT)),
            pending=self._secret(versions.get(_PENDING)),
        )

    def _stage(self, secret: ClientSecret) -> None:
        current = self._versions().get(_CURRENT)
        payload = self._payload(current) if current else {}
        payload |= {CLIENT_ID: secret.client_id, CLIENT_SECRET: secret.secret}
        version = _version_id(secret)
        self._call(
            "put_secret_value",
            ClientRequestToken=version,
            SecretString=json.dumps(payload),
            VersionStages=[_PENDING],
        )
        pending = self._versions().get(_PENDING)
        if pending != version:  # it was there already, and its label gone: put changes nothing then
            removed = {"RemoveFromVersionId": pending} if pending else {}
            self._call("update_secret_version_stage", VersionStage=_PENDING, MoveToVersionId=version, **removed)

    def _promote(self, secret: ClientSecret) -> None:
        versions = self._versions()
        version, current = _version_id(secret), versions.get(_CURRENT)
        if check_pending(self._read(), secret, f"the secret {self._name}"):
            self._call(
                "update_secret_version_stage",
                VersionStage=_CURRENT,
                MoveToVersionId=version,
                **({"RemoveFromVersionId": current} if current else {}),  # refused if it has moved meanwhile
            )
        if versions.get(_PENDING) == version:
            self._call("update_secret_version_stage", VersionStage=_PENDING, RemoveFromVersionId=version)

    def _versions(self) -> dict[str, str]:
        """From a staging label to the id of the version that has it."""
        described = self._call("describe_secret").get("VersionIdsToStages", {})
        return {label: version for version, labels in described.items() for label in labels}

    def _secret(self, version: str | None) -> ClientSecret | None:
        return secret_in(self._payload(version), CLIENT_SECRET, f"the secret {self._name}") if version else None

    def _payload(self, version: str) -> dict[str, Any]:
        value = self._call("get_secret_value", VersionId=version)
        return parse_payload(value.get("SecretString", ""), f"the secret {self._name}")

    def _call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self._client, operation)(SecretId=self._name, **parameters)
        except ClientError as error:
            # The code alone: a message may repeat what was sent.
            code = error.response.get("Error", {}).get("Code", "unknown")
            advice = "; create it first" if code == "ResourceNotFoundException" else ""
            raise SecretStoreError(f"Secrets Manager, {operation} of {self._name}: {code}{advice}") from None
        except BotoCoreError as error:
            raise SecretStoreError(f"Secrets Manager, {operation} of {self._name}: {type(error).__name__}") from None
        return answer


def _version_id(secret: ClientSecret) -> str:
    return secret.digest.removeprefix("sha256:")  # 64 characters, the most that a ClientRequestToken has


def _client(region: str | None, endpoint: str | None) -> Any:
    configuration = Config(
        connect_timeout=REQUEST_SECONDS,
        read_timeout=REQUEST_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 3},
    )
    try:
        return boto3.session.Session().client(
            "secretsmanager", region_name=region, endpoint_url=endpoint, config=configuration
        )
    except (BotoCoreError, ValueError) as error:
        raise SecretStoreError(f"Secrets Manager: {error}") from None
