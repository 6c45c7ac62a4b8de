"""The hallway: one short function per way to ask, and the five steps that each of them walks in order.

The order is a security property:

1. who is calling?        cheap checks on the text come before any key set; the issuer is looked up in the
                          configuration before anything is fetched; the signature is verified before a claim counts
2. what may it do?        pure, on verified claims only
3. not once too often     quotas are spent by those alone who were let in, and given back where nothing comes of it; a
                          replay mark is set after the decision (a refused request burns no token) and before minting
                          (two at once cannot both win)
4. here is the token      minted for the entitlement, and never longer
5. it was written down    the record is durable before the token leaves
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Literal

from cachetools import TTLCache

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
from gateway.explanations import Explanations, Proven
from gateway.identity.possession import Possession, confirmation, verify_possession
from gateway.identity.replay import Replay
from gateway.identity.trust import TrustStore
from gateway.jose.compact import token_sha256
from gateway.metrics import ExchangeMeter
from gateway.model import (
    AccessToken,
    AuditRecord,
    Claims,
    Client,
    Clock,
    Decision,
    Entitlement,
    GrantType,
    PresentedAssertion,
    TokenRequest,
    Workload,
)
from gateway.oauth.errors import Refusal, presented
from gateway.oauth.metadata import token_endpoint
from gateway.oauth.parameters import TOKEN_TYPE_ACCESS_TOKEN
from gateway.oauth.reasons import GRANTED, REASONS
from gateway.policy.decision import decide, decide_client
from gateway.policy.delegation import decide_delegation, decide_narrowing
from gateway.policy.generation import Generation
from gateway.shadow import Asker, DecideIn, Shadow
from gateway.state.base import StateUnavailableError
from gateway.state.quotas import QuotaExceeded, Quotas, Taken
from gateway.tokens.access_token import mint
from gateway.tokens.own_token import OwnToken, verify_own_token
from gateway.tokens.revocation import Revocations
from gateway.tokens.signing_keys import SigningKeys

log = logging.getLogger("gateway.exchange")

OWN_ISSUER = "self"
"""What metrics, records and quotas call the gateway as an issuer: of its own tokens, and of classic clients."""

AuditedClaims = Literal["all", "looked_at"]
"""Which claims of a workload token the audit record holds."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A token whose record is durable. Only the last step makes one, and only one of these can be answered with."""

    access_token: AccessToken
    request_id: str


@dataclass(slots=True)
class _Story:
    """What is known so far about one request: what the audit record will say, however it ends."""

    caller: Caller
    request: TokenRequest | None = None
    client: Client | None = None
    workload: Workload | None = None
    own_token: OwnToken | None = None
    decision: Decision | None = None


_THROTTLED_CALLERS = 4096
_TOLD_EVERY_SECONDS = 60
"""How often the audit log is told of one caller that has had too much."""


@dataclass(frozen=True, slots=True)
class _Approved:
    """What steps 1 and 2 say yes to: all that is needed to mint once."""

    entitlement: Entitlement
    spender: tuple[str, str]
    """Whose quota it takes from: an issuer's name and a subject."""
    act: Mapping[str, Any] | None
    entitled_by: str
    handed_over: str | None = None
    """Where the subject token is one of ours: whose quota it takes from instead of its service account's. APIs are
    handed such tokens, and must not use up the quota of whoever calls them."""
    not_after: int | None = None
    confirmation_of_subject: Mapping[str, str] | None = None
    """What the subject token is bound to, where it is one of ours."""
    presented: tuple[Workload, str] | None = None
    """The workload token that was presented, which may work once."""
    took: tuple[float, float] | None = None
    """Seconds in the rooms of identity and of policy, of a workload token."""


