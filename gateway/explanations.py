"""Recent decisions, kept so that an operator can ask by ``request_id`` why one was made.

Kept are verified claims and what was asked for, never a token or a secret; bounded in number, bytes and age. The
explanation itself is made when somebody asks. Policies that are replaced are not kept alive for it: what they decided
and nobody has asked about is explained while they go.
"""

import asyncio
import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.callers import Policies
from gateway.model import Check, Claims, Client, Clock, Decision, GrantType, TokenRequest
from gateway.oauth.reasons import GRANTED, REASONS
from gateway.policy.explanation import explain, explain_client, workload_of
from gateway.policy.explanation_document import Document, denial_document, document_of, located
from gateway.policy.files import locate_problems, policy_text
from gateway.policy.generation import Generation
from gateway.policy.near_miss import identity_hints

MAX_BYTES = 64 * 1024 * 1024
MAX_AGE_SECONDS = 24 * 3600
MAX_SETTLING_SECONDS = 5.0
"""How long policies that were replaced are looked into: so long the next ones have to wait at most."""
_OVERHEAD_BYTES = 1_000
"""What one kept decision takes beside its claims, about."""
_TEXT_OVERHEAD_BYTES = 60
"""What one text takes beside its characters, about."""


@dataclass(frozen=True, slots=True)
class Proven:
    """Who was asking, as far as it was proven: a workload by its claims, or a client by a credential of its own."""

    issuer: str | None = None
    """The issuer's name in the policies."""
    claims: Claims | None = None
    client: Client | None = None


@dataclass(slots=True)
class _Kept:
    """One decision, ready to be explained; ``document`` is its explanation, where it has been made."""

    at: float
    generation: int
    reason: str
    detail: str
    client_id: str | None
    resource: str | None
    scopes: tuple[str, ...] | None
    lifetime_seconds: int | None
    issuer: str | None
    claims: bytes
    credential: tuple[str, str] | None
    """The method and the credential of a client."""
    document: bytes = b""

    @property
    def size(self) -> int:
        asked = (self.client_id, self.resource, *(self.scopes or ()))
        texts = sum(_TEXT_OVERHEAD_BYTES + len(one) for one in asked if one is not None)
        return _OVERHEAD_BYTES + texts + len(self.claims) + len(self.document) + len(self.detail)


