"""The second hallway: what becomes of an access token after it was minted. One short function per endpoint.

The order is a security property, as in ``gateway/exchange.py``:

1. who is asking?         a caller that names itself proves it before it learns anything
2. what is the token?     the signature is verified before a claim counts
3. is it still good?      its service account is in the policies in force, and nobody has revoked it
4. may they do that?      an API sees the tokens for its own resource, a client revokes its own, and a proxy lets
                          through what its location asks for
5. not once too often     the assertion of a caller, and a proof of possession, are used up by what succeeds alone
6. it was written down    before the answer leaves: every revocation, and whoever was refused. What is asked at every
                          request of every API is counted instead
"""

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from gateway.audit.log import AuditLog
from gateway.callers import (
    Caller,
    Callers,
    Policies,
    claimed_client_id,
    fingerprint,
    is_fault_of_caller,
    too_many_requests,
)
from gateway.identity.possession import CONFIRMATION_MEMBERS
from gateway.identity.replay import Replay
from gateway.jose.dpop import DpopProof, verify_sole_proof
from gateway.jose.thumbprint import certificate_thumbprint
from gateway.metrics import InspectionMeter
from gateway.model import AuditRecord, Client, ClientCertificate, Clock, Presented
from gateway.oauth.errors import Refusal, presented
from gateway.oauth.reasons import GRANTED, TOKEN_FAULT
from gateway.policy.generation import Resource
from gateway.state.quotas import QuotaExceeded, Quotas
from gateway.tokens.introspection import INACTIVE, Introspection, introspection, signed_introspection
from gateway.tokens.own_token import OwnToken
from gateway.tokens.recent import RecentTokens
from gateway.tokens.revocation import Revocations
from gateway.tokens.signing_keys import SigningKeys

log = logging.getLogger("gateway.inspection")

Endpoint = Literal["introspection", "revocation"]
"""What records and metrics call the two that take a form."""

Scheme = Literal["Bearer", "DPoP"]
"""How an access token is sent (RFC 6750 §2.1, RFC 9449 §7.1)."""


@dataclass(frozen=True, slots=True)
class Inquiry:
    """What the form of ``/introspect`` or ``/revoke`` says: parsed, bounded, not yet believed."""

    token: str = field(repr=False)
    client_id: str | None = None
    presented: Presented | None = None


@dataclass(frozen=True, slots=True)
class Introspected:
    """What an API is told of a token: the members, and the JWT of them where it wanted one."""

    members: Introspection
    jwt: str | None


@dataclass(frozen=True, slots=True)
class OriginalRequest:
    """The request that a trusted proxy asks about, as the client sent it: what a DPoP proof is made for."""

    method: str
    url: str


@dataclass(frozen=True, slots=True)
class AccessCheck:
    """What a proxy asks about one request: the token that came with it, and what its location demands.

    ``token`` is None where none came. ``original`` and ``certificate`` are there where somebody who is believed said
    so.
    """

    resource: str
    """Its identifier or its name."""
    scopes: tuple[str, ...]
    scheme: Scheme = "Bearer"
    token: str | None = field(default=None, repr=False)
    original: OriginalRequest | None = None
    dpop_proofs: tuple[str, ...] = field(default=(), repr=False)
    certificate: ClientCertificate | None = None


@dataclass(frozen=True, slots=True)
class Passed:
    """The request may go on to the API."""

    token: OwnToken


@dataclass(frozen=True, slots=True)
class Stopped:
    """It may not. ``scheme`` is how a token for this resource is sent."""

    refusal: Refusal
    scheme: Scheme = "Bearer"


@dataclass(slots=True)
class _Story:
    """What is known so far about one inquiry: what the audit record will say."""

    endpoint: Endpoint
    caller: Caller
    inquiry: Inquiry | None = None
    client: Client | None = None
    own_token: OwnToken | None = None


