"""An issuer's outage is not ours: whatever an issuer does or fails to do, only its own callers can notice."""

import asyncio
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from gateway.clock import SteadyClock
from gateway.standin.issuer import DISCOVERY_PATH, Handler, StandInIssuer, StandInServer
from gateway.standin.platforms import KUBERNETES
from tests.faults.neighbourhood import (
    COOLDOWN_SECONDS,
    REFRESH_SECONDS,
    Neighbourhood,
    hand_driven,
    neighbours,
)
from tests.faults.observed import key_state, metric, readiness
from tests.support.parts import eventually
from tests.support.running import JWT, JWT_BEARER, TOKEN_EXCHANGE, RunningGateway, running, settings
from tests.support.time import HandClock

Fault = Callable[[StandInIssuer], Handler]


async def assert_told_to_come_again(gateway: RunningGateway, token: str) -> None:
    """The issuer's callers did nothing wrong, and are not told that they did: by no grant."""
    for form in (
        {"grant_type": TOKEN_EXCHANGE, "subject_token": token, "subject_token_type": JWT},
        {"grant_type": JWT_BEARER, "assertion": token},
    ):
        status, body, headers = await gateway.post(form)
        assert (status, body["error"], body["reason"]) == (503, "temporarily_unavailable", "issuer_unavailable")
        assert int(headers["Retry-After"]) > 0
        assert "access_token" not in body


async def assert_served(gateway: RunningGateway, *tokens: str) -> None:
    answers = await asyncio.gather(*(gateway.exchange(token, resource="ledger-api") for token in tokens))
    assert [(status, body.get("reason")) for status, body in answers] == [(200, None)] * len(tokens)


async def assert_remembered(gateway: RunningGateway, token: str) -> None:
    """Served so often that what was verified is kept: that must not outlive the keys that it was verified with."""
    for _ in range(4):
        await assert_served(gateway, token)


async def refusal_of(gateway: RunningGateway, token: str) -> str:
    status, body = await gateway.exchange(token)
    assert status == 400
    return str(body["reason"])


# ---------------------------------------------------------------- down


async def test_a_dead_issuer_delays_neither_the_start_nor_the_others(
    around: Neighbourhood, clock: HandClock, tmp_path: Path
):
    await around.cluster_server.close()
    async with hand_driven(tmp_path, around.policies(), clock) as gateway:
        await clock.until_sleeping(2)
        await assert_served(gateway, around.job_token())
        await assert_told_to_come_again(gateway, around.pod_token())
        assert await key_state(gateway) == "down"
        assert (await readiness(gateway))[0] == 200
        assert await metric(gateway, "gateway_issuer_key_fetches_total", issuer="prod-cluster", outcome="connect") >= 1


async def test_a_hanging_issuer_delays_neither_the_start_nor_the_others(
    around: Neighbourhood, clock: HandClock, tmp_path: Path
):
    asked, answer = asyncio.Event(), asyncio.Event()

    async def hang(_request: web.Request) -> web.StreamResponse:
        asked.set()
        await answer.wait()
        return web.Response(status=500)

    around.cluster.instead = hang
    async with hand_driven(tmp_path, around.policies(), clock, fetch_seconds=0.3) as gateway:
        await asked.wait()
        assert await key_state(gateway) == "waiting"
        await assert_served(gateway, around.job_token())
        await clock.until_sleeping(2)
        await assert_told_to_come_again(gateway, around.pod_token())
        assert await metric(gateway, "gateway_issuer_key_fetches_total", issuer="prod-cluster", outcome="timeout") == 1
        answer.set()
        around.cluster.instead = None
        await clock.advance(REFRESH_SECONDS)
        await assert_served(gateway, around.pod_token(), around.job_token())