class Explanations:
    """The recent decisions of this process."""

    def __init__(
        self,
        policies: Policies,
        clock: Clock,
        *,
        capacity: int,
        max_bytes: int = MAX_BYTES,
        max_age_seconds: float = MAX_AGE_SECONDS,
    ) -> None:
        self._policies = policies
        self._clock = clock
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._max_age_seconds = max_age_seconds
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._bytes = 0
        self._going: dict[int, Generation] = {}
        """The policies that were replaced just now, while what they decided is being explained."""

    def __len__(self) -> int:
        return len(self._kept)

    def keep(
        self,
        request_id: str,
        request: TokenRequest,
        proven: Proven,
        decision: Decision | None,
        reason: str,
        detail: str,
    ) -> None:
        """Keeps one request, granted or denied. ``decision`` is what the policies said, where they were asked;
        ``reason`` and ``detail`` are what came of the request.
        """
        if self._capacity == 0 or (proven.claims is None and proven.client is None):
            return
        client, in_force = proven.client, self._policies.generation.number
        number = decision.generation if decision is not None else in_force
        kept = _Kept(
            self._clock(),
            number,
            reason,
            detail,
            request.client_id if client is None else client.client_id,
            request.resource,
            request.scopes,
            request.lifetime_seconds,
            proven.issuer,
            b"" if proven.claims is None else _json(proven.claims),
            None if client is None else (client.method, client.credential),
        )
        if number != in_force and decision is not None:
            kept.document = _json(denial_document(decision))  # its policies went while it waited for something
        self._put(request_id, kept)

    def _put(self, request_id: str, kept: _Kept) -> None:
        before = self._kept.pop(request_id, None)
        if before is not None:
            self._bytes -= before.size
        self._kept[request_id] = kept
        self._bytes += kept.size
        self._forget(kept.at - self._max_age_seconds)

    def _forget(self, oldest: float) -> None:
        """Lets the earliest go until all bounds are kept."""
        kept = self._kept
        while kept and (
            len(kept) > self._capacity or self._bytes > self._max_bytes or next(iter(kept.values())).at < oldest
        ):
            _, forgotten = kept.popitem(last=False)
            self._bytes -= forgotten.size

    async def of(self, request_id: str) -> Document | None:
        """The explanation of a request with the lines of the files as they are now, or None where it is not kept."""
        kept = self._kept.get(request_id)
        if kept is None or kept.at < self._clock() - self._max_age_seconds:
            return None
        in_force = self._policies.generation
        generation = in_force if kept.generation == in_force.number else self._going.get(kept.generation)
        document = await asyncio.to_thread(_located_document, kept, generation)
        return {
            "request_id": request_id,
            "time": kept.at,
            "in_force": kept.generation == in_force.number,
            **document,
        }

    async def settle(self, generation: Generation) -> None:
        """Explains what a generation that was replaced has decided, so that nothing holds on to it any longer.

        Of what cannot be explained within ``MAX_SETTLING_SECONDS``, reason and detail are all that is kept.
        """
        number = generation.number
        pending = [(id_, one) for id_, one in self._kept.items() if one.generation == number and not one.document]
        self._going[number] = generation
        until = self._clock() + MAX_SETTLING_SECONDS
        try:
            for request_id, kept in reversed(
                pending
            ):  # one at a time, so that requests go on meanwhile; the latest first
                if self._clock() > until:
                    break
                if self._kept.get(request_id) is not kept:
                    continue
                document = await asyncio.to_thread(_explained, kept, generation, in_brief=True)
                if self._kept.get(request_id) is kept:
                    kept.document = document
                    self._bytes += len(document)
                    self._forget(self._clock() - self._max_age_seconds)
        finally:
            del self._going[number]


def _located_document(kept: _Kept, generation: Generation | None) -> Document:
    written = kept.document or _explained(kept, generation)
    document: Document = json.loads(written)
    return located(document, locate_problems, policy_text)


def _explained(kept: _Kept, generation: Generation | None, *, in_brief: bool = False) -> bytes:
    """The explanation under the policies that decided."""
    request = TokenRequest(
        GrantType.TOKEN_EXCHANGE if kept.credential is None else GrantType.CLIENT_CREDENTIALS,
        client_id=kept.client_id,
        resource=kept.resource,
        scopes=kept.scopes,
        lifetime_seconds=kept.lifetime_seconds,
    )
    issuer = generation.issuers_by_name.get(kept.issuer or "") if generation is not None else None
    if generation is None or (kept.claims and issuer is None):
        gone = Decision(kept.reason, None, kept.generation, kept.client_id, wanted=kept.detail)
        return _json(denial_document(gone))
    if issuer is None:
        method, credential = kept.credential or ("", "")
        explained = explain_client(
            generation, Client(kept.client_id or "", method, credential), request, in_brief=in_brief
        )
        return _json(document_of(explained, reason=kept.reason))
    claims = json.loads(kept.claims)
    explained = explain(generation, workload_of(issuer, claims), request, in_brief=in_brief)
    identity, hints = [], []
    if kept.reason not in {GRANTED, explained.decision.reason}:
        reason = REASONS[kept.reason]
        note = f"{reason.sentence} {kept.detail}".strip()
        identity = [Check("request", "identity", (reason.stage,), "", None, passed=False, note=note)]
        hints = identity_hints(generation, issuer, claims)
    return _json(document_of(explained, reason=kept.reason, identity=identity, hints=hints))


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # a number beyond 64 bits
        return json.dumps(value).encode()
