"""``private_key_jwt``: an assertion that the client signed itself (RFC 7523 §2.2, §3; rfc7523bis §4).

``iss`` = ``sub`` = ``client_id``; ``aud`` is our issuer and nothing else, the token endpoint's URL only where the
client's registration says so; ``jti`` and a short life, so that each works once.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from cachetools import LRUCache

from gateway.identity.clients.base import ClientAuthenticationParts
from gateway.identity.issuer_keys import IssuerKeys
from gateway.identity.verification import verify_token
from gateway.jose.compact import parse_token, parse_unverified_assertion_claims
from gateway.jose.jwks import KeySet
from gateway.model import (
    Claims,
    ClaimTable,
    Client,
    Presented,
    PresentedAssertion,
    RegisteredKeys,
    TrustedIssuer,
    UnverifiedToken,
    Workload,
)
from gateway.oauth.client_authentication import ASSERTION_TYPE_JWT_BEARER
from gateway.oauth.errors import Refusal
from gateway.oauth.reasons import TOKEN_FAULT

MAX_KEY_SETS = 10_000
"""How many clients' key sets are kept fresh at once; of more, the one that was used longest ago is let go."""

_CLAIMS = ClaimTable(required=(("jti",),), optional=frozenset())
_TOKEN_TYPES = frozenset({"", "jwt", "client-authentication+jwt"})  # rfc7523bis §4: absent is no fault, another kind is
_NEWER_KEYS_MAY_HELP = ("unknown_key", "bad_signature")


@dataclass(frozen=True, slots=True)
class _Signer:
    """A client seen as the issuer of its own assertions, and its keys."""

    registered: RegisteredKeys
    issuer: TrustedIssuer
    keys: IssuerKeys


class PrivateKeyJwt:
    """See ``ClientAuthentication``. Key sets are fetched and kept as strictly as those of issuers."""

    name: ClassVar[str] = "private_key_jwt"

    def __init__(self, parts: ClientAuthenticationParts) -> None:
        self._registered = parts.registered
        self._audience = parts.issuer
        self._token_endpoint = parts.token_endpoint
        self._trust = parts.trust
        self._clock = parts.clock
        self._signers: LRUCache[str, _Signer] = LRUCache(MAX_KEY_SETS)

    async def prove(self, presented: Presented, client_id: str | None) -> Client | None:
        """See ``ClientAuthentication``. What is wrong is told only once the signature is known to be the client's."""
        del client_id
        if not isinstance(presented, PresentedAssertion) or presented.assertion_type != ASSERTION_TYPE_JWT_BEARER:
            return None
        try:
            token = parse_token(presented.assertion)
            unverified_claims = parse_unverified_assertion_claims(token)
        except Refusal as refusal:  # of the text alone, which says nothing about any client
            refusal.of_client = True
            raise
        if self._is_of_an_issuer(unverified_claims):
            return None
        try:
            signer = await self._signer(unverified_claims)
            proven = await self._verify(token, unverified_claims, signer)
        except Refusal as refusal:
            refusal.of_client, refusal.issuer = True, None  # no label of a metric is a client's name
            if refusal.claims is not None or refusal.reason.error != TOKEN_FAULT:
                raise
            raise Refusal("client_authentication_failed", internal=f"the assertion: {refusal}") from refusal
        return Client(
            proven.subject,
            self.name,
            f"key:{proven.key_id or 'the only one'}",
            assertion_id=proven.token_id if signer.registered.replay == "reject" else None,
            assertion_expires_at=proven.expires_at + signer.issuer.leeway_seconds,
        )

    async def close(self) -> None:
        """See ``ClientAuthentication``: key sets are fetched no more."""
        while self._signers:
            await self._signers.popitem()[1].keys.close()

    def _is_of_an_issuer(self, unverified_claims: Claims) -> bool:
        """Whether a platform signed it: that is for another method. No client is called like an issuer's URL."""
        unverified_iss = unverified_claims.get("iss")
        return type(unverified_iss) is str and bool(self._trust.issuers_named(unverified_iss))

    async def _signer(self, unverified_claims: Claims) -> _Signer:
        unverified_iss = unverified_claims.get("iss")
        registered = self._registered(unverified_iss) if type(unverified_iss) is str else None
        if registered is None or registered.keys is None:
            why = "no such client" if registered is None else "the client has no keys"
            raise Refusal("client_authentication_failed", internal=f"the assertion's iss: {why}")
        known = self._signers.get(registered.client_id)
        if known is not None and known.registered == registered.keys:
            return known
        signer = self._new_signer(registered.client_id, registered.keys)
        let_go = [known] if known is not None else []
        if known is None and len(self._signers) >= self._signers.maxsize:
            let_go.append(self._signers.popitem()[1])
        self._signers[registered.client_id] = signer
        for old in let_go:
            await old.keys.close()
        await signer.keys.start()
        return signer

    def _new_signer(self, client_id: str, keys: RegisteredKeys) -> _Signer:
        audiences = {self._audience} | ({self._token_endpoint} if keys.accept_token_endpoint_audience else set())
        issuer = TrustedIssuer(
            name=f"client:{client_id}",
            preset="private_key_jwt",
            url=client_id,
            audiences=frozenset(audiences),
            algorithms=keys.algorithms,
            keys=keys.source,
            claims=_CLAIMS,
            token_types=_TOKEN_TYPES,
            subject_pattern=re.escape(client_id),
            max_token_age_seconds=keys.max_assertion_lifetime_seconds,
            max_token_lifetime_seconds=keys.max_assertion_lifetime_seconds,
            allow_missing_kid=True,  # older clients send none; one fitting key is needed then
        )
        return _Signer(keys, issuer, self._trust.new_keys(issuer))

    async def _verify(self, token: UnverifiedToken, unverified_claims: Claims, signer: _Signer) -> Workload:
        if token.unverified_header["alg"] not in signer.issuer.algorithms:  # before any key is asked for
            raise Refusal("algorithm_not_allowed")
        keys = signer.keys.usable(self._clock())
        if keys is not None:
            try:
                return self._verified(token, unverified_claims, signer, keys)
            except Refusal as refusal:
                if refusal.reason.code not in _NEWER_KEYS_MAY_HELP:
                    raise
        answered = await signer.keys.renew(token.unverified_header.get("kid"))
        newer = signer.keys.usable(self._clock())
        if newer is None or (newer is keys and not answered):
            raise Refusal("client_keys_unavailable", internal=signer.keys.last_error or "")
        return self._verified(token, unverified_claims, signer, newer)

    def _verified(self, token: UnverifiedToken, unverified_claims: Claims, signer: _Signer, keys: KeySet) -> Workload:
        workload = verify_token(token, signer.issuer, keys, self._clock(), unverified_claims)
        aud = workload.claims["aud"]
        if type(aud) is list and len(aud) != 1:
            refusal = Refusal("wrong_audience", "aud of a client assertion is this server's issuer URL alone.")
            refusal.claims = workload.claims
            raise refusal
        return workload
