"""Clients with credentials of their own, attacked: nobody becomes one, locks one out, or learns who there is."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import pytest
import yaml

from gateway.identity.clients import secret as secrets_of_clients
from gateway.identity.clients.private_key_jwt import PrivateKeyJwt
from gateway.identity.clients.stored_secrets import KIND, SecretRegister
from gateway.model import RegisteredSecret
from gateway.oauth.client_secret import secret_digest
from gateway.policy.documents import RateLimit
from gateway.state.quotas import QuotaExceeded, QuotaRules, quotas_for
from tests.attacks.hostile import DESCRIPTION, besieged, exchange_form, records
from tests.support.certificates import Issued, authority, common_name, issue, san
from tests.support.house import House
from tests.support.issuer_server import issuer_server
from tests.support.ledger import basic
from tests.support.proofs import ProvingClient
from tests.support.redis_server import RedisServer
from tests.support.running import ACCESS_TOKEN, ISSUER, JWT, TOKEN_EXCHANGE
from tests.support.time import HandClock
from tests.support.tokens import ABSENT, NOW, SigningIssuer, base64url

ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SPIFFE = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"
SECRET, EXPIRED, STRANGERS = "batch-secret~1", "batch-secret~0", "strangers-secret~1"
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

POLICIES = f"""
kind: Resource
name: orders
identifier: https://orders.example.com
scopes: {{orders:read: Read, orders:write: Write}}
served_by: [orders-service]
---
kind: Resource
name: stock
identifier: https://stock.example.com
scopes: {{stock:read: Read, stock:reserve: Reserve}}
---
kind: Resource
name: sealed
identifier: https://sealed.example.com
scopes: {{sealed:open: Open}}
sender_constraint: dpop
served_by: [orders-service]
---
kind: Resource
name: mutual
identifier: https://mutual.example.com
scopes: {{mutual:open: Open}}
sender_constraint: mtls
---
kind: ServiceAccount
name: batch
access:
  - {{resource: orders, scopes: [orders:read, orders:write]}}
  - {{resource: stock, scopes: [stock:reserve]}}
  - {{resource: sealed, scopes: [sealed:open]}}
  - {{resource: mutual, scopes: [mutual:open]}}
rate_limit: 20/hour
trust:
  - name: whole
    issuer: prod-cluster
    match: {{sub: "system:serviceaccount:shop:whole"}}
  - name: reader
    issuer: prod-cluster
    match: {{sub: "system:serviceaccount:shop:reader"}}
    scopes: [orders:read]
credentials:
  secrets:
    - {{id: s1, digest: "{secret_digest(SECRET)}"}}
    - {{id: s0, digest: "{secret_digest(EXPIRED)}", expires: 2020-01-01}}
