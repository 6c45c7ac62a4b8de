"""Whether a token proves who is calling: one pure function, from a token taken apart to a ``Workload``.

RFC 7519 §7.2, RFC 7515 §5.2, RFC 8725. No I/O, no clock, no state: the same arguments give the same answer.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from gateway.identity.presets.common import is_reserved_audience
from gateway.jose.compact import parse_token, parse_unverified_claims
from gateway.jose.jwks import KeySet, VerificationKey
from gateway.model import ClaimPath, Claims, ClaimTable, TrustedIssuer, UnverifiedToken, Workload
from gateway.oauth.errors import Refusal

MAX_SUBJECT_LENGTH = 255
MAX_TOKEN_ID_LENGTH = 256
MAX_NUMERIC_DATE = 2**53  # beyond it, not every parser reads the same number (RFC 8259 §6)
REGISTERED_CLAIMS = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti"})  # RFC 7519 §4.1

_PRINTABLE = re.compile(rf"[\x20-\x7e]{{1,{MAX_SUBJECT_LENGTH}}}")


def verify_compact(text: str, issuer: TrustedIssuer, keys: KeySet, now: float) -> Workload:
    """``verify_token`` for a token as it was sent."""
    return verify_token(parse_token(text), issuer, keys, now)


def verify_token(
    token: UnverifiedToken,
    issuer: TrustedIssuer,
    keys: KeySet,
    now: float,
    unverified_claims: Claims | None = None,
) -> Workload:
    """The workload that a token proves at ``now``, if all of this holds:

    0. it is a compact JWS with a sane header                       ``parse_token``, before
    1. its ``typ`` is one that this issuer's workload tokens have
    2. its ``alg`` is on the issuer's list
    3. its ``kid`` names one key of the issuer, and that key is made for the ``alg``
    4. the signature verifies with that key
    5. the payload is one strict JSON object
    6. ``iss`` is the issuer's URL, byte for byte
    7. ``sub`` has the shape of the platform's subjects
    8. ``aud`` holds one of our audiences, and none that is not allowed beside it
    9. ``exp`` and ``iat`` are there; with ``nbf`` they make sense, say that the token is valid now, and are
       within the issuer's limits on lifetime and age
    10. ``jti``, where present, is a short string
    11. every claim that the platform always sends is there

    Whether the token was used before, and what the workload may do, is asked elsewhere. ``unverified_claims`` is
    the payload where the caller has parsed it already. Raises ``Refusal`` with the reason of the first that fails,
    carrying the issuer, and from 6 on the claims.
    """
    claims: Claims | None = None
    try:
        check_type(token, issuer)  # 1
        key = select_key(token, issuer, keys)  # 2, 3
        if not key.verifiers[token.unverified_header["alg"]](token.signing_input, token.signature):  # 4
            raise Refusal("bad_signature")
        claims = parse_unverified_claims(token) if unverified_claims is None else unverified_claims  # 5
        check_issuer(claims, issuer)  # 6
        subject = check_subject(claims, issuer)  # 7
        check_audience(claims, issuer)  # 8
        expires_at, issued_at = check_times(claims, issuer, now)  # 9
        token_id = check_token_id(claims)  # 10
        check_required(claims, issuer.claims)  # 11
    except Refusal as refusal:
        refusal.issuer, refusal.claims = issuer, claims
        raise
    return Workload(
        issuer=issuer,
        subject=subject,
        claims=claims,
        expires_at=expires_at,
        issued_at=issued_at,
        token_id=token_id,
        token_sha256=token.sha256,
        key_id=key.key_id,
        unaccounted_claims=unaccounted_claims(claims, issuer.claims),
    )


# ---------------------------------------------------------------- before the signature


def check_type(token: UnverifiedToken, issuer: TrustedIssuer) -> None:
    """1. The media type in lower case, where ``application/`` may be left out (RFC 7515 §4.1.9, RFC 8725 §3.11)."""
    typ: str | None = token.unverified_header.get("typ")
    name = "" if typ is None else typ.lower().removeprefix("application/")
    if name not in issuer.token_types or (typ is not None and not name):  # an empty type is not the absence of one
        raise Refusal("wrong_token_type")


def select_key(token: UnverifiedToken, issuer: TrustedIssuer, keys: KeySet) -> VerificationKey:
    """2, 3. The one key that the token may be verified with; its ``alg`` chooses nothing (RFC 8725 §3.1)."""
    algorithm: str = token.unverified_header["alg"]
    if algorithm not in issuer.algorithms:
        raise Refusal("algorithm_not_allowed")
    key_id = token.unverified_header.get("kid")
    if key_id is None:
        return _only_key(algorithm, issuer, keys)
    key = keys.by_key_id.get(key_id)
    if key is None:
        raise Refusal("unknown_key")
    if algorithm not in key.verifiers:
        raise Refusal("algorithm_not_allowed", "The token's alg is not that of its key.")
    return key


def _only_key(algorithm: str, issuer: TrustedIssuer, keys: KeySet) -> VerificationKey:
    """For platforms that send no ``kid``: the sole key for the algorithm. Keys are never tried one by one."""
    if not issuer.allow_missing_kid:
        raise Refusal("missing_key_id")
    fitting = [key for key in keys.keys if algorithm in key.verifiers]
    if not fitting:
        raise Refusal("unknown_key", "The token names no key (kid), and its issuer has none for its alg.")
    if len(fitting) > 1:
        raise Refusal("missing_key_id", "The token names no key (kid), and its issuer has several for its alg.")
    return fitting[0]


# ---------------------------------------------------------------- who, and for whom


def check_issuer(claims: Claims, issuer: TrustedIssuer) -> None:
    """6. Code point by code point: no case folding, no slash more or less (RFC 7519 §4.1.1, RFC 8725 §3.8)."""
    iss = _required(claims, "iss")
    if iss != issuer.url:
        raise Refusal("invalid_claim", f"iss is not {issuer.url}.", internal=f"iss is {_shown(iss)}")


def check_subject(claims: Claims, issuer: TrustedIssuer) -> str:
    """7. A printable string of the platform's shape (RFC 7519 §4.1.2, OpenID Connect Core §2: at most 255)."""
    subject = _required(claims, "sub")
    if type(subject) is not str or not _PRINTABLE.fullmatch(subject):
        raise Refusal("invalid_claim", f"sub is not a string of 1 to {MAX_SUBJECT_LENGTH} printable ASCII characters.")
    if not _compiled(issuer.subject_pattern).fullmatch(subject):
        raise Refusal(
            "invalid_claim",
            f"sub is not a subject of the preset {issuer.preset}.",
            internal=f"sub {_shown(subject)} does not match {issuer.subject_pattern}",
        )
    return subject


