"""Quotas: what passes, what is refused and for how long, and what becomes of it all while Redis is away."""

import asyncio
import time
from itertools import count

import pytest
import time_machine
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from limits.storage import MemoryStorage

from gateway.policy.documents import RateLimit
from gateway.state.base import StateUnavailableError
from gateway.state.quota_counters import Counter, LocalCounters, RedisCounters
from gateway.state.quotas import QUOTA_NAMES, QuotaExceeded, QuotaRules, Quotas, network_of, quotas_for
from gateway.state.redis import RedisAddress
from tests.support.redis_server import RedisServer
from tests.support.time import HandClock

PLENTY = RateLimit(1_000_000, 60)
BOUND_SECONDS = 0.15 + 0.35
"""What Redis may cost a request, and as much again as a busy machine may add."""


def rules(**changed):
    plenty = dict.fromkeys(("ceiling", "service_account", "workload", "failures_per_source"), PLENTY)
    return QuotaRules(**{**plenty, **changed})


@pytest.fixture
def clock():
    return HandClock()


async def refusal_of(quotas: Quotas, account="backup", *, limit=None, issuer="cluster", subject="pod"):
    """What a request is refused with, or None where it passes."""
    try:
        await quotas.spend(service_account=account, limit=limit, issuer=issuer, subject=subject)
    except QuotaExceeded as refused:
        return refused
    return None


async def passes(quotas: Quotas, account="backup", **request) -> bool:
    return await refusal_of(quotas, account, **request) is None


async def passed_of(tries: int, quotas: Quotas, account="backup", **request) -> int:
    return sum([await passes(quotas, account, **request) for _ in range(tries)])


# ---------------------------------------------------------------- how many pass


@pytest.mark.parametrize(
    ("quota", "changed"),
    [
        ("global", {"ceiling": RateLimit(60, 60)}),
        ("service_account", {"service_account": RateLimit(60, 60)}),
        ("workload", {"workload": RateLimit(60, 60)}),
    ],
)
async def test_as_many_requests_pass_as_the_rate_says_and_not_one_more(clock, quota, changed):
    quotas = Quotas(rules(**changed), clock)
    assert await passed_of(60, quotas) == 60
    refused = await refusal_of(quotas)
    assert refused is not None
    assert (refused.quota, refused.retry_after_seconds) == (quota, 61), "nothing weighs less before the window's end"
    assert refused.quota in QUOTA_NAMES


async def test_the_limit_of_a_service_account_goes_before_the_default(clock):
    quotas = Quotas(rules(service_account=RateLimit(3, 60)), clock)
    assert await passed_of(10, quotas, "slow", limit=RateLimit(2, 60)) == 2
    assert await passed_of(10, quotas, "fast", limit=RateLimit(5, 60)) == 5
    assert await passed_of(10, quotas, "usual") == 3


async def test_a_workload_gets_as_much_as_the_limit_of_its_service_account_allows(clock):
    quotas = Quotas(rules(workload=RateLimit(2, 60)), clock)
    assert await passed_of(10, quotas, "fast", limit=RateLimit(7, 60)) == 7
    assert await passed_of(10, quotas, "usual", subject="other") == 2


async def test_a_changed_limit_goes_on_with_what_was_counted(clock):
    quotas = Quotas(rules(), clock)
    assert await passed_of(5, quotas, limit=RateLimit(5, 60)) == 5
    assert await passed_of(10, quotas, limit=RateLimit(8, 60)) == 3
    assert await passed_of(10, quotas, limit=RateLimit(2, 60)) == 0
    refused = await refusal_of(quotas, limit=RateLimit(2, 60))
    clock.now += refused.retry_after_seconds
    assert await passes(quotas, limit=RateLimit(2, 60)), "Retry-After is true of a limit below what was counted, too"


async def test_a_changed_period_begins_anew(clock):
    quotas = Quotas(rules(), clock)
    assert await passed_of(10, quotas, limit=RateLimit(5, 86400)) == 5
    assert await passed_of(10, quotas, limit=RateLimit(5, 3600)) == 5


