"""The one place where the parts are built and wired, started, reloaded and stopped."""

import asyncio
import base64
import contextlib
import logging
import os
import secrets
import ssl
from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from watchfiles import awatch

from gateway.audit.log import AuditLog
from gateway.clock import SteadyClock
from gateway.exchange import Exchange
from gateway.http.admin import admin_application
from gateway.http.connection import Listener
from gateway.http.drain import Drain
from gateway.http.protocol_log import protocol_logger
from gateway.http.public import public_application
from gateway.http.source import source_address
from gateway.http.token import TokenEndpoint
from gateway.http.well_known import WellKnown
from gateway.identity.fetcher import HttpFetcher
from gateway.identity.presets.common import is_reserved_audience
from gateway.identity.trust import TrustStore
from gateway.kinds import AUDIT_SINKS, KEY_STORES, PRESETS, STATE_BACKENDS, scheme
from gateway.metrics import ExchangeMeter, Reading, RoomsCollector
from gateway.model import Clock, KeySource
from gateway.oauth.metadata import metadata
from gateway.policy.store import Outcome, PolicyStore
from gateway.settings import Settings
from gateway.tokens.key_set_document import KeySetDocument
from gateway.tokens.signing_key import SigningKey
from gateway.tokens.signing_keys import SigningKeys

log = logging.getLogger("gateway")

LOOK_EVERY_SECONDS = 10
"""How often policy files are looked at where the system tells of no changes."""