def check_audience(claims: Claims, issuer: TrustedIssuer) -> None:
    """8. At least one of ours, and every other one known: a token for us alone opens no door but ours
    (RFC 7519 §4.1.3, RFC 8725 §3.9).
    """
    aud = _required(claims, "aud")
    audiences = [aud] if type(aud) is str else aud
    if type(audiences) is not list or not all(type(audience) is str and audience for audience in audiences):
        raise Refusal("invalid_claim", "aud is neither a string nor an array of strings.")
    if not audiences:
        raise Refusal("invalid_claim", "aud is an empty array.")
    foreign = [name for name in audiences if name not in issuer.audiences and name not in issuer.companion_audiences]
    for name in foreign:
        if name == issuer.url or name in issuer.reserved_audiences or is_reserved_audience(name):
            raise Refusal("reserved_audience")
    if foreign or not any(name in issuer.audiences for name in audiences):
        raise Refusal("wrong_audience", internal=f"one of {_listed(issuer.audiences)} was wanted, and nothing else")


# ---------------------------------------------------------------- when


def check_times(claims: Claims, issuer: TrustedIssuer, now: float) -> tuple[int, int]:
    """9. ``exp`` and ``iat``, if the token is valid at ``now`` (RFC 7519 §4.1.4 to §4.1.6).

    The leeway is for clocks that differ; it applies to each comparison with ``now``, never between two claims.
    """
    expires_at, issued_at = _numeric_date(claims, "exp"), _numeric_date(claims, "iat")
    not_before = _numeric_date(claims, "nbf") if "nbf" in claims else issued_at
    leeway = issuer.leeway_seconds
    if expires_at <= issued_at or expires_at <= not_before:
        raise Refusal("invalid_claim", "exp is not later than iat and nbf.")
    if expires_at - issued_at > issuer.max_token_lifetime_seconds:
        raise Refusal(
            "token_lifetime_too_long",
            f"The token lives {expires_at - issued_at} seconds (exp - iat);"
            f" {issuer.max_token_lifetime_seconds} are accepted of this issuer.",
        )
    if now >= expires_at + leeway:
        raise Refusal("token_expired", f"The token expired {now - expires_at:.0f} seconds ago.")
    if issued_at > now + leeway:
        raise Refusal(
            "token_not_yet_valid",
            f"iat lies {issued_at - now:.0f} seconds in the future:"
            " the clock of the issuer or of this server is wrong.",
        )
    if not_before > now + leeway:
        raise Refusal("token_not_yet_valid", f"The token is valid in {not_before - now:.0f} seconds (nbf).")
    if now - issued_at > issuer.max_token_age_seconds + leeway:
        raise Refusal(
            "token_too_old",
            f"The token was issued {now - issued_at:.0f} seconds ago (iat);"
            f" {issuer.max_token_age_seconds} are accepted of this issuer.",
        )
    return expires_at, issued_at


