"""Access tokens of the gateway that come back as subjects: nobody climbs, lives longer or becomes another by them."""

import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.model import Clock
from gateway.tokens.signing_key import SigningKey
from tests.attacks.hostile import assertion_form, besieged, exchange_form, records, refusals, refused
from tests.support.house import House
from tests.support.running import ACCESS_TOKEN, ISSUER, JWT, TOKEN_EXCHANGE
from tests.support.time import HandClock
from tests.support.tokens import base64url, encode_json

SHOP = """
kind: Resource
name: orders
identifier: https://orders.example.com
scopes: {orders:read: Read, orders:write: Write}
served_by: [orders-service, orders-relay]
---
kind: Resource
name: stock
identifier: https://stock.example.com
scopes: {stock:read: Read, stock:reserve: Reserve}
---
kind: ServiceAccount
name: shop
access:
  - {resource: orders, scopes: [orders:read, orders:write]}
  - {resource: stock, scopes: [stock:reserve]}
trust: [{issuer: prod-cluster, match: {sub: "system:serviceaccount:shop:web"}}]
---
kind: ServiceAccount
name: orders-service
access: [{resource: stock, scopes: [stock:read, stock:reserve]}]
trust:
  - {issuer: prod-cluster, match: {sub: "system:serviceaccount:orders:api"}}
  - {issuer: prod-cluster, match: {sub: "system:serviceaccount:orders:reader"}, scopes: [stock:read]}
---
kind: ServiceAccount
name: orders-relay
access: [{resource: orders, scopes: [orders:read, orders:write]}]
trust: [{issuer: prod-cluster, match: {sub: "system:serviceaccount:orders:relay"}}]
"""


@asynccontextmanager
async def shop(folder: Path, clock: Clock | None = None) -> AsyncIterator[House]:
    async with besieged(folder, policies=SHOP, clock=clock) as house:
        yield house


def pod(house: House, namespace: str, account: str) -> str:
    return house.pod_token(namespace=namespace, service_account=account)


async def bought(house: House, **parameters: str) -> str:
    """An access token of the shop for the orders API."""
    status, body = await house.gateway.exchange(pod(house, "shop", "web"), **({"resource": "orders"} | parameters))
    assert status == 200, body
    return str(body["access_token"])


def own_form(token: str, actor: str | None = None, **parameters: str) -> dict[str, str]:
    form = {"grant_type": TOKEN_EXCHANGE, "subject_token": token, "subject_token_type": ACCESS_TOKEN, **parameters}
    return form if actor is None else form | {"actor_token": actor, "actor_token_type": JWT}


async def exchanged(house: House, form: dict[str, str]) -> dict[str, Any]:
    status, body, _ = await house.gateway.post(form)
    assert status == 200, body
    claims: dict[str, Any] = jwt.decode(body["access_token"], options={"verify_signature": False})
    return claims | {"token": body["access_token"]}


def signing_key(house: House) -> SigningKey:
    return house.gateway.gateway.signing_keys.current()


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


async def test_only_what_this_gateway_signed_is_its_token(tmp_path: Path):
    async with shop(tmp_path) as house:
        token = await bought(house)
        header, payload, signature = token.split(".")
        key, stranger = signing_key(house), SigningKey.generate("ES256", 0)
        own = {"alg": "ES256", "kid": key.kid, "typ": "at+jwt"}
        forged_with_our_name = (
            f"{base64url(encode_json(own))}.{stranger.sign(json.dumps(claims_of(token)).encode()).split('.', 1)[1]}"
        )
        public = key._private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        confused = f"{base64url(encode_json(own | {'alg': 'HS256'}))}.{payload}"
        mac = base64url(hmac.digest(public, confused.encode(), "sha256"))
        renamed, reordered = own | {"x": 1}, dict(reversed(own.items()))
        cases = {
            "of a gateway of the same name": (stranger.sign(json.dumps(claims_of(token)).encode()), "unknown_key"),
            "under the name of our key": (forged_with_our_name, "bad_signature"),
            "our header, with more": (f"{base64url(encode_json(renamed))}.{payload}.{signature}", "unknown_key"),
            "our header, reordered": (f"{base64url(encode_json(reordered))}.{payload}.{signature}", "unknown_key"),
            "alg none": (f"{base64url(encode_json(own | {'alg': 'none'}))}.{payload}.AA", "unknown_key"),
            "another typ": (f"{base64url(encode_json(own | {'typ': 'JWT'}))}.{payload}.AA", "wrong_token_type"),
            "HS256 with our public key": (f"{confused}.{mac}", "unknown_key"),
            "a workload token": (pod(house, "shop", "web"), "wrong_token_type"),
            "a stray bit": (f"{token[:-1]}{'B' if token[-1] != 'B' else 'C'}", "bad_signature"),
            "padding": (f"{token}==", "malformed_token"),
            "no signature": (f"{header}.{payload}.", "malformed_token"),
            "a header that is no JSON": (f"{base64url(b'[' * 9000)}.{payload}.{signature}", "malformed_header"),
            "a header that is an array": (f"{base64url(b'[]')}.{payload}.{signature}", "wrong_token_type"),
            "20 KiB": ("a" * 20_000, "token_too_large"),
        }  # fmt: skip
        found = {}
        for name, (text, _) in cases.items():
            found[name] = (await refused(house, own_form(text)))[2]
        # Whether the stray bit is one of the signature's or beyond it depends on the last letter.
        found["a stray bit"] = "bad_signature" if found["a stray bit"] == "malformed_token" else found["a stray bit"]
        assert found == {name: reason for name, (_, reason) in cases.items()}
        assert (await exchanged(house, own_form(token)))["scope"] == "orders:read orders:write"


