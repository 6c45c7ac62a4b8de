"""The one error of an API's side: how a request without a good token is answered (RFC 6750 §3, RFC 9449 §7.1)."""

import json
from collections.abc import Iterable
from http import HTTPStatus
from typing import Literal

from gateway.jose.dpop import PROOF_ALGORITHMS
from gateway.oauth.errors import Refusal, error_description

Scheme = Literal["Bearer", "DPoP"]

_SERVER_FAULTS = frozenset({"temporarily_unavailable", "server_error"})
_ALGORITHMS = " ".join(PROOF_ALGORITHMS)


class AccessDenied(Exception):
    """Says no. Nothing in it repeats anything of the token.

    ``status`` is 400, 401, 403 or 503; ``error`` the code of RFC 6750 §3.1 or RFC 9449 §7.1, None where no token came;
    ``description`` a sentence to act on; ``reason`` a stable code for logs and metrics; ``scheme`` what the token came
    under. Answer with ``status``, ``headers`` and ``body``.
    """

    def __init__(
        self,
        status: HTTPStatus,
        error: str | None,
        description: str,
        *,
        reason: str,
        realm: str,
        scheme: Scheme | None = None,
        scope: str = "",
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(status, error, description)
        self.status = int(status)
        self.error = error
        self.description = error_description(description)
        self.reason = reason
        self.scheme = scheme
        self.scope = scope
        self.retry_after_seconds = retry_after_seconds
        self._realm = error_description(realm)

    @property
    def www_authenticate(self) -> str:
        """The challenge, under the scheme that was used; both are offered until a token was good. Empty with 503."""
        if self.status == HTTPStatus.SERVICE_UNAVAILABLE:
            return ""
        schemes: tuple[Scheme, ...] = ("Bearer", "DPoP")
        if self.status != HTTPStatus.UNAUTHORIZED:
            schemes = (self.scheme or "Bearer",)
        return ", ".join(self._challenge(scheme) for scheme in schemes)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer."""
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        if self.www_authenticate:
            headers["WWW-Authenticate"] = self.www_authenticate
        if self.retry_after_seconds is not None:
            headers["Retry-After"] = str(self.retry_after_seconds)
        return headers

    @property
    def body(self) -> bytes:
        """The answer for whoever reads it: ``error``, where there is one, and ``error_description``."""
        members = {"error": self.error, "error_description": self.description}
        return json.dumps({name: value for name, value in members.items() if value}).encode()

    def __str__(self) -> str:
        return f"{self.status} {self.reason}: {self.description}"

    def _challenge(self, scheme: Scheme) -> str:
        parameters = {"realm": self._realm}
        if self.error is not None and scheme == (self.scheme or "Bearer"):
            parameters |= {"error": self.error, "error_description": self.description}
            if self.scope:
                parameters["scope"] = self.scope
        if scheme == "DPoP":
            parameters["algs"] = _ALGORITHMS
        return f"{scheme} " + ", ".join(f'{name}="{value}"' for name, value in parameters.items())


def no_credentials(realm: str) -> AccessDenied:
    """Nothing was presented: a challenge without an error code (RFC 6750 §3.1)."""
    return AccessDenied(
        HTTPStatus.UNAUTHORIZED, None, "An access token is needed.", reason="access_token_missing", realm=realm
    )


def malformed_request(description: str, realm: str) -> AccessDenied:
    """The request presents a token in a way that is not served, or in two."""
    return AccessDenied(HTTPStatus.BAD_REQUEST, "invalid_request", description, reason="malformed_request", realm=realm)


def insufficient_scope(wanted: Iterable[str], realm: str, scheme: Scheme) -> AccessDenied:
    """The token is good, and not for this."""
    return AccessDenied(
        HTTPStatus.FORBIDDEN,
        "insufficient_scope",
        "The token lacks a scope.",
        reason="insufficient_scope",
        realm=realm,
        scheme=scheme,
        scope=" ".join(wanted),
    )


def unacceptable(refusal: Refusal, realm: str, scheme: Scheme) -> AccessDenied:
    """The token, or the proof that came with it, was refused; or nobody can say, for want of keys."""
    code = refusal.reason.code
    if refusal.reason.error in _SERVER_FAULTS:
        status, error = HTTPStatus.SERVICE_UNAVAILABLE, "temporarily_unavailable"
    else:
        status = HTTPStatus.UNAUTHORIZED
        of_proof = refusal.reason.error == "invalid_dpop_proof"
        error = "invalid_dpop_proof" if of_proof else "invalid_token"
    return AccessDenied(
        status,
        error,
        refusal.public,
        reason=code,
        realm=realm,
        scheme=scheme,
        retry_after_seconds=refusal.reason.retry_after_seconds,
    )
