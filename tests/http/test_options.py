"""What settings and issuers may say, seen from outside."""

import json
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
import trustme

from gateway.clock import SteadyClock
from gateway.standin.issuer import StandInIssuer, StandInServer
from gateway.standin.platforms import KUBERNETES
from tests.support.running import ISSUER, RunningGateway, running, settings

POLICIES = """
kind: Issuer
name: cluster
preset: kubernetes
url: https://kubernetes.default.svc.cluster.local
keys: {{discovery_url: {cluster}, private_network: true}}
{options}
---
kind: Resource
name: ledger-api
identifier: https://ledger.example.com
scopes: {{ledger:read: Read}}
---
kind: ServiceAccount
name: invoicer
access: [{{resource: ledger-api, scopes: [ledger:read]}}]
trust: [{{name: pods, issuer: cluster, match: {{sub: "system:serviceaccount:billing:invoicer"}}}}]
---
kind: ServiceAccount
name: reporter
access: [{{resource: ledger-api, scopes: [ledger:read]}}]
trust: [{{issuer: cluster, match: {{kubernetes.io: {{namespace: [billing, reports]}}}}}}]
"""


@asynccontextmanager
async def cluster(
    folder: Path, options: str = "", **overrides: Any
) -> AsyncIterator[tuple[RunningGateway, StandInIssuer]]:
    issuer = StandInIssuer(KUBERNETES, clock=SteadyClock())
    async with StandInServer(issuer):
        (folder / "policies").mkdir()
        text = POLICIES.format(cluster=issuer.discovery_url, options=options)
        (folder / "policies" / "all.yaml").write_text(text)
        async with running(settings(folder, **overrides)) as gateway:
            yield gateway, issuer


async def test_a_workload_that_may_become_several_is_told_which(tmp_path: Path):
    async with cluster(tmp_path) as (gateway, issuer):
        status, body = await gateway.exchange(issuer.token(ISSUER))
        assert (status, body["reason"]) == (400, "ambiguous_service_account")
        assert "invoicer, reporter" in body["error_description"]
        status, body = await gateway.exchange(issuer.token(ISSUER), client_id="reporter")
        assert status == 200
        assert jwt.decode(body["access_token"], options={"verify_signature": False})["sub"] == "reporter"


async def test_a_bound_token_ends_with_its_subject_token(tmp_path: Path):
    async with cluster(tmp_path, "bound_to_subject_token: true") as (gateway, issuer):
        now = int(SteadyClock()())
        _, body = await gateway.exchange(issuer.token(ISSUER, exp=now + 300), client_id="invoicer")
        assert jwt.decode(body["access_token"], options={"verify_signature": False})["exp"] <= now + 300
        assert body["expires_in"] <= 300


async def test_what_the_policy_wanted_is_told_only_where_the_issuer_says_so(tmp_path: Path):
    async with cluster(tmp_path, "explain_denials: full") as (gateway, issuer):
        stranger = issuer.token(ISSUER, namespace="elsewhere")
        _, body = await gateway.exchange(stranger, client_id="invoicer")
        assert body["reason"] == "no_matching_trust"
        assert "system:serviceaccount:billing:invoicer" in body["error_description"]
    written = (tmp_path / "audit.jsonl").read_text()
    assert "invoicer/pods" in json.loads(written)["detail"]


async def test_a_token_works_once_where_the_issuer_says_so(tmp_path: Path):
    async with cluster(tmp_path, "replay: reject") as (gateway, issuer):
        token = issuer.token(ISSUER)
        status, body = await gateway.exchange(token)
        assert body["reason"] == "ambiguous_service_account", "a refused request burns no token"
        assert (await gateway.exchange(token, client_id="invoicer"))[0] == 200
        status, body = await gateway.exchange(token, client_id="invoicer")
        assert (status, body["error"], body["reason"]) == (400, "invalid_request", "token_replayed")


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "RS256"])
async def test_the_algorithm_of_access_tokens_is_a_setting(tmp_path: Path, algorithm: str):
    keys = {"store": f"file://{tmp_path}/keys", "algorithm": algorithm}
    async with cluster(tmp_path, keys=keys) as (gateway, issuer):
        _, body = await gateway.exchange(issuer.token(ISSUER), client_id="invoicer")
        published = jwt.PyJWKSet.from_json(await gateway.get(f"{gateway.url}/.well-known/jwks.json"))
        key = published[jwt.get_unverified_header(body["access_token"])["kid"]]
        claims = jwt.decode(body["access_token"], key, algorithms=[algorithm], audience="https://ledger.example.com")
        assert claims["client_id"] == "invoicer"


