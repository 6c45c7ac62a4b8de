"""Stop and start lose nothing: neither a request that was taken nor the record of a token that left."""

import signal
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import jwt
import pytest

from tests.faults.load import Load, load
from tests.faults.neighbourhood import Neighbourhood
from tests.faults.observed import assert_proven, readiness, recorded_token_ids, records, token_ids
from tests.faults.sender import Sender
from tests.faults.serving import Serving, real_neighbours, serving
from tests.support.parts import eventually

GRACE_SECONDS = 5
MARGIN_SECONDS = 4
"""How much later than promised the end may come: for a machine that is busy with other things."""


@pytest.fixture
async def around() -> AsyncIterator[Neighbourhood]:
    async with real_neighbours() as found:
        yield found


async def assert_all_recorded(gateway: Serving, tokens: Iterable[str]) -> None:
    """Every token that a client received was written down, each once."""
    received, recorded = token_ids(tokens), recorded_token_ids(records(gateway.audit_file))
    assert len(set(recorded)) == len(recorded)
    assert set(received) <= set(recorded)


async def published_keys(gateway: Serving) -> jwt.PyJWKSet:
    return jwt.PyJWKSet.from_json(await gateway.get(f"{gateway.url}/.well-known/jwks.json"))


def verify(token: str, keys: jwt.PyJWKSet) -> None:
    key = keys[jwt.get_unverified_header(token)["kid"]]
    jwt.decode(token, key, algorithms=["ES256"], audience="https://ledger.example.com")


async def leave_when_told(gateway: Serving, clients: Load) -> None:
    """A load balancer: sends no new request once the probe says no."""

    async def not_ready() -> bool:
        status, body = await readiness(gateway)
        assert body["draining"] is (status == 503)
        return status == 503

    await eventually(not_ready)
    clients.stopped.set()


async def test_sigterm_under_load_fails_no_request_and_loses_no_record(
    around: Neighbourhood, tmp_path: Path, full_faults: bool
):
    drain = {"delay": "1s", "grace": f"{GRACE_SECONDS}s"}
    async with serving(tmp_path, around.policies(), shutdown=drain) as gateway:
        tokens: list[str] = []
        for turn in range(20 if full_faults else 1):
            if turn:
                await gateway.start()
            async with load(gateway.url, around.pod_token) as clients:
                await clients.more(50)
                gateway.terminate()
                began = time.monotonic()
                await clients.more(10)  # the load balancer does not know yet
                await leave_when_told(gateway, clients)
            assert (clients.broken, clients.refused) == ([], {})
            assert await gateway.ended() == 0
            assert 1 <= time.monotonic() - began < 1 + GRACE_SECONDS + MARGIN_SECONDS
            tokens += clients.tokens
        await assert_all_recorded(gateway, tokens)
        # Nothing but whole records, and none without its token: every client was answered.
        assert sorted(recorded_token_ids(records(gateway.audit_file))) == sorted(token_ids(tokens))
        assert assert_proven(tmp_path, gateway.audit_file).chains[0].unsigned_lines == 0


async def test_a_draining_gateway_closes_its_connections_and_ends_when_asked_again(
    around: Neighbourhood, tmp_path: Path
):
    async with serving(tmp_path, around.policies(), shutdown={"delay": "1m", "grace": "5s"}) as gateway:
        assert (await readiness(gateway))[0] == 200
        gateway.terminate()

        async def draining() -> bool:
            return (await readiness(gateway))[0] == 503

        await eventually(draining)
        for path in ("/.well-known/jwks.json", "/.well-known/openid-configuration"):
            async with gateway.session.get(f"{gateway.url}{path}") as answer:
                assert (answer.status, answer.headers["Connection"]) == (200, "close")
        form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": around.pod_token()}
        status, _, headers = await gateway.post(form)
        assert (status, headers["Connection"]) == (200, "close")
        gateway.terminate()  # a second time: enough of waiting
        assert await gateway.ended() == 0


async def until_closed(gateway: Serving) -> None:
    """Waits until the gateway takes no connection any more."""

    async def closed() -> bool:
        probe = Sender(gateway, "")
        try:
            await probe.connect()
        except OSError:
            return True
        probe.hang_up()
        return False

    await eventually(closed)


async def test_requests_that_are_half_sent_when_the_listener_closes_are_still_answered(
    around: Neighbourhood, tmp_path: Path
):
    async with serving(tmp_path, around.policies()) as gateway:
        half_sent = [Sender(gateway, around.pod_token()) for _ in range(3)]
        for sender in half_sent:
            await sender.begin()
        gateway.terminate()
        await until_closed(gateway)
        for sender in half_sent:
            answer = await sender.finish()
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b'"access_token"' in answer
        assert await gateway.ended() == 0


async def test_nobody_holds_up_the_end_beyond_the_grace(around: Neighbourhood, tmp_path: Path):
    """Neither a body that never ends, nor half a head, nor a connection that says nothing."""
    async with serving(tmp_path, around.policies(), shutdown={"delay": "0s", "grace": "1s"}) as gateway:
        silent, half_a_head, half_a_body = (Sender(gateway, around.pod_token()) for _ in range(3))
        await silent.connect()
        await half_a_head.connect()
        await half_a_head.send(b"POST /token HTTP/1.1\r\nHost: ")
        await half_a_body.begin()
        gateway.terminate()
        began = time.monotonic()
        assert await gateway.ended() == 0
        assert time.monotonic() - began < 1 + MARGIN_SECONDS
        for sender in (silent, half_a_head, half_a_body):
            sender.hang_up()


async def test_kill_9_under_load_loses_no_record_and_the_next_process_serves_on_with_the_same_key(
    around: Neighbourhood, tmp_path: Path, full_faults: bool
):
    async with serving(tmp_path, around.policies()) as gateway:
        tokens: list[str] = []
        first_key = {key.key_id for key in (await published_keys(gateway)).keys}
        for _ in range(40 if full_faults else 2):
            async with load(gateway.url, around.pod_token, clients=16) as clients:
                await clients.more(50)
                await gateway.kill()
            tokens += clients.tokens
            assert clients.refused == {}
            await gateway.start()
            await assert_all_recorded(gateway, tokens)
            assert (await gateway.exchange(around.pod_token()))[0] == 200
            # What the killed process left without a checkpoint has one by the first record of the next.
            assert assert_proven(tmp_path, gateway.audit_file).chains[0].unsigned_lines == 0
        keys = await published_keys(gateway)
        assert {key.key_id for key in keys.keys} == first_key
        for token in tokens:
            verify(token, keys)
        status, body = await gateway.exchange(around.pod_token())
        assert status == 200
        verify(body["access_token"], keys)


async def test_a_process_that_stood_still_goes_on_where_it_was(around: Neighbourhood, tmp_path: Path):
    """SIGSTOP and SIGCONT, as a machine that is suspended does it to all of its processes."""
    async with serving(tmp_path, around.policies()) as gateway:
        status = Path(f"/proc/{gateway.process.pid}/status")

        async def stands_still() -> bool:
            return "\nState:\tT" in status.read_text()

        async with load(gateway.url, around.pod_token) as clients:
            await clients.more(20)
            gateway.process.send_signal(signal.SIGSTOP)
            await eventually(stands_still)
            gateway.process.send_signal(signal.SIGCONT)
            await clients.more(50)
        assert (clients.broken, clients.refused) == ([], {})
        await assert_all_recorded(gateway, clients.tokens)
