"""The one table of everything that comes in kinds. Adding a kind is one new file and one line here."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from gateway.audit.base import Sink
from gateway.audit.file import open_file_sink
from gateway.audit.keys import AuditKey
from gateway.audit.parts import SinkParts
from gateway.audit.stdout import StreamSink
from gateway.identity.clients.base import ClientAuthentication
from gateway.identity.clients.client_secret_basic import ClientSecretBasic
from gateway.identity.clients.client_secret_post import ClientSecretPost
from gateway.identity.clients.private_key_jwt import PrivateKeyJwt
from gateway.identity.clients.self_signed_tls_client_auth import SelfSignedTlsClientAuth
from gateway.identity.clients.tls_client_auth import TlsClientAuth
from gateway.identity.clients.workload_assertion import WorkloadAssertion
from gateway.identity.presets import (
    aks,
    aws_sts,
    eks,
    generic,
    github_actions,
    gitlab_ci,
    gke,
    kubernetes,
    openshift,
)
from gateway.model import Clock, Preset
from gateway.rotation.base import SecretStore
from gateway.rotation.kubernetes import KubernetesSecret
from gateway.rotation.stores import on_demand
from gateway.state.base import State
from gateway.state.memory import MemoryState
from gateway.state.redis import RedisAddress, RedisState
from gateway.state.sqlite import SqliteState, sqlite_path
from gateway.tokens.stores.base import KeyStore, KeyStoreParts
from gateway.tokens.stores.file import FileKeyStore
from gateway.tokens.stores.memory import MemoryKeyStore
from gateway.tokens.stores.state import StateKeyStore

PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        kubernetes.PRESET,
        eks.PRESET,
        gke.PRESET,
        aks.PRESET,
        openshift.PRESET,
        github_actions.PRESET,
        gitlab_ci.PRESET,
        aws_sts.PRESET,
        generic.PRESET,
    )
}

CLIENT_AUTHENTICATION: Sequence[type[ClientAuthentication]] = (
    ClientSecretBasic,
    ClientSecretPost,
    PrivateKeyJwt,
    WorkloadAssertion,
    TlsClientAuth,
    SelfSignedTlsClientAuth,
)
"""In the order in which they are asked."""

KEY_STORES: Mapping[str, Callable[[KeyStoreParts], KeyStore]] = {
    "file": lambda parts: FileKeyStore(_path(parts.url), parts.passphrase_file),
    "state": lambda parts: StateKeyStore(parts.mirror, parts.encryption_key_file),
    "memory": lambda _: MemoryKeyStore(),
}
"""Raises ``KeyStoreError`` for a file with a secret that cannot be used."""

STATE_BACKENDS: Mapping[str, Callable[[str, Clock], State]] = {
    "memory": lambda _, clock: MemoryState(clock),
    "sqlite": lambda url, clock: SqliteState(sqlite_path(url), clock),
    "redis": lambda url, clock: RedisState(RedisAddress.of(url), clock),
    "rediss": lambda url, clock: RedisState(RedisAddress.of(url), clock),
    "redis+unix": lambda url, clock: RedisState(RedisAddress.of(url), clock),
}

STATE_URLS: Mapping[str, Callable[[str], object]] = {
    "sqlite": sqlite_path,
    "redis": RedisAddress.of,
    "rediss": RedisAddress.of,
    "redis+unix": RedisAddress.of,
}
"""Raises ``ValueError`` for a URL that its state backend cannot read."""

AUDIT_SINKS: Mapping[str, Callable[[SinkParts], Sink]] = {
    "file": lambda parts: open_file_sink(_path(parts.url), parts),
    "stdout": lambda parts: StreamSink(parts.chain),
}

AUDIT_KEYS: Mapping[str, Callable[[str], AuditKey]] = {"file": lambda url: AuditKey.open(_path(url))}
"""Raises ``SinkError`` for a key that cannot be used."""

SECRET_STORES: Mapping[str, Callable[[str], SecretStore]] = {
    "aws-secretsmanager": on_demand("aws_secretsmanager", "AwsSecretsManager", extra="aws"),
    "azure-keyvault": on_demand("azure_keyvault", "AzureKeyVault", extra="azure"),
    "kubernetes": KubernetesSecret.open,
    "vault": on_demand("vault", "Vault", extra="vault"),
}


def scheme(url: str) -> str:
    """The kind that a URL names: ``file`` of ``file:///var/lib/keys``, ``stdout`` of ``stdout``."""
    return url.partition(":")[0]


def _path(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc or not parts.path.startswith("/"):
        raise ValueError(f"{url} is not file:///absolute/path")
    return Path(parts.path)