async def test_callers_of_a_slow_issuer_wait_for_its_first_keys(
    around: Neighbourhood, clock: HandClock, tmp_path: Path
):
    """Right after the start nobody is refused for keys that are on their way."""
    asked, answer = asyncio.Event(), asyncio.Event()
    serve = around.cluster._serve_discovery

    async def slow(request: web.Request) -> web.StreamResponse:
        if request.path.endswith(DISCOVERY_PATH):
            asked.set()
            await answer.wait()
            return await serve(request)
        return web.json_response(around.cluster.key_set())

    around.cluster.instead = slow
    async with hand_driven(tmp_path, around.policies(), clock) as gateway:
        await asked.wait()
        waiting = asyncio.create_task(assert_served(gateway, around.pod_token(), around.pod_token()))
        await assert_served(gateway, around.job_token())
        answer.set()
        await waiting


async def test_an_issuer_that_was_dead_at_the_start_is_served_by_itself_once_it_answers(tmp_path: Path):
    """With the real clock, as nobody moves that of a gateway in production."""
    clock = SteadyClock()
    async with neighbours(clock) as around:
        await around.cluster_server.close()
        (tmp_path / "policies").mkdir()
        (tmp_path / "policies" / "policies.yaml").write_text(around.policies())
        async with running(settings(tmp_path), clock=clock) as gateway:
            await assert_told_to_come_again(gateway, around.pod_token())
            await around.cluster_server.start()

            async def served() -> bool:
                status, body = await gateway.exchange(around.pod_token())
                assert status == 200 or body["reason"] == "issuer_unavailable"
                return status == 200

            await eventually(served)
            assert await key_state(gateway) == "ok"


async def test_the_last_good_keys_serve_through_an_outage_up_to_their_age(
    around: Neighbourhood, clock: HandClock, tmp_path: Path
):
    async with hand_driven(tmp_path, around.policies(cluster_keys="max_age: 2h"), clock) as gateway:
        await clock.until_sleeping(2)
        await around.cluster_server.close()
        for _ in range(2 * 3600 // REFRESH_SECONDS):
            await clock.advance(REFRESH_SECONDS)
            await assert_served(gateway, around.pod_token(), around.job_token())
        assert await key_state(gateway) == "stale"
        assert await metric(gateway, "gateway_issuer_key_age_seconds", issuer="prod-cluster") == 2 * 3600

        remembered = around.pod_token()
        await assert_remembered(gateway, remembered)
        await clock.advance(1)
        await assert_told_to_come_again(gateway, around.pod_token())
        await assert_told_to_come_again(gateway, remembered)
        await assert_served(gateway, around.job_token())

        await around.cluster_server.start()
        await clock.advance(REFRESH_SECONDS)
        await assert_served(gateway, around.pod_token())
        assert await key_state(gateway) == "ok"


# ---------------------------------------------------------------- wrong


def whole_answer(body: bytes, status: int = 200, **headers: str) -> Fault:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers={"Content-Type": "application/json"} | headers)

    return lambda _issuer: answer


def key_set_answer(document: object) -> Fault:
    """Good discovery, and this as the key set."""

    def fault(issuer: StandInIssuer) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            if request.path.endswith(DISCOVERY_PATH):
                return web.json_response(issuer.discovery())
            return web.Response(body=json.dumps(document).encode(), content_type="application/json")

        return answer

    return fault


def discovery_answer(**members: object) -> Fault:
    """This discovery document, and a good key set."""

    def fault(issuer: StandInIssuer) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            document = issuer.discovery() | members if request.path.endswith(DISCOVERY_PATH) else issuer.key_set()
            return web.json_response(document)

        return answer

    return fault


def swollen(issuer: StandInIssuer) -> Handler:
    """A good key set with a megabyte of blanks behind it."""

    async def answer(request: web.Request) -> web.StreamResponse:
        document = issuer.discovery() if request.path.endswith(DISCOVERY_PATH) else issuer.key_set()
        return web.Response(body=json.dumps(document).encode() + b" " * 2**20, content_type="application/json")

    return answer


