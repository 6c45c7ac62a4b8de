"""The parameters of the token endpoint: from the pairs of a form to a ``TokenRequest``.

RFC 6749 §3.2 (no parameter twice, an empty one counts as not sent, unknown ones are ignored), RFC 8693 §2.1,
RFC 7523 §2.1, RFC 8707 §2.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from gateway.model import ClientCertificate, GrantType, TokenRequest
from gateway.oauth.client_authentication import parse_presented
from gateway.oauth.errors import Refusal

TOKEN_TYPE_JWT = "urn:ietf:params:oauth:token-type:jwt"  # RFC 8693 §3
TOKEN_TYPE_ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
TOKEN_TYPE_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
WORKLOAD_TOKEN_TYPES = frozenset({TOKEN_TYPE_JWT, TOKEN_TYPE_ID_TOKEN})
SUBJECT_TOKEN_TYPES = WORKLOAD_TOKEN_TYPES | {TOKEN_TYPE_ACCESS_TOKEN}
REQUESTED_TOKEN_TYPES = frozenset({TOKEN_TYPE_ACCESS_TOKEN, TOKEN_TYPE_JWT})

REPEATABLE = frozenset({"resource", "audience"})
KNOWN_PARAMETERS = frozenset({
    "grant_type", "subject_token", "subject_token_type", "actor_token", "actor_token_type", "assertion", "client_id",
    "client_secret", "client_assertion", "client_assertion_type", "resource", "audience", "scope",
    "requested_token_type", "requested_expires_in", "token", "token_type_hint",
})  # fmt: skip
MAX_SHORT_VALUE = 2048
MAX_SCOPES = 64

_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+(?: [\x21\x23-\x5b\x5d-\x7e]+)*")  # RFC 6749 §3.3
_ABSOLUTE_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\x00-\x20\x7f#]+")  # RFC 3986 §4.3: no fragment
_PRINTABLE = re.compile(r"[\x21-\x7e]+")
_SECONDS = re.compile(r"[0-9]{1,9}")


def parse_token_request(
    pairs: Iterable[tuple[str, str]],
    *,
    authorization: str | None = None,
    certificate: ClientCertificate | None = None,
    dpop_proofs: Sequence[str] = (),
) -> TokenRequest:
    """What the form asks for, with what stands beside it: the ``Authorization`` header, the TLS client certificate,
    the ``DPoP`` headers. Raises ``Refusal`` for whatever RFC 6749, 8693, 7523 and 8707 forbid.
    """
    form, targets = parse_form_parameters(pairs)
    grant = _grant_type(form)
    actor, actor_type = None, None
    if grant is GrantType.CLIENT_CREDENTIALS:
        token, token_type = "", ""
    elif grant is GrantType.JWT_BEARER:
        token, token_type = _required(form, "assertion"), TOKEN_TYPE_JWT
    else:
        token, token_type = _required(form, "subject_token"), _required(form, "subject_token_type")
        actor, actor_type = form.get("actor_token"), form.get("actor_token_type")
        _check_exchange(form, token_type, actor, actor_type)
    return TokenRequest(
        grant_type=grant,
        token=token,
        token_type=token_type,
        client_id=short_value(form, "client_id"),
        resource=_one_target(targets),
        scopes=parse_scope(form["scope"]) if "scope" in form else None,
        lifetime_seconds=_lifetime(form),
        actor_token=actor,
        # With a subject token the certificate of the connection is transport, and at most what a token is bound to.
        presented=parse_presented(authorization, form, certificate if grant is GrantType.CLIENT_CREDENTIALS else None),
        certificate=certificate,
        dpop_proofs=tuple(dpop_proofs),
    )


def check_query(names: Iterable[str]) -> None:
    """Refuses OAuth parameters in the URL (RFC 6749 §3.2); unknown ones are ignored."""
    for name in names:
        if name in KNOWN_PARAMETERS:
            raise Refusal("parameter_in_query", f"{name} belongs in the body, not in the URL.")


def parse_scope(text: str) -> tuple[str, ...]:
    """The scopes asked for, each once, in the order of the request (RFC 6749 §3.3)."""
    if len(text) > MAX_SHORT_VALUE or not _SCOPE.fullmatch(text):
        raise Refusal("malformed_scope")
    scopes = tuple(dict.fromkeys(text.split(" ")))
    if len(scopes) > MAX_SCOPES:
        raise Refusal("malformed_scope", f"More than {MAX_SCOPES} scopes were asked for.")
    return scopes


def parse_form_parameters(pairs: Iterable[tuple[str, str]]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The parameters that may come once, and those that may be repeated, without empty ones (RFC 6749 §3.2)."""
    form: dict[str, str] = {}
    seen: set[str] = set()
    targets: list[tuple[str, str]] = []
    for name, value in pairs:
        if name in REPEATABLE:
            if value:
                targets.append((name, value))
            continue
        if name in seen:
            # The name of an unknown parameter is the caller's text: it is not repeated.
            shown = name if name in KNOWN_PARAMETERS else "A parameter"
            raise Refusal("duplicate_parameter", f"{shown} was sent twice.")
        seen.add(name)
        if value:
            form[name] = value
    return form, targets


