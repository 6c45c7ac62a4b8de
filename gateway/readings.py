"""What a scrape is told of the rooms, read at that moment. Issuers are called by their names in the policies."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gateway.audit.log import AuditLog
from gateway.clock import SteadyClock
from gateway.identity.issuer_keys import IssuerKeys
from gateway.identity.trust import TrustStore
from gateway.metrics import Reading
from gateway.model import Clock
from gateway.policy.store import PolicyStore
from gateway.state.mirror import Mirror
from gateway.state.quotas import Quotas
from gateway.tokens.revocation import Revocations
from gateway.tokens.signing_key import SigningKey


@dataclass(frozen=True, slots=True)
class Rooms:
    """The parts of a running gateway that have something to tell."""

    trust: TrustStore
    policies: PolicyStore
    signing_key: Callable[[], SigningKey | None]
    audit: AuditLog
    revocations: Revocations
    mirror: Mirror
    quotas: Quotas
    clock: Clock

    def readings(self) -> Iterator[Reading]:
        """Every metric that is read rather than counted on the way."""
        now = self.clock()
        yield from self._of_issuers(now)
        yield from self._of_policies(now)
        yield from self._of_state(now)
        key = self.signing_key()
        yield _one(
            "gateway_signing_key_age_seconds",
            "Seconds since the key that signs was made.",
            "gauge",
            now - key.created_at if key else None,
        )
        yield _one("gateway_audit_records", "Audit records written.", "counter", self.audit.written)
        yield _one("gateway_audit_failures", "Audit records that a sink refused.", "counter", self.audit.failed)
        steps = self.clock.steps_back if isinstance(self.clock, SteadyClock) else 0
        yield _one("gateway_clock_steps_back", "Times that the wall clock ran back and was held.", "counter", steps)

    def _of_issuers(self, now: float) -> Iterator[Reading]:
        issuers = self.trust.keys_by_name()

        def per_issuer(name: str, text: str, read: Callable[[IssuerKeys], float | None]) -> Reading:
            values = [((issuer,), read(keys)) for issuer, keys in issuers.items()]
            return Reading(name, text, "gauge", ("issuer",), [(labels, v) for labels, v in values if v is not None])

        yield per_issuer(
            "gateway_issuer_key_age_seconds",
            "Seconds since the issuer's key set was last fetched or read.",
            lambda keys: keys.age_seconds(now),
        )
        yield per_issuer("gateway_issuer_keys", "Usable keys of the issuer.", lambda keys: keys.usable_keys(now))
        yield per_issuer(
            "gateway_issuer_ignored_keys",
            "Keys in the issuer's set that are not used: weak, symmetric, private, of another use.",
            lambda keys: keys.ignored_keys,
        )
        yield Reading(
            "gateway_issuer_key_fetches",
            "Fetches of issuers' key sets, by outcome.",
            "counter",
            ("issuer", "outcome"),
            [((name, outcome), n) for name, keys in issuers.items() for outcome, n in keys.fetches.items()],
        )
        yield Reading(
            "gateway_issuer_unaccounted_claims",
            "Claims in verified tokens that the issuer's preset does not know: its platform has changed.",
            "counter",
            ("issuer",),
            [((name,), n) for name, n in self.trust.unaccounted_claims().items()],
        )

    def _of_policies(self, now: float) -> Iterator[Reading]:
        policies = self.policies
        yield _one("gateway_policy_generation", "Number of the policies in force.", "gauge", policies.generation.number)
        yield _one(
            "gateway_policy_age_seconds", "Seconds since they were loaded.", "gauge", now - (policies.loaded_at or now)
        )
        yield _one(
            "gateway_policy_reload_failures",
            "Changed policies that were refused; the ones before serve on.",
            "counter",
            policies.failed_reloads,
        )

    def _of_state(self, now: float) -> Iterator[Reading]:
        yield _one("gateway_revocations", "Revocations in force.", "gauge", self.revocations.active())
        yield _one(
            "gateway_state_age_seconds",
            "Seconds since the shared state was last read; absent while it never was.",
            "gauge",
            self.mirror.age_seconds(now),
        )
        yield _one(
            "gateway_quotas_degraded",
            "1 while replicas should count quotas together and do not, because Redis is away.",
            "gauge",
            float(self.quotas.degraded),
        )


def _one(name: str, text: str, kind: str, value: float | None) -> Reading:
    return Reading(name, text, kind, (), [((), value)] if value is not None else [])