async def test_our_own_key_signs_no_other_kind_of_token(tmp_path: Path):
    async with shop(tmp_path) as house:
        good = claims_of(await bought(house))
        key = signing_key(house)
        cases: dict[str, tuple[dict[str, Any], str]] = {
            "another issuer URL": ({"iss": "https://old.example.com"}, "unknown_issuer"),
            "no exp": ({"exp": None}, "missing_claim"),
            "exp as text": ({"exp": "9999999999"}, "missing_claim"),
            "no act": ({"act": None}, "missing_claim"),
            "act as text": ({"act": "root"}, "missing_claim"),
            "several audiences": (
                {"aud": ["https://orders.example.com", "https://stock.example.com"]},
                "missing_claim",
            ),
            "a client_id that is not sub": ({"client_id": "root"}, "missing_claim"),
            "sub of nobody": ({"sub": "root", "client_id": "root"}, "unknown_service_account"),
            "aud of nobody": ({"aud": "https://elsewhere.example"}, "resource_not_granted"),
            "aud of another account": ({"aud": "https://ledger.example.com"}, "resource_not_granted"),
            "scopes of nobody": ({"scope": "root admin"}, "scope_not_granted"),
        }
        found = {}
        for name, (changes, _) in cases.items():
            found[name] = (await refused(house, own_form(key.sign(json.dumps(good | changes).encode()))))[2]
        assert found == {name: reason for name, (_, reason) in cases.items()}


async def test_an_access_token_is_nobodys_workload_token(tmp_path: Path):
    async with shop(tmp_path) as house:
        token = await bought(house)
        assert await refusals(house, token) == "unknown_issuer"
        id_token = exchange_form(token) | {"subject_token_type": "urn:ietf:params:oauth:token-type:id_token"}
        assert (await refused(house, id_token))[2] == "unknown_issuer"
        assert (await refused(house, assertion_form(token, client_id="shop")))[2] == "unknown_issuer"
        assert (await refused(house, own_form(token, token, resource="stock")))[2] == "unknown_issuer", (
            "as its own actor"
        )
        as_access_token = own_form(token, token, resource="stock") | {"actor_token_type": ACCESS_TOKEN}
        assert (await refused(house, as_access_token))[2] == "unsupported_token_type"


async def test_no_policy_can_make_the_gateways_own_tokens_workload_tokens(tmp_path: Path):
    own = f"kind: Issuer\nname: self\nurl: {ISSUER}\ntoken_types: [at+jwt]\naudiences: [https://orders.example.com]\n"
    async with shop(tmp_path) as house:
        (tmp_path / "policies" / "own.yaml").write_text(own)
        outcome = await house.gateway.gateway.reload()
        assert outcome.result == "failed"
        assert "is this gateway's own issuer" in str(outcome.problems[0])


async def test_narrowing_never_climbs(tmp_path: Path):
    async with shop(tmp_path) as house:
        narrow = await bought(house, scope="orders:read")
        cases: list[tuple[dict[str, str], str]] = [
            ({"scope": "orders:read orders:write"}, "scope_not_granted"),
            ({"scope": "orders:write"}, "scope_not_granted"),
            ({"resource": "stock"}, "narrowing_only"),
            ({"audience": "https://stock.example.com"}, "narrowing_only"),
            ({"resource": "nowhere"}, "narrowing_only"),
            ({"client_id": "orders-service"}, "unknown_service_account"),
            ({"client_id": "invoicer"}, "unknown_service_account"),
        ]
        assert [(asked, (await refused(house, own_form(narrow, **asked)))[2]) for asked, _ in cases] == cases
        again = narrow
        for _ in range(5):
            claims = await exchanged(house, own_form(again, requested_expires_in="86400"))
            assert (claims["scope"], claims["aud"]) == ("orders:read", "https://orders.example.com")
            assert claims["exp"] <= claims_of(narrow)["exp"]
            again = claims["token"]


