import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.identity.fetcher import FETCH_OUTCOMES, HttpFetcher
from gateway.identity.issuer_keys import IssuerKeys, Pace
from gateway.identity.key_sources import KeyLoader, Loaded, loader_for
from gateway.jose.jwks import KeySet
from gateway.model import KeySource, TrustedIssuer
from tests.support.issuer_server import Handler, IssuerServer, issuer_server
from tests.support.time import HandClock
from tests.support.tokens import SigningIssuer

SIGNER = SigningIssuer("ES256")
NEXT = SigningIssuer("ES256", number=1)
PACE = Pace(wait_seconds=5)


@pytest.fixture
async def server() -> AsyncIterator[IssuerServer]:
    async with issuer_server(SIGNER) as running:
        yield running


@asynccontextmanager
async def kept(
    issuer: TrustedIssuer, clock: HandClock, *, pace: Pace = PACE, loader: KeyLoader | None = None, jitter: float = 0.5
) -> AsyncIterator[IssuerKeys]:
    """The keys of an issuer from start to close."""
    keys = IssuerKeys(
        issuer,
        loader or loader_for(issuer, HttpFetcher(total_seconds=2)),
        clock=clock,
        sleep=clock.sleep,
        jitter=lambda: jitter,
        pace=pace,
    )
    await keys.start()
    try:
        yield keys
    finally:
        await keys.close()


def key_ids(keys: IssuerKeys, clock: HandClock) -> list[str] | None:
    usable = keys.usable(clock())
    return list(usable.by_key_id) if usable is not None else None


# ------------------------------------------------------------ keeping fresh


async def test_keys_are_fetched_in_the_background_by_jwks_uri_and_by_discovery(server: IssuerServer) -> None:
    for discovery in (False, True):
        clock = HandClock()
        async with kept(server.issuer(discovery=discovery), clock) as keys:
            await clock.until_sleeping()
            assert key_ids(keys, clock) == ["ES256-0"]
            assert keys.fetches == {"ok": 1}
            assert keys.health(clock())["state"] == "ok"


@pytest.mark.parametrize(
    ("cache_control", "interval"),
    [
        ("", 300), ("max-age=120", 120), ("max-age=600", 600), ("max-age=3600", 600), ("max-age=5", 60),
        ("max-age=0", 60), ("no-store", 60),
    ],
)  # fmt: skip
async def test_keys_are_fetched_again_before_they_are_stale(
    server: IssuerServer, cache_control: str, interval: int
) -> None:
    server.headers = {"Cache-Control": cache_control}
    for jitter in (0.0, 0.999):
        clock = HandClock()
        async with kept(server.issuer(), clock, jitter=jitter):
            await clock.until_sleeping()
            assert 0.8 * interval <= clock.slept[0] <= interval
            await clock.advance(interval)
    assert server.fetches == 4


async def test_an_unchanged_key_set_stays_the_same_object(server: IssuerServer) -> None:
    """Whatever was verified with it stays verified."""
    clock = HandClock()
    async with kept(server.issuer(), clock) as keys:
        await clock.until_sleeping()
        first = keys.keys
        await clock.advance(300)
        assert keys.keys is first
        assert keys.age_seconds(clock()) == 0
        assert keys.fetches == {"ok": 1, "not_modified": 1}


async def test_the_entity_tag_is_sent_back(server: IssuerServer) -> None:
    tags: list[str | None] = []

    async def tagged(request: web.Request) -> web.Response:
        tags.append(request.headers.get("If-None-Match"))
        if tags[-1] == '"1"':
            return web.Response(status=304)
        return web.json_response(SIGNER.jwks(), headers={"ETag": '"1"'})

    server.instead = tagged
    clock = HandClock()
    async with kept(server.issuer(), clock) as keys:
        await clock.until_sleeping()
        await clock.advance(300)
        assert tags == [None, '"1"']
        assert keys.is_healthy
        assert keys.usable_keys(clock()) == 1


async def test_a_rotation_is_noticed_and_a_removed_key_is_refused_at_once(server: IssuerServer) -> None:
    clock = HandClock()
    async with kept(server.issuer(), clock) as keys:
        await clock.until_sleeping()
        server.jwks = SIGNER.jwks(NEXT.jwk())
        await clock.advance(300)
        assert key_ids(keys, clock) == ["ES256-0", "ES256-1"]
        server.jwks = NEXT.jwks()
        await clock.advance(300)
        assert key_ids(keys, clock) == ["ES256-1"]


# ------------------------------------------------------------ when the issuer fails


def answering(**answer: Any) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(**answer)

    return handler


