"""The one error of the gateway: a reason from the table, with what is known about this case."""

import re
from collections.abc import Mapping

from gateway.model import Claims, GrantType, TrustedIssuer
from gateway.oauth.reasons import REASONS, TOKEN_FAULT, Reason

_NOT_DESCRIPTION = re.compile(r"[^\x20-\x21\x23-\x5b\x5d-\x7e]")


class Refusal(Exception):
    """Says no, with a stable reason.

    ``public`` may be shown to the caller and must not repeat anything of an unverified token. ``internal`` is for
    the audit record and the log. ``issuer`` and ``claims`` are set by whoever knows them: ``claims`` only once their
    signature was verified. ``of_client`` says that the token at fault was to authenticate the client.
    ``retry_after_seconds`` is that of the reason unless somebody knows better. Raised anywhere in the rooms, turned
    into an answer in one place (``http/answers``).
    """

    issuer: TrustedIssuer | None = None
    claims: Claims | None = None
    of_client: bool = False

    def __init__(self, code: str, public: str = "", *, internal: str = "") -> None:
        super().__init__(code, public, internal)
        self.reason: Reason = REASONS[code]
        self.public = public or self.reason.sentence
        self.internal = internal
        self.retry_after_seconds = self.reason.retry_after_seconds

    def __str__(self) -> str:
        return f"{self.reason.code}: {self.public}" + (f" ({self.internal})" if self.internal else "")


def oauth_error(refusal: Refusal, grant: GrantType | None) -> str:
    """The ``error`` of RFC 6749 §5.2 for a refusal, under the grant that was asked for."""
    if refusal.reason.error != TOKEN_FAULT:
        return refusal.reason.error
    if refusal.of_client or grant is GrantType.CLIENT_CREDENTIALS:
        return "invalid_client"  # RFC 7523 §3.2
    return "invalid_grant" if grant is GrantType.JWT_BEARER else "invalid_request"  # RFC 7523 §3.1, RFC 8693 §2.2.2


def error_description(text: str, limit: int = 600) -> str:
    """The text within the characters of RFC 6749 §5.2; any other becomes ``?``, double quotes become single ones."""
    return _NOT_DESCRIPTION.sub("?", text.replace('"', "'"))[:limit]


def presented(claims: Mapping[str, object]) -> str:
    """What a verified token presented, for the end of an error description: its ``iss``, ``sub`` and ``aud``."""
    return " ".join(f"{name}={_short(claims[name])}" for name in ("iss", "sub", "aud") if name in claims)


def _short(value: object, limit: int = 160) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= limit else text[: limit - 1] + "~"