async def test_one_service_account_and_one_workload_leave_the_others_alone(clock):
    quotas = Quotas(rules(service_account=RateLimit(2, 60), workload=RateLimit(1, 60)), clock)
    assert await passed_of(5, quotas, "a", subject="pod-1") == 1
    assert await passed_of(5, quotas, "a", subject="pod-2") == 1
    assert await passed_of(5, quotas, "a", subject="pod-3") == 0, "the account is spent"
    assert await passed_of(5, quotas, "b", subject="pod-3") == 1, "and cost the workload nothing"


async def test_a_request_that_one_quota_refuses_spends_no_other(clock):
    quotas = Quotas(rules(ceiling=RateLimit(4, 60), service_account=RateLimit(2, 60), workload=RateLimit(3, 60)), clock)
    assert await passed_of(50, quotas, "a") == 2
    assert await passed_of(50, quotas, "b") == 1, "the workload's third, for all that it asked for"
    assert await passed_of(50, quotas, "b", subject="other") == 1, "everybody's fourth"


async def test_quotas_that_are_switched_off_count_nothing(clock):
    one = RateLimit(1, 60)
    quotas = Quotas(
        rules(ceiling=one, service_account=one, workload=one, failures_per_source=one, enabled=False), clock
    )
    assert await passed_of(50, quotas) == 50
    for n in range(50):
        quotas.count_failure("192.0.2.1", b"%d" % n)
    quotas.check_source("192.0.2.1")


# ---------------------------------------------------------------- for how long


async def test_to_ask_again_does_not_make_the_wait_longer(clock):
    quotas = Quotas(rules(service_account=RateLimit(10, 60)), clock)
    await passed_of(10, quotas)
    first = (await refusal_of(quotas)).retry_after_seconds
    until = clock.now + first
    while clock.now + 0.5 < until:
        refused = await refusal_of(quotas)
        assert refused is None or clock.now + refused.retry_after_seconds <= until + 1
        clock.now += 0.5
    clock.now = until
    assert await passes(quotas)


async def test_of_two_spent_quotas_the_longer_wait_is_told(clock):
    quotas = Quotas(rules(service_account=RateLimit(1, 3600), workload=RateLimit(1, 60)), clock)
    await passes(quotas)
    refused = await refusal_of(quotas)
    assert (refused.quota, refused.retry_after_seconds) == ("service_account", 3601)


limits_and_periods = st.tuples(st.integers(1, 20), st.sampled_from([1, 60, 3600, 86400]))
shares_of_a_period = st.lists(st.floats(0, 2.5) | st.sampled_from([0.0, 0.0, 0.001, 0.5, 1.0, 2.0]), max_size=60)
starts = st.floats(0, 2_000_000_000)


@given(limits_and_periods, shares_of_a_period, starts)
def test_after_retry_after_the_next_request_passes_and_just_before_the_exact_wait_it_does_not(rate, gaps, start):
    clock, (limit, period) = HandClock(start), rate
    counters, counter = LocalCounters(clock, capacity=10), Counter("workload", "w", limit, period)
    for gap in gaps:
        clock.now += gap * period
        counters.spend((counter,))
    while (spent := counters.spend((counter,))) is None:
        pass
    refused_at = clock.now
    assume(spent.wait_seconds > 0.01)
    clock.now = refused_at + spent.wait_seconds - 0.005
    assert counters.spend((counter,)) is not None
    clock.now = refused_at + int(spent.wait_seconds + 0.005) + 1
    assert counters.spend((counter,)) is None


@given(limits_and_periods, shares_of_a_period, starts)
def test_in_any_stretch_of_time_no_more_pass_than_of_a_token_bucket(rate, gaps, start):
    clock, (limit, period) = HandClock(start), rate
    counters, counter, passed = LocalCounters(clock, capacity=10), Counter("workload", "w", limit, period), []
    for gap in gaps:
        clock.now += gap * period / 2
        while counters.spend((counter,)) is None:
            passed.append(clock.now)
    for first, began in enumerate(passed):
        for last in range(first, len(passed)):
            stretch = passed[last] - began
            assert last - first + 1 <= limit + limit * stretch / period + 1 + 1e-6
            if stretch == 0:
                assert last - first + 1 <= limit


def test_retry_after_is_true_of_a_clock_that_was_set_back(clock):
    counters, counter = LocalCounters(clock, capacity=10), Counter("workload", "w", 1, 60)
    for begun in range(2):
        clock.now += 60 * begun
        counters.spend((counter,))
    clock.now -= 5
    spent = counters.spend((counter,))
    clock.now += int(spent.wait_seconds) + 1
    assert counters.spend((counter,)) is None


