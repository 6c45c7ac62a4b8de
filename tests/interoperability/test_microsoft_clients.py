"""Unmodified clients for Microsoft Entra get tokens of the gateway: MSAL by its OpenID authority, azure-identity by its
route.
"""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import ClientAssertionCredential, WorkloadIdentityCredential
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from msal import ConfidentialClientApplication

from tests.interoperability.classic_gateway import (
    CERTIFIED,
    LEDGER,
    SECRET,
    SIGNER,
    ClassicGateway,
    classic_gateway,
    private_pem,
)
from tests.support.certificates import common_name

TENANT = "00000000-0000-0000-0000-000000000000"
DEFAULT_SCOPE = f"{LEDGER}/.default"


@pytest.fixture
async def classic(tmp_path: Path) -> AsyncIterator[ClassicGateway]:
    """A gateway whose issuer URL has a path, as MSAL insists on."""
    async with classic_gateway(tmp_path, "/organisation") as started:
        yield started


# ---------------------------------------------------------------- MSAL


@contextmanager
def msal_application(
    classic: ClassicGateway, client_id: str, credential: Any
) -> Iterator[ConfidentialClientApplication]:
    with requests.Session() as session:
        session.verify, session.trust_env = classic.ca_file, False
        yield ConfidentialClientApplication(
            client_id, client_credential=credential, oidc_authority=classic.url, http_client=session
        )


async def msal_answer(classic: ClassicGateway, client_id: str, credential: Any) -> dict[str, Any]:
    def acquire() -> dict[str, Any]:
        with msal_application(classic, client_id, credential) as application:
            return application.acquire_token_for_client(["ledger:read"])

    return await asyncio.to_thread(acquire)


async def msal_claims(classic: ClassicGateway, client_id: str, credential: Any) -> dict[str, Any]:
    answer = await msal_answer(classic, client_id, credential)
    assert "access_token" in answer, classic.audit_file.read_text()
    return await asyncio.to_thread(classic.claims, answer["access_token"])


async def test_msal_authenticates_with_a_secret(classic: ClassicGateway):
    claims = await msal_claims(classic, "batch", SECRET)
    assert (claims["client_id"], claims["scope"]) == ("batch", "ledger:read")


async def test_msal_understands_that_its_secret_is_wrong(classic: ClassicGateway):
    answer = await msal_answer(classic, "batch", "not-it")
    assert (answer["error"], answer["error_description"]) == ("invalid_client", "Client authentication failed.")


async def test_msal_authenticates_with_a_workload_token(classic: ClassicGateway):
    claims = await msal_claims(classic, "invoicer", {"client_assertion": classic.pod_token})
    assert claims["act"]["sub"] == "system:serviceaccount:billing:invoicer"


def client_certificate() -> x509.Certificate:
    """A certificate for the key of ``certified``, as it would be uploaded to Entra."""
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    return (
        x509.CertificateBuilder(common_name("certified"), common_name("certified"), CERTIFIED.key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start.replace(year=2120))
        .sign(CERTIFIED.key, hashes.SHA256())
    )


@pytest.mark.parametrize("sends", ["x5t", "x5t#S256", "x5t#S256 and x5c"])
async def test_msal_signs_with_the_key_of_its_certificate(classic: ClassicGateway, sends: str):
    certificate = client_certificate()
    credential: dict[str, Any] = {"private_key": private_pem(CERTIFIED)}
    if sends == "x5t":
        credential["thumbprint"] = certificate.fingerprint(hashes.SHA1()).hex()
    else:
        credential["public_certificate"] = certificate.public_bytes(Encoding.PEM).decode()
    claims = await msal_claims(classic, "certified", credential)
    assert claims["client_id"] == "certified"
    assert claims["entitled_by"].startswith("private_key_jwt/key:")


