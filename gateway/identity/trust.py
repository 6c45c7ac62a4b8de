"""Who is calling: from the text of a token to a proven ``Workload``, under the issuers that are configured now.

The issuer is looked up by its exact URL, and only configured ones exist: no token makes the gateway fetch anything
from a place that it names.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from secrets import SystemRandom

from cachetools import LRUCache

from gateway.identity.fetcher import Fetcher
from gateway.identity.issuer_keys import IssuerKeys, Jitter, Pace, Sleep
from gateway.identity.key_sources import loader_for
from gateway.identity.verification import check_times, verify_token
from gateway.jose.compact import check_length, parse_token, parse_unverified_claims, token_sha256
from gateway.jose.jwks import KeySet
from gateway.model import Claims, Clock, TrustedIssuer, UnverifiedToken, Workload
from gateway.oauth.errors import Refusal

log = logging.getLogger(__name__)

MAX_REMEMBERED_TOKEN_LENGTH = 4096
MAX_REPORTED_CLAIMS = 64

_NEWER_KEYS_MAY_HELP = ("unknown_key", "bad_signature")
_TELLING = ("bad_signature", "unknown_key", "missing_key_id", "algorithm_not_allowed", "wrong_token_type")
"""Among the refusals of several issuers with one URL: the one that came furthest says most."""


@dataclass(frozen=True, slots=True, eq=False)
class _Trusted:
    """An issuer as configured now, with its keys. A new configuration is a new object."""

    issuer: TrustedIssuer
    keys: IssuerKeys


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A token that did not verify with one issuer's keys; ``keys`` is None where there were none to try."""

    trusted: _Trusted
    keys: KeySet | None
    refusal: Refusal

    @property
    def newer_keys_may_help(self) -> bool:
        return self.keys is None or self.refusal.reason.code in _NEWER_KEYS_MAY_HELP


@dataclass(frozen=True, slots=True)
class _Remembered:
    """A token that verified, and what has to be unchanged for that to stand."""

    workload: Workload
    trusted: _Trusted
    keys: KeySet


class _TrustChangedError(Exception):
    """The issuers were configured anew while a request waited for keys."""