@given(limits_and_periods, st.lists(st.floats(-1, 1), max_size=60))
def test_a_clock_that_is_set_back_grants_nothing(rate, steps):
    clock, (limit, period) = HandClock(), rate
    counters, counter, passed, latest = LocalCounters(clock, capacity=10), Counter("workload", "w", limit, period), 0, 0
    began = latest = clock.now
    for step in steps:
        clock.now += step * period
        latest = max(latest, clock.now)
        while counters.spend((counter,)) is None:
            passed += 1
    assert passed <= limit + limit * (latest - began) / period + 1


keys = count()
library = MemoryStorage()


@settings(deadline=None)
@given(st.integers(1, 12), st.lists(st.floats(0, 0.99), min_size=1, max_size=60))
def test_it_counts_as_the_library_does(limit, gaps):
    """The library starts windows at multiples of the period, so the first request is at one."""
    clock, period, key = HandClock(1_800_000_000), 60, str(next(keys))
    ours, counter = LocalCounters(clock, capacity=10), Counter("workload", key, limit, period)
    for gap in (0.0, *gaps):
        clock.now = round(clock.now + gap * period, 3)
        with time_machine.travel(clock.now, tick=False):
            theirs = library.acquire_sliding_window_entry(key, limit, period)
        assert (ours.spend((counter,)) is None) == theirs


# ---------------------------------------------------------------- sources and their failures


def fails(quotas: Quotas, source: str, times: int) -> None:
    for n in range(times):
        quotas.count_failure(source, b"credential %d" % n)


def is_refused(quotas: Quotas, source: str) -> bool:
    try:
        quotas.check_source(source)
    except QuotaExceeded as refused:
        return refused.quota == "source_failures"
    return False


def test_a_source_is_refused_after_so_many_failures_and_others_are_not(clock):
    quotas = Quotas(rules(failures_per_source=RateLimit(20, 60)), clock)
    fails(quotas, "192.0.2.1", 19)
    assert not is_refused(quotas, "192.0.2.1")
    fails(quotas, "192.0.2.1", 500)
    assert is_refused(quotas, "192.0.2.1")
    assert not is_refused(quotas, "192.0.2.2")
    assert not is_refused(quotas, "2001:db8::1")


def test_a_refused_source_is_let_in_again_after_retry_after_however_often_it_asked(clock):
    quotas = Quotas(rules(failures_per_source=RateLimit(20, 60)), clock)
    fails(quotas, "192.0.2.1", 20)
    with pytest.raises(QuotaExceeded) as caught:
        quotas.check_source("192.0.2.1")
    until = clock.now + caught.value.retry_after_seconds
    for _ in range(50):
        clock.now += 1
        is_refused(quotas, "192.0.2.1")
        fails(quotas, "192.0.2.1", 3)
    clock.now = until
    assert not is_refused(quotas, "192.0.2.1")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("192.0.2.1", "64:ff9b::192.0.2.1", True),
        ("64:ff9b::192.0.2.1", "64:ff9b::192.0.2.2", False),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", True),
        ("2001:db8:0:1::1", "2001:DB8:0:1::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::1%eth1", True),
        ("::1", "127.0.0.1", False),
    ],
)
def test_failures_are_counted_on_an_ipv4_address_and_on_the_64_of_an_ipv6_address(one, other, same):
    assert network_of(one) is not None
    assert (network_of(one) == network_of(other)) is same


@given(st.text() | st.sampled_from(["unknown", "", "1.2.3", "1.2.3.4.5", "01.2.3.4", "::g", "1.2.3.4\0", ":" * 10_000]))
def test_what_is_no_address_has_no_network_and_breaks_nothing(source):
    network = network_of(source)
    assert network is None or len(network) <= 16


def test_who_has_no_network_is_never_refused_for_it(clock):
    quotas = Quotas(rules(failures_per_source=RateLimit(1, 60)), clock)
    fails(quotas, "unknown", 50)
    fails(quotas, "192.0.2.1", 50)
    assert not is_refused(quotas, "unknown")