FAILURES: list[tuple[str, Handler]] = [
    ("status", answering(status=500)),
    ("status", answering(status=404)),
    ("redirect", answering(status=302, headers={"Location": "http://169.254.169.254/"})),
    ("content", answering(text="<html>log in</html>")),
    ("content", answering(text='{"keys":[]}')),
    ("content", answering(text='{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}')),
    ("content", answering(text="")),
    ("too_large", answering(body=b" " * 200_000)),
    ("encoding", answering(body=gzip.compress(b" " * 10_000_000), headers={"Content-Encoding": "gzip"})),
]


@pytest.mark.parametrize(("outcome", "handler"), FAILURES)
async def test_a_failed_fetch_keeps_the_last_good_keys(server: IssuerServer, outcome: str, handler: Handler) -> None:
    clock = HandClock()
    async with kept(server.issuer(), clock) as keys:
        await clock.until_sleeping()
        server.instead = handler
        await clock.advance(300)
        assert key_ids(keys, clock) == ["ES256-0"]
        assert keys.fetches == {"ok": 1, outcome: 1}
        assert keys.health(clock())["state"] == "stale"
        assert keys.last_error is not None
        assert keys.last_error.startswith(outcome)
        server.instead = None
        await clock.advance(60)
        assert keys.is_healthy
        assert keys.last_error is None


@pytest.mark.parametrize(
    "discovery",
    [
        {"issuer": "https://issuer.example/"}, {"issuer": "https://evil.example"}, {"issuer": None}, {"jwks_uri": None},
        {"jwks_uri": 1}, {"jwks_uri": ["https://issuer.example"]}, {"claims": [1.5]},
    ],
)  # fmt: skip
async def test_a_discovery_document_of_somebody_else_is_a_failed_fetch(
    server: IssuerServer, discovery: dict[str, Any]
) -> None:
    """RFC 8414 §3.3, OpenID Connect Discovery §4.3."""
    server.discovery = discovery
    clock = HandClock()
    async with kept(server.issuer(discovery=True), clock) as keys:
        await clock.until_sleeping()
        assert keys.fetches == {"content": 1}
        assert key_ids(keys, clock) is None
        assert server.fetches == 0


@pytest.mark.parametrize(
    ("jwks_uri", "outcome"),
    [("file:///etc/passwd", "url"), ("https://user@issuer.example/", "url"), ("http://[::1", "url"), ("", "url")],
)
async def test_a_discovery_document_cannot_point_anywhere(server: IssuerServer, jwks_uri: str, outcome: str) -> None:
    server.discovery = {"jwks_uri": jwks_uri}
    clock = HandClock()
    async with kept(server.issuer(discovery=True), clock) as keys:
        await clock.until_sleeping()
        assert keys.fetches == {outcome: 1}


