"""Connections of hostile peers: bounded in number, in time, and in what they learn."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import http_parser

from gateway.http.admission import Admission, Bounds, NoPlaceError, Place
from gateway.http.listen import ListenError, check_parser
from gateway.http.source import parse_networks
from tests.attacks.hostile import besieged, request, still_serves, wire
from tests.support.house import House

BOUNDS = Bounds(4, 2, 10, 1, 1, 1)
GET = request("GET /.well-known/jwks.json HTTP/1.1\nHost: sts.example.com")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    limits = {"connections": 12, "connections_per_address": 8, "head_time": "1s", "idle_time": "2s", "body_time": "1s"}
    async with besieged(tmp_path, limits={**limits, "requests_per_connection": 3}) as started:
        yield started


async def ended(house: House, limit: str) -> float:
    """How many connections of the public listener ended for a limit."""
    return await reading(house, f'gateway_connections_ended_total{{limit="{limit}",listener="public"}}')


async def reading(house: House, series: str) -> float:
    """The value of a series on the admin listener."""
    text = await house.gateway.get(f"{house.gateway.admin_url}/metrics")
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(series))


async def test_one_address_has_so_many_connections_and_a_place_again_when_one_ends(house: House):
    async with contextlib.AsyncExitStack() as held:
        mine = [await held.enter_async_context(wire(house.gateway.gateway.public_address)) for _ in range(8)]
        for one in mine:  # it is in once it is answered
            await one.send(GET)
            assert (await one.answer())[0] == 200
        async with wire(house.gateway.gateway.public_address) as beyond:
            answer = await beyond.rest()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: 1" in answer
        assert await ended(house, "connections_per_address") == 1
    async with asyncio.timeout(5):
        while await reading(house, 'gateway_connections{listener="public"}') > 0:  # until the closing is noticed
            pass
    await still_serves(house)


async def test_a_head_that_does_not_end_ends_its_connection(house: House):
    async with wire(house.gateway.gateway.public_address) as slow:
        await slow.send(b"POST /token HTTP/1.1\r\nHost: sts.")
        assert await slow.rest() == b""
    assert await ended(house, "head_time") == 1
    await still_serves(house)


async def test_a_head_that_grows_without_end_is_refused_before_it_fills_the_memory(house: House):
    async with wire(house.gateway.gateway.public_address) as large:
        await large.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        with contextlib.suppress(ConnectionError):
            for number in range(60):
                await large.send(b"X-%d: " % number + b"a" * 1000 + b"\r\n")
        assert (await large.rest())[:12] in {b"HTTP/1.1 431", b"HTTP/1.1 400", b""}
    await still_serves(house)


async def test_an_idle_connection_ends(house: House):
    async with wire(house.gateway.gateway.public_address) as idle:
        await idle.send(GET)
        assert (await idle.answer())[0] == 200
        assert await idle.rest() == b""


async def test_a_connection_ends_after_so_many_requests_and_says_so(house: House):
    async with wire(house.gateway.gateway.public_address) as busy:
        heads = []
        for _ in range(3):
            await busy.send(GET)
            heads.append((await busy.answer())[1].lower())
        assert [b"connection: close" in head for head in heads] == [False, False, True]
        assert await busy.rest() == b""


@pytest.mark.parametrize(
    "sent",
    [
        GET,
        request("GET /nothing HTTP/1.1\nHost: a"),
        request("PUT /token HTTP/1.1\nHost: a"),
        request("GET /.well-known/jwks.json HTTP/1.1\nHost: a\nExpect: x"),
        b"no HTTP\r\n\r\n",
        request("POST /token HTTP/1.1\nHost: a\nContent-Length: 99999999"),
    ],
)
async def test_no_answer_names_the_software_that_made_it(house: House, sent: bytes):
    for address in (house.gateway.gateway.public_address, house.gateway.gateway.admin_address):
        async with wire(address) as peer:
            await peer.send(sent)
            head = (await peer.answer())[1].lower()
            assert b"server:" not in head
            assert b"aiohttp" not in head


async def test_half_requests_of_one_address_keep_nobody_else_out(house: House):
    async with contextlib.AsyncExitStack() as held:
        for _ in range(8):
            half = await held.enter_async_context(wire(house.gateway.gateway.public_address))
            await half.send(b"POST /token HTTP/1.1\r\n")
        connector = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
        async with (
            aiohttp.ClientSession(connector=connector) as other,
            other.get(f"{house.gateway.url}/.well-known/jwks.json") as answer,
        ):
            assert answer.status == 200


def test_a_network_gives_its_places_back_and_an_ipv6_network_is_one():
    admission = Admission(BOUNDS, (), lambda: None)
    first = admission.admit("2001:db8::1")
    admission.admit("2001:db8::2")
    with pytest.raises(NoPlaceError, match="connections_per_address"):
        admission.admit("2001:db8::3")
    first.give_back()
    first.give_back()  # how connections end is told in many ways
    admission.admit("2001:db8::3")
    assert admission.taken == 2


def test_a_proxy_is_bounded_by_the_whole_alone_and_room_is_made_before_anybody_is_turned_away():
    places: list[Place] = []

    def make_room() -> None:
        if places:
            places.pop().give_back()

    admission = Admission(BOUNDS, parse_networks(["10.0.0.0/8"]), make_room)
    places += [admission.admit("10.0.0.1") for _ in range(4)]
    admission.admit("192.0.2.1")
    assert admission.taken == 4
    places.clear()
    with pytest.raises(NoPlaceError, match="connections"):
        admission.admit("192.0.2.2")


def test_the_parser_in_python_is_refused(monkeypatch: pytest.MonkeyPatch):
    check_parser()
    monkeypatch.setattr(http_parser, "HttpRequestParser", http_parser.HttpRequestParserPy)
    with pytest.raises(ListenError, match="AIOHTTP_NO_EXTENSIONS"):
        check_parser()
