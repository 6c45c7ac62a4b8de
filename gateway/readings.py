"""What a scrape is told of the rooms, read at that moment. Issuers are called by their names in the policies."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from gateway.audit.log import AuditLog
from gateway.clock import SteadyClock
from gateway.identity.issuer_keys import IssuerKeys
from gateway.identity.trust import TrustStore
from gateway.metrics import Reading
from gateway.model import Clock
from gateway.policy.store import PolicyStore
from gateway.shadow import Shadow
from gateway.state.mirror import Mirror
from gateway.state.quotas import Quotas
from gateway.tokens.key_rotation import KeyRotation
from gateway.tokens.key_schedule import KEY_STATES
from gateway.tokens.revocation import Revocations
from gateway.tokens.signing_keys import SigningKeys


class Tls(Protocol):
    """What there is to tell of TLS, where the gateway ends it."""

    failures: int

    @property
    def ends_at(self) -> float:
        """When the first certificate of the chain expires, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """The parts of a running gateway that have something to tell."""

    trust: TrustStore
    policies: PolicyStore
    signing_keys: SigningKeys
    key_rotation: KeyRotation
    audit: AuditLog
    revocations: Revocations
    mirror: Mirror
    quotas: Quotas
    clock: Clock
    shadow: Shadow | None = None
    tls: Tls | None = None

    def readings(self) -> Iterator[Reading]:
        """Every metric that is read rather than counted on the way."""
        now = self.clock()
        yield from self._of_issuers(now)
        yield from self._of_policies(now)
        yield from self._of_shadow(now)
        yield from self._of_state(now)
        yield from self._of_signing_keys(now)
        yield _one("gateway_audit_records", "Audit records written.", "counter", self.audit.written)
        yield _one("gateway_audit_failures", "Audit records that a sink refused.", "counter", self.audit.failed)
        yield from self._of_tls()
        steps = self.clock.steps_back if isinstance(self.clock, SteadyClock) else 0
        yield _one("gateway_clock_steps_back", "Times that the wall clock ran back and was held.", "counter", steps)

    def _of_signing_keys(self, now: float) -> Iterator[Reading]:
        seen = self.signing_keys.schedule()
        key = seen.signers().get(self.signing_keys.algorithm)
        yield _one(
            "gateway_signing_key_age_seconds",
            "Seconds since the key that signs was made.",
            "gauge",
            now - key.created_at if key else None,
        )
        keys = Counter((one.row.algorithm, one.state) for one in seen.standings)
        algorithms = sorted({one.row.algorithm for one in seen.standings})
        yield Reading(
            "gateway_signing_keys",
            "Signing keys by state. The row of one that is gone or revoked stays for a while.",
            "gauge",
            ("algorithm", "state"),
            [((name, state), keys[name, state]) for name in algorithms for state in KEY_STATES],
        )
        next_step_at = self.key_rotation.next_step_at()
        yield _one(
            "gateway_signing_key_next_step_seconds",
            "Seconds until a signing key is made, takes over or goes; negative while that is overdue, absent while "
            "nothing is planned.",
            "gauge",
            next_step_at - now if math.isfinite(next_step_at) else None,
        )
        yield _one(
            "gateway_key_store_failures",
            "Times that the store of the signing keys could not be read or changed.",
            "counter",
            self.key_rotation.failures,
        )

    def _of_tls(self) -> Iterator[Reading]:
        yield _one(
            "gateway_tls_certificate_expiry_timestamp_seconds",
            "When the first certificate of the chain that serves expires, in seconds since 1970; absent without `tls`.",
            "gauge",
            self.tls.ends_at if self.tls is not None else None,
        )
        yield _one(
            "gateway_tls_reload_failures",
            "Changed files of TLS that were refused; those before serve on.",
            "counter",
            self.tls.failures if self.tls is not None else None,
        )

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

        yield _one(
            "gateway_policy_folders_held_back",
            "Folders of policies that stay as they were, because their files as they are now do not load.",
            "gauge",
            len(policies.held_back),
        )

    def _of_shadow(self, now: float) -> Iterator[Reading]:
        policies = self.shadow.policies if self.shadow is not None else None
        loaded = policies if policies is not None and policies.is_loaded else None
        yield _one(
            "gateway_shadow_generation",
            "Number of the policies in the shadow; absent while there are none.",
            "gauge",
            loaded.generation.number if loaded is not None else None,
        )
        yield _one(
            "gateway_shadow_age_seconds",
            "Seconds since they were loaded.",
            "gauge",
            now - (loaded.loaded_at or now) if loaded is not None else None,
        )
        yield _one(
            "gateway_shadow_reload_failures",
            "Policies for the shadow that were refused.",
            "counter",
            policies.failed_reloads if policies is not None else None,
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