class Inspection:
    """The work of introspection, revocation and verification, behind HTTP."""

    def __init__(
        self,
        *,
        issuer: str,
        callers: Callers,
        policies: Policies,
        signing_keys: SigningKeys,
        revocations: Revocations,
        replay: Replay,
        quotas: Quotas,
        audit: AuditLog,
        meter: InspectionMeter,
        count_quota_exceeded: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self._issuer = issuer
        self._callers = callers
        self._policies = policies
        self._signing_keys = signing_keys
        self._recent = RecentTokens(signing_keys, issuer, clock)
        self._revocations = revocations
        self._replay = replay
        self._quotas = quotas
        self._audit = audit
        self._meter = meter
        self._count_quota_exceeded = count_quota_exceeded
        self._clock = clock

    # ------------------------------------------------------------ introspection

    async def introspect(self, inquiry: Inquiry, caller: Caller, *, signed: bool = False) -> Introspected:
        """What the token says, to an API that serves its resource; ``{"active": false}`` to everybody else, and of
        every token that is not good (RFC 7662 §2.2). ``signed`` asks for the JWT of RFC 9701 besides.

        Raises ``Refusal``, after it was written down.
        """
        story = _Story("introspection", caller, inquiry)
        async with self._told(story):
            if inquiry.presented is None:
                raise Refusal("client_authentication_missing")
            client = await self._callers.authenticate_service_account(inquiry.presented, inquiry.client_id)  # 1
            story.client = client
            members, reason = self._shown_to(client, inquiry.token)
            introspected = Introspected(members, self._signed(members, client) if signed else None)
            await self._callers.claim_assertion(client, inquiry.presented)  # 5
            self._meter.count("introspection", "inactive" if members is INACTIVE else "active", reason)
            return introspected

    def _shown_to(self, client: Client, token: str) -> tuple[Introspection, str]:
        """What the client is told of a token, and the reason. Raises ``Refusal`` where nobody can know."""
        try:
            own = self._good_token(token)  # 2, 3
            resource = self._policies.generation.resources_by_identifier.get(own.audience)
            if resource is None or client.client_id not in resource.served_by:  # 4
                raise Refusal("wrong_audience")
        except Refusal as refusal:
            if refusal.reason.error != TOKEN_FAULT:
                raise
            return INACTIVE, refusal.reason.code
        return introspection(own), GRANTED

    def _signed(self, members: Introspection, client: Client) -> str:
        key, now = self._signing_keys.current(), self._clock()
        return signed_introspection(members, key, issuer=self._issuer, audience=client.client_id, now=now)

    # ------------------------------------------------------------ revocation

    async def revoke(self, inquiry: Inquiry, caller: Caller) -> None:
        """Revokes a token for whoever holds it, or for the client that it was issued to; a token that is not good is
        no error (RFC 7009 §2.2). Raises ``Refusal``, after it was written down.
        """
        story = _Story("revocation", caller, inquiry)
        async with self._told(story):
            if inquiry.presented is not None:
                story.client = await self._callers.authenticate_service_account(
                    inquiry.presented, inquiry.client_id
                )  # 1
            try:
                own = self._recent.verify(inquiry.token)  # 2
            except Refusal as refusal:
                if refusal.reason.error != TOKEN_FAULT:
                    raise
                self._meter.count("revocation", "nothing_to_revoke", refusal.reason.code)
                return
            story.own_token = own
            asking = story.client.client_id if story.client is not None else inquiry.client_id
            if asking not in {None, own.service_account}:  # 4
                raise Refusal("token_of_another_client")
            if story.client is not None:
                await self._callers.claim_assertion(story.client, inquiry.presented)  # 5
            await self._revocations.revoke_token(own)
        await self._audit.write(self._record(story, None))  # 6
        self._meter.count("revocation", "revoked", GRANTED)

    # ------------------------------------------------------------ verification for proxies

    async def verify(self, asked: AccessCheck) -> Passed | Stopped:
        """Whether a proxy lets a request through to its API (RFC 6750 §3, RFC 9449 §7, RFC 8705 §3)."""
        scheme = asked.scheme
        try:
            resource = self._policies.generation.resource(asked.resource)
            if resource is None:
                raise Refusal("unknown_resource")
            scheme = "DPoP" if resource.sender_constraint == "dpop" else scheme
            if asked.token is None:
                raise Refusal("access_token_missing")
            own = self._good_token(asked.token)  # 2, 3
            if own.audience != resource.identifier:  # 4
                raise Refusal("wrong_audience", "The token was made for another resource (aud).")
            scheme = "DPoP" if own.confirmation is not None and "jkt" in own.confirmation else scheme
            proof = self._confirm(own, asked, resource)
            if not set(asked.scopes) <= set(own.scopes):
                raise Refusal("insufficient_scope")
            if proof is not None:  # 5
                await self._replay.claim_proof(proof.jkt, proof.jti, proof.until)
        except Refusal as refusal:
            return self.stop(refusal, scheme)
        self._meter.count_verification("passed", GRANTED)
        return Passed(own)

    def stop(self, refusal: Refusal, scheme: Scheme = "Bearer") -> Stopped:
        """Counts a request of a proxy that was refused at the edge, or here."""
        self._meter.count_verification("refused", refusal.reason.code)
        return Stopped(refusal, scheme)

    def _confirm(self, own: OwnToken, asked: AccessCheck, resource: Resource) -> DpopProof | None:
        """Checks that whoever sent the token holds every key that it is bound to. Raises ``Refusal``."""
        bound_to = dict(own.confirmation or {})
        wanted = CONFIRMATION_MEMBERS[resource.sender_constraint]
        if wanted is not None and wanted not in bound_to:
            raise Refusal("confirmation_failed", "Tokens for this resource are bound to a key, and this one is not.")
        jkt, certificate = bound_to.pop("jkt", None), bound_to.pop("x5t#S256", None)
        if bound_to:
            raise Refusal("confirmation_failed", internal="cnf has a member that this version does not know")
        if certificate is not None and (
            asked.certificate is None or certificate_thumbprint(asked.certificate.der) != certificate
        ):
            raise Refusal("confirmation_failed", "The token is bound to a client certificate that was not shown.")
        if (jkt is not None) != (asked.scheme == "DPoP"):
            how = "Bearer" if jkt is None else "DPoP"
            raise Refusal("confirmation_failed", f"This token is sent as Authorization: {how}.")
        if jkt is None:
            return None
        if asked.original is None:
            raise Refusal("confirmation_failed", internal="no trusted proxy says what the original request was")
        return verify_sole_proof(
            asked.dpop_proofs,
            method=asked.original.method,
            url=asked.original.url,
            now=self._clock(),
            access_token=asked.token,
            jkt=jkt,
        )

    # ------------------------------------------------------------ what they share

    def _good_token(self, text: str) -> OwnToken:
        """A token of ours that is still good. Raises ``Refusal``."""
        own = self._recent.verify(text)  # 2
        if self._policies.generation.service_account(own.service_account) is None:  # 3
            raise Refusal("unknown_service_account", "The token's service account is no more.")
        self._revocations.check(own)
        return own

    def check_source(self, endpoint: Endpoint, caller: Caller) -> None:
        """Refuses whoever comes from a network that has failed too often, before anything is read: counted and not
        written down, as at the token endpoint. Raises ``Refusal``.
        """
        try:
            self._quotas.check_source(caller.source)
        except QuotaExceeded as exceeded:
            self._meter.count(endpoint, "refused", "quota_exceeded")
            self._count_quota_exceeded(exceeded.quota)
            raise too_many_requests(exceeded) from exceeded

    async def refuse(self, refusal: Refusal, endpoint: Endpoint, caller: Caller) -> None:
        """Writes down an inquiry that was refused at the edge, before there was anything to look at."""
        await self._write_denial(refusal, _Story(endpoint, caller))

    @asynccontextmanager
    async def _told(self, story: _Story) -> AsyncIterator[None]:
        """Writes every refusal down before it is raised."""
        try:
            yield
        except Refusal as refusal:
            await self._write_denial(refusal, story)
            raise
        except Exception as error:
            log.exception("unexpected error request_id=%s", story.caller.request_id)
            mistake = Refusal("internal_error", internal=type(error).__name__)
            await self._write_denial(mistake, story)
            raise mistake from error

    async def _write_denial(self, refusal: Refusal, story: _Story) -> None:
        if refusal.claims is not None:
            refusal.public = f"{refusal.public} Presented: {presented(refusal.claims)}."
        if is_fault_of_caller(refusal):
            inquiry, request_id = story.inquiry, story.caller.request_id
            self._quotas.count_failure(
                story.caller.source, fingerprint(inquiry.presented if inquiry is not None else None, request_id)
            )
        try:
            await self._audit.write(self._record(story, refusal))
        except Refusal as unwritten:
            self._meter.count(story.endpoint, "refused", unwritten.reason.code)
            raise
        self._meter.count(story.endpoint, "refused", refusal.reason.code)

    def _record(self, story: _Story, refusal: Refusal | None) -> AuditRecord:
        client, inquiry, own = story.client, story.inquiry, story.own_token
        claims = refusal.claims if refusal is not None else None
        claimed = claimed_client_id(inquiry.client_id, inquiry.presented) if inquiry is not None else None
        return AuditRecord(
            time=self._clock(),
            request_id=story.caller.request_id,
            source=story.caller.source,
            endpoint=story.endpoint,
            grant="none",
            decision="granted" if refusal is None else "denied",
            reason=refusal.reason.code if refusal is not None else GRANTED,
            stage=refusal.reason.stage if refusal is not None else "granted",
            policy_generation=self._policies.generation.number,
            client_id=client.client_id if client is not None else claimed,
            authentication=f"{client.method}/{client.credential}" if client is not None else None,
            issuer=refusal.issuer.name if refusal is not None and refusal.issuer is not None else None,
            iss=_text(claims, "iss"),
            subject=own.service_account if own is not None else _text(claims, "sub"),
            verified=own is not None or claims is not None,
            resource=own.audience if own is not None else None,
            access_token_id=own.token_id if own is not None else None,
            access_token_expires_at=own.expires_at if own is not None else None,
            detail=refusal.internal if refusal is not None else "",
        )


def _text(claims: Mapping[str, Any] | None, name: str) -> str | None:
    value = claims.get(name) if claims is not None else None
    return value if isinstance(value, str) else None
