"""One token for many threads: fresh, early, and there while refreshing fails."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.client import Denied, Token, TokenCache, Unavailable
from gateway.client.token import refresh_at, useless_from


class Exchange:
    """Hands out numbered tokens, or the errors that it was given."""

    def __init__(self, stopwatch, lifetime_seconds=1000):
        self.stopwatch = stopwatch
        self.lifetime_seconds = lifetime_seconds
        self.faults = []
        self.count = 0

    def __call__(self):
        self.count += 1
        if self.faults:
            raise self.faults.pop(0)
        return Token(f"at.{self.count}", int(self.stopwatch.now) + self.lifetime_seconds, "a")


@pytest.fixture
def issue(stopwatch):
    return Exchange(stopwatch)


@pytest.fixture
def cache(issue, stopwatch):
    return TokenCache(issue, timing=stopwatch.timing, background=lambda work: work())


def test_a_token_is_kept_until_about_80_percent_of_its_life(cache, issue, stopwatch):
    assert cache.get().access_token == "at.1"
    stopwatch.now += 799
    assert cache.get().access_token == "at.1"
    assert issue.count == 1
    stopwatch.now += 2
    cache.get()
    assert cache.get().access_token == "at.2"
    assert issue.count == 2


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.75), (0.5, 0.8), (1.0, 0.85)])
def test_refreshes_are_spread_around_80_percent(chance, share):
    assert refresh_at(Token("at", 2000, "a"), 1000.0, lambda: chance) == pytest.approx(1000 + 1000 * share)


@pytest.mark.parametrize(("lifetime_seconds", "margin"), [(1000, 10), (100, 10), (20, 2)])
def test_a_token_that_would_expire_on_its_way_is_not_handed_out(lifetime_seconds, margin):
    assert useless_from(Token("at", 1000 + lifetime_seconds, "a"), 1000.0) == 1000 + lifetime_seconds - margin


def test_the_old_token_serves_while_the_refresh_fails_and_it_is_good(cache, issue, stopwatch):
    cache.get()
    stopwatch.now += 850
    issue.faults = [Unavailable("down"), Denied(status=400, error="invalid_request")]
    assert cache.get().access_token == "at.1"
    assert isinstance(cache.last_error, Unavailable)
    stopwatch.now += 61
    assert cache.get().access_token == "at.1"
    assert isinstance(cache.last_error, Denied)
    stopwatch.now += 80
    assert cache.get().access_token == "at.4"
    assert cache.last_error is None


def test_a_refresh_that_failed_is_not_repeated_by_every_caller(cache, issue, stopwatch):
    cache.get()
    stopwatch.now += 850
    issue.faults = [Unavailable("down")] * 100
    for _ in range(50):
        cache.get()
    assert issue.count == 2


def test_without_a_good_token_the_error_of_the_exchange_is_raised(cache, issue, stopwatch):
    issue.faults = [Unavailable("down")]
    with pytest.raises(Unavailable, match="down"):
        cache.get()
    assert cache.get().access_token == "at.2"
    issue.faults = [Unavailable("down again")]
    stopwatch.now += 991
    with pytest.raises(Unavailable, match="down again"):
        cache.get()


def test_a_refresh_that_breaks_in_an_unforeseen_way_blocks_nobody(cache, issue, stopwatch):
    cache.get()
    stopwatch.now += 850
    issue.faults = [ZeroDivisionError()]
    with pytest.raises(ZeroDivisionError):
        cache.get()
    assert cache.get().access_token == "at.1"
    stopwatch.now += 61
    cache.get()
    assert cache.get().access_token == "at.3"


def test_many_threads_without_a_token_cause_one_exchange(issue, stopwatch):
    asked, may_answer = threading.Event(), threading.Event()

    def slowly():
        asked.set()
        assert may_answer.wait(10)
        return issue()

    cache = TokenCache(slowly, timing=stopwatch.timing)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(cache.get) for _ in range(8)]
        assert asked.wait(10)
        may_answer.set()
        assert {answer.result(10).access_token for answer in answers} == {"at.1"}
    assert issue.count == 1


def test_callers_that_waited_for_a_failed_exchange_share_its_error(stopwatch):
    calls, asked, may_fail = [], threading.Event(), threading.Event()

    def fail():
        calls.append(1)
        asked.set()
        assert may_fail.wait(10)
        raise Unavailable("down")

    cache = TokenCache(fail, timing=stopwatch.timing)
    others_wait = threading.Barrier(5)

    def get_later():
        others_wait.wait(10)
        return cache.get()

    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(cache.get)
        assert asked.wait(10)
        others = [pool.submit(get_later) for _ in range(4)]
        others_wait.wait(10)
        may_fail.set()
        for answer in (first, *others):
            with pytest.raises(Unavailable):
                answer.result(10)
    # Whoever came before the failure shares it; a thread that was late has asked for itself.
    assert len(calls) <= 5


def test_nobody_waits_for_a_refresh_while_the_token_is_good(issue, stopwatch):
    refreshing, may_finish, finished = threading.Event(), threading.Event(), threading.Event()

    def fetch():
        if issue.count:
            refreshing.set()
            assert may_finish.wait(10)
        return issue()

    def background(work):
        def whole():
            work()
            finished.set()

        threading.Thread(target=whole, daemon=True).start()

    cache = TokenCache(fetch, timing=stopwatch.timing, background=background)
    cache.get()
    stopwatch.now += 850
    assert cache.get().access_token == "at.1"
    assert refreshing.wait(10)
    assert cache.get().access_token == "at.1"
    may_finish.set()
    assert finished.wait(10)
    assert cache.get().access_token == "at.2"
    assert issue.count == 2