async def test_a_chain_of_exchanges_ends_when_its_first_token_does(tmp_path: Path):
    clock = HandClock()
    async with shop(tmp_path, clock) as house:
        token = await bought(house, requested_expires_in="100")
        end = claims_of(token)["exp"]
        clock.now = end - 1
        assert (await exchanged(house, own_form(token)))["exp"] == end
        passed_on = await exchanged(house, own_form(token, pod(house, "orders", "api"), resource="stock"))
        assert passed_on["exp"] == end
        clock.now = float(end)
        assert (await refused(house, own_form(token)))[2] == "token_expired"
        assert (await refused(house, own_form(passed_on["token"])))[2] == "token_expired"
        clock.now = end - 600  # before it was minted: the clock was set back
        assert (await refused(house, own_form(token)))[2] == "token_not_yet_valid"


async def test_an_actor_lends_and_borrows_nothing(tmp_path: Path):
    async with shop(tmp_path) as house:
        token = await bought(house)
        cases: list[tuple[tuple[str, str], dict[str, str], str]] = [
            (("billing", "invoicer"), {"resource": "ledger-api"}, "actor_not_permitted"),
            (("shop", "web"), {"resource": "stock"}, "actor_not_permitted"),
            (("nobody", "at-all"), {"resource": "stock"}, "no_matching_trust"),
            (("orders", "api"), {"resource": "ledger-api"}, "resource_not_granted"),
            (("orders", "api"), {"resource": "orders"}, "resource_not_granted"),
            (("orders", "api"), {"resource": "stock", "scope": "stock:read"}, "scope_not_granted"),
            (("orders", "api"), {"resource": "stock", "client_id": "shop"}, "no_matching_trust"),
            # What the reader may have there and what the shop may have there have nothing in common.
            (("orders", "reader"), {"resource": "stock"}, "scope_not_granted"),
        ]
        for actor, asked, reason in cases:
            found = (await refused(house, own_form(token, pod(house, *actor), **asked)))[2]
            assert found == reason, (actor, asked)
        claims = await exchanged(house, own_form(token, pod(house, "orders", "api"), resource="stock"))
        assert (claims["sub"], claims["scope"]) == ("shop", "stock:reserve")
        assert claims["act"]["sub"] == "system:serviceaccount:orders:api"


async def test_a_call_passed_on_to_where_it_came_from_has_no_more_than_it_had(tmp_path: Path):
    async with shop(tmp_path) as house:
        narrow, relay = await bought(house, scope="orders:read"), pod(house, "orders", "relay")
        assert (await exchanged(house, own_form(narrow, relay, resource="orders")))["scope"] == "orders:read"
        both = own_form(narrow, relay, resource="orders", scope="orders:read orders:write")
        assert (await refused(house, both))[2] == "scope_not_granted"


async def test_what_the_policy_no_longer_gives_is_not_given_for_an_older_token(tmp_path: Path):
    async with shop(tmp_path) as house:
        token = await bought(house)
        file = tmp_path / "policies" / "more.yaml"
        file.write_text(
            SHOP.replace(
                "{resource: orders, scopes: [orders:read, orders:write]}", "{resource: orders, scopes: [orders:read]}"
            )
        )
        assert (await house.gateway.gateway.reload()).result == "loaded"
        assert (await exchanged(house, own_form(token)))["scope"] == "orders:read"
        write_only = await refused(house, own_form(token, scope="orders:write"))
        assert write_only[2] == "scope_not_granted"
        file.write_text(
            SHOP.partition("---\nkind: ServiceAccount\nname: shop")[0].replace("[orders-service, orders-relay]", "[]")
        )
        assert (await house.gateway.gateway.reload()).result == "loaded"
        assert (await refused(house, own_form(token)))[2] == "unknown_service_account"


async def test_a_scope_that_is_gone_leaves_no_empty_token(tmp_path: Path):
    async with shop(tmp_path) as house:
        token = await bought(house, scope="orders:write")
        file = tmp_path / "policies" / "more.yaml"
        file.write_text(SHOP.replace("scopes: [orders:read, orders:write]", "scopes: [orders:read]"))
        assert (await house.gateway.gateway.reload()).result == "loaded"
        assert (await refused(house, own_form(token)))[2] == "scope_not_granted"


async def test_a_call_passed_on_ends_with_the_actors_token_where_its_issuer_is_bound(tmp_path: Path):
    async with shop(tmp_path) as house:
        file = tmp_path / "policies" / "policies.yaml"
        bound = "preset: kubernetes\nbound_to_subject_token: true\n"
        file.write_text(file.read_text().replace("preset: kubernetes\n", bound))
        assert (await house.gateway.gateway.reload()).result == "loaded"
        token = await bought(house)
        actor = house.pod_token(namespace="orders", service_account="api", lifetime_seconds=90)
        claims = await exchanged(house, own_form(token, actor, resource="stock"))
        assert claims["exp"] <= claims_of(actor)["exp"]
        assert records(house)[-1]["subject"] == "system:serviceaccount:orders:api"
