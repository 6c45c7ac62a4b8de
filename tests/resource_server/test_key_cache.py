"""When an API asks the gateway for its keys, and how long it trusts them: promise 2, on the API's side."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import pytest

from gateway.jose.jwks import parse_key_set
from gateway.resource_server import AccessDenied, Verifier
from gateway.resource_server.fetch import FetchError
from gateway.resource_server.key_cache import KeyCache, Pace, in_thread
from gateway.resource_server.key_set import GatewayKeySet, Loaded, metadata_url
from tests.resource_server.minting import ISSUER, JWKS_URI, Mint
from tests.support.time import HandClock

ES256 = frozenset({"ES256"})


def status(verifier: Verifier, token: str) -> int:
    try:
        verifier.verify(token)
    except AccessDenied as denied:
        return denied.status
    return 200


class Later:
    """Background work that is done when the test says so."""

    def __init__(self, *, at_once: bool = False) -> None:
        self.at_once = at_once
        self.work: list[Callable[[], None]] = []

    def __call__(self, work: Callable[[], None]) -> None:
        self.work.append(work)
        if self.at_once:
            self.do()

    def do(self) -> None:
        work, self.work = self.work, []
        for one in work:
            one()


# ------------------------------------------------------------ kept fresh


def test_nothing_is_fetched_before_the_first_token() -> None:
    mint = Mint()
    verifier = mint.verifier()
    assert mint.fetches == []
    assert status(verifier, "no token") == 401
    assert mint.fetches == [], "and not for what cannot be a token of the gateway"
    assert status(verifier, mint.token()) == 200
    assert mint.fetches == [JWKS_URI]


def test_a_thousand_tokens_are_one_fetch() -> None:
    mint = Mint()
    verifier = mint.verifier()
    for _ in range(1000):
        verifier.verify(mint.token())
    assert len(mint.fetches) == 1


@pytest.mark.parametrize(("said", "fresh"), [(None, 300), (300, 300), (0, 60), (10, 60), (3600, 600), (500, 500)])
def test_a_key_set_is_fresh_as_long_as_its_answer_says_within_bounds(said: int | None, fresh: int) -> None:
    """Refreshed at four fifths of it (the jitter of the tests is a half), beside the request."""
    mint, clock, later = Mint(), HandClock(), Later()
    mint.max_age_seconds = said
    verifier = mint.verifier(clock, background=later, pace=Pace(wait_seconds=0))
    status(verifier, mint.token())
    later.do()
    clock.now += fresh * 0.8 - 1
    assert status(verifier, mint.token()) == 200
    assert later.work == []
    clock.now += 1
    assert status(verifier, mint.token()) == 200, "with the keys at hand"
    assert len(later.work) == 1
    later.do()
    assert len(mint.fetches) == 2


def test_a_stale_set_is_asked_for_before_it_is_used() -> None:
    """An API that slept over its night notices that a key was revoked before it accepts the first token."""
    mint, clock = Mint(), HandClock()
    verifier = mint.verifier(clock)
    revoked = mint.token(exp=int(clock()) + 10_000)
    assert status(verifier, revoked) == 200
    old = mint.rotate()
    mint.published.remove(old)
    clock.now += 301
    assert status(verifier, revoked) == 401


def test_a_stale_set_is_waited_for_and_a_fresh_one_is_not() -> None:
    mint, clock, later = Mint(), HandClock(), Later(at_once=True)
    verifier = mint.verifier(clock, background=later)
    status(verifier, mint.token())
    later.at_once = False
    clock.now += 299
    assert verifier._keys.fetch_for(mint.key.kid) is None
    clock.now += 1
    assert verifier._keys.fetch_for(mint.key.kid) is not None
    assert len(later.work) == 1, "the one that was under way already"


def test_a_removed_key_is_refused_as_soon_as_the_set_is_refreshed() -> None:
    mint, clock = Mint(), HandClock()
    verifier = mint.verifier(clock)
    token = mint.token()
    assert status(verifier, token) == 200
    old = mint.rotate()
    mint.published.remove(old)
    clock.now += 250
    status(verifier, token)
    assert status(verifier, token) == 401


def test_the_jitter_keeps_replicas_apart() -> None:
    due = []
    for jitter in (0.0, 0.999):
        mint, clock, later = Mint(), HandClock(), Later()
        verifier = mint.verifier(clock, background=later, jitter=lambda value=jitter: value, pace=Pace(wait_seconds=0))
        status(verifier, mint.token())
        later.do()
        while not later.work:
            clock.now += 1
            status(verifier, mint.token())
        due.append(clock.now - HandClock().now)
    assert due == [210, 270]


# ------------------------------------------------------------ rotation


def test_a_new_key_in_the_set_is_seen_when_its_first_token_comes() -> None:
    mint, clock = Mint(), HandClock()
    verifier = mint.verifier(clock)
    old = mint.token()
    assert status(verifier, old) == 200
    mint.rotate()
    clock.now += 10
    assert status(verifier, mint.token()) == 200
    assert status(verifier, old) == 200
    assert len(mint.fetches) == 2


def test_ten_thousand_unknown_keys_are_two_fetches_in_thirty_seconds() -> None:
    mint, stranger, clock = Mint(), Mint(), HandClock()
    verifier = mint.verifier(clock)
    status(verifier, mint.token())
    unknown = stranger.token()
    fetches = []
    for _ in range(6):
        clock.now += 10
        for _ in range(1000):
            assert status(verifier, unknown) == 401
        fetches.append(len(mint.fetches) - 1)
    assert fetches == [1, 2, 2, 3, 4, 4]
    assert status(verifier, mint.token()) == 200


def test_within_the_cooldown_an_unknown_key_is_refused_at_once() -> None:
    mint, clock = Mint(), HandClock()
    verifier = mint.verifier(clock)
    status(verifier, mint.token())
    mint.rotate()
    clock.now += 9.9
    assert status(verifier, mint.token()) == 401
    assert len(mint.fetches) == 1


def test_an_unknown_key_while_the_gateway_is_away_is_503() -> None:
    """Nobody can say that it is not a new one."""
    mint, clock = Mint(), HandClock()
    verifier = mint.verifier(clock)
    known = mint.token()
    status(verifier, known)
    mint.rotate()
    mint.away = True
    clock.now += 10
    assert status(verifier, mint.token()) == 503
    assert status(verifier, known) == 200


def test_an_unknown_key_whose_fetch_takes_too_long_is_503() -> None:
    mint, clock, later = Mint(), HandClock(), Later(at_once=True)
    verifier = mint.verifier(clock, background=later, pace=Pace(wait_seconds=0))
    status(verifier, mint.token())
    later.at_once = False
    clock.now += 10
    assert status(verifier, Mint().token()) == 503
    later.do()
    assert status(verifier, Mint().token()) == 401


# ------------------------------------------------------------ when the gateway is away


def test_last_good_keys_serve_up_to_their_age_and_then_503() -> None:
    mint, clock = Mint(), HandClock()
    verifier = mint.verifier(clock, pace=Pace(max_age_seconds=3600))
    token = mint.token(exp=int(clock()) + 100_000)
    status(verifier, token)
    mint.away = True
    for _ in range(12):
        clock.now += 300
        assert status(verifier, token) == 200
    clock.now += 1
    with pytest.raises(AccessDenied) as refused:
        verifier.verify(token)
    assert (refused.value.status, refused.value.error) == (503, "temporarily_unavailable")
    assert refused.value.headers["Retry-After"] == "5"
    assert "WWW-Authenticate" not in refused.value.headers
    mint.away = False
    clock.now += 30
    assert status(verifier, token) == 200


def test_failures_are_retried_ever_more_rarely() -> None:
    mint, clock = Mint(), HandClock()
    mint.away = True
    verifier = mint.verifier(clock, jitter=lambda: 1.0)
    attempts = []
    for second in range(120):
        before = len(mint.fetches)
        assert status(verifier, mint.token()) == 503
        attempts += [second] * (len(mint.fetches) - before)
        clock.now += 1
    assert attempts == [0, 1, 3, 7, 15, 31, 61, 91]


def test_in_an_outage_nobody_waits_with_good_keys_at_hand() -> None:
    mint, clock, later = Mint(), HandClock(), Later(at_once=True)
    verifier = mint.verifier(clock, background=later, pace=Pace(wait_seconds=0))
    status(verifier, mint.token())
    mint.away = True
    clock.now += 300
    assert status(verifier, mint.token()) == 200, "after a try that has failed at once"
    later.at_once = False
    clock.now += 100
    assert verifier._keys.fetch_for(mint.key.kid) is None
    assert len(later.work) == 1, "the next try is under way, and not waited for"
    assert status(verifier, mint.token()) == 200


@pytest.mark.parametrize("document", [
    b"", b"<html>", b"[]", b"{}", b'{"keys":[]}', b'{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}', b" " * 200_000,
    b'{"keys":[1.5]}', b'{"keys":{}}',
])  # fmt: skip
def test_a_bad_key_set_keeps_the_last_good_keys(document: bytes) -> None:
    mint, clock = Mint(), HandClock()
    good = mint.fetch

    def fetch(url: str, etag: str | None) -> Any:
        return good(url, etag) if clock() == HandClock().now else type(good(url, etag))(200, document)

    verifier = mint.verifier(clock, fetch=fetch)
    token = mint.token(exp=int(clock()) + 10_000)
    assert status(verifier, token) == 200
    clock.now += 1000
    assert status(verifier, token) == 200


def test_a_mistake_in_a_fetch_of_ones_own_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_url: str, _etag: str | None) -> Any:
        raise ZeroDivisionError

    mint, clock = Mint(), HandClock()
    verifier = mint.verifier(clock, fetch=broken)
    assert status(verifier, mint.token()) == 503
    assert "ZeroDivisionError" in caplog.text


def test_where_no_thread_can_be_had_keys_count_as_not_fetched() -> None:
    def full(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    mint, clock = Mint(), HandClock()
    assert status(mint.verifier(clock, background=full), mint.token()) == 503


def test_a_fetch_whose_thread_was_left_behind_by_a_fork_is_begun_again() -> None:
    mint, clock, lost = Mint(), HandClock(), Later()
    verifier = mint.verifier(clock, background=lost, pace=Pace(wait_seconds=0))
    assert status(verifier, mint.token()) == 503
    clock.now += 61
    assert status(verifier, mint.token()) == 503
    assert len(lost.work) == 2
    lost.do()
    assert status(verifier, mint.token()) == 200


# ------------------------------------------------------------ threads and tasks


class Gate:
    """A key set that comes when it is told to."""

    def __init__(self, mint: Mint) -> None:
        self.mint = mint
        self.loads = 0
        self.open = threading.Event()

    def fetch(self, url: str, etag: str | None) -> Any:
        self.loads += 1
        assert self.open.wait(10)
        return self.mint.fetch(url, etag)


def test_threads_that_need_the_same_keys_share_one_fetch() -> None:
    mint = Mint()
    gate = Gate(mint)
    verifier = mint.verifier(fetch=gate.fetch, background=in_thread)
    with ThreadPoolExecutor(32) as threads:
        answers = [threads.submit(status, verifier, mint.token()) for _ in range(32)]
        gate.open.set()
        assert [answer.result(10) for answer in answers] == [200] * 32
    assert gate.loads == 1


async def test_tasks_share_one_fetch_and_the_loop_goes_on() -> None:
    mint = Mint()
    gate = Gate(mint)
    verifier = mint.verifier(fetch=gate.fetch, background=in_thread)
    waiting = [asyncio.create_task(verifier.verify_async(mint.token())) for _ in range(50)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    gate.open.set()
    async with asyncio.timeout(10):
        assert len(await asyncio.gather(*waiting)) == 50
    assert gate.loads == 1


async def test_a_task_that_gives_up_cancels_the_fetch_for_nobody() -> None:
    mint = Mint()
    gate = Gate(mint)
    verifier = mint.verifier(fetch=gate.fetch, background=in_thread)
    impatient, patient = (asyncio.create_task(verifier.verify_async(mint.token())) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    gate.open.set()
    assert (await patient).client_id == "invoicer"


def test_a_request_waits_for_a_bounded_time() -> None:
    mint = Mint()
    gate = Gate(mint)
    verifier = mint.verifier(fetch=gate.fetch, background=in_thread, pace=Pace(wait_seconds=0.01))
    started = time.monotonic()
    assert status(verifier, mint.token()) == 503
    assert time.monotonic() - started < 5
    gate.open.set()


def test_only_so_many_wait_and_the_others_are_told_to_come_again() -> None:
    mint = Mint()
    gate = Gate(mint)
    verifier = mint.verifier(fetch=gate.fetch, background=in_thread, pace=Pace(most_waiting=2))
    with ThreadPoolExecutor(8) as threads:
        answers = [threads.submit(status, verifier, mint.token()) for _ in range(8)]
        refused = [answer.result(10) for _, answer in zip(range(6), as_completed(answers, 10), strict=False)]
        gate.open.set()
        assert refused == [503] * 6
        assert sorted(answer.result(10) for answer in answers) == [200, 200, *refused]


# ------------------------------------------------------------ where the keys are


def source(mint: Mint, jwks_uri: str | None = None, issuer: str = ISSUER) -> GatewayKeySet:
    return GatewayKeySet(issuer, jwks_uri, algorithms=ES256, fetch=mint.fetch)


def test_at_16_the_metadata_names_the_key_set() -> None:
    mint = Mint()
    assert mint.key.kid in source(mint).load().keys.by_key_id
    assert mint.fetches == [f"{ISSUER}/.well-known/oauth-authorization-server", JWKS_URI]


@pytest.mark.parametrize(
    ("issuer", "url"),
    [
        ("https://sts.example.com", "https://sts.example.com/.well-known/oauth-authorization-server"),
        ("https://sts.example.com/", "https://sts.example.com/.well-known/oauth-authorization-server"),
        ("https://example.com/sts", "https://example.com/.well-known/oauth-authorization-server/sts"),
        ("https://example.com/sts/", "https://example.com/.well-known/oauth-authorization-server/sts"),
        ("https://example.com:8443/a/b", "https://example.com:8443/.well-known/oauth-authorization-server/a/b"),
    ],
)
def test_md_02_md_03_the_well_known_name_stands_between_host_and_path(issuer: str, url: str) -> None:
    assert metadata_url(issuer) == url


@pytest.mark.parametrize(
    "discovery",
    [
        {"issuer": f"{ISSUER}/"}, {"issuer": "https://evil.example"}, {"issuer": None}, {"jwks_uri": None},
        {"jwks_uri": 1}, {"jwks_uri": "https://evil.example/jwks"}, {"jwks_uri": f"{ISSUER}.evil.example/jwks"},
        {"jwks_uri": "http://sts.example.com/jwks"}, {"jwks_uri": "file:///etc/passwd"}, {"extra": 1.5},
    ],
)  # fmt: skip
def test_md_06_metadata_of_somebody_else_leads_nowhere(discovery: dict[str, Any]) -> None:
    mint = Mint()
    mint.discovery = discovery
    with pytest.raises(FetchError):
        source(mint).load()
    assert len(mint.fetches) == 1


def test_a_given_jwks_uri_needs_no_metadata() -> None:
    mint = Mint()
    assert source(mint, JWKS_URI).load().keys
    assert mint.fetches == [JWKS_URI]


def test_an_unchanged_set_is_the_very_same_object() -> None:
    mint = Mint()
    keys = source(mint, JWKS_URI)
    assert keys.load().keys is keys.load().keys


def test_the_cache_takes_what_load_says() -> None:
    """``KeyCache`` by itself: usable, current, and nothing to wait for once it is loaded."""
    mint = Mint()
    keys = parse_key_set(mint.jwks, algorithms=ES256)
    clock = HandClock()
    cache = KeyCache(lambda: Loaded(keys), clock=clock, jitter=lambda: 0.0, background=lambda work: work(), pace=Pace())
    assert cache.usable() is None
    fetch = cache.fetch_for(mint.key.kid)
    assert fetch is not None
    cache.wait(fetch)
    assert cache.usable() is keys
    assert cache.is_current(fetch)
    assert cache.fetch_for(mint.key.kid) is None
