"""Servers of every kind of secret store, each on loopback for one test."""

import gc
import json
import ssl
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
import pytest
import trustme
from aiohttp import web
from azure.core.credentials import AccessToken
from azure.keyvault.secrets import SecretClient
from moto.server import ThreadedMotoServer

from gateway.kinds import SECRET_STORES, scheme
from gateway.rotation.azure_keyvault import AzureKeyVault
from gateway.rotation.base import SecretStore
from tests.rotation import key_vault_standin, kubernetes_standin, vault_standin
from tests.rotation.key_vault_standin import KeyVaultStandIn
from tests.rotation.kubernetes_standin import KubernetesStandIn
from tests.rotation.vault_standin import VaultStandIn
from tests.support.parts import eventually

CLIENT = "nightly-backup"
URL = "https://sts.example.com/token"
KINDS = ("aws-secretsmanager", "azure-keyvault", "kubernetes", "vault")


@dataclass
class Place:
    """A store of one kind and what is behind it."""

    url: str
    current: Callable[[], str]
    """What a client reads, the way that its kind's clients read."""
    history: Callable[[], list[str]]
    """What was current before, as far as the kind keeps it."""
    fill: Callable[[str], object]
    """Puts a secret of the client there, and a token URL beside it."""
    extra: Callable[[], str | None]
    """The token URL."""
    forbid: Callable[[], object]
    """Takes the permission to write away."""
    opened: Callable[[], SecretStore] | None = None

    def open(self) -> SecretStore:
        """The store, opened anew as by another process."""
        return self.opened() if self.opened is not None else SECRET_STORES[scheme(self.url)](self.url)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@asynccontextmanager
async def listening(application: web.Application, authority: trustme.CA | None = None) -> AsyncIterator[str]:
    """Serves on a free port of loopback, over TLS with a certificate of the authority where one is given."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    context = None

    async def all_have_hung_up() -> bool:
        if runner.server is not None and runner.server.connections:
            gc.collect()  # Azure's client leaves the connection of a challenge open
        return runner.server is None or not runner.server.connections

    if authority is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield f"{'https' if context else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
        await eventually(all_have_hung_up, what="the clients hang up")
    finally:
        await runner.cleanup()


# ---------------------------------------------------------------- AWS


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of its own against an empty Secrets Manager."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    client = boto3.client("secretsmanager", endpoint_url=moto_url)
    yield client
    client.close()
    with urllib.request.urlopen(f"{moto_url}/moto-api/reset", data=b""):
        pass


# ---------------------------------------------------------------- the others


@pytest.fixture
async def vault(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[str, VaultStandIn]]:
    for name in ("VAULT_ADDR", "VAULT_NAMESPACE", "VAULT_CACERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VAULT_TOKEN", vault_standin.TOKEN)
    server = VaultStandIn()
    async with listening(server.application()) as url:
        yield url, server


@pytest.fixture
async def key_vault(authority: trustme.CA) -> AsyncIterator[KeyVaultStandIn]:
    server = KeyVaultStandIn()
    async with listening(server.application(), authority) as url:
        server.url = url
        yield server


@pytest.fixture
async def cluster(authority: trustme.CA, tmp_path: Path) -> AsyncIterator[tuple[str, KubernetesStandIn]]:
    """The URL options that stand for a pod's files, and the API server."""
    (tmp_path / "token").write_text(kubernetes_standin.TOKEN + "\n")
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    server = KubernetesStandIn()
    async with listening(server.application(), authority) as url:
        yield f"api={quote(url, safe='')}&ca_file={tmp_path}/ca.crt&token_file={tmp_path}/token", server


@pytest.fixture
def key_vault_client(key_vault: KeyVaultStandIn, authority: trustme.CA, tmp_path: Path) -> Callable[[], SecretClient]:
    """Makes Azure's client for the stand-in."""
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")

    class Credential:
        def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
            return AccessToken(key_vault_standin.TOKEN, 2**40)

    def make() -> SecretClient:
        return SecretClient(
            key_vault.url,
            Credential(),
            connection_verify=str(tmp_path / "authority.pem"),
            verify_challenge_resource=False,
            retry_total=0,
        )

    return make


