"""The promises of a secret store, held by every kind; then what is peculiar to each."""

import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trustme
from azure.keyvault.secrets import SecretClient
from hypothesis import given
from hypothesis import strategies as st

from gateway.kinds import SECRET_STORES, scheme
from gateway.oauth.client_secret import new_client_secret
from gateway.policy.documents import RotationSchedule
from gateway.rotation import aws_secretsmanager, azure_keyvault, kubernetes, vault
from gateway.rotation.azure_keyvault import AzureKeyVault
from gateway.rotation.base import ClientSecret, Contents, SecretStore, SecretStoreError, check_address, parse_store_url
from tests.rotation import kubernetes_standin, vault_standin
from tests.rotation.conftest import CLIENT, KINDS, URL, Place
from tests.rotation.key_vault_standin import KeyVaultStandIn
from tests.rotation.kubernetes_standin import KubernetesStandIn
from tests.rotation.vault_standin import VaultStandIn

ONE, TWO, THREE = (
    ClientSecret(CLIENT, new_client_secret(lambda count, n=number: n.to_bytes(count))) for number in (1, 2, 3)
)
FORMS = {
    "aws-secretsmanager": aws_secretsmanager.FORM,
    "azure-keyvault": azure_keyvault.FORM,
    "kubernetes": kubernetes.FORM,
    "vault": vault.FORM,
}


@pytest.fixture
async def store(place: Place) -> AsyncIterator[SecretStore]:
    opened = place.open()
    yield opened
    await opened.close()


# ---------------------------------------------------------------- what every kind promises


async def test_an_empty_store_holds_nothing(store: SecretStore):
    assert await store.read() == Contents(None, None)


async def test_a_staged_secret_is_pending_and_who_reads_the_current_one_notices_nothing(
    store: SecretStore, place: Place
):
    place.fill(ONE.secret)
    await store.stage(TWO)
    assert await store.read() == Contents(ONE, TWO)
    assert place.current() == ONE.secret


async def test_a_promoted_secret_is_current_and_nothing_is_pending_any_more(store: SecretStore, place: Place):
    place.fill(ONE.secret)
    await store.stage(TWO)
    await store.promote(TWO)
    assert await store.read() == Contents(TWO, None)
    assert place.current() == TWO.secret


async def test_the_one_before_can_still_be_had(store: SecretStore, place: Place):
    place.fill(ONE.secret)
    await store.stage(TWO)
    await store.promote(TWO)
    assert ONE.secret in place.history()


async def test_whatever_else_is_kept_there_stays(store: SecretStore, place: Place):
    place.fill(ONE.secret)
    await store.stage(TWO)
    await store.promote(TWO)
    assert place.extra() == URL


async def test_the_first_secret_of_an_empty_store_becomes_current(store: SecretStore, place: Place):
    await store.stage(ONE)
    await store.promote(ONE)
    assert await store.read() == Contents(ONE, None)
    assert place.current() == ONE.secret


async def test_staging_and_promoting_again_changes_nothing(place: Place):
    place.fill(ONE.secret)
    for _ in range(2):  # each time by another process
        store = place.open()
        await store.stage(TWO)
        assert await store.read() == Contents(ONE, TWO)
        await store.close()
    for _ in range(2):
        store = place.open()
        await store.promote(TWO)
        assert await store.read() == Contents(TWO, None)
        await store.close()


async def test_a_secret_that_was_staged_by_a_process_that_died_is_read_back(place: Place):
    first = place.open()
    place.fill(ONE.secret)
    await first.stage(TWO)
    await first.close()
    second = place.open()
    assert (await second.read()).pending == TWO
    await second.promote(TWO)
    assert place.current() == TWO.secret
    await second.close()


async def test_staging_another_takes_the_place_of_what_was_pending(store: SecretStore, place: Place):
    place.fill(ONE.secret)
    await store.stage(TWO)
    await store.stage(THREE)
    assert await store.read() == Contents(ONE, THREE)
    await store.stage(TWO)
    assert await store.read() == Contents(ONE, TWO)