class _SeenOnce:
    """Which tokens were verified lately: between ``size`` and twice ``size`` of them, in two sets that take turns."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._young: set[str] = set()
        self._old: set[str] = set()

    def before(self, sha256: str) -> bool:
        """Whether the token was asked about before; from now on it was."""
        if sha256 in self._young or sha256 in self._old:
            return True
        if len(self._young) >= self._size:
            self._old, self._young = self._young, set()
        self._young.add(sha256)
        return False


class TrustStore:
    """The issuers that are trusted now, their keys, and the workloads that they vouched for lately."""

    def __init__(
        self,
        fetcher: Fetcher,
        *,
        clock: Clock,
        sleep: Sleep = asyncio.sleep,
        jitter: Jitter | None = None,
        pace: Pace | None = None,
        remembered_workloads: int = 10_000,
    ) -> None:
        self._fetcher = fetcher
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter or SystemRandom().random
        self._pace = pace or Pace()
        self._trusted: dict[str, _Trusted] = {}
        self._by_url: dict[str, tuple[_Trusted, ...]] = {}
        self._remembered: LRUCache[str, _Remembered] = LRUCache(remembered_workloads)
        self._seen = _SeenOnce(remembered_workloads)
        self._reconfiguring = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self._unaccounted: dict[str, int] = {}
        self._reported: set[tuple[str, str]] = set()

    async def start(self, issuers: Iterable[TrustedIssuer]) -> None:
        """Trusts these issuers and begins to fetch their keys. Waits for none of them."""
        await self.reconfigure(issuers)

    async def reconfigure(self, issuers: Iterable[TrustedIssuer]) -> None:
        """Trusts these issuers from now on, and no others. Keys are kept where their source is the same."""
        async with self._reconfiguring:
            trusted = {issuer.name: self._trust(issuer) for issuer in issuers}
            before, now = _keys_of(self._trusted), _keys_of(trusted)
            await asyncio.gather(*(now[key].start() for key in now.keys() - before.keys()))
            # The last thing before it returns, so that whoever waits can swap the policies in the same turn.
            self._trusted, self._by_url = trusted, _by_url(trusted.values())
            self._retire(before[key] for key in before.keys() - now.keys())

    def _retire(self, unused: Iterable[IssuerKeys]) -> None:
        for keys in unused:
            task = asyncio.create_task(keys.close())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def close(self) -> None:
        """Ends all background work."""
        await asyncio.gather(*self._retiring, *(one.keys.close() for one in self._trusted.values()))

    def issuers_named(self, iss: str) -> tuple[TrustedIssuer, ...]:
        """The issuers whose URL is exactly ``iss``: several, where clusters share one."""
        return tuple(one.issuer for one in self._by_url.get(iss, ()))

    def new_keys(self, issuer: TrustedIssuer) -> IssuerKeys:
        """The key set of an issuer, not yet started, fetched and kept as those of all issuers are."""
        return IssuerKeys(
            issuer,
            loader_for(issuer, self._fetcher),
            clock=self._clock,
            sleep=self._sleep,
            jitter=self._jitter,
            pace=self._pace,
        )

    def keys_by_name(self) -> Mapping[str, IssuerKeys]:
        """The state of each issuer's keys, by the issuer's name in the policies."""
        return {name: one.keys for name, one in self._trusted.items()}

    def unaccounted_claims(self) -> Mapping[str, int]:
        """How many claims, in verified tokens, their issuer's table did not know; by the issuer's name."""
        return {name: self._unaccounted.get(name, 0) for name in self._trusted}

    async def authenticate(self, token_text: str, *, is_second_try: bool = False) -> Workload:
        """The workload that a token proves. Waits for nothing while its issuer's key is at hand; where the policies
        change while it waits, it begins once more.

        Raises ``Refusal``.
        """
        check_length(token_text)
        sha256 = token_sha256(token_text)
        now = self._clock()
        remembered = self._recall(sha256, now)
        if remembered is not None:
            return remembered
        token = parse_token(token_text, sha256=sha256)
        claims = parse_unverified_claims(token)
        attempts: list[_Attempt] = []
        for trusted in self._issuers_of(claims):
            keys = trusted.keys.usable(now)
            attempt = self._attempt(token, claims, trusted, keys, now)
            if isinstance(attempt, Workload):
                if len(token_text) <= MAX_REMEMBERED_TOKEN_LENGTH:
                    self._remember(attempt, trusted, keys)
                return attempt
            attempts.append(attempt)
        try:
            return await self._authenticate_with_newer_keys(token, claims, attempts)
        except _TrustChangedError:
            if is_second_try:
                raise Refusal("issuer_unavailable", internal="the issuer's configuration has just changed") from None
            return await self.authenticate(token_text, is_second_try=True)

    # ------------------------------------------------------------ with the keys at hand

    def _issuers_of(self, unverified_claims: Claims) -> tuple[_Trusted, ...]:
        """The candidates for ``iss``, by exact string. A token of anybody else ends here, before any key or fetch."""
        iss = unverified_claims.get("iss")
        if type(iss) is not str:
            raise Refusal("missing_claim" if iss is None else "invalid_claim", "iss is not there as a string.")
        candidates = self._by_url.get(iss)
        if candidates is None:
            raise Refusal("unknown_issuer", internal=f"the unverified iss is {ascii(iss)[:200]}")
        return candidates

    def _attempt(
        self, token: UnverifiedToken, claims: Claims, trusted: _Trusted, keys: KeySet | None, now: float
    ) -> Workload | _Attempt:
        """Verifies with one issuer's keys. Raises the ``Refusal`` of a token that this issuer has signed: the key
        tells issuers with one URL apart, and no other of them is asked then.
        """
        if keys is None:
            return _Attempt(trusted, None, Refusal("issuer_unavailable", internal=trusted.keys.last_error or ""))
        try:
            workload = verify_token(token, trusted.issuer, keys, now, claims)
        except Refusal as refusal:
            if refusal.claims is not None:
                raise
            return _Attempt(trusted, keys, refusal)
        if workload.unaccounted_claims:
            self._count_unaccounted(workload)
        return workload

    def _recall(self, sha256: str, now: float) -> Workload | None:
        """A workload verified before, while nothing that it rests on has changed but the time, which is checked."""
        remembered = self._remembered.get(sha256)
        if remembered is None:
            return None
        workload, trusted = remembered.workload, remembered.trusted
        try:
            if self._trusted.get(trusted.issuer.name) is trusted and trusted.keys.usable(now) is remembered.keys:
                check_times(workload.claims, trusted.issuer, now)
                return workload
        except Refusal:
            pass  # the long way round refuses it with everything that is to be told
        del self._remembered[sha256]
        return None

    def _remember(self, workload: Workload, trusted: _Trusted, keys: KeySet | None) -> None:
        """Keeps a workload once its token has come again, as those of pods do. Tokens that come but once, as those of
        CI jobs do, would only drive the others out, and cost more to keep than to verify.
        """
        if keys is not None and trusted.issuer.replay == "allow" and self._seen.before(workload.token_sha256):
            self._remembered[workload.token_sha256] = _Remembered(workload, trusted, keys)

    # ------------------------------------------------------------ with newer keys

    async def _authenticate_with_newer_keys(
        self, token: UnverifiedToken, claims: Claims, attempts: list[_Attempt]
    ) -> Workload:
        """Once more with the issuers whose keys may have changed, after asking them as far as their pace allows."""
        key_id = token.unverified_header.get("kid")
        hopeful = [attempt for attempt in attempts if attempt.newer_keys_may_help]
        answered = await asyncio.gather(*(attempt.trusted.keys.renew(key_id) for attempt in hopeful))
        now = self._clock()
        final = [attempt for attempt in attempts if not attempt.newer_keys_may_help]
        for earlier, was_answered in zip(hopeful, answered, strict=True):
            if self._trusted.get(earlier.trusted.issuer.name) is not earlier.trusted:
                raise _TrustChangedError  # trusted when we began to wait, and no longer, or in another way
            keys = earlier.trusted.keys.usable(now)
            attempt = earlier
            if keys is not earlier.keys:
                retried = self._attempt(token, claims, earlier.trusted, keys, now)
                if isinstance(retried, Workload):
                    return retried
                attempt = retried
            if not was_answered and attempt.refusal.reason.code == "unknown_key":
                # Perhaps the key is a new one: no reason to tell the caller that its token is bad.
                unavailable = Refusal("issuer_unavailable", internal=earlier.trusted.keys.last_error or "")
                attempt = _Attempt(earlier.trusted, attempt.keys, unavailable)
            final.append(attempt)
        raise _most_telling(final)

    def _count_unaccounted(self, workload: Workload) -> None:
        issuer = workload.issuer.name
        self._unaccounted[issuer] = self._unaccounted.get(issuer, 0) + len(workload.unaccounted_claims)
        for name in workload.unaccounted_claims:
            if (issuer, name) not in self._reported and len(self._reported) < MAX_REPORTED_CLAIMS:
                self._reported.add((issuer, name))
                log.warning("issuer %s: its tokens hold a claim that its preset does not know: %s", issuer, ascii(name))

    def _trust(self, issuer: TrustedIssuer) -> _Trusted:
        known = self._trusted.get(issuer.name)
        if known is None or _key_origin(known.issuer) != _key_origin(issuer):
            return _Trusted(issuer, self.new_keys(issuer))
        return known if known.issuer == issuer else _Trusted(issuer, known.keys)


def _key_origin(issuer: TrustedIssuer) -> tuple[object, ...]:
    """All that a key set depends on."""
    return (issuer.url, issuer.keys, issuer.algorithms)


def _keys_of(trusted: Mapping[str, _Trusted]) -> dict[int, IssuerKeys]:
    return {id(one.keys): one.keys for one in trusted.values()}


def _by_url(trusted: Iterable[_Trusted]) -> dict[str, tuple[_Trusted, ...]]:
    by_url: dict[str, tuple[_Trusted, ...]] = {}
    for one in trusted:
        by_url[one.issuer.url] = (*by_url.get(one.issuer.url, ()), one)
    return by_url


def _most_telling(attempts: list[_Attempt]) -> Refusal:
    """The refusal to answer with. Where a candidate could not be asked, it might have been the one: 503."""

    def rank(attempt: _Attempt) -> int:
        code = attempt.refusal.reason.code
        return _TELLING.index(code) if code in _TELLING else -1

    refusal = min(attempts, key=rank).refusal
    refusal.issuer = attempts[0].trusted.issuer if len(attempts) == 1 else None
    return refusal
