"""Unmodified npm clients authenticate with every method that they support: openid-client and oauth4webapi."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from gateway.jose.thumbprint import certificate_thumbprint
from tests.interoperability.classic_gateway import (
    LEDGER,
    LEDGER_SECRET,
    MACHINE,
    ODD_SECRET,
    SECRET,
    SELF_SIGNED,
    SIGNER,
    ClassicGateway,
    private_jwk,
)
from tests.support.parts import program
from tests.support.running import JWT, TOKEN_EXCHANGE

NODE = Path(__file__).parent / "node"
LIBRARIES = pytest.mark.parametrize("library", ["openid_client", "oauth4webapi"])


async def node(classic: ClassicGateway, library: str, **asked: Any) -> dict[str, Any]:
    """What the script of a library answers: ``answer`` and the verified ``payload``, or ``error`` and ``status``."""
    executable = program("node", "nodejs")
    if not (NODE / "node_modules" / "undici").exists():
        pytest.fail("the Node.js clients are not installed: make test does that")
    asked = {
        "issuer": classic.url, "algorithm": "oauth2", "grantType": "client_credentials", "audience": LEDGER,
        "parameters": {"resource": LEDGER, "scope": "ledger:read"}, "ca": classic.ca_file, **asked,
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        executable, f"{library}.mjs", cwd=NODE, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "NODE_EXTRA_CA_CERTS": classic.ca_file},
    )  # fmt: skip
    written, _ = await asyncio.wait_for(process.communicate(json.dumps(asked).encode()), 60)
    return json.loads(written)


@LIBRARIES
@pytest.mark.parametrize("secret", [SECRET, ODD_SECRET], ids=["plain", "odd"])
@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
async def test_a_secret(classic: ClassicGateway, library: str, method: str, secret: str):
    result = await node(classic, library, clientId="batch", method=method, secret=secret)
    assert result["payload"]["scope"] == "ledger:read", result
    assert result["payload"]["entitled_by"].startswith(f"{method}/secret:")


@LIBRARIES
@pytest.mark.parametrize("algorithm", ["oauth2", "oidc"])
async def test_private_key_jwt_with_es256(classic: ClassicGateway, library: str, algorithm: str):
    jwk = private_jwk(SIGNER)
    result = await node(classic, library, clientId="signer", method="private_key_jwt", jwk=jwk, algorithm=algorithm)
    assert result["payload"]["entitled_by"] == "private_key_jwt/key:signer-1", result


@LIBRARIES
@pytest.mark.parametrize(
    ("method", "name"), [("tls_client_auth", MACHINE), ("self_signed_tls_client_auth", "self-signed")]
)
async def test_a_client_certificate(classic: ClassicGateway, library: str, method: str, name: str):
    certificate, key = classic.client_certificate(name)
    result = await node(classic, library, clientId="machine", method=method, certificate=str(certificate), key=str(key))
    assert result["payload"]["entitled_by"].startswith(f"{method}/certificate:"), result


@LIBRARIES
async def test_no_authentication_beside_a_workload_token(classic: ClassicGateway, library: str):
    parameters = {"subject_token": classic.pod_token(), "subject_token_type": JWT, "resource": LEDGER}
    result = await node(
        classic, library, clientId="invoicer", method="none", grantType=TOKEN_EXCHANGE, parameters=parameters
    )
    assert result["payload"]["act"]["sub"] == "system:serviceaccount:billing:invoicer", result


@LIBRARIES
@pytest.mark.parametrize("method", ["client_secret_basic", "private_key_jwt"])
async def test_a_dpop_proof_binds_the_token(classic: ClassicGateway, library: str, method: str):
    client_id = {"client_secret_basic": "batch", "private_key_jwt": "signer"}[method]
    result = await node(
        classic, library, clientId=client_id, method=method, secret=SECRET, jwk=private_jwk(SIGNER), dpop=True
    )
    assert result.get("answer", result)["token_type"].lower() == "dpop", result
    assert result["payload"]["cnf"]["jkt"] == result.get("thumbprint", result["payload"]["cnf"]["jkt"])


async def test_a_dpop_proof_and_a_client_certificate_at_once(classic: ClassicGateway):
    certificate, key = classic.client_certificate("self-signed")
    result = await node(
        classic, "openid_client", clientId="machine", method="self_signed_tls_client_auth",
        certificate=str(certificate), key=str(key), dpop=True,
    )  # fmt: skip
    assert result["payload"]["cnf"] == {"jkt": result["thumbprint"]}, result
    assert certificate_thumbprint(SELF_SIGNED.der) in result["payload"]["entitled_by"]


@LIBRARIES
@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
async def test_a_wrong_secret_is_understood(classic: ClassicGateway, library: str, method: str):
    result = await node(classic, library, clientId="batch", method=method, secret="not-it")
    if method == "client_secret_basic":  # a challenge (WWW-Authenticate) is an error of its own to these libraries
        assert result["status"] == 401
    else:
        assert (result["error"], result["status"]) == ("invalid_client", 400)


@LIBRARIES
async def test_a_scope_too_many_is_understood(classic: ClassicGateway, library: str):
    result = await node(
        classic, library, clientId="batch", method="client_secret_basic", secret=SECRET,
        parameters={"scope": "ledger:read admin"},
    )  # fmt: skip
    assert (result["error"], result["status"]) == ("invalid_scope", 400)


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post", "private_key_jwt"])
async def test_openid_client_introspects_and_revokes(classic: ClassicGateway, method: str):
    client_id = "signer" if method == "private_key_jwt" else "batch"
    result = await node(
        classic, "openid_client", clientId=client_id, method=method, secret=SECRET, jwk=private_jwk(SIGNER),
        introspectAs=["ledger", LEDGER_SECRET],
    )  # fmt: skip
    before = result["before"]
    assert (before["active"], before["client_id"], before["scope"]) == (True, client_id, "ledger:read")
    assert result["after"] == {"active": False}
