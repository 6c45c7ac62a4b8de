"""What a token proves and what it does not, check by check: for whoever wants to know why it was refused.

Verification stops at the first check that fails; here each is made, with what it saw. Nothing is trusted for it: a
``Workload`` comes from verification alone. No I/O, no clock.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.identity.verification import (
    check_audience,
    check_issuer,
    check_required,
    check_subject,
    check_times,
    check_token_id,
    check_type,
    select_key,
)
from gateway.jose.jwks import KeySet
from gateway.model import Check, ClaimPath, Claims, TrustedIssuer, UnverifiedToken
from gateway.oauth.errors import Refusal


@dataclass(frozen=True, slots=True)
class Examination:
    """The checks in the order in which verification makes them, and the reason of the first that failed."""

    checks: tuple[Check, ...]
    reason: str | None


def examine_token(
    token: UnverifiedToken, claims: Claims, issuer: TrustedIssuer, keys: KeySet | None, now: float
) -> Examination:
    """A token against an issuer at ``now`` (seconds). Without ``keys`` the signature is not checked, and no check says
    so.
    """
    return _examined((*_of_header(token, issuer, keys), *_of_claims(claims, issuer, now)))


def examine_claims(claims: Claims, issuer: TrustedIssuer) -> Examination:
    """Claims that somebody wrote down, against an issuer: whom they are from and for. Time is no matter."""
    return _examined(tuple(_of_claims(claims, issuer, None)))


_Outcome = tuple[Check, Refusal | None]


def _examined(outcomes: tuple[_Outcome, ...]) -> Examination:
    reason = next((refusal.reason.code for _, refusal in outcomes if refusal is not None), None)
    return Examination(tuple(check for check, _ in outcomes), reason)


def _of_header(token: UnverifiedToken, issuer: TrustedIssuer, keys: KeySet | None) -> Iterator[_Outcome]:
    header = token.unverified_header
    yield _outcome("typ", sorted(issuer.token_types), header.get("typ"), lambda: check_type(token, issuer))
    if keys is not None:
        yield _outcome("signature", "a key of the issuer", header.get("kid"), lambda: _verify(token, issuer, keys))


def _verify(token: UnverifiedToken, issuer: TrustedIssuer, keys: KeySet) -> None:
    key = select_key(token, issuer, keys)
    if not key.verifiers[token.unverified_header["alg"]](token.signing_input, token.signature):
        raise Refusal("bad_signature")


def _of_claims(claims: Claims, issuer: TrustedIssuer, now: float | None) -> Iterator[_Outcome]:
    """What the claims say. Without ``now`` they need not be all that a token has."""
    yield _outcome("iss", issuer.url, claims.get("iss"), lambda: check_issuer(claims, issuer))
    if now is not None or "sub" in claims:
        yield _outcome("sub", issuer.subject_pattern, claims.get("sub"), lambda: check_subject(claims, issuer))
    yield _outcome("aud", sorted(issuer.audiences), claims.get("aud"), lambda: check_audience(claims, issuer))
    if now is None:
        return
    times = {name: claims.get(name) for name in ("iat", "nbf", "exp")}
    yield _outcome("exp", {"now": int(now)}, times, lambda: check_times(claims, issuer, now))
    yield _outcome("jti", "a short text, where there is one", claims.get("jti"), lambda: check_token_id(claims))
    required = [" > ".join(path) for path in issuer.claims.required]
    there = [" > ".join(path) for path in issuer.claims.required if _claim_at(claims, path) is not None]
    yield _outcome("required", required, there, lambda: check_required(claims, issuer.claims))


def _claim_at(claims: Claims, path: ClaimPath) -> Any:
    """The value of a claim, or None where there is none."""
    value: Any = claims
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _outcome(name: str, wanted: Any, seen: Any, check: Callable[[], object]) -> _Outcome:
    refusal = None
    try:
        check()
    except Refusal as refused:
        refusal = refused
    note = "" if refusal is None else refusal.internal or refusal.public
    return Check("token", "identity", (name,), wanted, seen, refusal is None, note), refusal
