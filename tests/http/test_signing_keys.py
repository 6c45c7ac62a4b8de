"""Signing keys as clients and APIs see them: over real HTTP, on one gateway and on two that share a Redis."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic
from typing import Any

import jwt
import pytest
from click.testing import Result
from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.oauth.errors import Refusal
from tests.faults.observed import metric, readiness
from tests.support.ledger import POLICIES, Ledger, ledger
from tests.support.parts import eventually
from tests.support.redis_server import RedisServer
from tests.support.running import ACCESS_TOKEN, ISSUER, RunningGateway, running, settings

RSA = POLICIES.replace("token_lifetime: 15m\n", "token_lifetime: 15m\nsigning_algorithm: RS256\n")


async def published(gateway: RunningGateway) -> list[dict[str, Any]]:
    keys: list[dict[str, Any]] = json.loads(await gateway.get(f"{gateway.url}/.well-known/jwks.json"))["keys"]
    return keys


async def kids(gateway: RunningGateway) -> set[str]:
    return {key["kid"] for key in await published(gateway)}


def header_of(token: str) -> dict[str, Any]:
    return jwt.get_unverified_header(token)


# ---------------------------------------------------------------- one gateway


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with ledger(tmp_path) as started:
        yield started


async def takes_over(house: Ledger, policies: str) -> None:
    house.write_policies(policies)
    assert (await house.gateway.gateway.reload()).result == "loaded"


async def test_a_resource_gets_tokens_of_the_algorithm_that_it_asks_for(house: Ledger):
    assert header_of(await house.token())["alg"] == "ES256"
    await takes_over(house, RSA)

    async def has_a_key() -> bool:
        return len(await kids(house.gateway)) == 2

    await eventually(has_a_key)
    token = await house.token()
    key = next(key for key in await published(house.gateway) if key["kid"] == header_of(token)["kid"])
    assert (header_of(token)["alg"], key["alg"], key["kty"]) == ("RS256", "RS256", "RSA")
    jwt.decode(token, jwt.PyJWK(key), algorithms=["RS256"], audience="https://ledger.example.com")
    assert header_of(await house.client_token(resource="deploy-api"))["alg"] == "ES256"
    assert (await house.introspect(token))[1]["active"] is True
    assert (await house.verify(token))[0] == 200


async def test_a_narrowed_and_a_passed_on_token_is_signed_as_its_resource_asks(house: Ledger):
    await takes_over(house, RSA)

    async def has_a_key() -> bool:
        return len(await kids(house.gateway)) == 2

    await eventually(has_a_key)
    own = {"subject_token_type": ACCESS_TOKEN, "scope": "ledger:read"}
    status, body = await house.gateway.exchange(await house.token(), **own)
    assert (status, header_of(body["access_token"])["alg"]) == (200, "RS256"), body


async def test_without_a_key_of_its_algorithm_a_resource_gets_no_token_of_another(house: Ledger):
    await house.gateway.gateway.key_rotation.close()  # nobody makes one
    await takes_over(house, RSA)
    status, body = await house.gateway.exchange(house.pod_token(), resource="ledger-api")
    assert (status, body["error"], body["reason"]) == (503, "temporarily_unavailable", "signing_unavailable")
    assert header_of(await house.client_token(resource="deploy-api"))["alg"] == "ES256"


async def test_the_metadata_tells_what_introspection_is_signed_with(house: Ledger):
    await takes_over(house, RSA)
    url = f"{house.gateway.url}/.well-known/oauth-authorization-server"
    assert json.loads(await house.gateway.get(url))["introspection_signing_alg_values_supported"] == ["ES256"]


async def test_readiness_and_metrics_tell_of_the_keys(tmp_path: Path):
    keys = {"store": f"file://{tmp_path}/keys", "rotate_every": "7d"}
    async with ledger(tmp_path, keys=keys) as house:
        told = (await readiness(house.gateway))[1]["signing_keys"]
        states = {"upcoming": 0, "active": 1, "retiring": 0, "gone": 0, "revoked": 0}
        assert told.items() >= (states | {"failures": 0, "last_error": None}).items()
        assert 6 * 86400 - 60 < told["next_step_seconds"] <= 6 * 86400
        assert await metric(house.gateway, "gateway_signing_keys", algorithm="ES256", state="active") == 1
        assert await metric(house.gateway, "gateway_signing_keys", state="revoked") == 0
        assert await metric(house.gateway, "gateway_signing_key_next_step_seconds") > 5 * 86400
        assert await metric(house.gateway, "gateway_key_store_failures_total") == 0


async def test_the_key_set_may_be_kept_as_long_as_the_settings_say(tmp_path: Path):
    async with (
        ledger(tmp_path, keys={"store": f"file://{tmp_path}/keys", "cache_for": "2m"}) as house,
        house.gateway.session.get(f"{house.gateway.url}/.well-known/jwks.json") as answer,
    ):
        assert answer.headers["Cache-Control"] == "public, max-age=120, must-revalidate"


# ---------------------------------------------------------------- two gateways on one Redis


class Two:
    """Two replicas, and whoever operates them."""

    def __init__(self, house: Ledger, other: RunningGateway, configuration: Path) -> None:
        self.house = house
        self.replicas = (Ledger(house.gateway, house.cluster, house.folder), Ledger(other, house.cluster, house.folder))
        self.gateways = (house.gateway, other)
        self._configuration = configuration

    async def command(self, *words: str) -> dict[str, Any]:
        """``gateway keys``, as JSON."""
        arguments = ["keys", *words, "--output", "json", "--config", str(self._configuration)]
        result: Result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
        assert result.exit_code == 0, result.output
        found: dict[str, Any] = json.loads(result.stdout)
        return found


@pytest.fixture
async def two(tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[Two]:
    key_file = tmp_path / "encryption.key"
    key_file.write_text("A" * 43)
    key_file.chmod(0o600)
    shared = {"state": redis_server.url, "keys": {"store": "state://", "encryption_key_file": str(key_file)}}
    (tmp_path / "gateway.yaml").write_text(json.dumps({"issuer": ISSUER, **shared}))
    async with AsyncExitStack() as stack:
        house = await stack.enter_async_context(ledger(tmp_path, **shared))
        audit = {"sinks": [f"file://{tmp_path}/other.jsonl"]}
        other = await stack.enter_async_context(running(settings(tmp_path, audit=audit, **shared)))
        yield Two(house, other, tmp_path / "gateway.yaml")


async def test_replicas_sign_with_the_same_key_and_serve_the_same_key_set(two: Two):
    sets = [await gateway.get(f"{gateway.url}/.well-known/jwks.json") for gateway in two.gateways]
    assert sets[0] == sets[1]
    tokens = [await replica.token() for replica in two.replicas]
    assert len({header_of(token)["kid"] for token in tokens}) == 1
    for token in tokens:
        for replica in two.replicas:
            assert (await replica.introspect(token))[1]["active"] is True


async def test_a_revoked_key_is_out_in_both_replicas_within_a_second(two: Two):
    upcoming = (await two.command("rotate"))["kid"]

    async def both_publish_it() -> bool:
        return all([upcoming in await kids(gateway) for gateway in two.gateways])

    await eventually(both_publish_it)
    tokens = [await replica.token() for replica in two.replicas]
    bad = header_of(tokens[0])["kid"]
    for token in tokens:
        assert (await two.replicas[0].verify(token))[0] == 200  # and remembers that its signature was good

    assert (await two.command("revoke", bad, "--yes", "--reason", "leak"))["signs_now"] == upcoming
    revoked_at = monotonic()

    async def out() -> bool:
        return all([bad not in await kids(gateway) for gateway in two.gateways])

    await eventually(out)
    assert monotonic() - revoked_at < 1
    for replica in two.replicas:
        for token in tokens:
            assert await replica.introspect(token) == (200, {"active": False})
            assert (await replica.verify(token))[0] == 401
            status, body = await replica.gateway.exchange(token, subject_token_type=ACCESS_TOKEN, scope="ledger:read")
            assert (status, body["reason"]) == (400, "unknown_key")
        assert header_of(await replica.token())["kid"] == upcoming


async def test_where_the_only_key_is_revoked_both_replicas_sign_with_the_same_new_one(two: Two):
    (only,) = await kids(two.gateways[0])
    new = (await two.command("revoke", only, "--yes"))["signs_now"]

    async def both_have_it() -> bool:
        return all([await kids(gateway) == {new} for gateway in two.gateways])

    await eventually(both_have_it)
    for replica in two.replicas:
        assert header_of(await replica.token())["kid"] == new


async def test_while_redis_is_away_the_last_good_keys_serve(two: Two, redis_server: RedisServer):
    before = await kids(two.gateways[0])
    await redis_server.kill()
    gateway = two.gateways[0]
    gateway.gateway.key_rotation.look_soon()

    async def told() -> bool:
        return bool((await readiness(gateway))[1]["signing_keys"]["last_error"])

    await eventually(told)
    assert (await readiness(gateway))[0] == 200
    assert await kids(gateway) == before
    assert {header_of(await two.replicas[0].token())["kid"]} == before


async def test_without_a_key_a_gateway_is_not_ready_and_says_so(tmp_path: Path, redis_server: RedisServer):
    await redis_server.kill()
    key_file = tmp_path / "encryption.key"
    key_file.write_text("A" * 43)
    key_file.chmod(0o600)
    keys = {"store": "state://", "encryption_key_file": str(key_file)}
    async with ledger(tmp_path, state=redis_server.url, keys=keys) as house:
        status, told = await readiness(house.gateway)
        assert (status, told["signing_key"]) == (503, None)
        assert "the signing keys cannot be read" in told["signing_keys"]["last_error"]
        with pytest.raises(Refusal, match="signing_unavailable"):
            house.gateway.gateway.signing_keys.current()
        status, body = await house.gateway.exchange(house.pod_token(), resource="ledger-api")
        assert (status, body["reason"]) == (503, "signing_unavailable")
        await redis_server.start()

        async def ready() -> bool:
            return (await readiness(house.gateway))[0] == 200

        await eventually(ready)
        assert await house.token()