def _numeric_date(claims: Claims, name: str) -> int:
    """A ``NumericDate`` (RFC 7519 §2) as an integer; a string, a boolean or an absurd number is none."""
    value = _required(claims, name)
    if type(value) is not int or not 1 <= value <= MAX_NUMERIC_DATE:
        raise Refusal("invalid_claim", f"{name} is not a number of seconds since 1970.")
    return value


# ---------------------------------------------------------------- the rest


def check_token_id(claims: Claims) -> str | None:
    """10. ``jti`` (RFC 7519 §4.1.7)."""
    if "jti" not in claims:
        return None
    token_id = claims["jti"]
    if type(token_id) is not str or not 1 <= len(token_id) <= MAX_TOKEN_ID_LENGTH:
        raise Refusal("invalid_claim", f"jti is not a string of 1 to {MAX_TOKEN_ID_LENGTH} characters.")
    return token_id


def check_required(claims: Claims, table: ClaimTable) -> None:
    """11. A claim that its platform always sends and that is missing means another kind of token."""
    for path in table.required:
        value: Any = claims
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is None or value in ("", [], {}):
            raise Refusal("missing_claim", f"{_dotted(path)} is missing.")


def unaccounted_claims(claims: Claims, table: ClaimTable) -> tuple[str, ...]:
    """The claims that the table does not know, in order: a platform's change is seen the same day."""
    names, prefixes = _accounted(table)
    unknown = claims.keys() - names
    if not unknown:
        return ()
    return tuple(sorted(name for name in unknown if not name.startswith(prefixes)))


@lru_cache(maxsize=4096)
def _accounted(table: ClaimTable) -> tuple[frozenset[str], tuple[str, ...]]:
    """The names that a table knows, and the beginnings of names."""
    listed = table.optional | table.ignored
    names = REGISTERED_CLAIMS | {path[0] for path in table.required} | listed
    return names, tuple(name.removesuffix("*") for name in listed if name.endswith("*"))


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.ASCII)


def _required(claims: Claims, name: str) -> Any:
    value = claims.get(name)
    if value is None:
        raise Refusal("missing_claim", f"{name} is missing.")
    return value


def _dotted(path: ClaimPath) -> str:
    return " > ".join(path)


def _shown(value: object) -> str:
    return ascii(value)[:200]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
