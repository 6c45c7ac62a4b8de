"""A compact JWS taken apart (RFC 7515 §7.1), before any key is touched.

Cheap checks on the text come first, in the order of their price. Nothing here is believed: what comes out is
called ``unverified``.
"""

import binascii
import hashlib
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from gateway.jose.strict_json import parse_json_object
from gateway.model import UnverifiedToken
from gateway.oauth.errors import Refusal

MAX_TOKEN_LENGTH = 16 * 1024  # so that no payload has more than 12 KiB
MAX_HEADER_BYTES = 2 * 1024
MAX_KEY_ID_LENGTH = 256

# Each of these would let the token say how it is to be verified, or what its bytes mean (RFC 8725 §3.10, attacks on
# embedded keys, unencoded payloads and compression). x5c and x5t are no more than ignored: honest issuers send them.
FORBIDDEN_HEADERS = frozenset({"crit", "b64", "jku", "jwk", "x5u", "zip", "cty"})
_FORBIDDEN_IN_PROOFS = FORBIDDEN_HEADERS - {"jwk"}

_KEY_ID = re.compile(rf"[^\x00-\x1f\x7f-\x9f]{{1,{MAX_KEY_ID_LENGTH}}}")
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_PADDING = (b"", b"", b"==", b"=")
_LAST_CHARACTERS = ("", "", "AQgw", "AEIMQUYcgkosw048")
"""By how many characters stand in the last group of four: the ones without stray bits."""

_NEVER_READ = frozenset({"x5c"})
"""Some clients (MSAL) leave line breaks in it. Nothing of it is believed, so nobody reads it."""


def parse_token(text: str, *, sha256: str | None = None) -> UnverifiedToken:
    """Takes a token apart; ``sha256`` is its digest where the caller has it already.

    Raises ``Refusal``: ``token_too_large``, ``malformed_token``, ``malformed_header`` or ``forbidden_header``.
    """
    return _take_apart(text, _parse_header, sha256)


def parse_proof(text: str) -> UnverifiedToken:
    """As ``parse_token``, for the one kind that brings its own key in ``jwk``: a proof that whoever sends it holds the
    private half (RFC 9449 §4.2). It says nothing of who that is.
    """
    return _take_apart(text, _parse_proof_header, None)


def _take_apart(text: str, parse_header: Callable[[str], Mapping[str, Any]], sha256: str | None) -> UnverifiedToken:
    check_length(text)
    parts = text.split(".", 3)
    if len(parts) != 3 or not all(parts):
        raise Refusal("malformed_token")
    header, payload, signature = parts
    return UnverifiedToken(
        unverified_header=parse_header(header),
        unverified_payload=parse_base64url(payload),
        signing_input=text[: text.rindex(".")].encode("ascii"),
        signature=parse_base64url(signature),
        sha256=sha256 or token_sha256(text),
    )


def check_length(text: str) -> None:
    """Raises ``Refusal`` for a token beyond 16 KiB, before anything is split, hashed or copied."""
    if len(text) > MAX_TOKEN_LENGTH:
        raise Refusal("token_too_large")


def token_sha256(text: str) -> str:
    """The name of a token in logs, records and caches: the hex SHA-256 of its text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def parse_unverified_claims(token: UnverifiedToken) -> dict[str, Any]:
    """The payload as a JSON object: to find the issuer by ``iss``, and once verified as the claims.

    Raises ``Refusal`` ``malformed_claims``.
    """
    try:
        return parse_json_object(token.unverified_payload)
    except ValueError as error:
        raise Refusal("malformed_claims", f"The token's payload {error}.") from None


def parse_unverified_assertion_claims(token: UnverifiedToken) -> dict[str, Any]:
    """As ``parse_unverified_claims``, for the assertion of a client: times may have fractions of a second (RFC 7519
    §2), as those of MSAL do, and are cut to whole ones. Raises ``Refusal`` ``malformed_claims``.
    """
    try:
        return parse_json_object(token.unverified_payload, cut_fractions=True)
    except ValueError as error:
        raise Refusal("malformed_claims", f"The token's payload {error}.") from None


def parse_base64url(segment: str) -> bytes:
    """The bytes of a segment in the one canonical spelling: no padding, no stray bits at the end (RFC 7515 §2).

    Raises ``Refusal`` ``malformed_token``. A second spelling of the same bytes would be a second name for one token.
    """
    # The decoder itself refuses what is in no alphabet; these are in the other alphabet, or padding.
    if "+" in segment or "/" in segment or "=" in segment or not segment.isascii():
        raise Refusal("malformed_token")
    over = len(segment) % 4
    # The bits of the last character that lie beyond the last byte are zero.
    if over and segment[-1] not in _LAST_CHARACTERS[over]:
        raise Refusal("malformed_token")
    spelled = segment.encode("ascii").translate(_TO_STANDARD)
    try:
        return binascii.a2b_base64(spelled + _PADDING[over], strict_mode=True)
    except ValueError:
        raise Refusal("malformed_token") from None


@lru_cache(maxsize=256)
def _parse_header(segment: str) -> Mapping[str, Any]:
    """Kept for the few that honest issuers send over and over; a refused one is never kept."""
    return _checked_header(segment, FORBIDDEN_HEADERS)


def _parse_proof_header(segment: str) -> Mapping[str, Any]:
    """Never kept: every client has one of its own."""
    return _checked_header(segment, _FORBIDDEN_IN_PROOFS)


def _checked_header(segment: str, forbidden: frozenset[str]) -> Mapping[str, Any]:
    decoded = parse_base64url(segment)
    if len(decoded) > MAX_HEADER_BYTES:
        raise Refusal("token_too_large", f"The token's header is larger than {MAX_HEADER_BYTES} bytes.")
    try:
        header = parse_json_object(decoded, unread=_NEVER_READ)
    except ValueError as error:
        raise Refusal("malformed_header", f"The token's header {error}.") from None
    check_header(header, forbidden)
    return MappingProxyType(header)


def check_header(header: Mapping[str, Any], forbidden: frozenset[str] = FORBIDDEN_HEADERS) -> None:
    """The members that we read are of the right kind, and none is there that we must not honour (RFC 7515 §4.1).

    Raises ``Refusal`` ``malformed_header`` or ``forbidden_header``.
    """
    found = forbidden & header.keys()
    if found:
        raise Refusal("forbidden_header", f"The token's header holds {', '.join(sorted(found))}.")
    if type(header.get("alg")) is not str:
        raise Refusal("malformed_header", "The token's header has no alg that is a string.")
    if "kid" in header and not (type(header["kid"]) is str and _KEY_ID.fullmatch(header["kid"])):
        raise Refusal(
            "malformed_header", f"The token's kid is not a string of 1 to {MAX_KEY_ID_LENGTH} printable characters."
        )
    if "typ" in header and type(header["typ"]) is not str:
        raise Refusal("malformed_header", "The token's typ is not a string.")
