"""Quotas: how many requests a service account, a workload and everybody together may make, and how many failures.

Three are spent by ``Quotas.spend``, after authentication and decision: of everybody together (``global``), of one
service account, of one workload. Only who may act as a service account can spend its quota: a stranger who sends its
name, or a workload's forged token, takes nothing away from it. A request that one quota refuses spends no other, and a
refused request is not counted: to ask again does not make the wait longer. What is refused later on, as a token that
was used before, gives back what it took (``Quotas.give_back``): what a stranger has seen of a token that works once is
no way to lock its owner out.

What comes before authentication is bounded by the fourth, the failures of one source network, which is asked before
any work is done (``Quotas.check_source``). It, and the quota of everybody together, are counted in each process alone:
they protect the process. The other two are counted by all replicas together where the state is Redis; with any other
state, and while Redis is away (``without_state``), by each process alone.
"""

import hashlib
import socket
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from gateway.model import Clock
from gateway.state.base import StateUnavailableError
from gateway.state.quota_counters import Counter, LocalCounters, QuotaName, RedisCounters, Spent
from gateway.state.redis import RedisAddress

QUOTA_NAMES: tuple[str, ...] = get_args(QuotaName)
"""Every name that ``QuotaExceeded.quota`` can have: the values of the metric's label."""

WithoutState = Literal["local", "refuse", "allow"]

_KEPT_COUNTERS = 100_000
_KEPT_SOURCES = 50_000
_KEPT_FAILURES = 10_000
_REPEATED_WITHIN_SECONDS = 5.0
_ROUNDING_SECONDS = 0.005
"""Redis tells times in whole milliseconds."""

_IPV4_WITHIN_IPV6 = (
    bytes(10) + b"\xff\xff",  # RFC 4291 §2.5.5.2: how a socket for both shows an IPv4 peer
    bytes.fromhex("0064ff9b") + bytes(8),  # RFC 6052 §2.1: how a translator shows one
)


class Rate(Protocol):
    """So many requests in so many seconds."""

    @property
    def requests(self) -> int:
        """How many."""

    @property
    def period_seconds(self) -> int:
        """In how long."""


@dataclass(frozen=True, slots=True)
class QuotaRules:
    """The quotas of a gateway."""

    ceiling: Rate
    """Of everybody together, in each process."""
    service_account: Rate
    """Of a service account whose policy sets none."""
    workload: Rate
    """Of one subject of one issuer; a service account's own limit raises it there, where that is higher."""
    failures_per_source: Rate
    without_state: WithoutState = "local"
    """While Redis is away: count in this process alone, refuse every request, or let every request through."""
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Taken:
    """What one request took, and where: from the counters of this process, and from those of all replicas."""

    here: tuple[Counter, ...] = ()
    shared: tuple[Counter, ...] = ()


class QuotaExceeded(Exception):
    """One request too many. ``quota`` is one of ``QUOTA_NAMES``.

    After ``retry_after_seconds`` (at least 1) the next request passes, unless somebody else spends it first.
    """

    def __init__(self, quota: QuotaName, retry_after_seconds: int) -> None:
        super().__init__(quota, retry_after_seconds)
        self.quota: QuotaName = quota
        self.retry_after_seconds = retry_after_seconds