# ---------------------------------------------------------------- one of each


@pytest.fixture(params=KINDS)
def place(
    request: pytest.FixtureRequest,
    aws: Any,
    moto_url: str,
    vault: tuple[str, VaultStandIn],
    key_vault: KeyVaultStandIn,
    key_vault_client: Callable[[], SecretClient],
    cluster: tuple[str, KubernetesStandIn],
) -> Place:
    """A store of each kind in turn, with nothing in it."""
    makers: dict[str, Callable[[], Place]] = {
        "aws-secretsmanager": lambda: aws_place(aws, moto_url),
        "azure-keyvault": lambda: key_vault_place(key_vault, key_vault_client),
        "kubernetes": lambda: kubernetes_place(*cluster),
        "vault": lambda: vault_place(*vault),
    }
    return makers[request.param]()


def aws_place(client: Any, endpoint: str) -> Place:
    name = "apps/nightly-backup"
    client.create_secret(Name=name)

    # By its label: moto's default is the version that it saw last.
    def payload(**which: str) -> dict[str, Any]:
        which = which or {"VersionStage": "AWSCURRENT"}
        value: dict[str, Any] = json.loads(client.get_secret_value(SecretId=name, **which)["SecretString"])
        return value

    def history() -> list[str]:
        stages = client.describe_secret(SecretId=name)["VersionIdsToStages"]
        return [payload(VersionId=one)["client_secret"] for one, labels in stages.items() if "AWSPREVIOUS" in labels]

    return Place(
        url=f"aws-secretsmanager://{name}?region=eu-central-1&endpoint={quote(endpoint, safe='')}",
        current=lambda: payload()["client_secret"],
        history=history,
        extra=lambda: payload().get("token_url"),
        fill=lambda secret: client.put_secret_value(
            SecretId=name, SecretString=json.dumps({"client_id": CLIENT, "client_secret": secret, "token_url": URL})
        ),
        # moto checks no permissions: a secret that is to be deleted refuses every request.
        forbid=lambda: client.delete_secret(SecretId=name, RecoveryWindowInDays=7),
    )


def key_vault_place(server: KeyVaultStandIn, make_client: Callable[[], SecretClient]) -> Place:
    def fill(secret: str) -> None:
        server.put("nightly-backup", secret, {"client_id": CLIENT})
        server.put("token-url", URL)

    return Place(
        url="azure-keyvault://backup-vault/nightly-backup",
        current=lambda: server.newest("nightly-backup").value,
        history=lambda: [version.value for version in server.secrets["nightly-backup"][:-1]],
        extra=lambda: server.newest("token-url").value,
        fill=fill,
        forbid=lambda: server.forbidden.add("PUT"),
        opened=lambda: AzureKeyVault("nightly-backup", make_client()),
    )


def kubernetes_place(options: str, server: KubernetesStandIn) -> Place:
    where = ("storage", "nightly-backup")
    return Place(
        url=f"kubernetes://storage/nightly-backup?{options}",
        current=lambda: server.keys(*where)["client_secret"],
        history=lambda: [server.keys(*where)["client_secret_previous"]],
        extra=lambda: server.keys(*where).get("token_url"),
        fill=lambda secret: server.put(*where, {"client_id": CLIENT, "client_secret": secret, "token_url": URL}),
        forbid=lambda: server.forbidden.update({"PATCH", "POST"}),
    )


def vault_place(address: str, server: VaultStandIn) -> Place:
    def data(version: int = -1) -> dict[str, Any]:
        return server.entries["apps/nightly-backup"].versions[version] or {}

    return Place(
        url=f"vault://secret/apps/nightly-backup?address={quote(address, safe='')}",
        current=lambda: data()["client_secret"],
        history=lambda: [data(-2)["client_secret"]],
        extra=lambda: data().get("token_url"),
        fill=lambda secret: server.put(
            "apps/nightly-backup", {"client_id": CLIENT, "client_secret": secret, "token_url": URL}
        ),
        forbid=lambda: server.forbidden.add(("POST", "data")),
    )