async def test_the_bearer_token_goes_to_the_configured_origin_alone(server: IssuerServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    async with issuer_server(SIGNER) as elsewhere:
        source = server.source(
            discovery_url=f"{server.base}/.well-known/openid-configuration", bearer_token_file=str(tmp_path / "token")
        )
        clock = HandClock()
        async with kept(server.issuer(keys=source), clock) as keys:
            await clock.until_sleeping()
            assert server.authorization == ["Bearer secret", "Bearer secret"]
            server.discovery = {"jwks_uri": f"{elsewhere.base}/jwks"}
            await clock.advance(300)
            assert keys.is_healthy
            assert elsewhere.authorization == [None]


async def test_failures_are_retried_soon_and_then_ever_more_rarely(server: IssuerServer) -> None:
    server.down = True
    clock = HandClock()
    async with kept(server.issuer(), clock, jitter=0.999) as keys:
        await clock.until_sleeping()
        for _ in range(8):
            await clock.advance(60)
        assert [round(seconds) for seconds in clock.slept] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
        assert keys.consecutive_failures == 9
        assert keys.health(clock())["state"] == "down"


async def test_the_jitter_spreads_retries_but_never_to_nothing(server: IssuerServer) -> None:
    server.down = True
    clock = HandClock()
    async with kept(server.issuer(), clock, jitter=0.0):
        await clock.until_sleeping()
        assert clock.slept == [0.25]


async def test_last_good_keys_serve_up_to_their_age_and_not_longer(server: IssuerServer) -> None:
    clock = HandClock()
    async with kept(server.issuer(keys=server.source(max_age_seconds=3600)), clock) as keys:
        await clock.until_sleeping()
        server.down = True
        await clock.advance(3600)
        assert key_ids(keys, clock) == ["ES256-0"]
        await clock.advance(1)
        assert key_ids(keys, clock) is None
        assert keys.health(clock())["state"] == "down"
        server.down = False
        await clock.advance(60)
        assert key_ids(keys, clock) == ["ES256-0"]


async def test_an_issuer_that_comes_and_goes_is_neither_forgotten_nor_hammered(server: IssuerServer) -> None:
    clock = HandClock()
    async with kept(server.issuer(), clock) as keys:
        await clock.until_sleeping()
        for _ in range(10):
            server.down = not server.down
            await clock.advance(300)
            assert key_ids(keys, clock) == ["ES256-0"]
        assert sum(keys.fetches.values()) == 11
        assert set(keys.fetches) <= set(FETCH_OUTCOMES)


async def test_a_mistake_of_ours_does_not_end_the_background_work(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        loads = 0

        async def load(self) -> Loaded:
            self.loads += 1
            raise ZeroDivisionError

    loader, clock = Broken(), HandClock()
    issuer = SIGNER.issuer(keys=KeySource(jwks_uri="https://issuer.example/jwks"))
    async with kept(issuer, clock, loader=loader) as keys:
        await clock.until_sleeping()
        await clock.advance(60)
        assert loader.loads == 2
        assert keys.fetches == {"internal": 2}
    assert "ZeroDivisionError" in caplog.text


# ------------------------------------------------------------ when a token asks


class Gate:
    """A source that answers when it is told to."""

    def __init__(self, keys: KeySet) -> None:
        self.keys = keys
        self.loads = 0
        self.open = asyncio.Event()

    async def load(self) -> Loaded:
        self.loads += 1
        await self.open.wait()
        return Loaded(self.keys, changed=self.loads == 1)


async def test_start_waits_for_no_issuer() -> None:
    gate, clock = Gate(SIGNER.key_set), HandClock()
    issuer = SIGNER.issuer(keys=KeySource(jwks_uri="https://issuer.example/jwks"))
    async with asyncio.timeout(1), kept(issuer, clock, loader=gate) as keys:
        assert keys.usable(clock()) is None
        assert keys.health(clock())["state"] == "waiting"


async def test_a_request_joins_the_fetch_under_way_and_gives_up_in_time() -> None:
    gate, clock = Gate(SIGNER.key_set), HandClock()
    issuer = SIGNER.issuer(keys=KeySource(jwks_uri="https://issuer.example/jwks"))
    async with kept(issuer, clock, loader=gate, pace=Pace(wait_seconds=0.01)) as keys:
        assert await keys.renew("ES256-0") is False
        gate.open.set()
        await clock.until_sleeping()
        assert key_ids(keys, clock) == ["ES256-0"]
        assert gate.loads == 1


async def test_ten_thousand_unknown_keys_at_once_are_one_fetch_per_cooldown(server: IssuerServer) -> None:
    clock = HandClock()
    async with kept(server.issuer(), clock) as keys:
        await clock.until_sleeping()
        clock.now += 10
        answers = await asyncio.gather(*(keys.renew(f"unknown-{number}") for number in range(10_000)))
        assert sum(answers) == Pace().most_waiting, "who cannot wait is told to come again"
        assert server.fetches == 2
        await asyncio.gather(*(keys.renew(f"further-{number}") for number in range(10_000)))
        assert server.fetches == 2


async def test_the_cooldown_counts_from_every_attempt(server: IssuerServer) -> None:
    clock = HandClock()
    async with kept(server.issuer(), clock) as keys:
        await clock.until_sleeping()
        clock.now += 9.9
        assert await keys.renew("a") is True  # the background has just asked: the keys at hand are current
        assert keys.fetches == {"ok": 1}
        clock.now += 0.1
        server.instead = answering(status=500)
        assert await keys.renew("a") is False
        assert keys.fetches == {"ok": 1, "status": 1}
        clock.now += 9.9
        assert await keys.renew("a") is False
        assert keys.fetches == {"ok": 1, "status": 1}


async def test_tokens_cause_no_more_than_two_fetches_in_thirty_seconds(server: IssuerServer) -> None:
    clock = HandClock()
    async with kept(server.issuer(), clock) as keys:
        await clock.until_sleeping()
        fetches = []
        for second in range(100, 160, 10):
            clock.now = keys.fetched_at + 10 if second == 100 and keys.fetched_at else clock.now + 10
            await keys.renew(f"unknown-{second}")
            fetches.append(server.fetches)
        assert fetches == [2, 3, 3, 4, 5, 5]


async def test_nothing_is_fetched_again_for_a_key_that_was_just_asked_for(server: IssuerServer) -> None:
    clock = HandClock()
    async with kept(server.issuer(), clock, pace=Pace(wait_seconds=5, budget=100)) as keys:
        await clock.until_sleeping()
        for _ in range(3):
            clock.now += 10
            await keys.renew("unknown")
        assert server.fetches == 2
        clock.now += 10
        await keys.renew("unknown")
        assert server.fetches == 3


async def test_the_memory_of_unknown_keys_is_bounded(server: IssuerServer) -> None:
    clock = HandClock()
    pace = Pace(wait_seconds=5, cooldown_seconds=0, budget=10_000, in_vain_key_ids=10)
    async with kept(server.issuer(), clock, pace=pace) as keys:
        await clock.until_sleeping()
        for number in range(20):
            await keys.renew(f"unknown-{number}")
        assert len(keys._in_vain) == 10


async def test_closing_lets_a_waiting_request_go() -> None:
    gate, clock = Gate(SIGNER.key_set), HandClock()
    issuer = SIGNER.issuer(keys=KeySource(jwks_uri="https://issuer.example/jwks"))
    async with kept(issuer, clock, loader=gate) as keys:
        waiting = asyncio.create_task(keys.renew("ES256-0"))
        await asyncio.sleep(0)
    assert await waiting is False


# ------------------------------------------------------------ files and inline sets


async def test_an_inline_set_is_there_at_once_and_never_ages() -> None:
    clock = HandClock()
    async with kept(SIGNER.issuer(), clock) as keys:
        assert key_ids(keys, clock) == ["ES256-0"]
        clock.now += 10_000_000
        assert key_ids(keys, clock) == ["ES256-0"]
        assert await keys.renew("unknown") is True
        assert clock.slept == []


async def test_an_inline_set_without_a_usable_key_says_so() -> None:
    clock = HandClock()
    async with kept(SIGNER.issuer(keys=KeySource(jwks={"keys": []})), clock) as keys:
        assert keys.usable(clock()) is None
        assert keys.health(clock())["last_error"] == "content: the key set has no usable key"


def write_in_place(path: Path, jwks: Any) -> None:
    path.write_text(json.dumps(jwks))


def write_by_rename(path: Path, jwks: Any) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(jwks))
    fresh.rename(path)


def write_by_symlink_swap(path: Path, jwks: Any) -> None:
    """As the kubelet does with a ConfigMap."""
    folder = path.parent / f"..{len(list(path.parent.iterdir()))}"
    folder.mkdir()
    (folder / path.name).write_text(json.dumps(jwks))
    link = path.parent / "..data_tmp"
    link.symlink_to(folder / path.name)
    link.rename(path)


@pytest.mark.parametrize("write", [write_in_place, write_by_rename, write_by_symlink_swap])
async def test_a_file_is_read_again_when_it_changed(tmp_path: Path, write: Callable[[Path, Any], None]) -> None:
    path, clock = tmp_path / "jwks.json", HandClock()
    write(path, SIGNER.jwks())
    async with kept(SIGNER.issuer(keys=KeySource(jwks_file=str(path))), clock) as keys:
        assert key_ids(keys, clock) == ["ES256-0"]
        first = keys.keys
        await clock.until_sleeping()
        await clock.advance(5)
        assert keys.keys is first
        write(path, SIGNER.jwks(NEXT.jwk()))
        await clock.advance(5)
        assert key_ids(keys, clock) == ["ES256-0", "ES256-1"]


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda path: path.write_text('{"keys":['), lambda path: path.write_text("")]
)
async def test_a_damaged_file_keeps_the_last_good_keys(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    path, clock = tmp_path / "jwks.json", HandClock()
    write_in_place(path, SIGNER.jwks())
    async with kept(SIGNER.issuer(keys=KeySource(jwks_file=str(path))), clock) as keys:
        await clock.until_sleeping()
        damage(path)
        await clock.advance(5)
        assert key_ids(keys, clock) == ["ES256-0"]
        assert not keys.is_healthy
        write_in_place(path, NEXT.jwks())
        await clock.advance(5)
        assert key_ids(keys, clock) == ["ES256-1"]


async def test_a_file_of_any_size_is_not_read_into_memory(tmp_path: Path) -> None:
    path, clock = tmp_path / "jwks.json", HandClock()
    path.write_bytes(b" " * 1_000_000)
    async with kept(SIGNER.issuer(keys=KeySource(jwks_file=str(path))), clock) as keys:
        assert keys.fetches == {"content": 1}


# ------------------------------------------------------------ what operators see


async def test_ignored_keys_are_told_and_a_leaked_private_key_is_an_alarm(
    server: IssuerServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.jwks = SIGNER.jwks(NEXT.jwk(use="enc"), NEXT.jwk(kid="leaked", d="AQAB"))
    clock = HandClock()
    async with kept(server.issuer(), clock) as keys:
        await clock.until_sleeping()
        assert (keys.usable_keys(clock()), keys.ignored_keys) == (1, 2)
        assert keys.health(clock())["ignored_keys"][0] == "ES256-1: its use is not sig"
        assert "which anybody can read" in caplog.text
        assert json.dumps(keys.health(clock()))