class Exchange:
    """The token endpoint's work, behind HTTP."""

    def __init__(
        self,
        *,
        issuer: str,
        trust: TrustStore,
        policies: Policies,
        callers: Callers,
        replay: Replay,
        quotas: Quotas,
        signing_keys: SigningKeys,
        revocations: Revocations,
        audit: AuditLog,
        explanations: Explanations,
        meter: ExchangeMeter,
        clock: Clock,
        new_token_id: Callable[[], str],
        audit_claims: AuditedClaims = "all",
        shadow: Shadow | None = None,
    ) -> None:
        self._issuer = issuer
        self._token_endpoint = token_endpoint(issuer)
        self._trust = trust
        self._policies = policies
        self._callers = callers
        self._replay = replay
        self._quotas = quotas
        self._throttled: TTLCache[tuple[str | None, ...], None] = TTLCache(
            _THROTTLED_CALLERS, _TOLD_EVERY_SECONDS, timer=clock
        )
        self._signing_keys = signing_keys
        self._revocations = revocations
        self._audit = audit
        self._explanations = explanations
        self._meter = meter
        self._clock = clock
        self._new_token_id = new_token_id
        self._audit_claims = audit_claims
        self._shadow = shadow

    async def exchange(self, request: TokenRequest, caller: Caller) -> Issued:
        """Answers a token exchange (RFC 8693), an assertion (RFC 7523 §2.1) or client credentials (RFC 6749 §4.4).

        Raises ``Refusal``, after the denial was written down.
        """
        story = _Story(caller, request)
        try:
            token = await self._token_for(request, story)
        except Refusal as refusal:
            await self._write_denial(refusal, story)
            raise
        except Exception as error:
            log.exception("unexpected error request_id=%s", caller.request_id)
            mistake = Refusal("internal_error", internal=type(error).__name__)
            await self._write_denial(mistake, story)
            raise mistake from error
        return await self._write_issued(token, story)

    def check_source(self, caller: Caller) -> None:
        """Refuses whoever comes from a network that has failed too often, before anything is read.

        Counted and not written down: a flood must not fill the audit log. Raises ``Refusal``.
        """
        try:
            self._quotas.check_source(caller.source)
        except QuotaExceeded as exceeded:
            self._meter.count("none", "unknown", "denied", "quota_exceeded")
            raise self._too_many(exceeded) from exceeded

    async def refuse(self, refusal: Refusal, caller: Caller) -> None:
        """Writes down a request that was refused at the edge, before there was anything to decide."""
        await self._write_denial(refusal, _Story(caller))

    async def _token_for(self, request: TokenRequest, story: _Story) -> AccessToken:
        approved = await self._approved(request, story)  # 1, 2
        return await self._mint_once(approved, request, story)  # 3, 4

    # ------------------------------------------------------------ 1, 2: who is calling, and what may it do

    async def _approved(self, request: TokenRequest, story: _Story) -> _Approved:
        if request.grant_type is GrantType.CLIENT_CREDENTIALS:
            return await self._approve_client_credentials(request, story)
        if request.presented is not None:  # RFC 7521 §4.1: whoever presents credentials must have valid ones
            story.client = await self._callers.authenticate_service_account(request.presented, request.client_id)
            request = replace(request, client_id=story.client.client_id)
        if request.token_type == TOKEN_TYPE_ACCESS_TOKEN:
            return await self._approve_own_token(request, story)
        started = perf_counter()
        workload = await self._trust.authenticate(request.token)
        return self._approve_workload(workload, request.token, request, story, perf_counter() - started)

    async def _approve_client_credentials(self, request: TokenRequest, story: _Story) -> _Approved:
        if request.presented is None:
            hint = "A TLS client certificate needs client_id beside it." if request.certificate is not None else ""
            raise Refusal("client_authentication_missing", hint)
        started = perf_counter()
        proven = await self._callers.authenticate(request.presented, request.client_id)
        if isinstance(proven, Workload):
            assert isinstance(request.presented, PresentedAssertion)
            took = perf_counter() - started
            return self._approve_workload(proven, request.presented.assertion, request, story, took)
        story.client = proven
        decision = self._decided(
            story, self._policies.generation, lambda generation: decide_client(generation, proven, request)
        )
        entitlement = _entitled(decision, request, "reason")
        entitled_by = f"{proven.method}/{proven.credential}"
        return _Approved(entitlement, spender=(OWN_ISSUER, proven.client_id), act=None, entitled_by=entitled_by)

    def _approve_workload(
        self, workload: Workload, token: str, request: TokenRequest, story: _Story, identity_seconds: float
    ) -> _Approved:
        """The way of every workload token that was verified, however it was sent."""
        story.workload = workload
        started = perf_counter()
        decision = self._decided(
            story, self._callers.generation_for(workload), lambda generation: decide(generation, workload, request)
        )
        entitlement = _entitled(decision, request, workload.issuer.explain_denials)
        return _Approved(
            entitlement,
            spender=(workload.issuer.name, workload.subject),
            act={"iss": workload.issuer.url, "sub": workload.subject},
            entitled_by=f"{workload.issuer.name}/{entitlement.rule}",
            not_after=workload.expires_at if workload.issuer.bound_to_subject_token else None,
            presented=(workload, token),
            took=(identity_seconds, perf_counter() - started),
        )

    async def _approve_own_token(self, request: TokenRequest, story: _Story) -> _Approved:
        own = verify_own_token(request.token, self._signing_keys, self._issuer, self._clock())
        story.own_token = own
        self._revocations.check(own)
        if request.actor_token is None:
            return self._approve_narrowing(own, request, story)
        return await self._approve_delegation(own, request.actor_token, request, story)

    def _approve_narrowing(self, own: OwnToken, request: TokenRequest, story: _Story) -> _Approved:
        decision = self._decided(
            story, self._policies.generation, lambda generation: decide_narrowing(generation, own.passed_on, request)
        )
        return _Approved(
            _entitled(decision, request, "reason"),
            spender=(OWN_ISSUER, _handed_over(own)),
            handed_over=_handed_over(own),
            act=own.act,
            entitled_by=own.entitled_by,
            not_after=own.expires_at,
            confirmation_of_subject=own.confirmation,
        )

    async def _approve_delegation(
        self, own: OwnToken, actor_token: str, request: TokenRequest, story: _Story
    ) -> _Approved:
        actor = await self._trust.authenticate(actor_token)
        story.workload = actor
        decision = self._decided(
            story,
            self._callers.generation_for(actor),
            lambda generation: decide_delegation(generation, own.passed_on, actor, request),
        )
        act: dict[str, Any] = {"iss": actor.issuer.url, "sub": actor.subject}
        if own.act is not None:
            act["act"] = own.act
        bound = actor.issuer.bound_to_subject_token
        return _Approved(
            _entitled(decision, request, "reason"),
            spender=(actor.issuer.name, actor.subject),
            handed_over=_handed_over(own),
            act=act,
            entitled_by=own.entitled_by,
            not_after=min(own.expires_at, actor.expires_at) if bound else own.expires_at,
            confirmation_of_subject=own.confirmation,
            presented=(actor, actor_token),
        )

    def _decided(self, story: _Story, generation: Generation, decide_in: DecideIn) -> Decision:
        """What the policies in force say. Those in the shadow are asked once this request has gone its way."""
        story.decision = decision = decide_in(generation)
        if self._shadow is not None:
            self._shadow.follow(decision, decide_in, story.workload, _asker(story))
        return decision

    # ------------------------------------------------------------ 3, 4: once, and here is the token

    async def _mint_once(self, approved: _Approved, request: TokenRequest, story: _Story) -> AccessToken:
        """Spends, claims, mints. Whatever can refuse comes before whatever is used up by it."""
        started = perf_counter()
        possession = verify_possession(request, self._token_endpoint, self._clock())
        constraint = approved.entitlement.sender_constraint
        bound_to = confirmation(possession, constraint, approved.confirmation_of_subject)
        taken = await self._spend(approved)
        try:
            await self._claim(possession, approved, request, story)
            token = self._mint(approved, bound_to)
        except Refusal:  # a token that works once was sent again: by anybody who has seen it
            await self._quotas.give_back(taken)
            raise
        if approved.took is not None:
            self._meter.observe_stages(*approved.took, perf_counter() - started)
        return token

    async def _claim(self, possession: Possession, approved: _Approved, request: TokenRequest, story: _Story) -> None:
        """Uses up everything in the request that works once."""
        if possession.proof is not None:
            await self._replay.claim_proof(possession.proof.jkt, possession.proof.jti, possession.proof.until)
        if story.client is not None:
            await self._callers.claim_assertion(story.client, request.presented)
        if approved.presented is not None:
            await self._replay.claim_workload_token(*approved.presented)

    def _mint(self, approved: _Approved, bound_to: Mapping[str, str] | None) -> AccessToken:
        return mint(
            approved.entitlement,
            approved.act,
            self._signing_keys.current(approved.entitlement.signing_algorithm),
            issuer=self._issuer,
            now=self._clock(),
            token_id=self._new_token_id(),
            entitled_by=approved.entitled_by,
            confirmation=bound_to,
            not_after=approved.not_after,
        )

    async def _spend(self, approved: _Approved) -> Taken:
        """Takes one request from the quotas, now that it is known who spends it and that the answer is yes."""
        name, (issuer, subject) = approved.entitlement.service_account, approved.spender
        account = self._policies.generation.service_account(name)
        limit = account.rate_limit if account is not None else None
        try:
            return await self._quotas.spend(
                service_account=approved.handed_over or name, limit=limit, issuer=issuer, subject=subject
            )
        except QuotaExceeded as exceeded:
            raise self._too_many(exceeded) from exceeded
        except StateUnavailableError as error:
            raise Refusal("state_unavailable", internal=str(error)) from error

    def _too_many(self, exceeded: QuotaExceeded) -> Refusal:
        self._meter.count_quota_exceeded(exceeded.quota)
        return too_many_requests(exceeded)

    # ------------------------------------------------------------ 5: it was written down

    async def _write_issued(self, token: AccessToken, story: _Story) -> Issued:
        started = perf_counter()
        record = self._record(story, token)
        issuer = story.workload.issuer.name if story.workload is not None else OWN_ISSUER
        await self._write(record, record.grant, issuer)  # 5
        self._remember(story, None)
        self._meter.observe_record(perf_counter() - started)
        return Issued(token, story.caller.request_id)

    async def _write_denial(self, refusal: Refusal, story: _Story) -> None:
        if story.workload is not None:
            refusal.issuer, refusal.claims = story.workload.issuer, story.workload.claims
        if refusal.claims is not None:
            refusal.public = f"{refusal.public} Presented: {presented(refusal.claims)}."
        if is_fault_of_caller(refusal):
            self._quotas.count_failure(story.caller.source, _fingerprint(story))
        grant = story.request.grant_type.label if story.request is not None else "none"
        own = story.client is not None or story.own_token is not None
        issuer = refusal.issuer.name if refusal.issuer is not None else OWN_ISSUER if own else "unknown"
        record = self._record(story, refusal)
        if refusal.reason.stage == "quota" and self._was_told(record):
            self._meter.count(grant, issuer, "denied", refusal.reason.code)
            return
        await self._write(record, grant, issuer)
        self._remember(story, refusal)

    def _remember(self, story: _Story, refusal: Refusal | None) -> None:
        """Keeps what the outcome can be explained from. The policies look at no workload behind a token of our own."""
        request, workload, client = story.request, story.workload, story.client
        if request is None or story.own_token is not None:
            return
        issuer = workload.issuer if workload is not None else refusal.issuer if refusal is not None else None
        claims = workload.claims if workload is not None else refusal.claims if refusal is not None else None
        proven = Proven(issuer.name if issuer is not None and claims is not None else None, claims, client)
        reason, detail = (GRANTED, "") if refusal is None else (refusal.reason.code, refusal.internal)
        self._explanations.keep(story.caller.request_id, request, proven, story.decision, reason, detail)

    def _was_told(self, record: AuditRecord) -> bool:
        """Whether the log says already that this caller has had too much: a flood must not fill it."""
        key = (record.detail, record.client_id, record.issuer, record.subject)
        if key in self._throttled:
            return True
        self._throttled[key] = None
        return False

    async def _write(self, record: AuditRecord, grant: str, issuer: str) -> None:
        """Writes the record, then counts what the caller will be told: without a record that is another answer."""
        try:
            await self._audit.write(record)
        except Refusal as unwritten:
            self._meter.count(grant, issuer, "denied", unwritten.reason.code)
            raise
        self._meter.count(grant, issuer, record.decision, record.reason)

    def _record(self, story: _Story, outcome: AccessToken | Refusal) -> AuditRecord:
        """One record for both ends, so that no field is known of a grant and forgotten of a denial."""
        request, workload, own, decision = story.request, story.workload, story.own_token, story.decision
        token, refusal = (None, outcome) if isinstance(outcome, Refusal) else (outcome, None)
        given = token.entitlement if token is not None else None
        issuer, claims = (workload.issuer, workload.claims) if workload is not None else (None, None)
        if refusal is not None and workload is None:
            issuer, claims = refusal.issuer, refusal.claims
        generation = decision.generation if decision is not None else self._policies.generation.number
        service_account = given.service_account if given else decision.service_account if decision else None
        approved = decision.entitlement if decision is not None else None
        subject = own or workload
        actor = workload if own is not None else None
        # All claims only of a token that passed every check of identity: of any other, none is a fact.
        complete = self._audit_claims == "all" and workload is not None
        return AuditRecord(
            time=self._clock(),
            request_id=story.caller.request_id,
            source=story.caller.source,
            grant=request.grant_type.label if request else "none",
            decision="granted" if refusal is None else "denied",
            reason=refusal.reason.code if refusal else GRANTED,
            stage=refusal.reason.stage if refusal else "granted",
            policy_generation=generation,
            client_id=service_account or _client_id(story),
            authentication=f"{client.method}/{client.credential}" if (client := story.client) else None,
            issuer=issuer.name if issuer else OWN_ISSUER if own else None,
            iss=_text(claims, "iss") if claims else self._issuer if own else None,
            subject=_text(claims, "sub") if claims else own.service_account if own else None,
            verified=claims is not None or own is not None,
            rule=approved.rule if approved else None,
            claims=workload.claims if complete and workload else decision.looked_at if decision else (),
            claims_complete=complete,
            client_id_asked=request.client_id if request else None,
            resource_asked=request.resource if request else None,
            lifetime_asked_seconds=request.lifetime_seconds if request else None,
            resource=given.audience if given else request.resource if request else None,
            scopes_asked=request.scopes if request else None,
            scopes_given=given.scopes if given else None,
            lifetime_given_seconds=given.lifetime_seconds if given else None,
            subject_token_sha256=subject.token_sha256 if subject else _sha256(request),
            client_assertion_id=story.client.assertion_id if story.client else None,
            subject_token_id=subject.token_id if subject else None,
            actor_token_sha256=actor.token_sha256 if actor else None,
            actor_token_id=actor.token_id if actor else None,
            key_id=workload.key_id if workload else None,
            access_token_id=token.token_id if token else None,
            access_token_expires_at=token.expires_at if token else None,
            access_token_key_id=token.key_id if token else None,
            detail=refusal.internal if refusal else "",
        )


