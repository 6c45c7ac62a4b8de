"""Rotation against a real gateway: its token endpoint, its shared state, and a store of every kind."""

import asyncio
import base64
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.identity.clients.stored_secrets import SecretRegister
from gateway.kinds import STATE_BACKENDS, scheme
from gateway.model import RegisteredSecret
from gateway.oauth.client_secret import new_client_secret, secret_digest
from gateway.rotation.probe import SecretProbe
from gateway.rotation.rotation import Order, Rotated, Rotation
from gateway.state.base import State
from tests.rotation.conftest import CLIENT, Place, kubernetes_place
from tests.rotation.kubernetes_standin import KubernetesStandIn
from tests.rotation.neighbourhood import DAY, HOUR, MovingClock
from tests.support.parts import eventually
from tests.support.redis_server import RedisServer
from tests.support.running import RunningGateway, running, settings

ROOT = Path(__file__).parent.parent.parent
POLICIES = """\
kind: Resource
name: backup-api
identifier: https://backup.example.com
scopes: {backup:read: Read}
---
kind: Resource
name: ledger-api
identifier: https://ledger.example.com
scopes: {ledger:read: Read}
---
kind: ServiceAccount
name: nightly-backup
access:
  - {resource: backup-api, scopes: [backup:read]}
  - {resource: ledger-api, scopes: [ledger:read]}
"""


@dataclass
class House:
    """A gateway whose time a test moves, and the state that it shares with whoever rotates."""

    gateway: RunningGateway
    clock: MovingClock
    state: State

    async def takes(self, secret: str) -> bool:
        """Whether the client gets a token with it."""
        pair = base64.b64encode(f"{CLIENT}:{secret}".encode()).decode()
        status, body, _ = await self.gateway.post(
            {"grant_type": "client_credentials", "resource": "backup-api"}, headers={"Authorization": f"Basic {pair}"}
        )
        assert status in {200, 401}, body
        return bool(status == 200)

    async def hears(self) -> None:
        """The gateway reads its state now, which it does four times a second by itself."""
        await self.gateway.gateway.mirror.refresh()

    async def settle(self, place: Place) -> str:
        """Registers a first secret and puts it into the store."""
        secret = new_client_secret(secrets.token_bytes)
        await SecretRegister(self.state, self.clock).add(
            CLIENT, RegisteredSecret("first", secret_digest(secret), self.clock() - 90 * DAY)
        )
        place.fill(secret)
        await self.hears()
        assert await self.takes(secret)
        return secret

    async def rotate(self, place: Place) -> Rotated:
        async def sleep(seconds: float) -> None:
            self.clock.now += seconds
            await self.hears()

        rotation = Rotation(
            Order(CLIENT, (place.url,), 24 * HOUR),
            open_store=lambda _: place.open(),
            secrets=SecretRegister(self.state, self.clock),
            records=self.state,
            authenticates=SecretProbe(self.gateway.url, insecure_http=True).authenticates,
            clock=self.clock,
            random_bytes=secrets.token_bytes,
            sleep=sleep,
        )
        return await rotation.run()


@asynccontextmanager
async def built(folder: Path, state_url: str) -> AsyncIterator[House]:
    (folder / "policies").mkdir()
    (folder / "policies" / "accounts.yaml").write_text(POLICIES)
    clock = MovingClock()
    async with running(settings(folder, state=state_url, quotas={"enabled": False}), clock=clock) as gateway:
        state = STATE_BACKENDS[scheme(state_url)](state_url, clock)
        yield House(gateway, clock, state)
        await state.close()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with built(tmp_path, f"sqlite://{tmp_path}/state.db") as house:
        yield house


async def test_a_client_that_reads_its_store_is_never_refused_while_its_secret_rotates(house: House, place: Place):
    old = await house.settle(place)
    async with rehearsed(house, place, old) as answers:
        rotated = await house.rotate(place)
        for _ in range(4):
            await house.rotate(place)
    assert len(answers) > 160
    assert all(answers), f"{answers.count(False)} of {len(answers)} refused"
    new = place.current()
    assert new != old
    house.clock.now = rotated.others_end_at - 1
    assert await house.takes(old)
    house.clock.now = rotated.others_end_at
    await house.hears()
    assert not await house.takes(old)
    assert await house.takes(new)


