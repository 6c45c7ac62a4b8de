"""``POST /revoke`` over real HTTP: RFC 7009, and what a revoked token is still good for: nothing."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from gateway.audit.base import SinkError
from gateway.state.base import StateUnavailableError
from tests.support.ledger import (
    BATCH,
    CLIENT_ASSERTION,
    OTHER_API,
    Ledger,
    basic,
    ledger,
)
from tests.support.parts import eventually
from tests.support.running import ACCESS_TOKEN, JWT, TOKEN_EXCHANGE, running, settings
from tests.support.time import HandClock


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with ledger(tmp_path) as started:
        yield started


async def narrow(house: Ledger, token: str, **parameters: str) -> tuple[int, dict[str, Any]]:
    form = {"grant_type": TOKEN_EXCHANGE, "subject_token": token, "subject_token_type": ACCESS_TOKEN, **parameters}
    status, body, _ = await house.gateway.post(form)
    return status, body


async def is_active(house: Ledger, token: str) -> bool:
    return bool((await house.introspect(token))[1]["active"])


async def test_rfc_7009_section_2_whoever_holds_a_token_ends_it(house: Ledger):
    token, other = await house.token(), await house.token()
    assert await house.revoke(token) == (200, None)
    assert not await is_active(house, token)
    assert await is_active(house, other)


async def test_rfc_7009_section_2_1_the_client_ends_its_own_token(house: Ledger):
    token = await house.client_token()
    assert await house.revoke(token, BATCH) == (200, None)
    assert not await is_active(house, token)


async def test_a_workload_ends_the_token_of_the_service_account_that_it_is(house: Ledger):
    token = await house.token()
    form = {"client_assertion": house.pod_token(), "client_assertion_type": CLIENT_ASSERTION}
    assert await house.revoke(token, **form) == (200, None)
    assert not await is_active(house, token)


async def test_rfc_7009_section_2_1_the_token_of_another_client_is_refused(house: Ledger):
    token = await house.token()
    status, body = await house.revoke(token, OTHER_API)
    assert body is not None
    assert (status, body["error"], body["reason"]) == (400, "unauthorized_client", "token_of_another_client")
    status, body = await house.revoke(token, client_id="batch")
    assert body is not None
    assert (status, body["error"]) == (400, "unauthorized_client")
    assert await is_active(house, token)


async def test_rfc_7009_section_2_2_1_whoever_presents_credentials_must_have_valid_ones(house: Ledger):
    token = await house.client_token()
    status, body = await house.revoke(token, basic("batch", "wrong"))
    assert body is not None
    assert (status, body["error"]) == (401, "invalid_client")
    assert await is_active(house, token)


async def test_rfc_7009_section_2_2_a_token_that_is_not_good_is_no_error(house: Ledger):
    token = await house.token()
    header, payload, signature = token.split(".")
    for bad in ("nonsense", "a.b.c", "x" * 20_000, house.pod_token(), f"{header}.{payload}.{signature[:-4]}AAAA"):
        assert await house.revoke(bad) == (200, None)
        assert await house.revoke(bad, BATCH) == (200, None)
    assert await is_active(house, token)
    assert not [record for record in house.audit() if record["endpoint"] == "revocation"], "there is nothing to tell"


async def test_an_expired_token_is_no_error(tmp_path: Path):
    clock = HandClock()
    async with ledger(tmp_path, clock=clock) as house:
        token = await house.token()
        clock.now += 1000
        assert await house.revoke(token) == (200, None)
        assert house.gateway.gateway.revocations.active() == 0


@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "no such thing"])
async def test_rfc_7009_section_2_1_a_wrong_hint_hinders_nothing(house: Ledger, hint: str):
    token = await house.token()
    await house.revoke(token, token_type_hint=hint)
    assert not await is_active(house, token)


async def test_attack_11_a_token_spelt_otherwise_is_no_other_token(house: Ledger):
    """An ECDSA signature has a twin, and base64url has stray bits: neither brings a revoked token back."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    token = await house.token()
    await house.revoke(token)
    signed, _, signature = token.rpartition(".")
    raw = jwt.utils.base64url_decode(signature)
    twin = raw[:32] + (order - int.from_bytes(raw[32:], "big")).to_bytes(32, "big")
    for other in (f"{signed}.{jwt.utils.base64url_encode(twin).decode()}", f"{token}A", f"{token}=="):
        assert not await is_active(house, other)


async def test_a_revoked_token_is_neither_narrowed_nor_passed_on(house: Ledger):
    token = await house.token()
    assert (await narrow(house, token, scope="ledger:read"))[0] == 200
    await house.revoke(token)
    for parameters in (
        {"scope": "ledger:read"},
        {"actor_token": house.pod_token("ledger", "api"), "actor_token_type": JWT, "resource": "deploy-api"},
    ):
        status, body = await narrow(house, token, **parameters)
        assert (status, body["error"], body["reason"]) == (400, "invalid_request", "token_revoked")


