"""What Redis alone promises: it may die, hang, lie or be flushed, and nothing of it hangs or tells a secret."""

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from gateway.state.base import StateUnavailableError, mark_of
from gateway.state.redis import RedisAddress, RedisState, _tls_context
from gateway.state.table import name_of
from tests.state.conftest import LONG_AGO
from tests.support.parts import free_port
from tests.support.redis_server import RedisServer
from tests.support.time import HandClock

SOON = LONG_AGO + 300
PASSWORD = "p/a:s@s?w#o%rd-hunter2"
ENCODED = "p%2Fa%3As%40s%3Fw%23o%25rd-hunter2"


class Monotonic:
    """The breaker's time, which stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def monotonic() -> Monotonic:
    return Monotonic()


@asynccontextmanager
async def state_at(url: str, clock: HandClock, **options) -> AsyncIterator[RedisState]:
    state = RedisState(RedisAddress.of(url), clock, **options)
    try:
        async with asyncio.timeout(30):  # nothing here may hang
            yield state
    finally:
        await state.close()


@asynccontextmanager
async def server_that_says(reply: bytes) -> AsyncIterator[str]:
    """Something on a port that answers everything with the same bytes. Yields its address."""
    tasks = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            while await reader.read(65536):
                if not reply:
                    break
                writer.write(reply)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.gather(*tasks)


async def mistake_of(call) -> StateUnavailableError:
    with pytest.raises(StateUnavailableError) as caught:
        await call
    return caught.value


class TestAway:
    async def test_killed_in_the_middle_it_refuses_and_serves_on_after_its_restart(
        self, redis_server, clock, monotonic
    ):
        options = {"connect_seconds": 5, "command_seconds": 5, "monotonic": monotonic}
        async with state_at(redis_server.url, clock, **options) as state:
            killed, answers = asyncio.Event(), []

            async def claim_on(worker: int) -> None:
                for n in range(10_000):
                    try:
                        answers.append(await state.claim_once("github", f"{worker}-{n}", SOON))
                    except StateUnavailableError:
                        assert killed.is_set(), "refused before it was killed"
                        return

            workers = [asyncio.create_task(claim_on(worker)) for worker in range(8)]
            while len(answers) < 100:
                await asyncio.sleep(0)
            killed.set()
            await redis_server.kill()
            await asyncio.gather(*workers)
            assert set(answers) == {True}

            await mistake_of(state.changes(0))
            await redis_server.start()
            monotonic.now += 2
            assert await state.claim_once("github", "after", SOON) is True
            assert await state.claim_once("github", "after", SOON) is False
            assert await state.put("secret", "s1", b"1")

    async def test_an_idle_connection_that_died_with_its_server_costs_nobody_anything(self, redis_server, clock):
        async with state_at(redis_server.url, clock) as state:
            assert await state.claim_once("github", "jti-1", SOON)
            await redis_server.stop()
            await redis_server.start()
            assert await state.claim_once("github", "jti-1", SOON)

    async def test_a_server_that_hangs_costs_a_caller_its_time_and_then_nobody_any(
        self, redis_server, clock, monotonic
    ):
        loop = asyncio.get_running_loop()
        options = {"connect_seconds": 0.05, "command_seconds": 0.05, "monotonic": monotonic}
        async with state_at(redis_server.url, clock, **options) as state:
            assert await state.put("secret", "s1", b"1")
            redis_server.freeze()
            for _ in range(5):
                assert "took too long" in str(await mistake_of(state.changes(0)))
            started = loop.time()
            for _ in range(1000):
                assert "does not answer" in str(await mistake_of(state.claim_once("github", "jti-1", SOON)))
            assert loop.time() - started < 2, "a thousand calls asked nobody"

            monotonic.now += 1
            assert "took too long" in str(await mistake_of(state.changes(0))), "one a second is let through"
            assert "does not answer" in str(await mistake_of(state.changes(0)))

            redis_server.thaw()
            monotonic.now += 1
            assert [one.key for one in (await state.changes(0)).records] == ["s1"]
            assert await state.claim_once("github", "jti-2", SOON)

    async def test_many_callers_of_a_server_that_hangs_wait_no_longer_than_one(self, redis_server, clock):
        loop = asyncio.get_running_loop()
        async with state_at(redis_server.url, clock, connect_seconds=0.1, command_seconds=0.1) as state:
            redis_server.freeze()
            started = loop.time()
            calls = [state.claim_once("github", f"{n}", SOON) for n in range(300)]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(one) for one in answers} == {StateUnavailableError}
            assert loop.time() - started < 5

    async def test_nobody_at_the_port_is_told_in_words(self, clock):
        async with state_at(f"redis://127.0.0.1:{free_port()}/0", clock) as state:
            assert "refused" in str(await mistake_of(state.changes(0))) or "Connect call failed" in str(
                await mistake_of(state.changes(0))
            )

    @pytest.mark.parametrize(
        "reply",
        [
            b"", b"\r\n", b"garbage\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$-5\r\n", b":abc\r\n", b"+OK\r\n",
            b":7\r\n", b"*-1\r\n", b"$-1\r\n", b"*0\r\n", b"*3\r\n:1\r\n:2\r\n:3\r\n", b"*3\r\n$1\r\nx\r\n:1\r\n*0\r\n",
            b"*3\r\n$1\r\n1\r\n:1\r\n*1\r\n$1\r\nx\r\n", b"*3\r\n$1\r\n1\r\n:1\r\n*2\r\n$1\r\nx\r\n$1\r\nx\r\n",
            b"*2147483647\r\n", b"$536870912\r\nxx", b"-ERR\r\n", b"-LOADING Redis is loading\r\n", b"-MISCONF no\r\n",
            b"\x00" * 5000, b"*1\r\n" * 3000,
        ],
    )  # fmt: skip
    async def test_a_server_that_makes_no_sense_is_as_good_as_none(self, clock, reply):
        async with server_that_says(reply) as address:
            options = {"connect_seconds": 0.2, "command_seconds": 0.2}
            async with state_at(f"redis://{address}/0", clock, **options) as state:
                calls = (
                    lambda: state.claim_once("github", "jti-1", SOON),
                    lambda: state.put("secret", "s1", b"1"),
                    lambda: state.changes(0),
                )
                for call in calls:
                    await mistake_of(call())

    async def test_a_server_that_answers_each_step_just_in_time_is_not_waited_for_step_by_step(self, clock):
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while not reader.at_eof():
                    writer.write(b"+OK\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.15)
            except ConnectionError:
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"redis://:pw@127.0.0.1:{server.sockets[0].getsockname()[1]}/1"
        async with state_at(url, clock, connect_seconds=0.2, command_seconds=0.2) as state:
            assert "took too long" in str(await mistake_of(state.claim_once("github", "jti-1", SOON)))
        server.close()

    async def test_a_claim_that_its_caller_gave_up_answers_nobody_else(self, redis_server, clock):
        async with state_at(redis_server.url, clock, max_connections=1) as state:
            assert await state.claim_once("github", "seen", SOON)
            for n in range(50):
                given_up = asyncio.create_task(state.claim_once("github", "seen", SOON))
                for _ in range(n % 10):
                    await asyncio.sleep(0)
                given_up.cancel()
                await asyncio.gather(given_up, return_exceptions=True)
                assert await state.claim_once("github", f"new-{n}", SOON) is True


class TestRefusals:
    async def test_a_server_without_memory_or_that_is_a_replica_takes_no_mark_and_is_still_asked(
        self, redis_server, clock, monotonic
    ):
        async with state_at(redis_server.url, clock, monotonic=monotonic) as state:
            for setup, back in (
                (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
                (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
            ):
                await redis_server.command(*setup)
                for n in range(20):
                    assert "refused" in str(await mistake_of(state.claim_once("github", f"{n}", SOON)))
                await redis_server.command(*back)
                assert await state.claim_once("github", setup[0], SOON)

    async def test_tables_that_somebody_else_wrote_are_an_outage(self, redis_server, clock):
        async with state_at(redis_server.url, clock) as state:
            await redis_server.command("SET", "gateway:{records}:values", "x")
            assert "refused" in str(await mistake_of(state.put("secret", "s1", b"1")))
            await redis_server.command("DEL", "gateway:{records}:values")
            await redis_server.command("HSET", "gateway:{records}:values", "x", "y")
            assert "never put there" in str(await mistake_of(state.changes(0)))

    async def test_a_full_table_takes_nothing_new(self, redis_server, clock):
        async with state_at(redis_server.url, clock, max_records=2) as state:
            await state.put("secret", "s1", b"1")
            await state.put("secret", "s2", b"1")
            assert "all 2 shared records" in str(await mistake_of(state.put("secret", "s3", b"1")))
            assert await state.put("secret", "s1", b"2")
            assert await state.put("secret", "s2", None)


class TestTime:
    @pytest.mark.parametrize("now", [LONG_AGO, LONG_AGO + 1e9], ids=["server ahead", "server behind"])
    async def test_a_mark_outlives_its_token_whichever_clock_is_wrong(self, redis_server, now):
        async with state_at(redis_server.url, HandClock(now)) as state:
            assert await state.claim_once("github", "jti-1", now + 300.0004)
            key = f"gateway:mark:{mark_of('github', 'jti-1').hex()}"
            left = int((await redis_server.command("PTTL", key))[1:])
            assert left > (300 + 60 - 20) * 1000, "a minute is for replicas whose clocks differ"
            ends = int((await redis_server.command("PEXPIRETIME", key))[1:])
            assert ends >= (now + 300.0004 + 60) * 1000
            assert not await state.claim_once("github", "jti-1", now + 300)

    async def test_a_removal_that_has_been_told_long_enough_is_forgotten(self, redis_server, clock):
        async with state_at(redis_server.url, clock) as state:
            await state.put("secret", "s1", b"1")
            since = (await state.changes(0)).version
            await state.put("secret", "s1", None)
            assert await redis_server.command("HLEN", "gateway:{records}:values") == b":1\r\n"
            await redis_server.command("ZADD", "gateway:{records}:ends", "1", name_of("secret", "s1", None))
            await state.put("secret", "s2", b"1")
            assert (await state.changes(since)).whole
            for table in ("ZCARD", "order"), ("HLEN", "values"):
                assert await redis_server.command(table[0], f"gateway:{{records}}:{table[1]}") == b":1\r\n"
            assert await redis_server.command("ZCARD", "gateway:{records}:ends") == b":0\r\n"

    async def test_every_key_has_the_prefix_of_the_gateway(self, redis_server, clock):
        async with state_at(redis_server.url, clock) as state:
            await state.put("secret", "s1", b"1", until=SOON)
            await state.claim_once("github", "jti-1", SOON)
        assert await redis_server.command("DBSIZE") == b":5\r\n"
        listed = await redis_server.command("EVAL", "return #redis.call('KEYS', 'gateway:*')", "0")
        assert listed == b":5\r\n"

    async def test_without_its_index_the_whole_table_is_told(self, redis_server, clock):
        async with state_at(redis_server.url, clock) as state:
            await state.put("secret", "s1", b"1")
            since = (await state.changes(0)).version
            await state.put("secret", "s2", b"1")
            await redis_server.command("HDEL", "gateway:{records}:values", name_of("secret", "s2", None))
            found = await state.changes(since)
            assert (found.whole, [one.key for one in found.records]) == (True, ["s1"])


class TestConnections:
    async def test_a_unix_socket_does_as_well(self, redis_server, clock):
        async with state_at(redis_server.socket_url, clock) as state, state_at(redis_server.url, clock) as other:
            assert await state.claim_once("github", "jti-1", SOON)
            assert not await other.claim_once("github", "jti-1", SOON)

    async def test_databases_of_one_server_are_apart(self, redis_server, clock):
        async with (
            state_at(redis_server.url, clock) as state,
            state_at(redis_server.url.removesuffix("/0") + "/15", clock) as other,
        ):
            assert await state.claim_once("github", "jti-1", SOON)
            assert await other.claim_once("github", "jti-1", SOON)

    async def test_a_database_that_is_not_there_is_an_outage(self, redis_server, clock):
        async with state_at(redis_server.url.removesuffix("/0") + "/99", clock) as state:
            await mistake_of(state.changes(0))

    async def test_a_password_opens_and_is_never_told(self, tmp_path, clock, caplog):
        caplog.set_level(logging.DEBUG)
        server = RedisServer(tmp_path, "--requirepass", PASSWORD)
        await server.start()
        host = server.url.removeprefix("redis://")
        try:
            async with (
                state_at(f"redis://:{ENCODED}@{host}", clock) as state,
                state_at(f"redis://default:{ENCODED}@{host}", clock) as named,
                state_at(f"redis://:{ENCODED}x@{host}", clock) as wrong,
                state_at(f"redis://{host}", clock) as without,
            ):
                assert await state.claim_once("github", "jti-1", SOON)
                assert not await named.claim_once("github", "jti-1", SOON)
                told = [repr(state), repr(wrong), repr(vars(state)["_address"]), str(vars(state)["_address"])]
                for one in (wrong, without):
                    error = await mistake_of(one.claim_once("github", "jti-1", SOON))
                    told += [str(error), *traceback.format_exception(error)]
                assert "Authentication" in "".join(told)
                assert "hunter2" not in "".join(told) + caplog.text
        finally:
            await server.kill()

    @pytest.mark.parametrize("code", [b"ERR", b"WRONGPASS", b"LOADING", b"NOAUTH"])
    async def test_a_server_that_repeats_the_password_is_not_quoted(self, clock, caplog, code):
        caplog.set_level(logging.DEBUG)
        echo = b"-" + code + b" unknown command 'AUTH', with args beginning with: 'default' 'hunter2'\r\n"
        async with server_that_says(echo) as address, state_at(f"redis://u:hunter2@{address}", clock) as state:
            error = await mistake_of(state.changes(0))
            assert "hunter2" not in "".join(traceback.format_exception(error)) + caplog.text

    async def test_tls_is_for_those_that_the_ca_vouches_for(self, tmp_path, clock):
        ca, stranger = trustme.CA(), trustme.CA()
        certificate = ca.issue_cert("127.0.0.1")
        certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
        ca.cert_pem.write_to_path(tmp_path / "ca.pem")
        stranger.cert_pem.write_to_path(tmp_path / "stranger.pem")
        server = RedisServer(
            tmp_path,
            "--tls-cert-file", str(tmp_path / "cert.pem"), "--tls-key-file", str(tmp_path / "key.pem"),
            "--tls-ca-cert-file", str(tmp_path / "ca.pem"), "--tls-auth-clients", "no",
            tls=True,
        )  # fmt: skip
        await server.start()
        slow = {"connect_seconds": 10, "command_seconds": 10}
        try:
            async with (
                state_at(f"{server.url}?ca={tmp_path}/ca.pem", clock, **slow) as state,
                state_at(f"{server.url}?ca={tmp_path}/stranger.pem", clock, **slow) as deceived,
                state_at(server.url, clock, **slow) as unknown,
                state_at(server.url.replace("rediss:", "redis:"), clock, **slow) as plain,
                state_at(
                    f"{server.url.replace('127.0.0.1', 'localhost')}?ca={tmp_path}/ca.pem", clock, **slow
                ) as named,
            ):
                assert await state.claim_once("github", "jti-1", SOON)
                for one in (deceived, unknown, named):
                    assert "certificate verify failed" in str(await mistake_of(one.changes(0))).lower().replace(
                        "_", " "
                    )
                await mistake_of(plain.changes(0))
        finally:
            await server.kill()

    def test_a_ca_of_ones_own_takes_the_place_of_the_systems(self, tmp_path):
        trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
        assert len(_tls_context(str(tmp_path / "ca.pem")).get_ca_certs()) == 1

    def test_a_file_of_cas_that_is_none_is_told_at_once(self, tmp_path, clock):
        (tmp_path / "no.pem").write_text("x")
        for name in ("no.pem", "absent.pem"):
            with pytest.raises(OSError, match=name):
                RedisState(RedisAddress.of(f"rediss://r.example/0?ca={tmp_path}/{name}"), clock)


class TestAddress:
    @pytest.mark.parametrize(
        ("url", "address"),
        [
            ("redis://r.example", RedisAddress("r.example")),
            ("redis://R.example:7000/12", RedisAddress("r.example", 7000, database=12)),
            ("redis://[::1]/", RedisAddress("::1")),
            (f"redis://:{ENCODED}@r.example", RedisAddress("r.example", password=PASSWORD)),
            ("redis://us%40er:pw@r.example", RedisAddress("r.example", user="us@er", password="pw")),
            ("rediss://r.example", RedisAddress("r.example", tls=True)),
            ("rediss://r.example?ca=/etc/ca.pem", RedisAddress("r.example", tls=True, ca_file="/etc/ca.pem")),
            ("redis+unix:///run/r.sock", RedisAddress(socket="/run/r.sock")),
            ("redis+unix://:pw@/run/r.sock?db=3", RedisAddress(socket="/run/r.sock", database=3, password="pw")),
        ],
    )
    def test_what_a_url_says(self, url, address):
        assert RedisAddress.of(url) == address

    @pytest.mark.parametrize(
        "url",
        [
            "redis://", "redis:///0", "redis://:6379", "redis://hunter2@r.example", "redis://:@r.example",
            "redis://r.example:x", "redis://r.example:70000", "redis://:hun/ter2@r.example", "redis://:hun?ter2@r.example",
            "redis://:hun#ter2@r.example", "redis://r.example/x", "redis://r.example/-1", "redis://r.example/0/1",
            "redis://r.example/1_0", "redis://r.example/99999", "redis://r.example?ca=/x", "rediss://r.example?ca=x",
            "rediss://r.example?verify=no", "rediss://r.example?ca=/a&ca=/b", "redis://r.example#", "redis://r.example?",
            "redis://[::1", "redis://r.exa mple", "redis://:hünter2@r.example", "redis://:hun\tter2@r.example",
            "redis+unix://", "redis+unix://r.example/run/r.sock", "redis+unix:///run/r.sock?db=x",
            "redis+unix:///run/r.sock?x=1", "redis:r.example", "redis:/r.example",
        ],
    )  # fmt: skip
    def test_what_is_no_url_is_refused_without_being_repeated(self, url):
        with pytest.raises(ValueError) as caught:
            RedisAddress.of(url)
        told = "".join(traceback.format_exception(caught.value)).replace(Path(__file__).read_text(), "")
        assert "ter2" not in str(caught.value)
        assert "hunter2" not in told.split("ValueError:")[-1]
        assert caught.value.__cause__ is None

    @given(st.text(min_size=1, max_size=40))
    def test_any_text_after_the_scheme_is_an_address_or_a_value_error(self, text):
        for scheme in ("redis", "rediss", "redis+unix"):
            try:
                address = RedisAddress.of(f"{scheme}://{text}")
            except ValueError:
                continue
            assert address.host or address.socket
            assert RedisAddress.of(str(address)).port == address.port or address.socket

    def test_the_password_is_in_no_repr(self, clock):
        address = RedisAddress.of(f"redis://u:{ENCODED}@r.example")
        assert PASSWORD not in repr(address) + str(address) + repr(RedisState(address, clock))