async def test_msal_sends_the_assertion_of_its_certificate_again(classic: ClassicGateway):
    def acquire() -> list[dict[str, Any]]:
        credential = {"private_key": private_pem(CERTIFIED), "thumbprint": "00" * 20}
        with msal_application(classic, "certified", credential) as application:
            return [application.acquire_token_for_client([scope]) for scope in ("ledger:read", "ledger:write")]

    answers = await asyncio.to_thread(acquire)
    assert [answer["scope"] for answer in answers if "scope" in answer] == ["ledger:read", "ledger:write"], answers


# ---------------------------------------------------------------- azure-identity


async def azure_claims(classic: ClassicGateway, credential: Any) -> dict[str, Any]:
    def acquire() -> dict[str, Any]:
        with credential:
            return classic.claims(credential.get_token(DEFAULT_SCOPE).token)

    return await asyncio.to_thread(acquire)


@pytest.fixture
def entra(classic: ClassicGateway) -> dict[str, Any]:
    """How the SDK is pointed to the gateway."""
    return {"authority": classic.url, "disable_instance_discovery": True, "connection_verify": classic.ca_file}


@pytest.fixture
def projected_token(classic: ClassicGateway) -> Path:
    file = classic.folder / "azure-identity-token"
    file.write_text(classic.pod_token())
    return file


async def test_azure_workload_identity_credential_gets_all_that_is_granted(
    classic: ClassicGateway, entra: dict[str, Any], projected_token: Path
):
    credential = WorkloadIdentityCredential(
        tenant_id=TENANT, client_id="invoicer", token_file_path=str(projected_token), **entra
    )
    claims = await azure_claims(classic, credential)
    assert (claims["client_id"], claims["scope"]) == ("invoicer", "ledger:read ledger:write")
    assert claims["act"]["sub"] == "system:serviceaccount:billing:invoicer"


async def test_azure_workload_identity_credential_is_configured_by_what_the_webhook_of_aks_sets(
    classic: ClassicGateway, entra: dict[str, Any], projected_token: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
    monkeypatch.setenv("AZURE_CLIENT_ID", "invoicer")
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(projected_token))
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", entra.pop("authority"))
    claims = await azure_claims(classic, WorkloadIdentityCredential(**entra))
    assert claims["client_id"] == "invoicer"


async def test_azure_workload_identity_credential_comes_by_the_token_proxy_of_aks(
    classic: ClassicGateway, projected_token: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AZURE_KUBERNETES_TOKEN_PROXY", classic.url)
    monkeypatch.setenv("AZURE_KUBERNETES_CA_FILE", classic.ca_file)
    credential = WorkloadIdentityCredential(
        tenant_id=TENANT,
        client_id="invoicer",
        token_file_path=str(projected_token),
        enable_azure_proxy=True,
        disable_instance_discovery=True,
    )
    assert (await azure_claims(classic, credential))["client_id"] == "invoicer"


async def test_azure_client_assertion_credential_sends_a_workload_token(classic: ClassicGateway, entra: dict[str, Any]):
    credential = ClientAssertionCredential(TENANT, "invoicer", classic.pod_token, **entra)
    claims = await azure_claims(classic, credential)
    assert claims["entitled_by"] == "cluster/rule-1"


async def test_azure_client_assertion_credential_sends_an_assertion_of_its_own(
    classic: ClassicGateway, entra: dict[str, Any]
):
    claims = {"sub": "signer", "aud": classic.url, "jti": "azure-1"}
    now = classic.gateway.gateway._clock()
    credential = ClientAssertionCredential(TENANT, "signer", lambda: SIGNER.token(claims, now=now), **entra)
    assert (await azure_claims(classic, credential))["entitled_by"] == "private_key_jwt/key:signer-1"


async def test_azure_identity_understands_a_denial(classic: ClassicGateway, entra: dict[str, Any]):
    # The error that the SDK raises keeps the connection open for as long as somebody looks at it.
    credential = ClientAssertionCredential(
        TENANT, "batch", classic.pod_token, base_headers={"Connection": "close"}, **entra
    )
    with pytest.raises(ClientAuthenticationError, match="No trust rule lets this workload"):
        await azure_claims(classic, credential)
