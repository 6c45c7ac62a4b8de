"""The one place where the parts are built and wired, started, reloaded and stopped."""

import asyncio
import contextlib
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from gateway.audit.log import AuditLog
from gateway.callers import Callers
from gateway.clock import SteadyClock
from gateway.exchange import Exchange
from gateway.explanations import Explanations
from gateway.http.admin import admin_application
from gateway.http.admission import Bounds
from gateway.http.client_certificate import ClientCertificateOf, client_certificate
from gateway.http.drain import Drain
from gateway.http.explanations import ExplanationEndpoint
from gateway.http.hold import Hold
from gateway.http.inquiry import InquiryForms
from gateway.http.introspect import IntrospectionEndpoint
from gateway.http.listen import Door, check_parser, open_listener, room_for
from gateway.http.operators import Operators
from gateway.http.public import public_application
from gateway.http.revoke import RevocationEndpoint
from gateway.http.source import from_trusted_proxy, parse_networks, source_address
from gateway.http.tls import RenewedTls, TlsFiles
from gateway.http.token import TokenEndpoint
from gateway.http.verify import VerificationEndpoint
from gateway.http.well_known import WellKnown
from gateway.identifiers import Identifiers
from gateway.identity.clients.authentication import ClientAuthenticator
from gateway.identity.clients.base import ClientAuthenticationParts
from gateway.identity.clients.stored_secrets import LastUse, StoredSecrets
from gateway.identity.fetcher import HttpFetcher
from gateway.identity.presets.common import is_reserved_audience
from gateway.identity.replay import Replay
from gateway.identity.trust import TrustStore
from gateway.inspection import Inspection
from gateway.jose.dpop import PROOF_ALGORITHMS
from gateway.kinds import CLIENT_AUTHENTICATION, PRESETS, STATE_BACKENDS, scheme
from gateway.metrics import ConnectionMeter, ExchangeMeter, InspectionMeter, RoomsCollector, ShadowMeter
from gateway.model import Clock, KeySource, SigningAlgorithm
from gateway.oauth.errors import Refusal
from gateway.oauth.metadata import metadata, token_endpoint
from gateway.policy.documents import DEFAULT_CLIENT_ALGORITHMS
from gateway.policy.generation import Generation
from gateway.policy.problems import Problem, visible
from gateway.policy.store import Outcome, PolicyStore
from gateway.readings import Rooms
from gateway.settings import Settings
from gateway.shadow import Shadow
from gateway.state.mirror import Mirror
from gateway.state.quotas import QuotaRules, Quotas, quotas_for
from gateway.tokens.key_rotation import KeyRotation, Sleep
from gateway.tokens.key_schedule import KEY_STATES, KeyTimings
from gateway.tokens.key_set_document import KeySetDocument
from gateway.tokens.revocation import MAX_AGE_SECONDS, Revocations
from gateway.tokens.signing_key import SigningKey
from gateway.tokens.signing_keys import SigningKeys

log = logging.getLogger("gateway")

ADMIN_CONNECTIONS = 200
"""Prometheus, probes and operators: what the public listener is flooded with takes nothing from them."""
SETTLING_SECONDS = 1.0
"""What whoever renews certificate and key needs to write the second file after the first."""


