"""Everything that Prometheus is told. Labels come from closed sets: never from what a client chooses.

The hot path counts here; all else is read from the rooms at the moment of a scrape.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway import __version__
from gateway.state.quotas import QUOTA_NAMES

_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)
STAGES = ("identity", "policy", "mint", "audit", "total")
LISTENERS = ("public", "admin")
LIMITS = ("connections", "connections_per_address", "head_time", "head_size", "answer_time")
"""Those that end connections."""


class ExchangeMeter:
    """What the hallway counts. Label children are looked up once and kept, as the lookup costs more than the count."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._exchanges = Counter(
            "gateway_exchanges",
            "Requests at the token endpoint, by grant, issuer (its name in the policies), outcome and reason.",
            ["grant", "issuer", "outcome", "reason"],
            registry=registry,
        )
        seconds = Histogram(
            "gateway_exchange_stage_seconds",
            "Time spent in each room of a granted exchange of a workload token, and (total) in any request.",
            ["stage"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._identity, self._policy, self._mint, self._audit, self.total = (seconds.labels(s) for s in STAGES)
        self.in_flight = Gauge("gateway_requests_in_flight", "Token requests being worked on.", registry=registry)
        self._quota_exceeded = Counter(
            "gateway_quota_exceeded",
            "Requests refused with 429, by the quota that was spent.",
            ["quota"],
            registry=registry,
        )
        for quota in QUOTA_NAMES:  # shown from the start, so that an alert has something to compare with
            self._quota_exceeded.labels(quota)
        self._children: dict[tuple[str, str, str, str], Counter] = {}
        Info("gateway_build", "The version that runs.", registry=registry).info({"version": __version__})

    def count(self, grant: str, issuer: str, outcome: str, reason: str) -> None:
        """Counts one answer."""
        key = (grant, issuer, outcome, reason)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._exchanges.labels(*key)
        child.inc()

    def count_quota_exceeded(self, quota: str) -> None:
        """Counts one request too many."""
        self._quota_exceeded.labels(quota).inc()

    def observe_stages(self, identity_seconds: float, policy_seconds: float, mint_seconds: float) -> None:
        """Adds the times of steps 1 to 4 of one exchange."""
        self._identity.observe(identity_seconds)
        self._policy.observe(policy_seconds)
        self._mint.observe(mint_seconds)

    def observe_record(self, seconds: float) -> None:
        """Adds the time that one record took to become durable."""
        self._audit.observe(seconds)


class InspectionMeter:
    """What the second hallway counts: introspection, revocation, and what proxies ask."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._inspections = Counter(
            "gateway_inspections",
            "Requests at the introspection and the revocation endpoint, by outcome and reason.",
            ["endpoint", "outcome", "reason"],
            registry=registry,
        )
        self._verifications = Counter(
            "gateway_verifications",
            "What proxies were told at /verify (passed or refused), by reason.",
            ["outcome", "reason"],
            registry=registry,
        )
        self._children: dict[tuple[str, ...], Counter] = {}

    def count(self, endpoint: str, outcome: str, reason: str) -> None:
        """Counts one answer of the introspection or the revocation endpoint."""
        self._count(self._inspections, (endpoint, outcome, reason))

    def count_verification(self, outcome: str, reason: str) -> None:
        """Counts one answer to a proxy."""
        self._count(self._verifications, (outcome, reason))

    def _count(self, counter: Counter, labels: tuple[str, ...]) -> None:
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = counter.labels(*labels)
        child.inc()


class ConnectionMeter:
    """What the listeners count. Labels: ``LISTENERS`` and ``LIMITS``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._open = Gauge("gateway_connections", "Open connections, by listener.", ["listener"], registry=registry)
        self._ended = Counter(
            "gateway_connections_ended",
            "Connections that were refused or ended for a limit, by listener and limit.",
            ["listener", "limit"],
            registry=registry,
        )
        for listener in LISTENERS:
            for limit in LIMITS:  # shown from the start, so that an alert has something to compare with
                self._ended.labels(listener, limit)

    def watch(self, listener: str, is_open: Callable[[], int]) -> None:
        """Asks at each scrape how many connections are open."""
        self._open.labels(listener).set_function(is_open)

    def count_ended(self, listener: str, limit: str) -> None:
        """Counts one connection that was refused or ended."""
        self._ended.labels(listener, limit).inc()


class ShadowMeter:
    """What comes of asking the policies in the shadow. Labels: ``gateway.policy.shadow.DIFFERENCES``, reasons."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._decisions = Counter(
            "gateway_shadow_decisions",
            "Decisions that the policies in the shadow were asked for as well: agreed, disagreed or failed.",
            ["outcome"],
            registry=registry,
        )
        self._disagreements = Counter(
            "gateway_shadow_disagreements",
            "Decisions in which the shadow disagrees: in what first, the reason in force, the reason in the shadow.",
            ["difference", "live", "shadow"],
            registry=registry,
        )
        self._outcomes = {outcome: self._decisions.labels(outcome) for outcome in ("agreed", "disagreed", "failed")}

    def count(self, outcome: str) -> None:
        """Counts one decision of the shadow."""
        self._outcomes[outcome].inc()

    def count_disagreement(self, difference: str, live: str, shadow: str) -> None:
        """Counts one disagreement by its kind."""
        self._disagreements.labels(difference, live, shadow).inc()


@dataclass(frozen=True, slots=True)
class Reading:
    """One metric as read from a room: its samples are (label values, value)."""

    name: str
    help: str
    kind: str
    """``gauge`` or ``counter``."""
    labels: tuple[str, ...]
    samples: list[tuple[tuple[str, ...], float]]


class RoomsCollector(Collector):
    """Asks the rooms at each scrape (``read`` is given by ``app``), so that no room knows of Prometheus."""

    def __init__(self, read: Callable[[], Iterable[Reading]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Yields one family per reading."""
        for reading in self._read():
            family: GaugeMetricFamily | CounterMetricFamily
            if reading.kind == "counter":
                family = CounterMetricFamily(reading.name, reading.help, labels=reading.labels)
            else:
                family = GaugeMetricFamily(reading.name, reading.help, labels=reading.labels)
            for values, value in reading.samples:
                family.add_metric(values, value)
            yield family