def _entitled(decision: Decision, request: TokenRequest, explain: str) -> Entitlement:
    """The entitlement of a yes. Raises the ``Refusal`` of a no: with what was asked for, and with as much of the
    policy as ``explain`` allows.
    """
    if decision.entitlement is not None:
        return decision.entitlement
    public = REASONS[decision.reason].sentence + _asked(decision.reason, request)
    if decision.candidates:
        public += f" It may become: {', '.join(decision.candidates)}."
    if explain == "full" and decision.wanted:
        public += f" {decision.wanted}"
    raise Refusal(decision.reason, public, internal=decision.wanted)


def _asker(story: _Story) -> Asker:
    """Whose request a decision is about."""
    workload, own, client = story.workload, story.own_token, story.client
    if workload is not None:
        return Asker(story.caller.request_id, workload.issuer.name, workload.subject)
    subject = own.service_account if own is not None else client.client_id if client is not None else ""
    return Asker(story.caller.request_id, OWN_ISSUER, subject)


def _handed_over(own: OwnToken) -> str:
    """What the quota of those who were handed a token is called: not as a service account, whose name has no ``@``."""
    return f"{own.service_account}@{own.audience}"


def _asked(reason: str, request: TokenRequest) -> str:
    """What of the request a refusal is about: the caller's own words, told back."""
    asked = {
        "unknown_service_account": request.client_id,
        "unknown_resource": request.resource,
        "resource_not_granted": request.resource,
        "narrowing_only": request.resource,
        "scope_not_granted": " ".join(request.scopes or ()),
    }.get(reason)
    return f" Asked for: {asked}." if asked else ""


def _text(claims: Claims, name: str) -> str | None:
    value = claims.get(name)
    return value if isinstance(value, str) else None


def _sha256(request: TokenRequest | None) -> str | None:
    return token_sha256(request.token) if request is not None and request.token else None


def _fingerprint(story: _Story) -> bytes:
    request, request_id = story.request, story.caller.request_id
    return fingerprint(request.presented, request.token or request_id) if request else request_id.encode()


def _client_id(story: _Story) -> str | None:
    """The client in question: the one that authenticated, or the one that the request says it is."""
    if story.client is not None:
        return story.client.client_id
    request = story.request
    return claimed_client_id(request.client_id, request.presented) if request is not None else None