async def test_a_revocation_is_written_down_before_it_is_answered(house: Ledger):
    token = await house.client_token()
    claims = jwt.decode(token, options={"verify_signature": False})
    await house.revoke(token, BATCH)
    record = house.audit()[-1]
    assert (record["endpoint"], record["decision"], record["reason"]) == ("revocation", "granted", "granted")
    assert record["access_token_id"] == claims["jti"]
    assert record["access_token_expires_at"] == claims["exp"]
    assert (record["client_id"], record["authentication"]) == ("batch", "client_secret_basic/secret:s1")


async def test_a_revocation_that_cannot_be_written_down_is_not_answered_with_200(
    house: Ledger, monkeypatch: pytest.MonkeyPatch
):
    token = await house.token()

    async def full(_line: bytes) -> None:
        raise SinkError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(house.gateway.gateway.audit._only, "append", full)
        status, body = await house.revoke(token)
    assert body is not None
    assert (status, body["reason"]) == (503, "audit_unavailable")
    assert await house.revoke(token) == (200, None)
    assert house.audit()[-1]["endpoint"] == "revocation", "the second time, too, it is written down first"


async def test_rfc_7009_section_2_2_1_without_the_state_it_is_503_and_the_token_still_good(
    house: Ledger, monkeypatch: pytest.MonkeyPatch
):
    token = await house.token()

    async def away(*_: object, **__: object) -> bool:
        raise StateUnavailableError("away")

    with monkeypatch.context() as patched:
        patched.setattr(house.gateway.gateway.state, "put", away)
        async with house.gateway.session.post(f"{house.gateway.url}/revoke", data={"token": token}) as answer:
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) >= 1
            assert (await answer.json())["reason"] == "state_unavailable"
    assert await is_active(house, token)


async def test_it_takes_effect_in_another_replica_within_a_second(tmp_path: Path):
    state = f"sqlite://{tmp_path}/state.db"
    async with ledger(tmp_path, state=state) as house, running(settings(tmp_path, state=state)) as replica:
        elsewhere = Ledger(replica, house.cluster, tmp_path)
        token = await house.token()
        assert await is_active(elsewhere, token)
        await house.revoke(token)
        assert not await is_active(house, token)

        async def known_elsewhere() -> bool:
            return not await is_active(elsewhere, token)

        await eventually(known_elsewhere, within_seconds=1.5)


async def test_it_outlives_a_restart(tmp_path: Path):
    state = f"sqlite://{tmp_path}/state.db"
    async with ledger(tmp_path, state=state) as house:
        token = await house.token()
        await house.revoke(token)
        cluster = house.cluster
    async with running(settings(tmp_path, state=state)) as again:
        assert not await is_active(Ledger(again, cluster, tmp_path), token)


async def test_no_token_of_ours_is_taken_while_nobody_knows_what_was_revoked(tmp_path: Path):
    async with ledger(tmp_path, state=f"sqlite://{tmp_path}/state.db") as house:
        token = await house.token()
        revocations = house.gateway.gateway.revocations
        revocations._max_age_seconds = -1.0
        status, body = await house.introspect(token)
        assert (status, body["reason"]) == (503, "state_unavailable")
        assert (await house.verify(token))[0] == 503
        status, body = await narrow(house, token)
        assert (status, body["reason"]) == (503, "state_unavailable")
        assert (await house.gateway.exchange(house.pod_token(), resource="ledger-api"))[0] == 200


async def test_open_goes_on_with_what_was_known(tmp_path: Path):
    options = {"state": f"sqlite://{tmp_path}/state.db", "revocation": {"without_state": "open"}}
    async with ledger(tmp_path, **options) as house:
        token = await house.token()
        house.gateway.gateway.revocations._max_age_seconds = -1.0
        assert await is_active(house, token)


async def test_the_number_in_force_is_a_metric(house: Ledger):
    await asyncio.gather(*[house.revoke(await house.token()) for _ in range(3)])
    assert "gateway_revocations 3.0" in await house.gateway.get(f"{house.gateway.admin_url}/metrics")


async def test_it_is_post_with_a_form_and_a_token(house: Ledger):
    url = f"{house.gateway.url}/revoke"
    async with house.gateway.session.get(url) as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    async with house.gateway.session.post(url, data={"token": ""}) as answer:
        assert (answer.status, (await answer.json())["reason"]) == (400, "missing_parameter")
    async with house.gateway.session.post(f"{url}?token=x", data={}) as answer:
        assert (answer.status, (await answer.json())["reason"]) == (400, "parameter_in_query")
