"""What an API's edge hands over of a request, and the token in it (RFC 6750 §2.1, RFC 9449 §7.1)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import unquote_plus

from gateway.jose.compact import MAX_TOKEN_LENGTH
from gateway.resource_server.denied import AccessDenied, Scheme, malformed_request, no_credentials

_SCHEMES: dict[str, Scheme] = {"bearer": "Bearer", "dpop": "DPoP"}
_SCHEME_AND_TOKEN = re.compile(r"[A-Za-z]+ +([A-Za-z0-9._~+/-]+=*) *")
_MAX_LENGTH = MAX_TOKEN_LENGTH + 64


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request to the API, as far as its access token is concerned."""

    method: str
    path: str
    """From the root of the host, percent-encoded, without the query."""
    query: str = field(default="", repr=False)
    authorization: tuple[str, ...] = field(default=(), repr=False)
    """Every ``Authorization`` header."""
    dpop: tuple[str, ...] = field(default=(), repr=False)
    """Every ``DPoP`` header."""
    certificate: bytes | None = field(default=None, repr=False)
    """The TLS client certificate of the connection, as DER."""


@dataclass(frozen=True, slots=True)
class DpopRequest:
    """The request that a DPoP-bound token came with, for its proof to be held against (RFC 9449 §4.3)."""

    proofs: tuple[str, ...] = field(repr=False)
    """Every ``DPoP`` header."""
    method: str
    url: str
    """As the client knows it."""


def each(names: Iterable[str]) -> frozenset[str]:
    """The names of a setting. Raises ``TypeError`` for a single string, which would be taken for its letters."""
    if isinstance(names, str):
        raise TypeError(f"a collection of names is needed: [{names!r}]")
    return frozenset(names)


def parse_credentials(request: ApiRequest, realm: str) -> tuple[Scheme, str]:
    """The authentication scheme and the token of a request.

    Only the ``Authorization`` header counts: what stands in URLs ends up in logs. Raises ``AccessDenied``: 401 without
    an error code where no token was sent, 400 for a token in the query, a second one, or a malformed header.
    """
    if _names_token(request.query):
        raise malformed_request("The access token belongs in the Authorization header, not in the URL.", realm)
    if len(request.authorization) > 1:
        raise malformed_request("The request has more than one Authorization header.", realm)
    if not request.authorization:
        raise no_credentials(realm)
    header = request.authorization[0]
    scheme = _SCHEMES.get(header.partition(" ")[0].lower())
    if scheme is None:
        raise no_credentials(realm)
    found = _SCHEME_AND_TOKEN.fullmatch(header) if len(header) <= _MAX_LENGTH else None
    if found is None:
        raise _not_one_token(header, scheme, realm)
    return scheme, found[1]


def _names_token(query: str) -> bool:
    return any(unquote_plus(pair.partition("=")[0]) == "access_token" for pair in query.split("&"))


def _not_one_token(header: str, scheme: Scheme, realm: str) -> AccessDenied:
    if len(header) > _MAX_LENGTH:
        return malformed_request(f"The access token is larger than {MAX_TOKEN_LENGTH // 1024} KiB.", realm)
    return malformed_request(f"The Authorization header is not {scheme} and one token.", realm)