def _grant_type(form: dict[str, str]) -> GrantType:
    try:
        return GrantType(_required(form, "grant_type"))
    except ValueError:
        raise Refusal("unsupported_grant_type") from None


def _check_exchange(form: dict[str, str], token_type: str, actor: str | None, actor_type: str | None) -> None:
    if token_type not in SUBJECT_TOKEN_TYPES:
        raise Refusal("unsupported_token_type", "This subject_token_type is not accepted here.")
    if form.get("requested_token_type", TOKEN_TYPE_ACCESS_TOKEN) not in REQUESTED_TOKEN_TYPES:
        raise Refusal("unsupported_requested_token_type")
    if actor and not actor_type:
        raise Refusal("missing_parameter", "actor_token needs actor_token_type (RFC 8693 section 2.1).")
    if actor_type and not actor:
        raise Refusal("invalid_parameter", "actor_token_type stands without actor_token (RFC 8693 section 2.1).")
    if actor_type and actor_type not in WORKLOAD_TOKEN_TYPES:
        raise Refusal("unsupported_token_type", "This actor_token_type is not accepted here.")
    if actor and token_type != TOKEN_TYPE_ACCESS_TOKEN:
        raise Refusal("actor_not_permitted", "Only an access token of this server can be delegated to an actor.")


def _one_target(targets: list[tuple[str, str]]) -> str | None:
    for name, value in targets:
        if len(value) > MAX_SHORT_VALUE or not _PRINTABLE.fullmatch(value):
            raise Refusal("unknown_resource", f"{name} is not a printable name of at most {MAX_SHORT_VALUE} bytes.")
        if name == "resource" and ":" in value and not _ABSOLUTE_URI.fullmatch(value):
            raise Refusal("unknown_resource", "resource is an absolute URI without a fragment (RFC 8707 section 2).")
    different = list(dict.fromkeys(value for _, value in targets))
    if len(different) > 1:
        raise Refusal("multiple_resources")
    return different[0] if different else None


def _lifetime(form: dict[str, str]) -> int | None:
    text = form.get("requested_expires_in")
    if text is None:
        return None
    if not _SECONDS.fullmatch(text) or int(text) < 1:
        raise Refusal("invalid_parameter", "requested_expires_in is a whole number of seconds, at least 1.")
    return int(text)


def _required(form: dict[str, str], name: str) -> str:
    if name not in form:
        raise Refusal("missing_parameter", f"{name} is missing.")
    return form[name]


def short_value(form: Mapping[str, str], name: str) -> str | None:
    """A parameter that names something, or None where it was not sent. Raises ``Refusal`` for what is no name."""
    value = form.get(name)
    if value is not None and (len(value) > MAX_SHORT_VALUE or not _PRINTABLE.fullmatch(value)):
        raise Refusal("invalid_parameter", f"{name} is printable ASCII without spaces.")
    return value
