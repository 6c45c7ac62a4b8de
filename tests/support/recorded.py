"""Recorded decisions in tests: what the audit log would tell of a request, and the log itself."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.audit.record import to_json_line
from gateway.model import AuditRecord, Claims, RecordedDecision
from gateway.policy.generation import Generation
from tests.support.policies import ask

NOW = 1_800_000_000.0
NOTHING = RecordedDecision(
    time=NOW,
    request_id="req-1",
    grant="token-exchange",
    reason="granted",
    stage="granted",
    service_account=None,
    authentication=None,
    issuer=None,
    subject=None,
    rule=None,
    claims={},
    claims_are_complete=True,
    known_claims=frozenset(),
    client_id_asked=None,
    resource_asked=None,
    scopes_asked=None,
    lifetime_asked_seconds=None,
    resource=None,
    scopes_given=None,
    lifetime_given_seconds=None,
    delegated=False,
)


def recorded(
    generation: Generation, issuer: str, claims: Claims, *, time: float = NOW, request_id: str = "req-1", **asked: Any
) -> RecordedDecision:
    """What a generation says to these claims, as its record tells it. ``asked`` as of ``ask``."""
    url = generation.issuers_by_name[issuer].url
    claims = {"iss": url, "aud": "https://sts.example.com", **claims}
    decision = ask(generation, issuer, dict(claims), **asked)
    given = decision.entitlement
    subject = claims.get("sub")
    return replace(
        NOTHING,
        time=time,
        request_id=request_id,
        reason=decision.reason,
        stage="granted" if given is not None else "policy",
        service_account=decision.service_account or asked.get("client_id"),
        issuer=issuer,
        subject=subject if isinstance(subject, str) else None,
        rule=given.rule if given is not None else None,
        claims=claims,
        client_id_asked=asked.get("client_id"),
        resource_asked=asked.get("resource"),
        scopes_asked=asked.get("scopes"),
        lifetime_asked_seconds=asked.get("lifetime_seconds"),
        resource=given.audience if given is not None else None,
        scopes_given=given.scopes if given is not None else None,
        lifetime_given_seconds=given.lifetime_seconds if given is not None else None,
    )


def audit_line(one: RecordedDecision) -> bytes:
    """The line of the audit log that tells of it."""
    record = AuditRecord(
        time=one.time,
        request_id=one.request_id,
        grant=one.grant,
        decision="granted" if one.reason == "granted" else "denied",
        reason=one.reason,
        stage=one.stage,
        source="192.0.2.7",
        policy_generation=1,
        client_id=one.service_account,
        authentication=one.authentication,
        issuer=one.issuer,
        subject=one.subject,
        verified=one.issuer is not None,
        rule=one.rule,
        claims=one.claims,
        claims_complete=one.claims_are_complete and one.issuer is not None,
        client_id_asked=one.client_id_asked,
        resource_asked=one.resource_asked,
        lifetime_asked_seconds=one.lifetime_asked_seconds,
        resource=one.resource or one.resource_asked,
        scopes_asked=one.scopes_asked,
        scopes_given=one.scopes_given,
        lifetime_given_seconds=one.lifetime_given_seconds,
        actor_token_sha256="ab" * 32 if one.delegated else None,
    )
    return to_json_line(record)


def write_log(file: Path, decisions: Iterable[RecordedDecision]) -> Path:
    """An audit log of these decisions."""
    file.write_bytes(b"".join(map(audit_line, decisions)))
    return file