async def test_three_rotations_leave_one_secret_that_works(house: House, place: Place):
    seen = [await house.settle(place)]
    for _ in range(3):
        rotated = await house.rotate(place)
        seen.append(place.current())
        house.clock.now = rotated.others_end_at
        await house.hears()
        assert [secret for secret in seen if await house.takes(secret)] == seen[-1:]
        house.clock.now += 90 * DAY


async def test_it_works_with_the_state_of_replicas_too(
    tmp_path: Path, redis_server: RedisServer, cluster: tuple[str, KubernetesStandIn]
):
    place = kubernetes_place(*cluster)
    async with built(tmp_path, redis_server.url) as house:
        old = await house.settle(place)
        rotated = await house.rotate(place)
        assert await house.takes(old)
        house.clock.now = rotated.others_end_at
        await house.hears()
        assert [await house.takes(secret) for secret in (old, place.current())] == [False, True]


async def test_the_last_use_of_a_secret_is_known_to_the_register(house: House, place: Place):
    await house.settle(place)
    rotated = await house.rotate(place)

    async def noted() -> bool:
        _, uses = await SecretRegister(house.state, house.clock).all()
        return (CLIENT, rotated.secret_id) in uses

    await eventually(noted, what="the use is written")


async def test_the_command_rotates_and_goes_by_the_schedule_of_the_policy(
    tmp_path: Path, cluster: tuple[str, KubernetesStandIn]
):
    """All of it as a CronJob runs it, on the wall clock: a process, the policy's schedule, the API server over TLS."""
    options, server = cluster
    url = f"kubernetes://storage/nightly-backup?{options}"
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "accounts.yaml").write_text(
        f'{POLICIES}credentials:\n  rotate: {{every: 90d, overlap: 1h, to: ["{url}"]}}\n'
    )
    state = f"sqlite://{tmp_path}/state.db"
    (tmp_path / "gateway.yaml").write_text(f"issuer: https://sts.example.com\nstate: {state}\n")
    async with running(settings(tmp_path, state=state)) as gateway:
        arguments = ["rotate", "--due", "--gateway", gateway.url, "--insecure-http", "--output", "json"]
        code, output, errors = await command(tmp_path, *arguments)
        assert code == 0, errors
        (rotated,) = json.loads(output)
        assert rotated["rotated"] is True
        keys = server.keys("storage", "nightly-backup")
        assert keys["client_id"] == CLIENT
        assert keys["client_secret"] not in output + errors
        assert "6/6 done" in errors
        code, output, errors = await command(tmp_path, *arguments)
        assert (code, json.loads(output)[0]["rotated"]) == (0, False)
        assert "not due" in errors
        assert server.keys("storage", "nightly-backup") == keys
        code, output, _ = await command(tmp_path, "list", "--output", "json")
        assert [(one["id"], one["due"]) for one in json.loads(output)] == [(rotated["id"], [])]


async def test_a_gateway_with_another_state_is_found_out_before_anything_is_promoted(
    house: House, place: Place, tmp_path: Path
):
    old = await house.settle(place)
    elsewhere = STATE_BACKENDS["sqlite"](f"sqlite://{tmp_path}/another.db", house.clock)
    await SecretRegister(elsewhere, house.clock).add(
        CLIENT, RegisteredSecret("first", secret_digest(old), house.clock() - 90 * DAY)
    )
    right, house.state = house.state, elsewhere
    with pytest.raises(Exception, match="same shared state"):
        await house.rotate(place)
    house.state = right
    assert place.current() == old
    assert await house.takes(old)
    await elsewhere.close()


@asynccontextmanager
async def rehearsed(house: House, place: Place, old: str) -> AsyncIterator[list[bool]]:
    """Asks for tokens all the while, with what the store has as current, and with the secret of the beginning."""
    answers: list[bool] = []
    stop = asyncio.Event()

    async def ask() -> None:
        while not stop.is_set():
            current = await asyncio.to_thread(place.current)
            answers.append(await house.takes(current))
            answers.append(await house.takes(old))

    asking = [asyncio.create_task(ask()) for _ in range(8)]
    try:
        yield answers
    finally:
        stop.set()
        await asyncio.gather(*asking)


async def command(folder: Path, *arguments: str) -> tuple[int | None, str, str]:
    """Runs ``gateway client`` in a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "KUBERNETES_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "client", *arguments, "--config", str(folder / "gateway.yaml"),
        cwd=ROOT, env=clean, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()