def test_the_repetition_of_a_failed_request_with_another_authentication_style_counts_once(clock):
    """Go's x/oauth2 sends a refused request again at once, with the credentials in the body."""
    quotas = Quotas(rules(failures_per_source=RateLimit(3, 60)), clock)
    for secret in (b"first", b"second"):
        quotas.count_failure("192.0.2.1", secret)
        quotas.count_failure("192.0.2.1", secret)
    assert not is_refused(quotas, "192.0.2.1")
    quotas.count_failure("192.0.2.1", b"third")
    assert is_refused(quotas, "192.0.2.1")


def test_the_same_credential_over_and_over_is_not_free(clock):
    quotas = Quotas(rules(failures_per_source=RateLimit(3, 60)), clock)
    for _ in range(6):
        quotas.count_failure("192.0.2.1", b"the same")
    assert is_refused(quotas, "192.0.2.1"), "every second one counts"


def test_the_same_credential_later_is_no_repetition(clock):
    quotas = Quotas(rules(failures_per_source=RateLimit(2, 60)), clock)
    quotas.count_failure("192.0.2.1", b"the same")
    clock.now += 6
    quotas.count_failure("192.0.2.1", b"the same")
    assert is_refused(quotas, "192.0.2.1")


def test_a_credential_that_failed_elsewhere_is_no_repetition(clock):
    quotas = Quotas(rules(failures_per_source=RateLimit(1, 60)), clock)
    quotas.count_failure("192.0.2.1", b"the same")
    quotas.count_failure("192.0.2.2", b"the same")
    assert is_refused(quotas, "192.0.2.2")


# ---------------------------------------------------------------- hostile names, bounded memory

HOSTILE = ["", ":", "a:b", "1:a", "a" * 100_000, "é", "\0", "{x}", "x}/-1", "\ud800", "\n", "a/b", "%s", "*"]


async def test_no_two_workloads_share_a_quota_whatever_they_are_called(clock):
    quotas = Quotas(rules(workload=RateLimit(1, 60)), clock)
    pairs = [(issuer, subject) for issuer in HOSTILE for subject in HOSTILE]
    for issuer, subject in pairs:
        assert await passes(quotas, issuer=issuer, subject=subject), (issuer[:20], subject[:20])
    for issuer, subject in pairs:
        assert not await passes(quotas, issuer=issuer, subject=subject)


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
async def test_the_two_parts_of_a_workloads_name_do_not_run_together(one, other):
    assume(one != other)
    quotas = Quotas(rules(workload=RateLimit(1, 60)), HandClock())
    assert await passes(quotas, issuer=one[0], subject=one[1])
    assert await passes(quotas, issuer=other[0], subject=other[1])


def test_counters_are_bounded_and_the_longest_unused_one_goes_first(clock):
    counters = LocalCounters(clock, capacity=100)
    in_use = Counter("workload", "in use", 1, 86400)
    assert counters.spend((in_use,)) is None
    for n in range(10_000):
        counters.spend((Counter("workload", str(n), 1, 86400),))
        assert counters.spend((in_use,)) is not None, "who is asked about is not forgotten"
        assert len(counters) <= 100


def test_what_a_flood_left_behind_is_cleared_away_by_later_requests(clock):
    counters = LocalCounters(clock, capacity=100_000)
    for n in range(1_000):
        counters.spend((Counter("workload", str(n), 1, 60),))
    clock.now += 120
    for n in range(500):
        counters.spend((Counter("workload", f"later {n}", 1, 60),))
    assert len(counters) == 500


def test_a_look_leaves_no_counter_behind(clock):
    counters = LocalCounters(clock, capacity=10)
    assert counters.peek(Counter("source_failures", "x", 1, 60)) is None
    assert len(counters) == 0


# ---------------------------------------------------------------- replicas, and Redis


@pytest.fixture
def monotonic():
    return HandClock(0)


@pytest.fixture
async def replicas(redis_server, clock, monotonic):
    """Makes gateways' quotas over one Redis."""
    made = []

    def make(**changed) -> Quotas:
        shared = RedisCounters(RedisAddress.of(redis_server.url), clock, monotonic=monotonic)
        made.append(Quotas(rules(**changed), clock, shared=shared))
        return made[-1]

    yield make
    for quotas in made:
        await quotas.close()