async def test_a_secret_that_is_not_pending_is_not_promoted(store: SecretStore, place: Place):
    place.fill(ONE.secret)
    with pytest.raises(SecretStoreError, match="another secret is pending"):
        await store.promote(TWO)
    await store.stage(THREE)
    with pytest.raises(SecretStoreError, match="another secret is pending"):
        await store.promote(TWO)
    assert await store.read() == Contents(ONE, THREE)


async def test_one_rotation_follows_the_other(store: SecretStore, place: Place):
    for secret in (ONE, TWO, THREE):
        await store.stage(secret)
        await store.promote(secret)
        assert await store.read() == Contents(secret, None)
    assert TWO.secret in place.history()


async def test_a_refusal_is_told_without_the_secret(store: SecretStore, place: Place):
    place.fill(ONE.secret)
    place.forbid()
    with pytest.raises(SecretStoreError) as refused:
        await store.stage(TWO)
    assert TWO.secret not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_url_of_another_form_is_told_with_the_right_one(kind: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VAULT_ADDR", "https://vault.example.com")
    monkeypatch.setenv("VAULT_TOKEN", "x")
    for url in (
        f"{kind}://",
        f"{kind}://user:password@host/path",
        f"{kind}://place/path#there",
        f"{kind}://place/p ath",
    ):
        with pytest.raises(ValueError, match=r"form is|of the form") as refused:
            SECRET_STORES[kind](url)
        assert FORMS[kind] in str(refused.value)
        assert "password" not in str(refused.value).replace("user, password or fragment", "")
    with pytest.raises(ValueError, match="no option adress"):
        SECRET_STORES[kind](f"{kind}://place/path?adress=x")
    with pytest.raises(ValueError, match="given twice"):
        SECRET_STORES[kind](f"{kind}://place/path?{_option(kind)}=x&{_option(kind)}=y")


def _option(kind: str) -> str:
    return {"aws-secretsmanager": "region", "azure-keyvault": "endpoint", "kubernetes": "key", "vault": "role"}[kind]


def test_the_policies_know_the_same_kinds():
    for kind in SECRET_STORES:
        RotationSchedule.model_validate({"every": "90d", "to": [f"{kind}://place/path"]})
    with pytest.raises(ValueError, match="secret store reads"):
        RotationSchedule.model_validate({"every": "90d", "to": ["gcp-secretmanager://project/name"]})
    assert set(SECRET_STORES) == set(KINDS) == set(FORMS)


@pytest.mark.parametrize(
    ("url", "library", "extra"),
    [
        ("aws-secretsmanager://name", "boto3", "aws"),
        ("azure-keyvault://vault/name", "azure.core", "azure"),
        ("vault://mount/path", "hvac", "vault"),
    ],
)
def test_a_library_that_is_not_installed_is_named_with_its_extra(
    url: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
):
    for name in list(sys.modules):
        if name == library or name.startswith((f"{library}.", "gateway.rotation.")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        Exception, match=rf"{library}\S* is not installed: pip install 'workload-identity-gateway\[{extra}\]'"
    ):
        SECRET_STORES[scheme(url)](url)


@pytest.mark.parametrize(
    "address",
    [
        "http://vault.example.com",
        "ftp://127.0.0.1",
        "https://user@host",
        "https://",
        "vault",
        "https://host?x=y",
        "http://[",
    ],
)
def test_no_secret_is_sent_to_an_address_that_would_show_it(address: str):
    with pytest.raises(ValueError, match=r"URL|would show secrets"):
        check_address(address)


@pytest.mark.parametrize("address", ["https://vault.example.com:8200/", "http://127.0.0.1:8200", "http://[::1]:8200"])
def test_an_address_is_https_or_loopback(address: str):
    assert check_address(address) == address.rstrip("/")


@given(st.text(max_size=200) | st.from_regex(r"kind://[ -~]{0,40}", fullmatch=True))
def test_any_url_is_taken_apart_or_refused(url: str):
    with contextlib.suppress(ValueError):
        parts = parse_store_url(url, form="kind://place/path", options=frozenset({"a"}))
        assert set(parts.options) <= {"a"}
        assert "@" not in url.partition("://")[2].partition("/")[0]


def test_an_error_never_repeats_a_secret_whatever_a_server_says():
    assert ONE.secret not in str(SecretStoreError(f"400: invalid value {ONE.secret}!"))


# ---------------------------------------------------------------- AWS Secrets Manager


def aws_url(moto_url: str, name: str = "apps/nightly-backup") -> str:
    return f"aws-secretsmanager://{name}?endpoint={quote(moto_url, safe='')}"


async def test_aws_labels_move_as_its_own_rotation_moves_them(aws: Any, moto_url: str):
    aws.create_secret(Name="apps/nightly-backup")
    store = SECRET_STORES["aws-secretsmanager"](aws_url(moto_url))
    for secret in (ONE, TWO):
        await store.stage(secret)
        await store.promote(secret)
    await store.stage(THREE)
    await store.close()
    stages = aws.describe_secret(SecretId="apps/nightly-backup")["VersionIdsToStages"]
    assert {stages[one.digest.removeprefix("sha256:")][0] for one in (ONE, TWO, THREE)} == {
        "AWSPREVIOUS", "AWSCURRENT", "AWSPENDING",
    }  # fmt: skip


async def test_aws_takes_an_arn_for_a_name(aws: Any, moto_url: str):
    arn = aws.create_secret(Name="apps/nightly-backup")["ARN"]
    store = SECRET_STORES["aws-secretsmanager"](aws_url(moto_url, arn))
    await store.stage(ONE)
    assert (await store.read()).pending == ONE
    await store.close()


async def test_aws_says_that_the_secret_must_exist(aws: Any, moto_url: str):
    store = SECRET_STORES["aws-secretsmanager"](aws_url(moto_url))
    with pytest.raises(SecretStoreError, match="ResourceNotFoundException; create it first"):
        await store.read()
    await store.close()


@pytest.mark.parametrize(
    "value", ["a database's password", '["a list"]', "{", '{"client_id": 7, "client_secret": "x"}']
)
async def test_aws_refuses_a_secret_of_another_form(aws: Any, moto_url: str, value: str):
    aws.create_secret(Name="apps/nightly-backup", SecretString=value)
    store = SECRET_STORES["aws-secretsmanager"](aws_url(moto_url))
    with pytest.raises(SecretStoreError, match=r"holds something other|are text"):
        await store.read()
    await store.close()


async def test_aws_current_that_has_moved_meanwhile_is_not_overwritten(aws: Any, moto_url: str):
    aws.create_secret(Name="apps/nightly-backup")
    store = SECRET_STORES["aws-secretsmanager"](aws_url(moto_url))
    await store.stage(ONE)
    await store.promote(ONE)
    await store.stage(TWO)
    seen = store._versions
    outdated = seen()
    aws.put_secret_value(SecretId="apps/nightly-backup", SecretString=json.dumps({"client_secret": "by hand"}))
    store._versions = lambda: outdated
    with pytest.raises(SecretStoreError, match="update_secret_version_stage"):
        await store.promote(TWO)
    assert (
        json.loads(aws.get_secret_value(SecretId="apps/nightly-backup")["SecretString"])["client_secret"] == "by hand"
    )
    await store.close()


async def test_aws_that_does_not_answer_is_told(aws: Any):
    store = SECRET_STORES["aws-secretsmanager"]("aws-secretsmanager://name?endpoint=http%3A%2F%2F127.0.0.1%3A1")
    with pytest.raises(SecretStoreError, match="EndpointConnectionError"):
        await store.read()
    await store.close()


def test_aws_without_a_region_is_told(monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    with pytest.raises(SecretStoreError, match="region"):
        SECRET_STORES["aws-secretsmanager"]("aws-secretsmanager://name")


# ---------------------------------------------------------------- Vault


def vault_url(address: str, **options: str) -> str:
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in {"address": address, **options}.items())
    return f"vault://secret/apps/nightly-backup?{query}"


async def test_vault_writes_are_check_and_set(vault: tuple[str, VaultStandIn]):
    address, server = vault
    store = SECRET_STORES["vault"](vault_url(address))
    await store.stage(ONE)
    await store.promote(ONE)
    newest = store._newest

    def outdated() -> tuple[int, dict[str, Any]]:
        found = newest()
        server.put("apps/nightly-backup", {"client_id": CLIENT, "client_secret": "by hand"})
        return found

    store._newest = outdated
    with pytest.raises(SecretStoreError, match="check-and-set parameter did not match"):
        await store.stage(TWO)
    assert server.entries["apps/nightly-backup"].versions[-1] == {"client_id": CLIENT, "client_secret": "by hand"}
    await store.close()


async def test_vault_metadata_names_the_version_and_keeps_what_was_set(vault: tuple[str, VaultStandIn]):
    address, server = vault
    server.put("apps/nightly-backup", {"token_url": URL})
    entry = server.entries["apps/nightly-backup"]
    entry.custom_metadata, entry.delete_version_after = {"owner": "storage"}, "720h0m0s"
    store = SECRET_STORES["vault"](vault_url(address))
    await store.stage(ONE)
    await store.promote(ONE)
    assert entry.custom_metadata == {"owner": "storage", "gateway_client_secret_version": "3"}
    assert entry.delete_version_after == "720h0m0s"
    await store.close()


async def test_vault_does_without_the_permission_to_write_metadata(vault: tuple[str, VaultStandIn]):
    address, server = vault
    server.forbidden = {("GET", "metadata"), ("POST", "metadata")}
    store = SECRET_STORES["vault"](vault_url(address))
    await store.stage(ONE)
    await store.promote(ONE)
    assert await store.read() == Contents(ONE, None)
    await store.close()


async def test_vault_goes_on_after_a_deleted_version(vault: tuple[str, VaultStandIn]):
    address, server = vault
    server.put("apps/nightly-backup", {"client_secret": "old"})
    server.delete("apps/nightly-backup")
    store = SECRET_STORES["vault"](vault_url(address))
    assert await store.read() == Contents(None, None)
    await store.stage(ONE)
    assert (await store.read()).pending == ONE
    await store.close()


async def test_vault_without_the_engine_is_an_error_and_not_an_empty_path(vault: tuple[str, VaultStandIn]):
    address, _ = vault
    store = SECRET_STORES["vault"](f"vault://kv/path?address={quote(address, safe='')}")
    with pytest.raises(SecretStoreError, match="no handler for route"):
        await store.read()
    await store.close()


async def test_vault_takes_the_kubernetes_method(
    vault: tuple[str, VaultStandIn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    address, _ = vault
    monkeypatch.delenv("VAULT_TOKEN")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SecretStoreError, match="VAULT_TOKEN"):
        SECRET_STORES["vault"](vault_url(address))
    store = SECRET_STORES["vault"](vault_url(address, role=vault_standin.ROLE))
    with pytest.raises(SecretStoreError, match="no token of this pod"):
        await store.read()
    (tmp_path / "token").write_text(vault_standin.POD_TOKEN + "\n")
    monkeypatch.setattr(sys.modules["gateway.rotation.vault"], "POD_TOKEN_FILE", tmp_path / "token")
    await store.stage(ONE)
    assert (await store.read()).pending == ONE
    await store.close()
    stranger = SECRET_STORES["vault"](vault_url(address, role="another"))
    with pytest.raises(SecretStoreError, match="Forbidden"):
        await stranger.read()
    await stranger.close()


async def test_vault_that_does_not_answer_is_told(vault: tuple[str, VaultStandIn]):
    store = SECRET_STORES["vault"](vault_url("http://127.0.0.1:1"))
    with pytest.raises(SecretStoreError, match="no answer"):
        await store.read()
    await store.close()


def test_vault_without_an_address_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("VAULT_ADDR", raising=False)
    with pytest.raises(SecretStoreError, match="set VAULT_ADDR"):
        SECRET_STORES["vault"]("vault://secret/path")


# ---------------------------------------------------------------- Azure Key Vault


async def test_key_vault_readers_are_never_given_a_disabled_version(
    key_vault: KeyVaultStandIn, key_vault_client: Callable[[], SecretClient]
):
    key_vault.put("nightly-backup", ONE.secret, {"client_id": CLIENT})
    store = AzureKeyVault("nightly-backup", key_vault_client())
    await store.stage(TWO)
    await store.promote(TWO)
    assert all(version.attributes["enabled"] for version in key_vault.secrets["nightly-backup"])
    assert [version.attributes["enabled"] for version in key_vault.secrets["nightly-backup-pending"]] == [False]
    assert key_vault.newest("nightly-backup").tags == {"client_id": CLIENT}
    await store.close()


async def test_key_vault_tags_of_others_are_kept(
    key_vault: KeyVaultStandIn, key_vault_client: Callable[[], SecretClient]
):
    key_vault.put("nightly-backup", ONE.secret, {"owner": "storage"})
    store = AzureKeyVault("nightly-backup", key_vault_client())
    await store.stage(TWO)
    await store.promote(TWO)
    assert key_vault.newest("nightly-backup").tags == {"owner": "storage", "client_id": CLIENT}
    await store.close()


async def test_key_vault_refusal_to_read_is_not_taken_for_an_empty_store(
    key_vault: KeyVaultStandIn, key_vault_client: Callable[[], SecretClient]
):
    key_vault.forbidden.add("GET")
    store = AzureKeyVault("nightly-backup", key_vault_client())
    with pytest.raises(SecretStoreError, match=r"Forbidden \(ForbiddenByRbac\)"):
        await store.read()
    await store.close()


async def test_key_vault_secret_without_a_tag_belongs_to_nobody_yet(
    key_vault: KeyVaultStandIn, key_vault_client: Callable[[], SecretClient]
):
    key_vault.put("nightly-backup", ONE.secret)
    store = AzureKeyVault("nightly-backup", key_vault_client())
    assert (await store.read()).current == ClientSecret(None, ONE.secret)
    await store.close()


async def test_key_vault_is_opened_by_the_name_of_the_vault():
    store = SECRET_STORES["azure-keyvault"]("azure-keyvault://backup-vault/nightly-backup")
    assert store._client.vault_url == "https://backup-vault.vault.azure.net"
    await store.close()
    sovereign = SECRET_STORES["azure-keyvault"](
        "azure-keyvault://backup-vault/nightly-backup?endpoint=https%3A%2F%2Fbackup-vault.vault.azure.cn"
    )
    assert sovereign._client.vault_url == "https://backup-vault.vault.azure.cn"
    await sovereign.close()


# ---------------------------------------------------------------- Kubernetes


async def test_kubernetes_conflict_is_read_again_and_nothing_of_it_lost(cluster: tuple[str, KubernetesStandIn]):
    options, server = cluster
    server.put("storage", "nightly-backup", {"client_id": CLIENT, "client_secret": ONE.secret})
    store = SECRET_STORES["kubernetes"](f"kubernetes://storage/nightly-backup?{options}")
    server.before_write.append(
        lambda: server.put(
            "storage", "nightly-backup", {"client_id": CLIENT, "client_secret": ONE.secret, "label": "by hand"}
        )
    )
    await store.stage(TWO)
    assert server.keys("storage", "nightly-backup") == {
        "client_id": CLIENT, "client_secret": ONE.secret, "client_secret_pending": TWO.secret, "label": "by hand",
    }  # fmt: skip
    server.before_write.append(
        lambda: server.put(
            "storage", "nightly-backup", {"client_secret": ONE.secret, "client_secret_pending": THREE.secret}
        )
    )
    with pytest.raises(SecretStoreError, match="another secret is pending"):
        await store.promote(TWO)
    await store.close()


async def test_kubernetes_gives_up_where_somebody_writes_all_the_time(cluster: tuple[str, KubernetesStandIn]):
    options, server = cluster

    server.put("storage", "nightly-backup", {"client_id": CLIENT})
    store = SECRET_STORES["kubernetes"](f"kubernetes://storage/nightly-backup?{options}")
    change = store._change
    store._change = lambda found, keys: (server.put("storage", "nightly-backup", {}), change(found, keys))[1]
    with pytest.raises(SecretStoreError, match="being changed by somebody else"):
        await store.stage(ONE)
    await store.close()


async def test_kubernetes_key_can_have_another_name(cluster: tuple[str, KubernetesStandIn]):
    options, server = cluster
    store = SECRET_STORES["kubernetes"](f"kubernetes://storage/nightly-backup?key=OAUTH_SECRET&{options}")
    for secret in (ONE, TWO):
        await store.stage(secret)
        await store.promote(secret)
    assert server.keys("storage", "nightly-backup") == {
        "client_id": CLIENT, "OAUTH_SECRET": TWO.secret, "OAUTH_SECRET_previous": ONE.secret,
    }  # fmt: skip
    assert server.secrets["storage", "nightly-backup"]["type"] == "Opaque"
    await store.close()


async def test_kubernetes_key_that_holds_no_text_is_somebody_elses(cluster: tuple[str, KubernetesStandIn]):
    options, server = cluster
    server.put("storage", "nightly-backup", {"client_id": CLIENT})
    server.secrets["storage", "nightly-backup"]["data"]["client_secret"] = "/w=="
    store = SECRET_STORES["kubernetes"](f"kubernetes://storage/nightly-backup?{options}")
    with pytest.raises(SecretStoreError, match="holds under client_secret what is no text"):
        await store.read()
    await store.close()


async def test_kubernetes_says_what_the_api_server_said(cluster: tuple[str, KubernetesStandIn]):
    options, server = cluster
    server.put("storage", "nightly-backup", {}, immutable=True)
    store = SECRET_STORES["kubernetes"](f"kubernetes://storage/nightly-backup?{options}")
    with pytest.raises(SecretStoreError, match="422 Invalid data: Forbidden: field is immutable"):
        await store.stage(ONE)
    server.forbidden.add("GET")
    with pytest.raises(SecretStoreError, match="403 Forbidden"):
        await store.read()
    await store.close()


async def test_kubernetes_token_is_read_again_at_each_request_because_the_kubelet_renews_it(
    cluster: tuple[str, KubernetesStandIn], tmp_path: Path
):
    options, _ = cluster
    store = SECRET_STORES["kubernetes"](f"kubernetes://storage/nightly-backup?{options}")
    (tmp_path / "token").write_text("expired")
    with pytest.raises(SecretStoreError, match="401"):
        await store.read()
    (tmp_path / "token").write_text(kubernetes_standin.TOKEN)
    assert await store.read() == Contents(None, None)
    (tmp_path / "token").unlink()
    with pytest.raises(SecretStoreError, match="cannot be read"):
        await store.read()
    await store.close()


async def test_kubernetes_api_server_that_another_authority_vouches_for_is_not_believed(
    cluster: tuple[str, KubernetesStandIn], tmp_path: Path
):
    options, _ = cluster
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.crt")
    store = SECRET_STORES["kubernetes"](f"kubernetes://storage/nightly-backup?{options}")
    with pytest.raises(SecretStoreError, match="cannot be trusted"):
        await store.read()
    await store.close()


def test_kubernetes_in_a_pod_finds_the_api_server_as_every_client_does(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    server = SECRET_STORES["kubernetes"]("kubernetes://storage/nightly-backup")._server
    assert server.address == "https://[fd00::1]:6443"
    assert str(server.ca_file) == "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
    assert str(server.token_file) == "/var/run/secrets/kubernetes.io/serviceaccount/token"
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    with pytest.raises(SecretStoreError, match="runs in no pod"):
        SECRET_STORES["kubernetes"]("kubernetes://storage/nightly-backup")
