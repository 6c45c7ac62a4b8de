"""The one place where the parts are built and wired, started, reloaded and stopped."""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Mapping
from typing import Any, Literal

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from gateway.audit.log import AuditLog
from gateway.callers import Callers
from gateway.clock import SteadyClock
from gateway.exchange import Exchange
from gateway.http.admin import admin_application
from gateway.http.client_certificate import ClientCertificateOf, client_certificate
from gateway.http.drain import Drain
from gateway.http.hold import Hold
from gateway.http.inquiry import InquiryForms
from gateway.http.introspect import IntrospectionEndpoint
from gateway.http.listen import open_listener
from gateway.http.public import public_application
from gateway.http.revoke import RevocationEndpoint
from gateway.http.source import from_trusted_proxy, source_address
from gateway.http.tls import tls_context
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
from gateway.kinds import AUDIT_SINKS, CLIENT_AUTHENTICATION, KEY_STORES, PRESETS, STATE_BACKENDS, scheme
from gateway.metrics import ExchangeMeter, InspectionMeter, RoomsCollector
from gateway.model import Clock, KeySource
from gateway.oauth.metadata import metadata, token_endpoint
from gateway.policy.documents import DEFAULT_CLIENT_ALGORITHMS
from gateway.policy.store import Outcome, PolicyStore
from gateway.readings import Rooms
from gateway.settings import Settings
from gateway.state.mirror import Mirror
from gateway.state.quotas import QuotaRules, Quotas, quotas_for
from gateway.tokens.key_set_document import KeySetDocument
from gateway.tokens.revocation import MAX_AGE_SECONDS, Revocations
from gateway.tokens.signing_key import SigningKey
from gateway.tokens.signing_keys import SigningKeys

log = logging.getLogger("gateway")