---
kind: ServiceAccount
name: stranger
access: [{{resource: orders, scopes: [orders:read]}}, {{resource: sealed, scopes: [sealed:open]}}]
credentials: {{secrets: [{{id: s1, digest: "{secret_digest(STRANGERS)}"}}]}}
---
kind: ServiceAccount
name: bare
access: [{{resource: orders, scopes: [orders:read]}}]
---
kind: ServiceAccount
name: orders-service
access: [{{resource: stock, scopes: [stock:read, stock:reserve]}}]
trust: [{{issuer: prod-cluster, match: {{sub: "system:serviceaccount:orders:api"}}}}]
"""


class Signer:
    """A client that signs its own assertions."""

    def __init__(self, client_id: str, number: int = 0) -> None:
        self.client_id = client_id
        self.signing = SigningIssuer("ES256", number=number, url=client_id, kid=f"{client_id}-{number}")
        self._count = 0

    def assertion(self, *, header: dict[str, Any] | None = None, now: float = NOW, **changes: Any) -> str:
        self._count += 1
        claims = {"sub": self.client_id, "aud": ISSUER, "jti": f"{self.client_id}-{self._count}", "nbf": ABSENT}
        return self.signing.token({**claims, **changes}, header=header, now=now)


SIGNER, RIVAL = Signer("signer"), Signer("rival", 1)
ACCESS = [{"resource": "orders", "scopes": ["orders:read"]}]


def signing_account(signer: Signer, **more: Any) -> dict[str, Any]:
    keys = {"jwks": signer.signing.jwks()}
    return {
        "kind": "ServiceAccount", "name": signer.client_id, "access": ACCESS, "rate_limit": "20/hour",
        "credentials": {"keys": keys | more},
    }  # fmt: skip


def documents(*more: Mapping[str, Any]) -> str:
    return f"{POLICIES}---\n{yaml.safe_dump_all([signing_account(SIGNER), signing_account(RIVAL), *more])}"


@asynccontextmanager
async def clients(
    folder: Path, *more: Mapping[str, Any], clock: HandClock | None = None, quotas: Any = None, **overrides: Any
) -> AsyncIterator[House]:
    """The house with clients of every sort, at a time that stands still."""
    quotas = {"quotas": {"enabled": False} if quotas is None else quotas}
    async with besieged(folder, policies=documents(*more), clock=clock or HandClock(), **quotas, **overrides) as house:
        yield house


def signed(assertion: str, kind: str = ASSERTION, **form: str) -> dict[str, str]:
    return {"grant_type": "client_credentials", "client_assertion": assertion, "client_assertion_type": kind, **form}


def narrowing(token: str, **form: str) -> dict[str, str]:
    return {"grant_type": TOKEN_EXCHANGE, "subject_token": token, "subject_token_type": ACCESS_TOKEN, **form}


def passing_on(token: str, actor: str, **form: str) -> dict[str, str]:
    return narrowing(token, actor_token=actor, actor_token_type=JWT, **form)


async def reason(house: House, form: Any, headers: Mapping[str, str] | None = None) -> str:
    """``granted``, or why not."""
    status, body, _ = await house.gateway.post(form, headers=headers or {})
    assert status == 200 or DESCRIPTION.fullmatch(body["error_description"]), body
    return "granted" if status == 200 else str(body["reason"])


async def token_of(house: House, form: dict[str, str], headers: Mapping[str, str] | None = None) -> str:
    status, body, _ = await house.gateway.post(form, headers=headers or {})
    assert status == 200, body
    return str(body["access_token"])


async def batch_token(house: House, headers: Mapping[str, str] | None = None, **form: str) -> str:
    asked = {"grant_type": "client_credentials", "resource": "orders", **form}
    return await token_of(house, asked, {**basic("batch", SECRET), **(headers or {})})


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def es256_twin(token: str) -> str:
    """The other signature (r, n - s) of the same ES256 token, which anybody can make (attacks 33)."""
    signing_input, _, signature = token.rpartition(".")
    raw = jwt.utils.base64url_decode(signature)
    r, s = int.from_bytes(raw[:32]), int.from_bytes(raw[32:])
    return f"{signing_input}.{base64url(r.to_bytes(32) + (P256_ORDER - s).to_bytes(32))}"


# ---------------------------------------------------------------- nobody is locked out


async def test_an_assertion_sent_again_uses_up_nobodys_quota(tmp_path: Path):
    async with clients(tmp_path, quotas={}) as house:
        seen = SIGNER.assertion()
        assert await reason(house, signed(seen)) == "granted"
        assert {await reason(house, signed(seen)) for _ in range(40)} == {"token_replayed"}
        assert await reason(house, signed(SIGNER.assertion())) == "granted"


async def test_a_proof_sent_again_uses_up_nobodys_quota(tmp_path: Path):
    async with clients(tmp_path, quotas={}) as house:
        token, client = await batch_token(house), ProvingClient()
        seen = {"DPoP": client.proof("POST", f"{ISSUER}/token")}
        assert await reason(house, narrowing(token), seen) == "granted"
        assert {await reason(house, narrowing(token), seen) for _ in range(40)} == {"proof_replayed"}
        assert await reason(house, narrowing(token)) == "granted"


async def test_an_assertion_sent_again_uses_up_nobodys_quota_in_redis(tmp_path: Path, redis_server: RedisServer):
    async with clients(tmp_path, quotas={}, state=redis_server.url) as house:
        seen = SIGNER.assertion()
        assert await reason(house, signed(seen)) == "granted"
        assert {await reason(house, signed(seen)) for _ in range(40)} == {"token_replayed"}
        assert await reason(house, signed(SIGNER.assertion())) == "granted"


@pytest.mark.parametrize("shared", [False, True])
async def test_what_is_given_back_is_there_at_once_whoever_was_told_to_wait_for_it(
    redis_server: RedisServer, shared: bool
):
    one, plenty = RateLimit(1, 3600), RateLimit(1000, 1)
    rules = QuotaRules(ceiling=plenty, service_account=one, workload=one, failures_per_source=plenty)
    quotas = quotas_for(rules, redis_server.url if shared else "memory://", HandClock())
    spend = partial(quotas.spend, service_account="batch", limit=None, issuer="self", subject="batch")
    try:
        for _ in range(3):
            taken = await spend()
            with pytest.raises(QuotaExceeded):
                await spend()
            await quotas.give_back(taken)
        await redis_server.stop()
        await quotas.give_back(taken)  # and nothing happens
    finally:
        await quotas.close()


@pytest.mark.parametrize("shared", [False, True])
async def test_many_at_once_with_a_used_assertion_leave_no_quota_spent(
    tmp_path: Path, redis_server: RedisServer, shared: bool
):
    async with clients(tmp_path, quotas={}, **({"state": redis_server.url} if shared else {})) as house:
        seen = signed(SIGNER.assertion())
        assert await reason(house, seen) == "granted"
        found = await asyncio.gather(*(reason(house, seen) for _ in range(60)))
        assert set(found) <= {"token_replayed", "quota_exceeded"}
        assert await reason(house, signed(SIGNER.assertion())) == "granted"


async def test_an_api_that_was_called_cannot_use_up_the_quota_of_its_callers(tmp_path: Path):
    async with clients(tmp_path, quotas={"workload": "10/hour"}) as house:
        handed_over = await batch_token(house)
        found = {await reason(house, narrowing(handed_over)) for _ in range(22)}
        assert found == {"granted", "quota_exceeded"}  # what it does is counted, too
        await batch_token(house)
        actor = house.pod_token(namespace="orders", service_account="api")
        handed_over = await batch_token(house)
        for_stock = passing_on(handed_over, actor, resource="stock")
        assert {await reason(house, for_stock) for _ in range(3)} == {"quota_exceeded"}  # of this API, at that
        await batch_token(house)


async def test_an_outage_of_one_clients_keys_locks_no_network_out(tmp_path: Path):
    remote = Signer("remote", 2)
    async with issuer_server(remote.signing) as key_server:
        key_server.down = True
        keys = {"jwks_uri": f"{key_server.base}/jwks", "private_network": True}
        account = {"kind": "ServiceAccount", "name": "remote", "access": ACCESS, "credentials": {"keys": keys}}
        quotas = {"failures_per_source": "10/minute"}
        async with clients(tmp_path, account, quotas=quotas) as house:
            found = {await reason(house, signed(remote.assertion())) for _ in range(20)}
            assert found == {"client_keys_unavailable"}
            await batch_token(house)


async def test_an_outage_of_one_issuer_locks_no_network_out(tmp_path: Path):
    dead = SigningIssuer("ES256", number=3, url="https://dead.example.com")
    async with issuer_server(dead) as key_server:
        key_server.down = True
        issuer = {
            "kind": "Issuer", "name": "dead", "url": dead.url,
            "keys": {"jwks_uri": f"{key_server.base}/jwks", "private_network": True},
        }  # fmt: skip
        async with clients(tmp_path, issuer, quotas={"failures_per_source": "10/minute"}) as house:
            forms = [exchange_form(dead.token({"jti": str(number)})) for number in range(20)]
            assert {await reason(house, form) for form in forms} == {"issuer_unavailable"}
            await batch_token(house)


async def test_until_the_state_was_read_no_client_is_told_that_its_secret_is_wrong(
    tmp_path: Path, redis_server: RedisServer
):
    await redis_server.stop()
    quotas = {"failures_per_source": "10/minute"}
    async with clients(tmp_path, quotas=quotas, state=redis_server.url) as house:
        form = {"grant_type": "client_credentials", "resource": "orders"}
        for client_id in ("batch", "bare", "nobody"):  # all alike: nothing is told of who there is
            found = {await reason(house, form, basic(client_id, f"kept in Redis {number}")) for number in range(20)}
            assert found == {"state_unavailable"}, client_id
        await batch_token(house)  # what stands in the policies is known


async def test_while_the_state_is_away_no_client_is_told_that_its_new_secret_is_wrong(
    tmp_path: Path, redis_server: RedisServer
):
    clock = HandClock()
    async with clients(tmp_path, clock=clock, state=redis_server.url) as house:
        form, headers = {"grant_type": "client_credentials"}, basic("bare", "made elsewhere just now")
        assert await reason(house, form, headers) == "client_authentication_failed"
        await redis_server.stop()
        clock.now += 6
        assert await reason(house, form, headers) == "state_unavailable"


# ---------------------------------------------------------------- nobody gets more


async def test_a_token_of_a_narrow_rule_is_not_passed_on_for_what_the_rule_withholds(tmp_path: Path):
    async with clients(tmp_path) as house:
        actor = house.pod_token(namespace="orders", service_account="api")
        whole = house.pod_token(namespace="shop", service_account="whole")
        reader = house.pod_token(namespace="shop", service_account="reader")
        for token, expected in ((whole, "granted"), (reader, "resource_not_granted")):
            asked = exchange_form(token, client_id="batch", resource="stock")
            assert await reason(house, asked) == expected
            called_with = await token_of(house, exchange_form(token, client_id="batch", resource="orders"))
            assert await reason(house, passing_on(called_with, actor, resource="stock")) == expected


async def test_a_token_of_a_rule_that_is_gone_is_not_passed_on(tmp_path: Path):
    async with clients(tmp_path) as house:
        actor = house.pod_token(namespace="orders", service_account="api")
        whole = exchange_form(
            house.pod_token(namespace="shop", service_account="whole"), client_id="batch", resource="orders"
        )
        token = await token_of(house, whole)
        file = tmp_path / "policies" / "more.yaml"
        file.write_text(file.read_text().replace("name: whole", "name: another"))
        assert (await house.gateway.gateway.reload()).result == "loaded"
        assert await reason(house, passing_on(token, actor, resource="stock")) == "resource_not_granted"


async def test_the_default_scope_of_entra_hides_no_second_scope(tmp_path: Path):
    async with clients(tmp_path) as house:
        url = f"{house.gateway.url}/tenant/oauth2/v2.0/token"
        pairs = [("grant_type", "client_credentials"), ("scope", "orders/.default"), ("scope", "orders:read")]
        for form in (pairs, pairs[::-1]):
            async with house.gateway.session.post(url, data=form, headers=basic("batch", SECRET)) as answer:
                assert (answer.status, (await answer.json())["reason"]) == (400, "duplicate_parameter")


# ---------------------------------------------------------------- nothing is forged, nothing breaks


@pytest.mark.parametrize("strange", ["\x85", "\x9b31m", "\u2028", "\u202e", "\ufeff", "\U000e0041"])
async def test_no_client_id_of_a_stranger_writes_what_terminals_obey_into_the_log(tmp_path: Path, strange: str):
    async with clients(tmp_path) as house:
        headers = basic(f"batch{strange}", SECRET)
        assert await reason(house, {"grant_type": "client_credentials"}, headers) == "client_authentication_failed"
        assert strange not in (tmp_path / "audit.jsonl").read_text()


@pytest.mark.parametrize(
    "value",
    [
        b"", b"null", b"[]", b"\xff", b"{}", b"[" * 5000, b'{"digest":"sha256:00","expires":null}',
        b'{"digest":"sha256:%s","expires":1e999}', b'{"digest":"sha256:%s","expires":NaN}',
        b'{"digest":"sha256:%s","expires":1%s}' % (b"%s", b"0" * 400), b'{"digest":"sha256:%s","expires":"never"}',
        b'{"digest":"sha256:%s","expires":true}', b'{"digest":"sha256:%s","expires":null,"created":1%s}'
        % (b"%s", b"0" * 400), b'{"digest":"sha256:%s"}',
    ],
)  # fmt: skip
async def test_a_record_of_a_secret_that_cannot_be_read_lets_nobody_in_and_keeps_nobody_out(
    tmp_path: Path, value: bytes, caplog: pytest.LogCaptureFixture
):
    value = value.replace(b"%s", secret_digest("planted").removeprefix("sha256:").encode())
    async with clients(tmp_path) as house:
        mirror, clock = house.gateway.gateway.mirror, HandClock()
        register = SecretRegister(house.gateway.gateway.state, clock)
        good = RegisteredSecret("good", secret_digest("stored"), clock(), None)
        assert await register.add("bare", good)
        await mirror.put(KIND, "bare/bad", value)
        form = {"grant_type": "client_credentials"}
        assert await reason(house, form, basic("bare", "planted")) == "client_authentication_failed"
        assert await reason(house, form, basic("bare", "stored")) == "granted"
        assert [one.id for one in await register.of("bare")] == ["good"]
        assert "unexpected error" not in caplog.text


async def test_a_key_in_the_state_forges_no_line_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    async with clients(tmp_path) as house:
        await house.gateway.gateway.mirror.put(KIND, "bare/x\nERROR all is lost", b"{}")
        assert "cannot be read" in caplog.text
        assert "\nERROR all is lost" not in caplog.text


# ---------------------------------------------------------------- nobody becomes a client that it is not


async def test_80_nothing_tells_an_unknown_client_from_one_whose_secret_is_wrong(tmp_path: Path):
    async with clients(tmp_path) as house:
        cases = [
            ("nobody", SECRET), ("batch", "wrong"), ("batch", EXPIRED), ("batch", STRANGERS), ("bare", SECRET),
            ("signer", SECRET), ("BATCH", SECRET), ("batch\x00", SECRET), ("batch ", SECRET), ("", SECRET),
        ]  # fmt: skip
        for path, form in (("token", {"grant_type": "client_credentials"}), ("introspect", {}), ("revoke", {})):
            seen = set()
            for client_id, secret in cases:
                url = f"{house.gateway.url}/{path}"
                sent = {"token": "x", **form}
                async with house.gateway.session.post(url, data=sent, headers=basic(client_id, secret)) as answer:
                    body = await answer.json()
                    assert body.pop("request_id") == answer.headers["X-Request-Id"]
                    headers = {name: value for name, value in answer.headers.items() if name.lower() not in _VARYING}
                seen.add((answer.status, json.dumps(body), json.dumps(headers)))
            assert len(seen) == 1, (path, seen)


_VARYING = ("x-request-id", "date")


async def test_80_an_unknown_client_costs_as_many_comparisons_as_a_wrong_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    compared: list[str] = []

    def counting(one: str, other: str) -> bool:
        compared.append(other)
        return one == other

    monkeypatch.setattr(secrets_of_clients, "compare_digest", counting)
    async with clients(tmp_path) as house:
        counts = {}
        for client_id in ("stranger", "nobody", "bare", "signer"):
            compared.clear()
            await reason(house, {"grant_type": "client_credentials"}, basic(client_id, "no secret of anybody"))
            counts[client_id] = len(compared)
        assert len(set(counts.values())) == 1, counts


async def test_78_no_method_stands_in_for_another(tmp_path: Path):
    claims = {"iss": "batch", "sub": "batch", "aud": ISSUER, "jti": "1", "iat": NOW, "exp": NOW + 60}
    hmac = jwt.encode(claims, secret_digest(SECRET))
    async with clients(tmp_path) as house:
        failed = "client_authentication_failed"
        cases: list[tuple[dict[str, str], dict[str, str], str]] = [
            ({}, basic("signer", SECRET), failed),
            (signed(Signer("batch", 4).assertion()), {}, failed),
            (signed(hmac), {}, failed),
            (signed(SECRET, client_id="batch"), {}, "malformed_token"),
            (signed(SIGNER.assertion(), SPIFFE), {}, "unknown_issuer"),
            (signed(SIGNER.assertion(), client_id="batch"), {}, "client_mismatch"),
            (signed(SIGNER.assertion(sub="batch")), {}, "invalid_claim"),
            (signed(SIGNER.assertion(iss="batch", sub="batch")), {}, failed),
            (signed(RIVAL.assertion(iss="signer", sub="signer")), {}, failed),
            (signed(RIVAL.assertion(iss="signer", sub="signer", header={"kid": "signer-0"})), {}, failed),
            (signed(SIGNER.assertion(header={"typ": "at+jwt"})), {}, failed),
            (signed(SIGNER.assertion(), client_secret="x"), {}, "multiple_client_authentication"),
            (signed(SIGNER.assertion()), basic("batch", SECRET), "multiple_client_authentication"),
            (signed(SIGNER.assertion()), {"Authorization": ""}, "multiple_client_authentication"),
            ({}, {"Authorization": ""}, "client_authentication_unsupported"),
            ({"client_id": "batch", "client_secret": ""}, {}, "client_authentication_missing"),
        ]  # fmt: skip
        form = {"grant_type": "client_credentials", "resource": "orders"}
        assert [await reason(house, form | more, headers) for more, headers, _ in cases] == [
            expected for *_, expected in cases
        ]


async def test_no_header_of_a_stranger_is_a_certificate(tmp_path: Path):
    ca = authority()
    of_batch = issue(common_name("x"), san(dns=["batch.example.com"]), by=ca)
    certificates = {"certificates": [{"san_dns": "batch.example.com"}]}
    account = {"kind": "ServiceAccount", "name": "shown", "access": ACCESS, "credentials": certificates}
    believed = {"header": "nginx", "chain_verified_by_proxy": True}
    form = {"grant_type": "client_credentials", "client_id": "shown"}
    for proxies, expected in (("10.9.8.7/32", "client_authentication_missing"), ("127.0.0.1/32", "granted")):
        folder = tmp_path / expected
        folder.mkdir()
        handed_on = {"client_certificates": {"proxies": [proxies], **believed}}
        async with clients(folder, account, **handed_on) as house:
            assert await reason(house, form, nginx(of_batch)) == expected
    unverified = {"client_certificates": {"proxies": ["127.0.0.1/32"], "header": "nginx"}}
    folder = tmp_path / "unverified"
    folder.mkdir()
    async with clients(folder, account, **unverified) as house:
        assert await reason(house, form, nginx(of_batch)) == "client_authentication_failed"


def nginx(shown: Issued) -> dict[str, str]:
    escaped = "".join(f"%{byte:02X}" if chr(byte) in "\n +/=" else chr(byte) for byte in shown.pem)
    return {"X-SSL-Client-Cert": escaped, "X-SSL-Client-Verify": "SUCCESS"}


async def test_50_nothing_that_this_gateway_signed_authenticates_anybody(tmp_path: Path):
    async with clients(tmp_path) as house:
        token = await batch_token(house)
        url, accept = f"{house.gateway.url}/introspect", "application/token-introspection+jwt"
        headers = {**basic("batch", SECRET), "Accept": accept}
        async with house.gateway.session.post(url, data={"token": token}, headers=headers) as answer:
            introspected = await answer.text()
        assert introspected.count(".") == 2
        for text in (token, introspected):
            assert await reason(house, signed(text)) == "client_authentication_failed"
            assert await reason(house, signed(text, SPIFFE)) == "unknown_issuer"
            assert await reason(house, exchange_form(text)) == "unknown_issuer"
        assert await reason(house, narrowing(introspected)) == "wrong_token_type"


async def test_81_no_assertion_of_a_client_is_anybodys_token(tmp_path: Path):
    async with clients(tmp_path) as house:
        token = await batch_token(house)
        assert await reason(house, exchange_form(SIGNER.assertion())) == "unknown_issuer"
        assert await reason(house, narrowing(SIGNER.assertion())) == "wrong_token_type"
        assert await reason(house, passing_on(token, SIGNER.assertion(), resource="stock")) == "unknown_issuer"


async def test_a_client_that_left_between_authentication_and_decision_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with clients(tmp_path) as house:
        gateway = house.gateway.gateway
        prove, file = gateway.clients.authenticate, tmp_path / "policies" / "more.yaml"

        async def slowly(*arguments: Any) -> Any:
            proven = await prove(*arguments)
            file.write_text("---\n".join(one for one in file.read_text().split("---\n") if "name: batch" not in one))
            assert (await gateway.reload()).result == "loaded"
            return proven

        monkeypatch.setattr(gateway.clients, "authenticate", slowly)
        form = {"grant_type": "client_credentials", "resource": "orders"}
        assert await reason(house, form, basic("batch", SECRET)) == "unknown_service_account"
        assert await reason(house, form, basic("batch", SECRET)) == "client_authentication_failed"


async def test_a_secret_that_is_taken_out_of_the_policies_is_worth_nothing_at_once(tmp_path: Path):
    async with clients(tmp_path) as house:
        await batch_token(house)
        file = tmp_path / "policies" / "more.yaml"
        file.write_text(file.read_text().replace(secret_digest(SECRET), secret_digest("another")))
        assert (await house.gateway.gateway.reload()).result == "loaded"
        form = {"grant_type": "client_credentials"}
        assert await reason(house, form, basic("batch", SECRET)) == "client_authentication_failed"


# ---------------------------------------------------------------- what works once


async def test_71_of_many_at_once_with_one_assertion_one_gets_a_token(tmp_path: Path):
    for number, state in enumerate(("memory://", f"sqlite://{tmp_path}/state.db")):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with clients(folder, state=state) as house:
            form = signed(SIGNER.assertion())
            found = await asyncio.gather(*(reason(house, form) for _ in range(30)))
            assert sorted(found) == ["granted"] + 29 * ["token_replayed"]


async def test_33_the_twin_of_a_signature_makes_no_second_assertion_and_no_second_proof(tmp_path: Path):
    async with clients(tmp_path) as house:
        assertion, client = SIGNER.assertion(), ProvingClient()
        proof, token = client.proof("POST", f"{ISSUER}/token"), await batch_token(house)
        assert await reason(house, signed(assertion)) == "granted"
        assert await reason(house, signed(es256_twin(assertion))) == "token_replayed"
        assert await reason(house, narrowing(token), {"DPoP": proof}) == "granted"
        assert await reason(house, narrowing(token), {"DPoP": es256_twin(proof)}) == "proof_replayed"


async def test_an_assertion_of_one_endpoint_is_used_up_at_the_others(tmp_path: Path):
    async with clients(tmp_path) as house:
        for first, second in (("introspect", "token"), ("token", "introspect")):
            form, answers = {**signed(SIGNER.assertion()), "token": "x"}, []
            for path in (first, second):
                async with house.gateway.session.post(f"{house.gateway.url}/{path}", data=form) as answer:
                    answers.append((answer.status, (await answer.json()).get("reason")))
            assert [one for _, one in answers] == [None, "token_replayed"], (first, second)


async def test_70_one_id_of_two_clients_and_of_a_proof_are_three(tmp_path: Path):
    async with clients(tmp_path) as house:
        same, client = "same-for-all", ProvingClient()
        proof = {"DPoP": client.proof("POST", f"{ISSUER}/token", claims={"jti": same})}
        assert await reason(house, signed(SIGNER.assertion(jti=same)), proof) == "granted"
        assert await reason(house, signed(RIVAL.assertion(jti=same))) == "granted"
        assert await reason(house, signed(RIVAL.assertion(jti=same))) == "token_replayed"


async def test_a_proof_for_another_endpoint_or_method_binds_nothing(tmp_path: Path):
    async with clients(tmp_path) as house:
        client, asked = ProvingClient(), {"grant_type": "client_credentials", "resource": "sealed"}
        for method, url in (
            ("POST", f"{ISSUER}/introspect"), ("GET", f"{ISSUER}/token"), ("POST", "https://sealed.example.com/token"),
            ("POST", f"{ISSUER}/token/"), ("POST", f"{ISSUER}/tenant/oauth2/v2.0/token"), ("post", f"{ISSUER}/token"),
        ):  # fmt: skip
            headers = basic("batch", SECRET) | {"DPoP": client.proof(method, url)}
            assert await reason(house, asked, headers) == "invalid_dpop_proof"


@pytest.mark.parametrize(
    "exp",
    [
        b"1e308", b"1e400", b"NaN", b"Infinity", b"9" * 5000, b"1793610060." + b"9" * 5000, b"true", b"[1793610060]",
        b'"1793610060"', b"-1", b"0", b"1793610060.5e3",
    ],
    ids=lambda exp: exp.decode()[:20],
)  # fmt: skip
async def test_51_no_strange_time_of_an_assertion_is_one(tmp_path: Path, exp: bytes):
    payload = b'{"iss":"signer","sub":"signer","aud":"%s","jti":"x","iat":%d,"exp":%s}' % (ISSUER.encode(), NOW, exp)
    async with clients(tmp_path) as house:
        assertion = SIGNER.signing.token(payload)
        assert await reason(house, signed(assertion)) in {"malformed_claims", "invalid_claim"}


# ---------------------------------------------------------------- nobody climbs by tokens of clients


async def test_84_a_clients_token_is_narrowed_and_passed_on_and_never_widened(tmp_path: Path):
    async with clients(tmp_path) as house:
        actor = house.pod_token(namespace="orders", service_account="api")
        narrow = await batch_token(house, scope="orders:read", requested_expires_in="300")
        cases: list[tuple[dict[str, str], str]] = [
            (narrowing(narrow, scope="orders:read orders:write"), "scope_not_granted"),
            (narrowing(narrow, resource="stock"), "narrowing_only"),
            (narrowing(narrow, client_id="stranger"), "unknown_service_account"),
            (passing_on(narrow, actor, resource="stock", scope="stock:read"), "scope_not_granted"),
            (passing_on(narrow, actor, resource="orders"), "resource_not_granted"),
            (passing_on(narrow, house.pod_token(), resource="stock"), "resource_not_granted"),
        ]
        assert [await reason(house, form) for form, _ in cases] == [expected for _, expected in cases]
        assert await reason(house, narrowing(narrow), basic("stranger", STRANGERS)) == "unknown_service_account"
        passed_on = await token_of(house, passing_on(narrow, actor, resource="stock", requested_expires_in="86400"))
        claims, again = claims_of(passed_on), claims_of(await token_of(house, narrowing(passed_on)))
        for one in (claims, again):
            assert (one["sub"], one["aud"], one["scope"]) == ("batch", "https://stock.example.com", "stock:reserve")
            assert one["exp"] <= claims_of(narrow)["exp"]
            assert one["act"] == {
                "iss": "https://kubernetes.default.svc.cluster.local",
                "sub": "system:serviceaccount:orders:api",
            }
            assert one["entitled_by"] == "client_secret_basic/secret:s1"


async def test_no_bound_token_becomes_a_bearer_token(tmp_path: Path):
    async with clients(tmp_path) as house:
        mine, other = ProvingClient(), ProvingClient(number=101)

        def proof(client: ProvingClient) -> dict[str, str]:
            return {"DPoP": client.proof("POST", f"{ISSUER}/token")}

        for resource in ("sealed", "orders"):  # bound because the resource asks for it, and of its own accord
            bound = await batch_token(house, proof(mine), resource=resource)
            assert await reason(house, narrowing(bound)) == "sender_constraint_missing"
            assert await reason(house, narrowing(bound), proof(other)) == "sender_constraint_missing"
            again = await token_of(house, narrowing(bound), proof(mine))
            assert claims_of(again)["cnf"] == {"jkt": mine.jkt}
            actor = house.pod_token(namespace="orders", service_account="api")
            for headers in ({}, proof(other)):
                form = passing_on(bound, actor, resource="stock")
                assert await reason(house, form, headers) == "sender_constraint_missing"


async def test_no_token_that_is_bound_to_a_certificate_becomes_a_bearer_token(tmp_path: Path):
    mine, other = issue(), issue()
    proxy = {"client_certificates": {"proxies": ["127.0.0.1/32"], "header": "nginx"}}
    async with clients(tmp_path, **proxy) as house:
        bound = await batch_token(house, nginx(mine), resource="mutual")
        assert await reason(house, narrowing(bound)) == "sender_constraint_missing"
        assert await reason(house, narrowing(bound), nginx(other)) == "sender_constraint_missing"
        assert claims_of(await token_of(house, narrowing(bound), nginx(mine)))["cnf"] == claims_of(bound)["cnf"]


@pytest.mark.parametrize("name", ["entitled_by", "act", "cnf", "client_id", "sub", "scope", "active", "token_type"])
async def test_no_policy_writes_into_a_token_what_is_the_gateways_to_say(tmp_path: Path, name: str):
    async with clients(tmp_path) as house:
        account = signing_account(Signer("forger", 5)) | {"token_claims": {name: '"root"'}}
        (tmp_path / "policies" / "forged.yaml").write_text(yaml.safe_dump(account))
        assert (await house.gateway.gateway.reload()).result == "failed"


# ---------------------------------------------------------------- nothing is told, nothing is kept


async def test_no_secret_and_no_assertion_is_in_any_log_metric_or_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("DEBUG", "gateway")
    async with clients(tmp_path, quotas={}) as house:
        told = ""
        assertion, client = SIGNER.assertion(), ProvingClient()
        proof = client.proof("POST", f"{ISSUER}/token")
        requests: list[tuple[Any, dict[str, str]]] = [
            ({}, basic("batch", SECRET)), ({}, basic("batch", "wrong-hunter2")), ({}, basic("hunter2", SECRET)),
            ({"client_id": "batch", "client_secret": "hunter2\x00"}, {}), ({"client_secret": SECRET}, {}),
            (signed(assertion), {"DPoP": proof}), (signed(assertion), {"DPoP": proof}), (signed(assertion[:-9]), {}),
            ({}, {"Authorization": f"Bearer {SECRET}"}), ({}, {"Authorization": f"Basic {SECRET}"}),
            (signed(SECRET), {}), ({"client_assertion": assertion}, basic("batch", SECRET)),
        ]  # fmt: skip
        for form, headers in requests:
            for path in ("token", "introspect", "revoke", "tenant/oauth2/v2.0/token"):
                sent = {"grant_type": "client_credentials", "resource": "orders", "token": SECRET, **form}
                async with house.gateway.session.post(
                    f"{house.gateway.url}/{path}", data=sent, headers=headers
                ) as answer:
                    told += await answer.text() + str(answer.headers)
        told += (tmp_path / "audit.jsonl").read_text() + caplog.text
        told += await house.gateway.get(f"{house.gateway.admin_url}/metrics")
        told += repr(house.gateway.gateway.clients) + repr(house.gateway.gateway.policies.generation)
        for secret in (SECRET, "wrong-hunter2", "hunter2\x00", assertion, proof, assertion[:-9]):
            assert secret not in told
        assert records(house)


async def test_floods_of_strangers_leave_nothing_behind(tmp_path: Path):
    async with clients(tmp_path) as house:
        gateway = house.gateway.gateway
        form = {"grant_type": "client_credentials"}
        for number in range(50):
            await reason(house, form, basic(f"nobody-{number}", SECRET))
            nobody = Signer(f"nobody-{number}", 6)
            await reason(house, signed(nobody.assertion()))
            await reason(house, signed(RIVAL.assertion(iss="signer", sub="signer", header={"kid": f"{number}"})))
        signers = [len(one._signers) for one in gateway.clients._methods if isinstance(one, PrivateKeyJwt)]
        assert signers == [1]
        assert not gateway.mirror.of(KIND)
        assert not gateway.last_use._waiting