async def test_replicas_share_the_quotas_of_service_accounts_and_workloads(replicas):
    for changed in ({"service_account": RateLimit(10, 86400)}, {"workload": RateLimit(10, 86400)}):
        account = next(iter(changed))
        one, other = replicas(**changed), replicas(**changed)
        assert await passed_of(6, one, account, issuer=account) == 6
        assert await passed_of(6, other, account, issuer=account) == 4
        for quotas in (one, other):
            refused = await refusal_of(quotas, account, issuer=account)
            assert refused.quota == account
            assert 86_300 < refused.retry_after_seconds <= 86_402
            assert not quotas.degraded


async def test_the_ceiling_is_each_process_own(replicas):
    one, other = replicas(ceiling=RateLimit(5, 60)), replicas(ceiling=RateLimit(5, 60))
    assert await passed_of(10, one) == 5
    assert await passed_of(10, other) == 5
    assert (await refusal_of(one)).quota == "global"


async def test_a_shared_quota_that_refuses_gives_the_others_back(replicas):
    changed = {"ceiling": RateLimit(4, 86400), "service_account": RateLimit(2, 86400), "workload": RateLimit(3, 86400)}
    quotas = replicas(**changed)
    assert await passed_of(50, quotas, "a") == 2
    assert await passed_of(50, replicas(**changed), "a") == 0
    assert await passed_of(50, quotas, "b") == 1, "the workload's third, for all that it asked for"
    assert await passed_of(50, quotas, "b", subject="other") == 1, "everybody's fourth"


@pytest.mark.parametrize("limit", [1, 2, 7, 60])
@pytest.mark.parametrize("later", [0, 30, 61, 119])
async def test_of_a_shared_quota_too_the_next_request_passes_after_retry_after(
    replicas, redis_server, clock, limit, later
):
    quotas = replicas(service_account=RateLimit(limit, 60))
    assert await passed_of(limit, quotas) == limit
    clock.now += later
    await grow_older(redis_server, later)
    while (refused := await refusal_of(quotas)) is None:
        pass
    clock.now += refused.retry_after_seconds
    await grow_older(redis_server, refused.retry_after_seconds)
    assert await passes(quotas)
    assert not quotas.degraded


async def grow_older(redis_server: RedisServer, seconds: float) -> None:
    """Lets time pass for the counters, which know of it only by how long their keys still live."""
    script = """for _, key in ipairs(redis.call('KEYS', '*')) do
      redis.call('PEXPIRE', key, redis.call('PTTL', key) - ARGV[1]) end"""
    await redis_server.command("EVAL", script, "0", str(seconds * 1000))


async def test_a_flood_over_its_quota_does_not_reach_redis(replicas, redis_server, clock):
    quotas = replicas(service_account=RateLimit(5, 86400))
    await passed_of(6, quotas)
    before = await commands(redis_server)
    assert await passed_of(500, quotas) == 0
    assert await commands(redis_server) - before <= 2, "no more than the question for this number"


async def commands(redis_server: RedisServer) -> int:
    told = (await redis_server.command("INFO", "stats")).decode()
    return int(told.partition("total_commands_processed:")[2].split()[0])


async def test_names_in_redis_are_short_and_printable(replicas, redis_server):
    quotas = replicas()
    for hostile in HOSTILE:
        assert await passes(quotas, issuer=hostile, subject=hostile)
    strange = """local n = 0 for _, key in ipairs(redis.call('KEYS', '*')) do
      if #key > 80 or not key:match('^gateway:quota:{[%w_/]+}$') then n = n + 1 end end return n"""
    assert await redis_server.command("EVAL", strange, "0") == b":0\r\n"
    assert await redis_server.command("DBSIZE") == b":%d\r\n" % (len(HOSTILE) + 1)


async def test_what_is_kept_in_redis_ends_by_itself(replicas, redis_server):
    quotas = replicas(service_account=RateLimit(1, 60))
    await passed_of(3, quotas)
    endless = """local n = 0 for _, key in ipairs(redis.call('KEYS', '*')) do
      if redis.call('TTL', key) < 0 then n = n + 1 end end return n"""
    assert await redis_server.command("EVAL", endless, "0") == b":0\r\n"


