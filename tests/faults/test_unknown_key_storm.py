"""However many tokens name keys that nobody knows, their issuer is asked once, and nobody else waits for it.

Whoever knows an issuer's URL can make such tokens: no key is needed for them.
"""

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

from aiohttp import web

from gateway.identity.issuer_keys import Pace
from tests.faults.load import many_connections
from tests.faults.neighbourhood import COOLDOWN_SECONDS, Neighbourhood, hand_driven
from tests.faults.observed import metric
from tests.support.parts import eventually
from tests.support.running import RunningGateway
from tests.support.time import HandClock
from tests.support.tokens import base64url, encode_json

AT_ONCE = 64


def forged(token: str, number: int) -> str:
    """The token under a key id of its own."""
    _, payload, signature = token.split(".")
    return f"{base64url(encode_json({'alg': 'ES256', 'kid': f'key-{number}'}))}.{payload}.{signature}"


async def answers_to(gateway: RunningGateway, tokens: list[str]) -> Counter[tuple[int, str]]:
    """How often the gateway said what; the tokens are presented ``AT_ONCE`` at a time."""
    told: Counter[tuple[int, str]] = Counter()
    waiting = iter(tokens)

    async def client() -> None:
        for token in waiting:
            status, body = await gateway.exchange(token, resource="ledger-api")
            told[status, body.get("reason", "granted")] += 1

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return told


async def test_a_storm_of_unknown_keys_within_a_second_causes_one_fetch_and_refuses_no_good_token(
    around: Neighbourhood, clock: HandClock, tmp_path: Path, full_faults: bool
):
    strangers = 10_000 if full_faults else 1_000
    async with hand_driven(tmp_path, around.policies(), clock) as gateway:
        await clock.until_sleeping(2)
        clock.now += COOLDOWN_SECONDS
        pod, job = around.pod_token(), around.job_token()
        tokens = [forged(pod, number) for number in range(strangers)]
        good = strangers // 10
        for number in range(good):
            tokens[number * 10 : number * 10] = [pod, around.pod_token() if number % 20 == 0 else job]
        told = await answers_to(gateway, tokens)
        assert told == {(400, "unknown_key"): strangers, (200, "granted"): 2 * good}
        assert around.cluster.fetches["jwks"] == 2
        assert around.github.fetches["jwks"] == 1


async def test_a_storm_that_does_not_end_causes_one_fetch_per_cooldown_and_two_in_thirty_seconds(
    around: Neighbourhood, clock: HandClock, tmp_path: Path
):
    async with hand_driven(tmp_path, around.policies(), clock) as gateway:
        await clock.until_sleeping(2)
        pod = around.pod_token()
        for second in range(60):
            clock.now += 1
            await answers_to(gateway, [forged(pod, second * 100 + number) for number in range(20)])
        assert around.cluster.fetches["jwks"] == 1 + 4


async def test_a_storm_of_bad_signatures_under_a_known_key_causes_one_fetch(
    around: Neighbourhood, clock: HandClock, tmp_path: Path
):
    async with hand_driven(tmp_path, around.policies(), clock) as gateway:
        await clock.until_sleeping(2)
        clock.now += COOLDOWN_SECONDS
        pod = around.pod_token()
        head, _, signature = pod.rpartition(".")
        tokens = [f"{head}.{signature[:40]}{number:04}{signature[44:]}" for number in range(300)]
        told = await answers_to(gateway, [*tokens, pod, around.job_token()])
        assert told == {(400, "bad_signature"): 300, (200, "granted"): 2}
        assert around.cluster.fetches["jwks"] == 2


async def test_a_storm_while_the_issuer_is_down_is_told_to_come_again_and_asks_no_more(
    around: Neighbourhood, clock: HandClock, tmp_path: Path
):
    async with hand_driven(tmp_path, around.policies(), clock) as gateway:
        await clock.until_sleeping(2)
        await around.cluster_server.close()
        clock.now += COOLDOWN_SECONDS
        pod, job = around.pod_token(), around.job_token()
        told = await answers_to(gateway, [*(forged(pod, number) for number in range(300)), pod, job])
        assert told == {(503, "issuer_unavailable"): 300, (200, "granted"): 2}
        assert await metric(gateway, "gateway_issuer_key_fetches_total", outcome="connect") == 1


async def test_a_storm_while_the_issuer_hangs_leaves_room_for_good_tokens(
    around: Neighbourhood, clock: HandClock, tmp_path: Path
):
    """Those who wait for an issuer's answer may not take up all that the gateway works on at once."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def hang(_request: web.Request) -> web.StreamResponse:
        asked.set()
        await answer.wait()
        return web.Response(status=500)

    async with hand_driven(
        tmp_path, around.policies(), clock, limits={"in_flight": 256, "connections_per_address": 1000}
    ) as gateway:
        await clock.until_sleeping(2)
        around.cluster.instead = hang
        clock.now += COOLDOWN_SECONDS
        pod, job = around.pod_token(), around.job_token()
        for keys in gateway.gateway.trust.keys_by_name().values():
            keys._pace = replace(keys._pace, wait_seconds=60)  # so that no one leaves because time is up
        async with many_connections(gateway) as other_machines, asyncio.TaskGroup() as strangers:
            tasks = [strangers.create_task(other_machines.exchange(forged(pod, number))) for number in range(300)]
            await asked.wait()

            async def only_few_wait() -> bool:
                return sum(not task.done() for task in tasks) <= Pace().most_waiting

            await eventually(only_few_wait)
            told = await answers_to(gateway, [pod, job, around.pod_token(), around.job_token()])
            answer.set()
        assert told == {(200, "granted"): 4}