class Gateway:
    """A whole gateway on two listeners. ``start`` raises what keeps it from serving; ``stop`` loses nothing."""

    def __init__(
        self,
        settings: Settings,
        *,
        insecure_http: bool = False,
        key_sources: Mapping[str, KeySource] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.settings = settings
        self._clock = clock or SteadyClock()
        self.registry = CollectorRegistry()
        self.meter = ExchangeMeter(self.registry)
        self.inspection_meter = InspectionMeter(self.registry)
        self.policies = PolicyStore(
            settings.policies,
            presets=PRESETS,
            gateway_issuer=settings.issuer,
            insecure_http=insecure_http,
            is_reserved_audience=is_reserved_audience,
            clock=self._clock,
            key_sources=key_sources,
        )
        fetcher = HttpFetcher()
        self.trust = TrustStore(fetcher, clock=self._clock)
        self.signing_keys: SigningKeys | None = None
        self.audit = AuditLog([AUDIT_SINKS[scheme(sink)](sink) for sink in settings.audit.sinks])
        self.state = STATE_BACKENDS[scheme(settings.state)](settings.state, self._clock)
        self.mirror = Mirror(self.state, self._clock, asyncio.sleep)
        self.revocations = Revocations(self.mirror, self._clock, without_state=self._revocation_without_state())
        self.quotas = self._quotas()
        self.last_use = LastUse(self.state)
        self.clients = self._client_authenticator()
        self._drain = Drain()
        self._new_identifier = Identifiers()
        self._runners: list[web.BaseRunner] = []
        self.public_address = ""
        self.admin_address = ""

    async def start(self) -> None:
        """Loads policies and keys, opens both listeners.

        Raises ``PolicyProblems`` for policies that do not load, ``KeyStoreError`` for a key store and ``OSError`` for
        an address that cannot be used. No issuer has to answer: an unreachable one refuses its own callers only.
        """
        await asyncio.to_thread(self.policies.load)
        self.signing_keys = await asyncio.to_thread(self._open_keys)
        await self.mirror.start()
        await self.trust.start(self.policies.generation.issuers)
        self.registry.register(RoomsCollector(self._rooms().readings))
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        public = self._public_application(self.signing_keys)
        self.public_address = await self._open(public, self.settings.listen, self._tls())
        admin = admin_application(self.registry, self.readiness)
        self.admin_address = await self._open(admin, self.settings.admin.listen, None)

    def warnings(self) -> list[str]:
        """What is dubious about settings and policies, though they serve."""
        found = [str(warning) for warning in self.policies.generation.warnings]
        if self.settings.keys.rotate_every is not None:
            found.append("keys.rotate_every: is read, but without effect in this version")
        if scheme(self.settings.keys.store) == "memory":
            found.append("keys.store: the signing keys are lost at exit, and with them every token that they signed")
        return found

    async def reload(self) -> Outcome:
        """Takes over changed policies, whole or not at all, and says what became of it."""
        outcome = await self.policies.reload_if_changed(
            lambda generation: self.trust.reconfigure(generation.issuers),
        )
        if outcome.result == "failed":
            for problem in outcome.problems:
                log.error("policies refused, generation %d stays in force: %s", outcome.number, problem)
        elif outcome.result == "loaded":
            log.info("policies taken over: generation %d", outcome.number)
            for warning in outcome.warnings:
                log.warning("%s", warning)
        return outcome

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
            await self.clients.close()
            await self.trust.close()

    def readiness(self) -> tuple[bool, Mapping[str, Any]]:
        """Ready with policies and a signing key; one sick issuer or a refused reload is told and no more."""
        now = self._clock()
        policies, key = self.policies, self._signing_key()
        ready = not self._drain.draining and policies.is_loaded and key is not None
        return ready, {
            "draining": self._drain.draining,
            "policies": {
                "generation": policies.generation.number if policies.is_loaded else None,
                "age_seconds": round(now - policies.loaded_at) if policies.loaded_at is not None else None,
                "failed_reloads": policies.failed_reloads,
                "problems": [str(problem) for problem in policies.last_problems],
            },
            "signing_key": {"kid": key.kid, "age_seconds": round(now - key.created_at)} if key else None,
            "issuers": {name: keys.health(now) for name, keys in self.trust.keys_by_name().items()},
            "audit": {"failed": self.audit.failed, "last_error": self.audit.last_error},
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
            signing_key=self._signing_key,
            audit=self.audit,
            revocations=self.revocations,
            mirror=self.mirror,
            quotas=self.quotas,
            clock=self._clock,
        )

    def _open_keys(self) -> SigningKeys:
        url = self.settings.keys.store
        return SigningKeys.open(KEY_STORES[scheme(url)](url), self.settings.keys.algorithm, self._clock())

    def _signing_key(self) -> SigningKey | None:
        return self.signing_keys.current() if self.signing_keys is not None else None

    def _public_application(self, signing_keys: SigningKeys) -> web.Application:
        replay = Replay(self.state)
        hold = Hold(asyncio.sleep, lambda: self._drain.draining)
        source = source_address(self.settings.trusted_proxies)
        certificate_of = self._client_certificate_of()
        callers = Callers(self.clients, self.policies, replay)
        exchange = Exchange(
            issuer=self.settings.issuer,
            trust=self.trust,
            policies=self.policies,
            callers=callers,
            replay=replay,
            quotas=self.quotas,
            signing_keys=signing_keys,
            revocations=self.revocations,
            audit=self.audit,
            meter=self.meter,
            clock=self._clock,
            new_token_id=self._new_identifier,
        )
        token = TokenEndpoint(
            exchange,
            self.meter,
            source_address=source,
            client_certificate=certificate_of,
            new_request_id=self._new_identifier,
            hold=hold,
            max_in_flight=self.settings.limits.in_flight,
        )
        inspection = Inspection(
            issuer=self.settings.issuer,
            callers=callers,
            policies=self.policies,
            signing_keys=signing_keys,
            revocations=self.revocations,
            replay=replay,
            quotas=self.quotas,
            audit=self.audit,
            meter=self.inspection_meter,
            count_quota_exceeded=self.meter.count_quota_exceeded,
            clock=self._clock,
        )
        forms = InquiryForms(
            inspection,
            self.inspection_meter,
            source_address=source,
            client_certificate=certificate_of,
            new_request_id=self._new_identifier,
            hold=hold,
            max_in_flight=self.settings.limits.in_flight,
        )
        verification = VerificationEndpoint(
            inspection,
            from_trusted_proxy=from_trusted_proxy(self.settings.trusted_proxies),
            client_certificate=certificate_of,
            new_request_id=self._new_identifier,
        )
        well_known = WellKnown(self._metadata, lambda: self.policies.generation.number, KeySetDocument(signing_keys))
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

    async def _open(self, application: web.Application, address: str, tls: ssl.SSLContext | None) -> str:
        opened = await open_listener(application, address, tls)
        self._runners += opened.runners
        return opened.address

    def _tls(self) -> ssl.SSLContext | None:
        tls = self.settings.tls
        if tls is None:
            return None
        return tls_context(
            tls.certificate, tls.key, client_ca=tls.client_ca, client_certificates=tls.client_certificates
        )