async def test_a_redis_that_forgot_the_scripts_is_told_them_again(replicas, redis_server):
    quotas = replicas()
    assert await passes(quotas)
    await redis_server.command("SCRIPT", "FLUSH")
    assert await passes(quotas)
    assert not quotas.degraded


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_while_redis_is_away_each_process_counts_alone_at_once_and_then_together_again(
    replicas, redis_server, clock, monotonic, how
):
    limit = RateLimit(10, 86400)
    one, other = replicas(service_account=limit), replicas(service_account=limit)
    assert await passed_of(10, one) == 10
    assert not await passes(other)
    if how == "killed":
        await redis_server.kill()
    else:
        redis_server.freeze()

    clock.now += 2 * 86400  # what was told to wait is over
    longest = 0.0
    for quotas in (one, other):
        for n in range(20):
            started = time.perf_counter()
            assert await passes(quotas) is (n < 10)
            longest = max(longest, time.perf_counter() - started)
            assert quotas.degraded
    assert longest < BOUND_SECONDS

    started = time.perf_counter()
    await passed_of(1_000, one)
    assert time.perf_counter() - started < BOUND_SECONDS, "nobody waits for what is known to be away"

    if how == "killed":
        await redis_server.start()
    else:
        redis_server.thaw()
    monotonic.now += 1
    for quotas in (one, other):
        assert await passes(quotas, "anew")
        assert not quotas.degraded
    assert await passed_of(10, one, "anew") == 8


async def test_a_redis_whose_every_answer_is_slow_is_not_waited_for(clock):
    async def answer_slowly(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                await asyncio.sleep(0.1)
                writer.write(b"+OK\r\n")
        finally:
            writer.close()

    async with await asyncio.start_server(answer_slowly, "127.0.0.1", 0) as server:
        address = RedisAddress("127.0.0.1", server.sockets[0].getsockname()[1], database=1, password="p")
        quotas = Quotas(rules(), clock, shared=RedisCounters(address, clock))
        started = time.perf_counter()
        assert await passes(quotas)
        assert time.perf_counter() - started < BOUND_SECONDS
        assert quotas.degraded
        await quotas.close()


async def test_answers_that_come_too_late_are_not_taken_for_those_of_later_requests(replicas, redis_server, monotonic):
    quotas = replicas(service_account=RateLimit(1, 86400))
    other = replicas(service_account=RateLimit(1, 86400))
    assert await passes(other, "spent")
    redis_server.freeze()
    for n in range(4):  # few enough that Redis is still asked afterwards
        assert await passes(quotas, f"late {n}")
    redis_server.thaw()
    for n in range(20):
        assert await passes(quotas, f"free {n}")
        assert not await passes(quotas, "spent")
    assert not quotas.degraded


async def test_without_state_refuse_refuses_within_a_bounded_time(replicas, redis_server):
    quotas = replicas(without_state="refuse", ceiling=RateLimit(3, 60))
    await redis_server.kill()
    for _ in range(10):
        started = time.perf_counter()
        with pytest.raises(StateUnavailableError):
            await passes(quotas)
        assert time.perf_counter() - started < BOUND_SECONDS
    await redis_server.start()


async def test_without_state_allow_lets_through_up_to_the_ceiling(replicas, redis_server):
    quotas = replicas(without_state="allow", service_account=RateLimit(1, 60), ceiling=RateLimit(20, 60))
    await redis_server.kill()
    assert await passed_of(50, quotas) == 20


async def test_a_redis_that_cannot_write_is_as_good_as_away(replicas, redis_server):
    quotas = replicas(service_account=RateLimit(3, 60))
    await redis_server.command("CONFIG", "SET", "maxmemory", "1")
    assert await passed_of(10, quotas) == 3
    assert quotas.degraded
    await redis_server.command("CONFIG", "SET", "maxmemory", "0")


async def test_redis_is_asked_where_the_state_is_one_and_nowhere_else(redis_server, clock):
    for url in (redis_server.url, redis_server.socket_url):
        quotas = quotas_for(rules(service_account=RateLimit(2, 86400)), url, clock)
        await passes(quotas)
        await quotas.close()
    assert (await redis_server.command("DBSIZE")).strip() == b":2"
    for url in ("memory://", "sqlite:///tmp/never-opened.db"):
        quotas = quotas_for(rules(service_account=RateLimit(1, 60)), url, clock)
        assert await passed_of(2, quotas) == 1
        assert not quotas.degraded
        await quotas.close()