class Quotas:
    """Counts requests and failures against the rules. Without Redis nothing in it is ever waited for."""

    def __init__(self, rules: QuotaRules, clock: Clock, *, shared: RedisCounters | None = None) -> None:
        self._rules = rules
        self._clock = clock
        self._shared = shared
        self._counters = LocalCounters(clock, capacity=_KEPT_COUNTERS)
        self._source_failures = LocalCounters(clock, capacity=_KEPT_SOURCES)  # so that sources push no workload out
        self._once_failed: OrderedDict[tuple[str, bytes], float] = OrderedDict()
        self._ceiling = _counter("global", rules.ceiling, "all")

    @property
    def degraded(self) -> bool:
        """Whether replicas should count together and do not, for Redis is away."""
        return self._shared is not None and self._shared.away

    def check_source(self, source: str) -> None:
        """Refuses a source whose network has failed too often. To be asked first; takes nothing.

        Raises ``QuotaExceeded``.
        """
        if not len(self._source_failures):
            return
        network = network_of(source)
        if network is not None:
            _refuse(self._source_failures.peek(self._failures_of(network)))

    def count_failure(self, source: str, fingerprint: bytes) -> None:
        """Counts a failed request against its source's network.

        ``fingerprint`` is a digest of the client id and the credential that were presented. The same one again within
        five seconds is taken for the repetition that Go's OAuth client makes by itself, with its other way to
        authenticate, and not counted; a third time is. What has no network (a Unix socket) is not counted.
        """
        network = network_of(source) if self._rules.enabled else None
        if network is not None and not self._is_repetition(network, fingerprint):
            self._source_failures.spend((self._failures_of(network),))

    async def spend(self, *, service_account: str, limit: Rate | None, issuer: str, subject: str) -> Taken:
        """Takes one request from the quotas of a workload, of a service account and of everybody together.

        ``limit`` is the service account's own, where its policy sets one; a workload gets as much there, were its own
        quota lower. ``issuer`` and ``subject`` name the workload, or the gateway itself and the client. To be called
        once both are proven and the decision is yes.

        Raises ``QuotaExceeded``, with nothing taken from any of them; ``StateUnavailableError`` where Redis is away
        and the rules say to refuse then.
        """
        rules = self._rules
        if not rules.enabled:
            return Taken()
        own = (
            _counter("workload", _higher(rules.workload, limit), _digest(issuer, subject)),
            _counter("service_account", limit or rules.service_account, service_account),
        )
        if self._shared is None:
            taken = Taken(here=(*own, self._ceiling))
            _refuse(self._counters.spend(taken.here))
            return taken
        _refuse(self._counters.spend((self._ceiling,)))
        try:
            return await self._spend_shared(self._shared, own)
        except (QuotaExceeded, StateUnavailableError):
            self._counters.give_back(self._ceiling)
            raise

    async def give_back(self, taken: Taken) -> None:
        """Undoes a ``spend`` of a moment ago, whose request got nothing in the end."""
        for counter in taken.here:
            self._counters.give_back(counter)
        if self._shared is not None and taken.shared:
            await self._shared.give_back(taken.shared)

    async def close(self) -> None:
        """Lets go of the connections to Redis."""
        if self._shared is not None:
            await self._shared.close()

    async def _spend_shared(self, shared: RedisCounters, own: tuple[Counter, ...]) -> Taken:
        try:
            _refuse(await shared.spend(own))
        except StateUnavailableError:
            match self._rules.without_state:
                case "local":
                    _refuse(self._counters.spend(own))
                    return Taken(here=(*own, self._ceiling))
                case "allow":
                    return Taken(here=(self._ceiling,))
                case "refuse":
                    raise
        return Taken(here=(self._ceiling,), shared=own)

    def _failures_of(self, network: str) -> Counter:
        rate = self._rules.failures_per_source
        return Counter("source_failures", network, rate.requests, rate.period_seconds)

    def _is_repetition(self, network: str, fingerprint: bytes) -> bool:
        failed, now = self._once_failed, self._clock()
        at = failed.pop((network, fingerprint), None)
        if at is not None and now - at <= _REPEATED_WITHIN_SECONDS:
            return True
        failed[network, fingerprint] = now
        if len(failed) > _KEPT_FAILURES:
            failed.popitem(last=False)
        return False


def quotas_for(rules: QuotaRules, state_url: str, clock: Clock) -> Quotas:
    """Quotas that are counted by replicas together where ``state_url`` names a Redis.

    Raises ``ValueError`` and ``OSError`` as ``RedisAddress.of`` and ``RedisCounters`` do.
    """
    is_redis = state_url.partition(":")[0] in {"redis", "rediss", "redis+unix"}
    return Quotas(rules, clock, shared=RedisCounters(RedisAddress.of(state_url), clock) if is_redis else None)


def network_of(source: str) -> str | None:
    """The network that a source's failures are counted on, or None where ``source`` is no address.

    An IPv4 address stands for itself: its /24 are strangers, often of one cloud. Of an IPv6 address it is the /64,
    which is what one machine can choose its address from (RFC 4291 §2.5.4, RFC 8981).
    """
    address = source.partition("%")[0]
    try:
        if ":" not in address:
            return socket.inet_pton(socket.AF_INET, address).hex()
        packed = socket.inet_pton(socket.AF_INET6, address)
    except (OSError, ValueError):
        return None
    return packed[12:].hex() if packed[:12] in _IPV4_WITHIN_IPV6 else packed[:8].hex()


def _counter(quota: QuotaName, rate: Rate, name: str) -> Counter:
    """The counter of one bearer of a quota, whose name is of the policies, and therefore short.

    Another limit goes on with what was counted; another period begins anew.
    """
    period = rate.period_seconds
    return Counter(quota, f"{quota}/{period}/{name}", rate.requests, period)


def _higher(rate: Rate, other: Rate | None) -> Rate:
    if other is None or other.requests * rate.period_seconds <= rate.requests * other.period_seconds:
        return rate
    return other


def _digest(issuer: str, subject: str) -> str:
    """A name for a workload, whatever a platform lets stand in its subject. The length keeps the two parts apart."""
    text = f"{len(issuer)}:{issuer}{subject}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _refuse(spent: Spent | None) -> None:
    if spent is not None:
        raise QuotaExceeded(spent.counter.quota, int(spent.wait_seconds + _ROUNDING_SECONDS) + 1)