class Gateway:
    """A whole gateway on two listeners. ``start`` raises what keeps it from serving; ``stop`` loses nothing."""

    def __init__(
        self,
        settings: Settings,
        *,
        insecure_http: bool = False,
        key_sources: Mapping[str, KeySource] | None = None,
        clock: Clock | None = None,
        sleep: Sleep = asyncio.sleep,
        key_timings: KeyTimings | None = None,
    ) -> None:
        """``clock``, ``sleep`` (by which the rotation of keys waits) and ``key_timings`` replace the time itself, and
        timings that the settings would not allow, where a year passes in a moment. Raises ``KeyStoreError`` for a
        secret of the key store that cannot be read.
        """
        self.settings = settings
        self._clock = clock or SteadyClock()
        self.registry = CollectorRegistry()
        self.meter = ExchangeMeter(self.registry)
        self.inspection_meter = InspectionMeter(self.registry)
        self.policies = self._policies_of(settings.policies, insecure_http, key_sources)
        self.shadow: Shadow | None = None
        if settings.policies_shadow is not None:
            in_shadow = self._policies_of(settings.policies_shadow, insecure_http, key_sources)
            self.shadow = Shadow(in_shadow, self.policies, ShadowMeter(self.registry), self._clock)
        self.explanations = Explanations(self.policies, self._clock, capacity=settings.admin.explanations)
        fetcher = HttpFetcher()
        self.trust = TrustStore(fetcher, clock=self._clock)
        self.audit = AuditLog(settings.audit.open_sinks(self._clock))
        self.state = STATE_BACKENDS[scheme(settings.state)](settings.state, self._clock)
        self.mirror = Mirror(self.state, self._clock, asyncio.sleep)
        self._key_timings = key_timings or settings.keys.timings
        self.signing_keys = SigningKeys(self._clock, self._key_timings, settings.keys.algorithm)
        self.key_rotation = KeyRotation(
            settings.keys.open_store(self.mirror),
            self.signing_keys,
            clock=self._clock,
            sleep=sleep,
            timings=self._key_timings,
            algorithms=self._signing_algorithms,
        )
        self.revocations = Revocations(self.mirror, self._clock, without_state=self._revocation_without_state())
        self.quotas = self._quotas()
        self.last_use = LastUse(self.state)
        self.clients = self._client_authenticator()
        self.tls = self._renewed_tls()
        self._reloading_tls = asyncio.Lock()
        self._connection_meter = ConnectionMeter(self.registry)
        self._connections = 0
        self._drain = Drain()
        self._new_identifier = Identifiers()
        self._runners: list[web.BaseRunner] = []
        self.public_address = ""
        self.admin_address = ""

    async def start(self) -> None:
        """Loads policies and keys, opens both listeners.

        Raises ``PolicyProblems`` for policies that do not load, ``KeyStoreError`` for a key store, ``OSError`` for
        files of TLS and ``ListenError`` for an address or a parser that cannot be used. No issuer has to answer: an
        unreachable one refuses its own callers only.
        """
        check_parser()
        if self.tls is not None:
            await asyncio.to_thread(self.tls.load)
        await asyncio.to_thread(self.policies.load)
        _tell_held_back(self.policies.held_back)
        await self.reload_shadow()
        await self.mirror.start()
        await self.key_rotation.start()
        await self.trust.start(self.policies.generation.issuers)
        self.registry.register(RoomsCollector(self._rooms().readings))
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        inspection = self._inspection()
        public = self._public_application(inspection)
        self.public_address = await self._open(public, self._public_door())
        operators = Operators(inspection, allow_loopback=self.settings.admin.allow_loopback)
        api = ExplanationEndpoint(self.explanations, operators).routes()
        admin = admin_application(self.registry, self.readiness, api)
        self.admin_address = await self._open(admin, self._admin_door())

    def warnings(self) -> list[str]:
        """What is dubious about settings and policies, though they serve."""
        found = [str(warning) for warning in self.policies.generation.warnings]
        if scheme(self.settings.keys.store) == "memory":
            found.append("keys.store: the signing keys are lost at exit, and with them every token that they signed")
        if self.settings.audit.key is None:
            found.append("audit.key: nothing signs the audit log: whoever can write its file can write it anew")
        wanted = self.settings.limits.connections
        if self._connections < wanted:
            found.append(
                f"limits.connections: {wanted} are more than this process may have files open for; it takes "
                f"{self._connections} (RLIMIT_NOFILE, ulimit -n)"
            )
        if self.tls is not None and (expired := self.tls.warning()):
            found.append(expired)
        return found

    async def reload(self) -> Outcome:
        """Takes over changed policies, whole or folder by folder, and says what became of it."""
        replaced: list[Generation] = []

        async def accept(generation: Generation) -> None:
            await self.trust.reconfigure(generation.issuers)
            replaced.append(self.policies.generation)

        outcome = await self.policies.reload_if_changed(accept)
        if outcome.result == "failed":
            for problem in outcome.problems:
                log.error("policies refused, generation %d stays in force: %s", outcome.number, problem)
        elif outcome.result == "loaded":
            self.key_rotation.look_soon()  # a resource may want an algorithm that there is no key of yet
            log.info("policies taken over: generation %d", outcome.number)
            _tell_held_back(outcome.held_back)
            for warning in outcome.warnings:
                log.warning("%s", warning)
            await self.explanations.settle(replaced.pop())
        return outcome

    async def reload_tls(self) -> None:
        """Takes over changed files of TLS, whole or not at all, for connections that begin from now on."""
        if self.tls is None:
            return
        async with self._reloading_tls:
            if not await asyncio.to_thread(self.tls.have_changed):
                return
            await asyncio.sleep(SETTLING_SECONDS)
            outcome = await asyncio.to_thread(self.tls.reload)
        if outcome == "failed":
            log.error("files of TLS refused, those before stay in force: %s", self.tls.last_error)
        elif outcome == "loaded":
            log.info("files of TLS taken over")

    async def reload_shadow(self) -> None:
        """Takes over changed policies for the shadow. Whatever is wrong with them is told, and harms nothing else."""
        if self.shadow is None:
            return
        try:
            outcome = await self.shadow.load()
        except Exception:
            log.exception("unexpected error while loading the policies in the shadow")
            return
        if outcome.result == "failed":
            for problem in outcome.problems:
                log.error("policies for the shadow refused: %s", problem)
        elif outcome.result == "loaded":
            log.info("policies for the shadow taken over: generation %d", outcome.number)
            _tell_held_back(outcome.held_back)
            for warning in outcome.warnings:
                log.warning("in the shadow: %s", warning)

    async def stop(self, *, drain: bool = False, hurry: asyncio.Event | None = None) -> None:
        """Stops in order: say so to probes, go on for a while, close the listeners, finish what is in work, write
        what is to be written. ``hurry`` cuts the while short.
        """
        self._drain.draining = True
        if drain:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.shutdown.delay):
                    await (hurry or asyncio.Event()).wait()
        async with contextlib.AsyncExitStack() as last:
            # Whatever fails, all the others are closed as well, in this order from the bottom up.
            for part in (self.state, self.quotas, self.mirror, self.last_use, self.audit):
                last.push_async_callback(part.close)
            for runner in self._runners:
                for site in list(runner.sites):
                    await site.stop()
                await self._drain.until_idle(self.settings.shutdown.grace)
                await runner.cleanup()
            self._runners.clear()
            await self.key_rotation.close()
            await self.clients.close()
            await self.trust.close()

    def readiness(self) -> tuple[bool, Mapping[str, Any]]:
        """Ready with policies and a signing key; one sick issuer or a refused reload is told and no more."""
        now = self._clock()
        policies, key = self.policies, self._signing_key()
        ready = not self._drain.draining and policies.is_loaded and key is not None
        return ready, {
            "draining": self._drain.draining,
            "policies": policies.health(now),
            "policies_shadow": self.shadow.summary() if self.shadow is not None else None,
            "signing_key": {"kid": key.kid, "age_seconds": round(now - key.created_at)} if key else None,
            "signing_keys": self._told_of_keys(now),
            "issuers": {name: keys.health(now) for name, keys in self.trust.keys_by_name().items()},
            "audit": {"failed": self.audit.failed, "last_error": self.audit.last_error},
        }

    def _policies_of(
        self, folder: Path, insecure_http: bool, key_sources: Mapping[str, KeySource] | None
    ) -> PolicyStore:
        return PolicyStore(
            folder,
            presets=PRESETS,
            gateway_issuer=self.settings.issuer,
            insecure_http=insecure_http,
            is_reserved_audience=is_reserved_audience,
            clock=self._clock,
            key_sources=key_sources,
            by_folder=self.settings.isolation == "per_folder",
        )

    def _told_of_keys(self, now: float) -> Mapping[str, Any]:
        states = [standing.state for standing in self.signing_keys.schedule().standings]
        next_step_at = self.key_rotation.next_step_at()
        return {
            **{state: states.count(state) for state in KEY_STATES},
            "next_step_seconds": round(next_step_at - now) if math.isfinite(next_step_at) else None,
            "failures": self.key_rotation.failures,
            "last_error": self.key_rotation.last_error,
        }

    def _revocation_without_state(self) -> Literal["closed", "open"]:
        # What lies in the memory of this process is never away, however the clock jumps.
        return "open" if scheme(self.settings.state) == "memory" else self.settings.revocation.without_state

    def _secrets_are_known(self) -> bool:
        if scheme(self.settings.state) == "memory":
            return True
        age = self.mirror.age_seconds(self._clock())
        return age is not None and age <= MAX_AGE_SECONDS

    def _client_authenticator(self) -> ClientAuthenticator:
        parts = ClientAuthenticationParts(
            issuer=self.settings.issuer,
            token_endpoint=token_endpoint(self.settings.issuer),
            registered=self.policies.registered_client,
            stored_secrets=StoredSecrets(self.mirror).of,
            secrets_are_known=self._secrets_are_known,
            note_use=self.last_use.note,
            trust=self.trust,
            clock=self._clock,
        )
        return ClientAuthenticator([method(parts) for method in CLIENT_AUTHENTICATION])

    def _quotas(self) -> Quotas:
        wanted = self.settings.quotas
        rules = QuotaRules(
            ceiling=wanted.ceiling,
            service_account=wanted.service_account,
            workload=wanted.workload,
            failures_per_source=wanted.failures_per_source,
            without_state=wanted.without_state,
            enabled=wanted.enabled,
        )
        return quotas_for(rules, self.settings.state, self._clock)

    def _rooms(self) -> Rooms:
        return Rooms(
            trust=self.trust,
            policies=self.policies,
            signing_keys=self.signing_keys,
            key_rotation=self.key_rotation,
            audit=self.audit,
            revocations=self.revocations,
            mirror=self.mirror,
            quotas=self.quotas,
            clock=self._clock,
            shadow=self.shadow,
            tls=self.tls,
        )

    def _signing_algorithms(self) -> frozenset[SigningAlgorithm]:
        """What tokens are signed with: the one of the settings, and those that resources ask for."""
        resources = self.policies.generation.resources.values() if self.policies.is_loaded else ()
        wanted = (one.signing_algorithm for one in resources)
        return frozenset({self.settings.keys.algorithm, *(one for one in wanted if one is not None)})

    def _signing_key(self) -> SigningKey | None:
        try:
            return self.signing_keys.current()
        except Refusal:
            return None

    def _inspection(self) -> Inspection:
        replay = Replay(self.state)
        return Inspection(
            issuer=self.settings.issuer,
            callers=Callers(self.clients, self.policies, replay),
            policies=self.policies,
            signing_keys=self.signing_keys,
            revocations=self.revocations,
            replay=replay,
            quotas=self.quotas,
            audit=self.audit,
            meter=self.inspection_meter,
            count_quota_exceeded=self.meter.count_quota_exceeded,
            clock=self._clock,
        )

    def _public_application(self, inspection: Inspection) -> web.Application:
        replay = Replay(self.state)
        hold = Hold(asyncio.sleep, lambda: self._drain.draining)
        source = source_address(self.settings.trusted_proxies)
        certificate_of = self._client_certificate_of()
        exchange = Exchange(
            issuer=self.settings.issuer,
            trust=self.trust,
            policies=self.policies,
            callers=Callers(self.clients, self.policies, replay),
            replay=replay,
            quotas=self.quotas,
            signing_keys=self.signing_keys,
            revocations=self.revocations,
            audit=self.audit,
            explanations=self.explanations,
            meter=self.meter,
            clock=self._clock,
            new_token_id=self._new_identifier,
            audit_claims=self.settings.audit.claims,
            shadow=self.shadow,
        )
        token = TokenEndpoint(
            exchange,
            self.meter,
            source_address=source,
            client_certificate=certificate_of,
            new_request_id=self._new_identifier,
            hold=hold,
            max_in_flight=self.settings.limits.in_flight,
            body_seconds=self.settings.limits.body_time,
        )
        forms = InquiryForms(
            inspection,
            self.inspection_meter,
            source_address=source,
            client_certificate=certificate_of,
            new_request_id=self._new_identifier,
            hold=hold,
            max_in_flight=self.settings.limits.in_flight,
            body_seconds=self.settings.limits.body_time,
        )
        verification = VerificationEndpoint(
            inspection,
            from_trusted_proxy=from_trusted_proxy(self.settings.trusted_proxies),
            client_certificate=certificate_of,
            new_request_id=self._new_identifier,
        )
        key_set = KeySetDocument(self.signing_keys, self._key_timings.cache_for_seconds)
        well_known = WellKnown(self._metadata, lambda: self.policies.generation.number, key_set)
        return public_application(
            self.settings.issuer,
            token,
            IntrospectionEndpoint(inspection, forms),
            RevocationEndpoint(inspection, forms),
            verification,
            well_known,
            self._drain,
            self._new_identifier,
        )

    def _metadata(self) -> dict[str, Any]:
        scopes = (scope for one in self.policies.generation.resources.values() for scope in one.scopes)
        return metadata(
            self.settings.issuer,
            scopes,
            authentication_methods=(method.name for method in CLIENT_AUTHENTICATION),
            assertion_algorithms=DEFAULT_CLIENT_ALGORITHMS,
            proof_algorithms=PROOF_ALGORITHMS,
            signing_algorithm=self.settings.keys.algorithm,
            client_certificates=self._client_certificates_arrive(),
        )

    def _client_certificates_arrive(self) -> bool:
        """Whether the listener asks for client certificates, or a proxy hands them on."""
        tls = self.settings.tls
        asks = tls is not None and (tls.client_ca is not None or tls.client_certificates is not None)
        return asks or self.settings.client_certificates is not None

    def _client_certificate_of(self) -> ClientCertificateOf:
        handed_on = self.settings.client_certificates
        if handed_on is None:
            return client_certificate()
        return client_certificate(
            handed_on.proxies, handed_on.header, chain_verified_by_proxy=handed_on.chain_verified_by_proxy
        )

    async def _open(self, application: web.Application, door: Door) -> str:
        opened = await open_listener(application, door, self._connection_meter)
        self._runners += opened.runners
        return opened.address

    def _public_door(self) -> Door:
        handed_on = self.settings.client_certificates
        proxies = [*self.settings.trusted_proxies, *(handed_on.proxies if handed_on is not None else ())]
        self._connections = room_for(self.settings.limits.connections)
        return Door(
            "public",
            self.settings.listen,
            "listen",
            self._bounds(self._connections, self.settings.limits.connections_per_address),
            proxies=parse_networks(proxies),
            tls=self.tls.context if self.tls is not None else None,
        )

    def _admin_door(self) -> Door:
        bounds = self._bounds(ADMIN_CONNECTIONS, ADMIN_CONNECTIONS)
        return Door("admin", self.settings.admin.listen, "admin.listen", bounds)

    def _bounds(self, connections: int, connections_per_address: int) -> Bounds:
        limits = self.settings.limits
        return Bounds(
            connections=connections,
            connections_per_address=connections_per_address,
            requests_per_connection=limits.requests_per_connection,
            head_seconds=limits.head_time,
            answer_seconds=limits.answer_time,
            idle_seconds=limits.idle_time,
        )

    def _renewed_tls(self) -> RenewedTls | None:
        tls = self.settings.tls
        if tls is None:
            return None
        files = TlsFiles(tls.certificate, tls.key, tls.client_ca, tls.client_certificates)
        return RenewedTls(files, self._clock)


def _tell_held_back(held_back: Mapping[str, Sequence[Problem]]) -> None:
    for folder, problems in held_back.items():
        for problem in problems:
            log.error("policies in %s held back, they stay as they were: %s", visible(folder), problem)