class Identifiers:
    """Makes token ids and request ids: 128 random bits each as base64url, drawn from the system many at a time."""

    def __init__(self) -> None:
        self._drawn: list[str] = []
        # A forked process must not go on with what its parent drew.
        os.register_at_fork(after_in_child=self._drawn.clear)

    def __call__(self) -> str:
        """One that was never given before."""
        if not self._drawn:
            bits = secrets.token_bytes(16 * 256)
            self._drawn += [base64.urlsafe_b64encode(bits[i : i + 16])[:22].decode() for i in range(0, len(bits), 16)]
        return self._drawn.pop()


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
        self.replay_marks = STATE_BACKENDS[scheme(settings.state)](settings.state, self._clock)
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
        await self.trust.start(self.policies.generation.issuers)
        self.registry.register(RoomsCollector(self._readings))
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.public_address = await self._listen(
            self._public_application(self.signing_keys), self.settings.listen, self._tls()
        )
        self.admin_address = await self._listen(
            admin_application(self.registry, self.readiness), self.settings.admin.listen, None
        )

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
        try:
            for runner in self._runners:
                for site in list(runner.sites):
                    await site.stop()
                await self._drain.until_idle(self.settings.shutdown.grace)
                await runner.cleanup()
            self._runners.clear()
            await self.trust.close()
        finally:
            await self.audit.close()

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

    def _open_keys(self) -> SigningKeys:
        url = self.settings.keys.store
        return SigningKeys.open(KEY_STORES[scheme(url)](url), self.settings.keys.algorithm, self._clock())

    def _signing_key(self) -> SigningKey | None:
        return self.signing_keys.current() if self.signing_keys is not None else None

    def _public_application(self, signing_keys: SigningKeys) -> web.Application:
        exchange = Exchange(
            issuer=self.settings.issuer,
            trust=self.trust,
            policies=self.policies,
            replay_marks=self.replay_marks,
            signing_keys=signing_keys,
            audit=self.audit,
            meter=self.meter,
            clock=self._clock,
            new_token_id=self._new_identifier,
        )
        token = TokenEndpoint(
            exchange,
            self.meter,
            source_address=source_address(self.settings.trusted_proxies),
            new_request_id=self._new_identifier,
            max_in_flight=self.settings.limits.in_flight,
        )
        well_known = WellKnown(self._metadata, lambda: self.policies.generation.number, KeySetDocument(signing_keys))
        return public_application(self.settings.issuer, token, well_known, self._drain, self._new_identifier)

    def _metadata(self) -> dict[str, Any]:
        scopes = (scope for one in self.policies.generation.resources.values() for scope in one.scopes)
        return metadata(self.settings.issuer, scopes)

    async def _listen(self, application: web.Application, address: str, tls: ssl.SSLContext | None) -> str:
        """Opens one listener; returns the address that it got."""
        host, _, port = address.rpartition(":")
        inner = web.AppRunner(application, handle_signals=False)
        await inner.setup()
        assert inner.server is not None
        listener = Listener(
            inner.server,
            access_log=None,
            keepalive_timeout=75,
            max_line_size=8190,
            max_field_size=8190,
            lingering_time=1,
            auto_decompress=False,
            logger=protocol_logger(),
        )
        runner = web.ServerRunner(
            listener,
            handle_signals=False,
            shutdown_timeout=1,  # for what overstayed its grace
        )
        await runner.setup()
        self._runners += [runner, inner]
        site = web.TCPSite(runner, host.strip("[]"), int(port), ssl_context=tls, backlog=1024)
        await site.start()
        bound = runner.addresses[0]
        return f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"

    def _tls(self) -> ssl.SSLContext | None:
        tls = self.settings.tls
        if tls is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(tls.certificate, tls.key)
        if tls.client_ca is not None:
            context.load_verify_locations(tls.client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def _readings(self) -> Iterable[Reading]:
        """What a scrape is told of the rooms. Issuers are called by their names in the policies."""
        now = self._clock()
        issuers = self.trust.keys_by_name()

        def per_issuer(name: str, text: str, read: Any) -> Reading:
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
        yield from self._own_readings(now)

    def _own_readings(self, now: float) -> Iterable[Reading]:
        policies, key = self.policies, self._signing_key()

        def one(name: str, text: str, kind: str, value: float | None) -> Reading:
            return Reading(name, text, kind, (), [((), value)] if value is not None else [])

        yield one("gateway_policy_generation", "Number of the policies in force.", "gauge", policies.generation.number)
        yield one(
            "gateway_policy_age_seconds", "Seconds since they were loaded.", "gauge", now - (policies.loaded_at or now)
        )
        yield one(
            "gateway_policy_reload_failures",
            "Changed policies that were refused; the ones before serve on.",
            "counter",
            policies.failed_reloads,
        )
        yield one(
            "gateway_signing_key_age_seconds",
            "Seconds since the key that signs was made.",
            "gauge",
            now - key.created_at if key else None,
        )
        yield one("gateway_audit_records", "Audit records written.", "counter", self.audit.written)
        yield one("gateway_audit_failures", "Audit records that a sink refused.", "counter", self.audit.failed)
        steps = self._clock.steps_back if isinstance(self._clock, SteadyClock) else 0
        yield one("gateway_clock_steps_back", "Times that the wall clock ran back and was held.", "counter", steps)


async def watch(gateway: Gateway, stop: asyncio.Event) -> None:
    """Reloads policies when their files change, and looks once in a while where the system tells of no changes."""
    while not stop.is_set():
        try:
            async for _ in awatch(
                gateway.settings.policies,
                watch_filter=None,
                stop_event=stop,
                debounce=200,
                rust_timeout=LOOK_EVERY_SECONDS * 1000,
                yield_on_timeout=True,
            ):
                await reload_quietly(gateway)
        except (OSError, RuntimeError) as error:  # no folder, no inotify instance left
            log.warning("policies are not watched (%s); looking every %d seconds", error, LOOK_EVERY_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_SECONDS):
                    await stop.wait()
            await reload_quietly(gateway)


async def reload_quietly(gateway: Gateway) -> None:
    """Reloads; an error that nobody foresaw is told in the log, and the next look tries again."""
    try:
        await gateway.reload()
    except Exception:
        log.exception("unexpected error while reloading the policies")