def hang_up(_issuer: StandInIssuer) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return answer


def half_an_answer(_issuer: StandInIssuer) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(b'{"issuer": "')
        assert request.transport is not None
        request.transport.close()
        return response

    return answer


def drip(_issuer: StandInIssuer) -> Handler:
    """A byte now and then, for ever: every single read is quick."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.02)

    return answer


FAULTS: list[tuple[str, Fault, str]] = [
    ("a page of a captive portal", whole_answer(b"<html>Sign in</html>", **{"Content-Type": "text/html"}), "content"),
    ("nothing", whole_answer(b""), "content"),
    ("no object", whole_answer(b"[]"), "content"),
    ("an error", whole_answer(b"{}", 500), "status"),
    ("not found", whole_answer(b"{}", 404), "status"),
    ("an unasked-for not modified", whole_answer(b"", 304), "redirect"),
    ("no keys", key_set_answer({"keys": []}), "content"),
    ("keys of no use", key_set_answer({"keys": [{"kty": "oct", "kid": "a", "k": "c2VjcmV0"}]}), "content"),
    ("another issuer", discovery_answer(issuer="https://kubernetes.default.svc.cluster.local/"), "content"),
    ("a missing jwks_uri", discovery_answer(jwks_uri=None), "content"),
    ("too much", swollen, "too_large"),
    (
        "a compressed bomb",
        whole_answer(gzip.compress(bytes(64 * 2**20), 9), **{"Content-Encoding": "gzip"}),
        "encoding",
    ),
    ("a broken connection", hang_up, "protocol"),
    ("half an answer", half_an_answer, "protocol"),
    ("an endless drip", drip, "timeout"),
]


@pytest.mark.parametrize(("fault", "outcome"), [pytest.param(*rest, id=name) for name, *rest in FAULTS])
async def test_a_wrong_answer_brings_no_keys_and_takes_none(
    around: Neighbourhood, clock: HandClock, tmp_path: Path, fault: Fault, outcome: str
):
    around.cluster.instead = fault(around.cluster)
    async with hand_driven(tmp_path, around.policies(), clock, fetch_seconds=0.3) as gateway:
        await clock.until_sleeping(2)
        await assert_told_to_come_again(gateway, around.pod_token())
        await assert_served(gateway, around.job_token())

        around.cluster.instead = None
        await clock.advance(REFRESH_SECONDS)
        await assert_served(gateway, around.pod_token())

        around.cluster.instead = fault(around.cluster)
        await clock.advance(REFRESH_SECONDS)
        assert await key_state(gateway) == "stale"
        await assert_served(gateway, around.pod_token(), around.job_token())
        told = await metric(gateway, "gateway_issuer_key_fetches_total", issuer="prod-cluster", outcome=outcome)
        assert told >= 2


async def test_a_redirect_to_another_host_is_not_followed(around: Neighbourhood, clock: HandClock, tmp_path: Path):
    """Not even to keys that would verify: whoever can redirect must not be able to say whose keys are good."""
    impostor = StandInIssuer(KUBERNETES, clock=clock, name="impostor")
    async with StandInServer(impostor):

        async def redirect(request: web.Request) -> web.StreamResponse:
            discovery = request.path.endswith(DISCOVERY_PATH)
            raise web.HTTPFound(impostor.discovery_url if discovery else impostor.jwks_uri)

        around.cluster.instead = redirect
        async with hand_driven(tmp_path, around.policies(), clock) as gateway:
            await clock.until_sleeping(2)
            await assert_told_to_come_again(gateway, impostor.token("https://sts.example.com"))
            await clock.advance(REFRESH_SECONDS)
            assert impostor.fetches == {"discovery": 0, "jwks": 0}
            told = await metric(gateway, "gateway_issuer_key_fetches_total", issuer="prod-cluster", outcome="redirect")
            assert told == 2


async def test_while_an_issuer_flaps_no_good_token_is_refused(around: Neighbourhood, clock: HandClock, tmp_path: Path):
    async with hand_driven(tmp_path, around.policies(), clock) as gateway:
        await clock.until_sleeping(2)
        faults = [fault(around.cluster) for name, fault, outcome in FAULTS if outcome in {"content", "status"}]
        for turn in range(24):
            around.cluster.instead = faults[turn // 2 % len(faults)] if turn % 2 else None
            await clock.advance(REFRESH_SECONDS)
            assert await key_state(gateway) == ("stale" if turn % 2 else "ok")
            await assert_served(gateway, around.pod_token(), around.pod_token())


# ---------------------------------------------------------------- keys that change


async def test_keys_rotate_under_load_and_no_token_of_a_published_key_is_refused(
    around: Neighbourhood, clock: HandClock, tmp_path: Path, full_faults: bool
):
    async with hand_driven(tmp_path, around.policies(), clock) as gateway:
        await clock.until_sleeping(2)
        granted, done = 0, asyncio.Event()
        keys = [around.cluster.signing_key()]

        async def client(number: int) -> None:
            nonlocal granted
            while not done.is_set():
                key = keys[granted % len(keys)] if number % 2 else keys[-1]
                token = around.cluster.mint(around.cluster.claims("https://sts.example.com"), key=key)
                await assert_served(gateway, token)
                granted += 1

        rotations = 40 if full_faults else 8
        async with asyncio.TaskGroup() as clients:
            for number in range(6):
                clients.create_task(client(number))
            for _ in range(rotations):
                around.cluster.rotate()
                keys = [*keys[-2:], around.cluster.signing_key()]
                clock.now += COOLDOWN_SECONDS
                enough = granted + 12

                async def moved_on(enough: int = enough) -> bool:
                    return granted >= enough

                await eventually(moved_on)
            done.set()
        assert around.cluster.fetches["jwks"] == 1 + rotations


async def test_a_key_that_left_the_set_is_refused_after_the_refresh(
    around: Neighbourhood, clock: HandClock, tmp_path: Path
):
    async with hand_driven(tmp_path, around.policies(), clock) as gateway:
        await clock.until_sleeping(2)
        seen_before, of_the_old_key = around.pod_token(), around.pod_token()
        await assert_remembered(gateway, seen_before)
        around.cluster.rotate(publish_old=False)
        await clock.advance(REFRESH_SECONDS)
        assert await refusal_of(gateway, of_the_old_key) == "unknown_key"
        assert await refusal_of(gateway, seen_before) == "unknown_key"
        await assert_served(gateway, around.pod_token())


async def test_a_key_that_is_not_published_yet_is_refused_until_it_is(
    around: Neighbourhood, clock: HandClock, tmp_path: Path
):
    async with hand_driven(tmp_path, around.policies(), clock) as gateway:
        await clock.until_sleeping(2)
        around.cluster.rotate(publish_new=False)
        early = around.pod_token()
        clock.now += COOLDOWN_SECONDS
        assert await refusal_of(gateway, early) == "unknown_key"
        around.cluster.publish()
        clock.now += COOLDOWN_SECONDS
        await assert_served(gateway, early)


async def test_a_new_key_under_an_old_name_takes_over(clock: HandClock, tmp_path: Path):
    platform = replace(KUBERNETES, key_id=lambda _: "the-key")
    async with (
        neighbours(clock, cluster=platform) as around,
        hand_driven(tmp_path, around.policies(), clock) as gateway,
    ):
        await clock.until_sleeping(2)
        of_the_old_key = around.pod_token()
        await assert_remembered(gateway, of_the_old_key)
        around.cluster.rotate(publish_old=False)
        of_the_new_key = around.pod_token()
        clock.now += COOLDOWN_SECONDS
        await assert_served(gateway, of_the_new_key)
        assert await refusal_of(gateway, of_the_old_key) == "bad_signature"
        await assert_served(gateway, around.pod_token())
