"""What a request authenticates with as a client: read, bounded, not yet believed (RFC 6749 §2.3, RFC 7521 §4.2).

Nothing here knows any client. Whether a credential is good is for ``gateway/identity/clients``.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from urllib.parse import unquote_plus

from gateway.model import ClientCertificate, Presented, PresentedAssertion, PresentedSecret
from gateway.oauth.errors import Refusal

ASSERTION_TYPE_JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"  # RFC 7523 §2.2
ASSERTION_TYPE_JWT_SPIFFE = (
    "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"  # draft-ietf-oauth-spiffe-client-auth
)
ASSERTION_TYPES = (ASSERTION_TYPE_JWT_BEARER, ASSERTION_TYPE_JWT_SPIFFE)
MAX_BASIC_CHARACTERS = 4096
MAX_SECRET_CHARACTERS = 1024

_BASIC = re.compile(r"basic +([A-Za-z0-9+/]+={0,2}) *", re.IGNORECASE)  # RFC 7617 §2; the scheme's case is free
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CLIENT_ID = re.compile(r"[\x21-\x7e]+")  # no client has another, and it is written into the log as it is
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def parse_presented(
    authorization: str | None, form: Mapping[str, str], certificate: ClientCertificate | None
) -> Presented | None:
    """What the caller authenticates with; None where it does not.

    ``authorization`` is the header's value, ``form`` the parameters that were sent once and not empty. A certificate
    counts where nothing else was sent and ``client_id`` says whose it is (RFC 8705 §2): whoever has one for the
    connection alone presents none. Raises ``Refusal`` for two ways at once and for what cannot be read.
    """
    ways = [
        name
        for name, sent in (
            ("an Authorization header", authorization is not None),
            ("client_secret", "client_secret" in form),
            ("client_assertion", "client_assertion" in form or "client_assertion_type" in form),
        )
        if sent
    ]
    if len(ways) > 1:
        raise Refusal("multiple_client_authentication", f"The request holds {' and '.join(ways)}.")
    if authorization is not None:
        return parse_basic(authorization)
    if "client_secret" in form:
        return _from_body(form)
    if "client_assertion" in form or "client_assertion_type" in form:
        return _assertion(form)
    return certificate if "client_id" in form else None


def parse_basic(authorization: str) -> PresentedSecret:
    """The client id and secret of a Basic header, in each way that its sender may have meant them.

    RFC 6749 §2.3.1 has both form-encoded in UTF-8 before they are joined; many clients send them raw, as UTF-8 or as
    Latin-1. Raises ``Refusal``.
    """
    if len(authorization) > MAX_BASIC_CHARACTERS:
        raise Refusal("client_authentication_failed", internal="the Authorization header is too long")
    found = _BASIC.fullmatch(authorization)
    if found is None:
        is_basic = authorization[:6].lower() in {"basic", "basic "}
        code = "client_authentication_failed" if is_basic else "client_authentication_unsupported"
        raise Refusal(code, internal="the Authorization header is not Basic with base64")
    try:
        joined = base64.b64decode(found[1], validate=True)
    except binascii.Error:
        raise Refusal("client_authentication_failed", internal="the Basic credentials are not base64") from None
    client_id, colon, secret = joined.partition(b":")
    if not colon:
        raise Refusal("client_authentication_failed", internal="the Basic credentials have no colon")
    spellings = dict.fromkeys(
        pair for pair in (_form_decoded(client_id, secret), _raw(client_id, secret), _latin(client_id, secret)) if pair
    )
    return PresentedSecret("client_secret_basic", tuple(pair for pair in spellings if _is_sane(*pair)))


def _form_decoded(client_id: bytes, secret: bytes) -> tuple[str, str] | None:
    try:
        name, word = client_id.decode("ascii"), secret.decode("ascii")
        if _ESCAPE.search(name) or _ESCAPE.search(word):
            return None
        return unquote_plus(name, errors="strict"), unquote_plus(word, errors="strict")
    except UnicodeDecodeError:
        return None


def _raw(client_id: bytes, secret: bytes) -> tuple[str, str] | None:
    try:
        return client_id.decode(), secret.decode()
    except UnicodeDecodeError:
        return None


def _latin(client_id: bytes, secret: bytes) -> tuple[str, str]:
    return client_id.decode("latin-1"), secret.decode("latin-1")


def _is_sane(client_id: str, secret: str) -> bool:
    return (
        _CLIENT_ID.fullmatch(client_id) is not None
        and 0 < len(secret) <= MAX_SECRET_CHARACTERS
        and not _CONTROL.search(secret)
    )


def _from_body(form: Mapping[str, str]) -> PresentedSecret:
    client_id, secret = form.get("client_id"), form["client_secret"]
    if client_id is None:
        raise Refusal("missing_parameter", "client_secret needs client_id.")
    pair = (client_id, secret)
    return PresentedSecret("client_secret_post", (pair,) if _is_sane(*pair) else ())


def _assertion(form: Mapping[str, str]) -> PresentedAssertion:
    for name, other in (
        ("client_assertion", "client_assertion_type"),
        ("client_assertion_type", "client_assertion"),
    ):
        if name not in form:
            raise Refusal("missing_parameter", f"{other} needs {name}.")
    if form["client_assertion_type"] not in ASSERTION_TYPES:
        raise Refusal("invalid_parameter", f"client_assertion_type is {' or '.join(ASSERTION_TYPES)}.")
    return PresentedAssertion(form["client_assertion_type"], form["client_assertion"])