async def test_an_issuer_with_a_path_is_found_in_every_form_of_rfc_8414(tmp_path: Path):
    issuer_url = "https://sts.example.com/tenant"
    async with cluster(tmp_path, issuer=issuer_url) as (gateway, issuer):
        for path in (
            "/.well-known/oauth-authorization-server/tenant",
            "/.well-known/openid-configuration/tenant",
            "/tenant/.well-known/openid-configuration",
            "/tenant/.well-known/oauth-authorization-server",
        ):
            document = json.loads(await gateway.get(gateway.url + path))
            assert document["issuer"] == issuer_url
            assert document["token_endpoint"] == f"{issuer_url}/token"
            assert document["jwks_uri"] == f"{issuer_url}/.well-known/jwks.json"
        assert json.loads(await gateway.get(f"{gateway.url}/tenant/.well-known/jwks.json"))["keys"]
        form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": issuer.token(issuer_url)}
        async with gateway.session.post(
            f"{gateway.url}/tenant/token", data={**form, "client_id": "invoicer"}
        ) as answer:
            assert answer.status == 200


async def test_the_signing_key_outlives_the_process(tmp_path: Path):
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    keys = {"store": f"file://{tmp_path}/keys"}
    async with cluster(tmp_path / "first", keys=keys) as (gateway, _):
        before = await gateway.get(f"{gateway.url}/.well-known/jwks.json")
    async with cluster(tmp_path / "second", keys=keys) as (gateway, _):
        assert await gateway.get(f"{gateway.url}/.well-known/jwks.json") == before


async def test_the_source_of_a_request_is_its_peer_unless_that_is_a_trusted_proxy(tmp_path: Path):
    for name, trusted, source in (("believed", ["127.0.0.0/8"], "203.0.113.9"), ("ignored", [], "127.0.0.1")):
        (tmp_path / name).mkdir()
        async with cluster(tmp_path / name, trusted_proxies=trusted) as (gateway, issuer):
            form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": issuer.token(ISSUER)}
            forwarded = {"X-Forwarded-For": "10.9.9.9, 203.0.113.9"}
            await gateway.post(form, headers=forwarded)
        assert json.loads((tmp_path / name / "audit.jsonl").read_text())["source"] == source


async def test_tls_is_ended_by_the_gateway_where_it_has_a_certificate(tmp_path: Path):
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    certificate.private_key_pem.write_to_path(tmp_path / "tls.key")
    tls = {"certificate": tmp_path / "tls.crt", "key": tmp_path / "tls.key"}
    async with cluster(tmp_path, tls=tls) as (gateway, issuer):
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        url = gateway.url.replace("http://", "https://")
        form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": issuer.token(ISSUER)}
        async with gateway.session.post(f"{url}/token", data={**form, "client_id": "invoicer"}, ssl=trusting) as answer:
            assert answer.status == 200
        old = ssl.create_default_context()
        authority.configure_trust(old)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(aiohttp.ClientConnectorError):
            await gateway.session.get(f"{url}/.well-known/jwks.json", ssl=old)


async def test_a_workload_verified_under_the_policies_before_is_not_decided_by_the_new_ones(tmp_path: Path):
    async with cluster(tmp_path) as (gateway, issuer):
        assert (await gateway.exchange(issuer.token(ISSUER), client_id="invoicer"))[0] == 200
        file = tmp_path / "policies" / "all.yaml"
        file.write_text(file.read_text().replace("preset: kubernetes\n", "preset: kubernetes\nmax_token_age: 2m\n"))
        await gateway.gateway.policies.reload()  # the issuers' keys have not followed yet
        status, body = await gateway.exchange(issuer.token(ISSUER), client_id="invoicer")
        assert (status, body["error"], body["reason"]) == (503, "temporarily_unavailable", "issuer_unavailable")
        await gateway.gateway.trust.reconfigure(gateway.gateway.policies.generation.issuers)
        assert (await gateway.exchange(issuer.token(ISSUER), client_id="invoicer"))[0] == 200
