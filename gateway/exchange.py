"""The hallway: one short function per way to ask, and the five steps that each of them walks in order.

The order is a security property:

1. who is calling?        cheap checks on the text come before any key set; the issuer is looked up in the
                          configuration before anything is fetched; the signature is verified before a claim counts
2. what may it do?        pure, on verified claims only
3. has it been used?      a replay mark is set after the decision (a refused request burns no token)
                          and before minting (two at once cannot both win)
4. here is the token      minted for the entitlement, and never longer
5. it was written down    the record is durable before the token leaves
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

from gateway.audit.log import AuditLog
from gateway.identity.trust import TrustStore
from gateway.jose.compact import token_sha256
from gateway.metrics import ExchangeMeter
from gateway.model import (
    AccessToken,
    AuditRecord,
    Claims,
    Clock,
    Decision,
    Entitlement,
    TokenRequest,
    Workload,
)
from gateway.oauth.errors import Refusal, presented
from gateway.oauth.parameters import TOKEN_TYPE_ACCESS_TOKEN
from gateway.oauth.reasons import GRANTED, REASONS
from gateway.policy.decision import decide
from gateway.policy.delegation import decide_delegation, decide_narrowing
from gateway.policy.generation import Generation
from gateway.state.base import ReplayMarks, StateUnavailableError
from gateway.tokens.access_token import mint
from gateway.tokens.own_token import OwnToken, verify_own_token
from gateway.tokens.signing_keys import SigningKeys

log = logging.getLogger("gateway.exchange")

OWN_ISSUER = "self"
"""What metrics and records call the gateway itself, where its own token is the subject."""


class Policies(Protocol):
    """Whoever holds the generation in force."""

    @property
    def generation(self) -> Generation:
        """The policies that decide from now on."""


@dataclass(frozen=True, slots=True)
class Caller:
    """What the edge knows about a request before reading it."""

    request_id: str
    source: str
    """The address that the request came from."""


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
    workload: Workload | None = None
    own_token: OwnToken | None = None
    decision: Decision | None = None


class Exchange:
    """The token endpoint's work, behind HTTP."""

    def __init__(
        self,
        *,
        issuer: str,
        trust: TrustStore,
        policies: Policies,
        replay_marks: ReplayMarks,
        signing_keys: SigningKeys,
        audit: AuditLog,
        meter: ExchangeMeter,
        clock: Clock,
        new_token_id: Callable[[], str],
    ) -> None:
        self._issuer = issuer
        self._trust = trust
        self._policies = policies
        self._replay_marks = replay_marks
        self._signing_keys = signing_keys
        self._audit = audit
        self._meter = meter
        self._clock = clock
        self._new_token_id = new_token_id

    async def exchange(self, request: TokenRequest, caller: Caller) -> Issued:
        """Answers a token exchange (RFC 8693) or an assertion (RFC 7523 §2.1).

        Raises ``Refusal``, after the denial was written down.
        """
        story = _Story(caller, request)
        try:
            if request.token_type == TOKEN_TYPE_ACCESS_TOKEN:
                token = await self._exchange_own_token(request, story)
            else:
                token = await self._exchange_workload_token(request, story)
        except Refusal as refusal:
            await self._write_denial(refusal, story)
            raise
        except Exception as error:
            log.exception("unexpected error request_id=%s", caller.request_id)
            mistake = Refusal("internal_error", internal=type(error).__name__)
            await self._write_denial(mistake, story)
            raise mistake from error
        return await self._write_issued(token, request, story)

    async def refuse(self, refusal: Refusal, caller: Caller) -> None:
        """Writes down a request that was refused at the edge, before there was anything to decide."""
        await self._write_denial(refusal, _Story(caller))

    async def _exchange_workload_token(self, request: TokenRequest, story: _Story) -> AccessToken:
        started = perf_counter()
        workload = await self._trust.authenticate(request.token)  # 1
        story.workload = workload
        identified = perf_counter()
        decision = decide(self._generation_for(workload), workload, request)  # 2
        story.decision = decision
        entitlement = _entitled(decision, request, workload.issuer.explain_denials)
        decided = perf_counter()
        if workload.issuer.replay == "reject":
            await self._claim_once(workload, request.token)  # 3
        act = {"iss": workload.issuer.url, "sub": workload.subject}
        not_after = workload.expires_at if workload.issuer.bound_to_subject_token else None
        token = self._mint(entitlement, act, not_after)  # 4
        self._meter.observe_stages(identified - started, decided - identified, perf_counter() - decided)
        return token

    async def _exchange_own_token(self, request: TokenRequest, story: _Story) -> AccessToken:
        own = verify_own_token(request.token, self._signing_keys, self._issuer, self._clock())  # 1
        story.own_token = own
        if request.actor_token is None:
            return self._narrow(own, request, story)
        return await self._delegate(own, request.actor_token, request, story)

    def _narrow(self, own: OwnToken, request: TokenRequest, story: _Story) -> AccessToken:
        story.decision = decide_narrowing(self._policies.generation, own.passed_on, request)  # 2
        return self._mint(_entitled(story.decision, request, "reason"), own.act, own.expires_at)  # 4

    async def _delegate(self, own: OwnToken, actor_token: str, request: TokenRequest, story: _Story) -> AccessToken:
        actor = await self._trust.authenticate(actor_token)  # 1
        story.workload = actor
        decision = decide_delegation(self._generation_for(actor), own.passed_on, actor, request)  # 2
        story.decision = decision
        entitlement = _entitled(decision, request, "reason")
        if actor.issuer.replay == "reject":
            await self._claim_once(actor, actor_token)  # 3
        act = {"iss": actor.issuer.url, "sub": actor.subject, "act": own.act}
        bound = actor.issuer.bound_to_subject_token
        not_after = min(own.expires_at, actor.expires_at) if bound else own.expires_at
        return self._mint(entitlement, act, not_after)  # 4

    def _generation_for(self, workload: Workload) -> Generation:
        """The policies in force, if they trust the issuer that the workload was verified under. Between two
        generations an issuer may have changed its URL or its keys and kept its name.
        """
        generation = self._policies.generation
        if not generation.trusts(workload.issuer):
            raise Refusal("issuer_unavailable", internal=f"the issuer {workload.issuer.name} is being taken over")
        return generation

    def _mint(self, entitlement: Entitlement, act: Mapping[str, Any], not_after: int | None) -> AccessToken:
        return mint(
            entitlement,
            act,
            self._signing_keys.current(),
            issuer=self._issuer,
            now=self._clock(),
            token_id=self._new_token_id(),
            not_after=not_after,
        )

    async def _claim_once(self, workload: Workload, token: str) -> None:
        """Sets the replay mark. It outlives the token by the leeway, so that no window opens behind it."""
        until = workload.expires_at + workload.issuer.leeway_seconds + 5
        # Without a jti, by what was signed: an ECDSA signature has a twin (r, n - s) that anybody can make.
        key = workload.token_id or token_sha256(token.rpartition(".")[0])
        try:
            first = await self._replay_marks.claim_once(workload.issuer.name, key, until)
        except StateUnavailableError as error:
            raise Refusal("state_unavailable", internal=str(error)) from error
        if not first:
            raise Refusal("token_replayed")

    async def _write_issued(self, token: AccessToken, request: TokenRequest, story: _Story) -> Issued:
        started = perf_counter()
        issuer = story.workload.issuer.name if story.workload is not None else OWN_ISSUER
        await self._write(self._record(story, token), request.grant_type.label, issuer)  # 5
        self._meter.observe_record(perf_counter() - started)
        return Issued(token, story.caller.request_id)

    async def _write_denial(self, refusal: Refusal, story: _Story) -> None:
        if story.workload is not None:
            refusal.issuer, refusal.claims = story.workload.issuer, story.workload.claims
        if refusal.claims is not None:
            refusal.public = f"{refusal.public} Presented: {presented(refusal.claims)}."
        grant = story.request.grant_type.label if story.request is not None else "none"
        issuer = refusal.issuer.name if refusal.issuer is not None else "unknown"
        await self._write(self._record(story, refusal), grant, issuer)

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
        subject = own or workload
        actor = workload if own is not None else None
        return AuditRecord(
            time=self._clock(),
            request_id=story.caller.request_id,
            source=story.caller.source,
            grant=request.grant_type.label if request else "none",
            decision="granted" if refusal is None else "denied",
            reason=refusal.reason.code if refusal else GRANTED,
            stage=refusal.reason.stage if refusal else "granted",
            policy_generation=generation,
            client_id=service_account or (request.client_id if request else None),
            issuer=issuer.name if issuer else OWN_ISSUER if own else None,
            iss=_text(claims, "iss") if claims else self._issuer if own else None,
            subject=_text(claims, "sub") if claims else own.service_account if own else None,
            verified=claims is not None or own is not None,
            rule=given.rule if given else None,
            claims=decision.looked_at if decision else (),
            resource=given.audience if given else request.resource if request else None,
            scopes_asked=request.scopes if request else None,
            scopes_given=given.scopes if given else None,
            subject_token_sha256=subject.token_sha256 if subject else _sha256(request),
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
    return token_sha256(request.token) if request is not None else None
