"""Verifies the gateway's access tokens in an API: keys fetched and kept, tokens and proofs checked.

Thread-safe, and no blocking call for asyncio.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from secrets import SystemRandom
from urllib.parse import urlsplit

from gateway.clock import SteadyClock
from gateway.jose.dpop import DpopProof, verify_sole_proof
from gateway.model import Clock, UnverifiedToken
from gateway.oauth.errors import Refusal
from gateway.resource_server.claims import AccessTokenClaims
from gateway.resource_server.denied import Scheme, malformed_request, unacceptable
from gateway.resource_server.fetch import Fetch, FetchError, HttpFetch, check_url
from gateway.resource_server.key_cache import DEFAULT_PACE, Background, KeyCache, KeyFetch, Pace, in_thread
from gateway.resource_server.key_set import GatewayKeySet, metadata_url, origin
from gateway.resource_server.request import ApiRequest, DpopRequest, parse_credentials
from gateway.resource_server.seen_proofs import SeenProofs
from gateway.resource_server.verification import Rules, check_confirmation, parse_access_token, verify_access_token

ALGORITHMS = ("ES256", "RS256", "EdDSA")
"""What the gateway signs with."""

MAX_LEEWAY_SECONDS = 60
MAX_SEEN_PROOFS = 100_000


class Verifier:
    """Decides whether an access token of the gateway opens this API. Make one for the whole program."""

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        jwks_uri: str | None = None,
        url: str | None = None,
        algorithms: Iterable[str] = ALGORITHMS,
        leeway_seconds: int = 30,
        ca_file: str | None = None,
        insecure_http: bool = False,
        pace: Pace = DEFAULT_PACE,
        max_seen_proofs: int = MAX_SEEN_PROOFS,
        fetch: Fetch | None = None,
        clock: Clock | None = None,
        jitter: Callable[[], float] | None = None,
        background: Background = in_thread,
    ) -> None:
        """``issuer`` is the gateway's issuer URL, ``audience`` the identifier of this API's resource.

        ``jwks_uri`` says where the gateway's keys are, where its metadata cannot be asked. ``url`` is what stands
        before the path in this API's URLs as its clients know them, for DPoP (default: scheme and host of
        ``audience``).
        ``algorithms`` are the accepted values of ``alg``, ``leeway_seconds`` (up to 60) is how far clocks may differ.
        ``ca_file`` replaces the system's certificate authorities; ``insecure_http`` allows keys over plain http, for
        tests. ``pace`` says how long keys are good, ``max_seen_proofs`` how many DPoP proofs are remembered.

        Raises ``ValueError`` for a URL or a value that cannot work. Fetches nothing yet.
        """
        if not 0 <= leeway_seconds <= MAX_LEEWAY_SECONDS:
            raise ValueError(f"leeway_seconds is 0 to {MAX_LEEWAY_SECONDS}")
        try:
            check_url(jwks_uri or metadata_url(issuer), insecure_http=insecure_http)
            check_url(url or "https://localhost", insecure_http=True)
        except FetchError as error:
            raise ValueError(str(error)) from None
        self._rules = Rules(issuer, audience, frozenset(algorithms), leeway_seconds)
        self._url = url.rstrip("/") if url is not None else _origin_of(audience)
        self._clock = clock or SteadyClock()
        source = GatewayKeySet(
            issuer,
            jwks_uri,
            algorithms=self._rules.algorithms,
            fetch=fetch or HttpFetch(ca_file=ca_file, insecure_http=insecure_http),
        )
        self._keys = KeyCache(
            source.load,
            clock=self._clock,
            jitter=jitter or SystemRandom().random,
            background=background,
            pace=pace,
        )
        self._seen_proofs = SeenProofs(max_seen_proofs)

    def verify(
        self,
        token: str,
        *,
        scopes: Iterable[str] = (),
        dpop: DpopRequest | None = None,
        certificate: bytes | None = None,
    ) -> AccessTokenClaims:
        """What the token says, if it is good for this API and has all of ``scopes``.

        ``dpop`` is the request that it came with under the scheme ``DPoP``, None for ``Bearer``; ``certificate`` is the
        DER of the connection's TLS client certificate. In order: 1 to 3 the text, 4 and 5 key and signature, 6 to 9 the
        claims (see ``verification``), 10 what the token is bound to, 11 the scopes, 12 whether the proof is fresh.

        Raises ``AccessDenied``. Waits a few seconds at most, and only for keys that it has not.
        """
        with self._answering("Bearer" if dpop is None else "DPoP"):
            unverified = parse_access_token(token, self._rules)
            fetch = self._keys.fetch_for(unverified.unverified_header["kid"])
            if fetch is not None:
                self._keys.wait(fetch)
            return self._judge(token, unverified, fetch, scopes, dpop, certificate)

    async def verify_async(
        self,
        token: str,
        *,
        scopes: Iterable[str] = (),
        dpop: DpopRequest | None = None,
        certificate: bytes | None = None,
    ) -> AccessTokenClaims:
        """As ``verify``, for a task: the event loop goes on while keys are fetched."""
        with self._answering("Bearer" if dpop is None else "DPoP"):
            unverified = parse_access_token(token, self._rules)
            fetch = self._keys.fetch_for(unverified.unverified_header["kid"])
            if fetch is not None:
                await self._keys.wait_async(fetch)
            return self._judge(token, unverified, fetch, scopes, dpop, certificate)

    def verify_request(self, request: ApiRequest, *, scopes: Iterable[str] = ()) -> AccessTokenClaims:
        """``verify`` for the token in a request. Raises ``AccessDenied``, also where there is none."""
        token, dpop = self._presented(request)
        return self.verify(token, scopes=scopes, dpop=dpop, certificate=request.certificate)

    async def verify_request_async(self, request: ApiRequest, *, scopes: Iterable[str] = ()) -> AccessTokenClaims:
        """As ``verify_request``, for a task."""
        token, dpop = self._presented(request)
        return await self.verify_async(token, scopes=scopes, dpop=dpop, certificate=request.certificate)

    def _presented(self, request: ApiRequest) -> tuple[str, DpopRequest | None]:
        realm = self._rules.audience
        scheme, token = parse_credentials(request, realm)
        if scheme == "Bearer":
            return token, None
        if self._url is None:
            raise malformed_request("This API takes no DPoP-bound tokens: it does not know its URL.", realm)
        return token, DpopRequest(request.dpop, request.method, f"{self._url}{request.path}")

    def _judge(
        self,
        token: str,
        unverified: UnverifiedToken,
        fetch: KeyFetch | None,
        scopes: Iterable[str],
        dpop: DpopRequest | None,
        certificate: bytes | None,
    ) -> AccessTokenClaims:
        keys, now = self._keys.usable(), self._clock()
        if keys is None:
            raise Refusal("issuer_unavailable")
        if unverified.unverified_header["kid"] not in keys.by_key_id and not self._keys.is_current(fetch):
            raise Refusal("issuer_unavailable")
        claims = verify_access_token(unverified, keys, self._rules, now)
        proof = _proof(token, claims, dpop, now)
        check_confirmation(claims, proof, certificate)
        claims.require(*scopes)
        if proof is not None and not self._seen_proofs.claim_once(proof.jkt, proof.jti, proof.until, now):
            raise Refusal("proof_replayed")
        return claims

    @contextmanager
    def _answering(self, scheme: Scheme) -> Iterator[None]:
        try:
            yield
        except Refusal as refusal:
            raise unacceptable(refusal, self._rules.audience, scheme) from refusal


def _proof(token: str, claims: AccessTokenClaims, dpop: DpopRequest | None, now: float) -> DpopProof | None:
    if dpop is None:
        return None
    if "jkt" not in claims.cnf:
        raise Refusal("confirmation_failed", "The token is not bound to a key: send it as Bearer.")
    return verify_sole_proof(dpop.proofs, method=dpop.method, url=dpop.url, now=now, access_token=token)


def _origin_of(audience: str) -> str | None:
    """What the API's URLs begin with, where its identifier says so."""
    parts = urlsplit(audience)
    return origin(audience) if parts.scheme in {"https", "http"} and parts.netloc else None
