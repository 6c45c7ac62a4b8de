"""Nothing unbounded: what is too much is refused at once, and what was taken on is answered."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from gateway.standin.issuer import DISCOVERY_PATH
from tests.faults.load import many_connections
from tests.faults.neighbourhood import COOLDOWN_SECONDS, Neighbourhood, hand_driven
from tests.faults.observed import metric, readiness
from tests.faults.sender import Sender
from tests.support.parts import eventually
from tests.support.running import JWT_BEARER, RunningGateway
from tests.support.time import HandClock

IN_FLIGHT = 8


@pytest.fixture
async def gateway(around: Neighbourhood, clock: HandClock, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    limits = {"in_flight": IN_FLIGHT, "connections_per_address": 5000, "body_time": "1s"}
    async with (
        hand_driven(tmp_path, around.policies(), clock, limits=limits) as started,
        many_connections(started) as found,
    ):
        await clock.until_sleeping(2)
        yield found


class Gate:
    """Holds back an issuer's answers until it is opened."""

    def __init__(self, around: Neighbourhood) -> None:
        self._open = asyncio.Event()
        self._cluster = around.cluster
        around.cluster.instead = self._answer

    def open(self) -> None:
        self._open.set()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        await self._open.wait()
        discovery = request.path.endswith(DISCOVERY_PATH)
        return web.json_response(self._cluster.discovery() if discovery else self._cluster.key_set())


async def in_flight(gateway: RunningGateway, number: int) -> None:
    """Waits until so many requests are being worked on."""

    async def reached() -> bool:
        return await metric(gateway, "gateway_requests_in_flight") == number

    await eventually(reached)


async def test_requests_beyond_the_limit_are_shed_and_the_others_answered(
    gateway: RunningGateway, around: Neighbourhood, clock: HandClock
):
    around.cluster.rotate()
    clock.now += COOLDOWN_SECONDS
    gate = Gate(around)
    taken = [asyncio.create_task(gateway.exchange(around.pod_token())) for _ in range(IN_FLIGHT)]
    await in_flight(gateway, IN_FLIGHT)

    for _ in range(40):
        status, body, headers = await gateway.post({"grant_type": JWT_BEARER, "assertion": around.job_token()})
        assert (status, body["error"], body["reason"]) == (503, "temporarily_unavailable", "overloaded")
        assert int(headers["Retry-After"]) > 0
    assert await metric(gateway, "gateway_exchanges_total", reason="overloaded") == 40
    assert (await readiness(gateway))[0] == 200

    gate.open()
    assert [status for status, _ in await asyncio.gather(*taken)] == [200] * IN_FLIGHT
    await in_flight(gateway, 0)
    assert (await gateway.exchange(around.job_token(), resource="ledger-api"))[0] == 200


async def test_a_burst_far_beyond_the_limit_gets_tokens_or_patience_and_nothing_else(
    gateway: RunningGateway, around: Neighbourhood, full_faults: bool
):
    pod = around.pod_token()
    burst = 2000 if full_faults else 300
    answers = await asyncio.gather(*(gateway.exchange(pod) for _ in range(burst)))
    told = Counter((status, body.get("reason")) for status, body in answers)
    assert set(told) <= {(200, None), (503, "overloaded")}
    assert told[200, None] >= IN_FLIGHT
    await in_flight(gateway, 0)


# ---------------------------------------------------------------- senders that stall


async def test_senders_that_stall_take_no_place_from_those_that_do_not(gateway: RunningGateway, around: Neighbourhood):
    """Half a request costs its sender nothing, so that it may not cost the others their tokens."""
    stalling = [Sender(gateway, around.job_token()) for _ in range(4 * IN_FLIGHT)]
    for sender in stalling:
        await sender.begin()
    for _ in range(10):
        assert (await gateway.exchange(around.pod_token()))[0] == 200
    for sender in stalling:
        assert (await sender.finish()).startswith(b"HTTP/1.1 200 ")


async def test_a_sender_that_comes_too_late_is_shed_as_any_other(
    gateway: RunningGateway, around: Neighbourhood, clock: HandClock
):
    stalling = [Sender(gateway, around.job_token()) for _ in range(IN_FLIGHT)]
    for sender in stalling:
        await sender.begin()
    around.cluster.rotate()
    clock.now += COOLDOWN_SECONDS
    gate = Gate(around)
    taken = [asyncio.create_task(gateway.exchange(around.pod_token())) for _ in range(IN_FLIGHT)]
    await in_flight(gateway, IN_FLIGHT)
    for sender in stalling:
        assert b'"reason":"overloaded"' in await sender.finish()
    gate.open()
    assert [status for status, _ in await asyncio.gather(*taken)] == [200] * IN_FLIGHT


async def test_a_body_that_never_ends_is_given_up(gateway: RunningGateway, around: Neighbourhood):
    sender = Sender(gateway, around.pod_token())
    await sender.begin()
    assert (await sender.answer()).startswith(b"HTTP/1.1 408 ")
    await in_flight(gateway, 0)


async def test_a_sender_that_hangs_up_is_forgotten_without_a_fuss(
    gateway: RunningGateway, around: Neighbourhood, caplog: pytest.LogCaptureFixture
):
    """Anybody can do it as often as they like: no place is lost, and nothing is written to the log about it."""
    for _ in range(3 * IN_FLIGHT):
        sender = Sender(gateway, around.pod_token())
        await sender.begin()
        sender.hang_up()
    await in_flight(gateway, 0)
    assert (await gateway.exchange(around.pod_token()))[0] == 200
    assert caplog.text == ""


async def test_broken_chunks_are_the_senders_mistake_and_none_of_ours(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture
):
    sender = Sender(gateway, "")
    await sender.connect()
    await sender.send(
        b"POST /token HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\n5\r\ngrant\r\nzz\r\n"
    )
    assert b" 400 Bad Request" in await sender.answer()
    await in_flight(gateway, 0)
    assert caplog.text == ""


async def test_what_is_no_http_is_refused_without_a_line_in_the_log(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture
):
    """Anybody can send it as often as they like."""
    for nonsense in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"POST /token\r\n\r\n", b"\0" * 100):
        sender = Sender(gateway, "")
        await sender.connect()
        await sender.send(nonsense)
        assert b" 400 Bad Request" in await sender.answer()
    assert caplog.text == ""
