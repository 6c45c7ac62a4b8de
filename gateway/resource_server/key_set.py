"""Where the gateway's keys are read from: its metadata names its key set (RFC 8414 §3), or the API's settings do."""

import hashlib
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.jose.jwks import KeySet, parse_key_set
from gateway.jose.strict_json import parse_json_object
from gateway.oauth.metadata import AUTHORIZATION_SERVER
from gateway.resource_server.fetch import Fetch, FetchError


@dataclass(frozen=True, slots=True)
class Loaded:
    """The key set, and for how long its server calls it fresh (None: it does not say)."""

    keys: KeySet
    max_age_seconds: int | None = None


class GatewayKeySet:
    """Reads the key set once whenever it is asked to; when to ask is the business of ``key_cache``."""

    def __init__(self, issuer: str, jwks_uri: str | None, *, algorithms: frozenset[str], fetch: Fetch) -> None:
        self._issuer = issuer
        self._jwks_uri = jwks_uri
        self._algorithms = algorithms
        self._fetch = fetch
        self._keys: KeySet | None = None
        self._fetched_from = ""
        self._etag: str | None = None

    def load(self) -> Loaded:
        """The key set as it is now. Raises ``FetchError``."""
        jwks_uri = self._jwks_uri or self._discover()
        fetched = self._fetch(jwks_uri, self._etag if jwks_uri == self._fetched_from else None)
        unchanged = fetched.status == 304
        if self._keys is None or not (unchanged or hashlib.sha256(fetched.body).hexdigest() == self._keys.sha256):
            self._keys = self._parse(fetched.body)
        if not unchanged:
            self._fetched_from, self._etag = jwks_uri, fetched.etag
        return Loaded(self._keys, fetched.max_age_seconds)

    def _discover(self) -> str:
        """``jwks_uri`` of the metadata, which is the issuer's own to the letter (RFC 8414 §3.3) and leads nowhere else:
        keys of another host are named in the settings or not at all.
        """
        fetched = self._fetch(metadata_url(self._issuer), None)
        try:
            document = parse_json_object(fetched.body)
        except ValueError as error:
            raise FetchError(f"the metadata {error}") from error
        if document.get("issuer") != self._issuer:
            raise FetchError(f"the metadata's issuer is not {self._issuer}")
        jwks_uri = document.get("jwks_uri")
        if type(jwks_uri) is not str or not jwks_uri.startswith(f"{origin(self._issuer)}/"):
            raise FetchError(f"the metadata has no jwks_uri at {origin(self._issuer)}; give jwks_uri yourself")
        return jwks_uri

    def _parse(self, body: bytes) -> KeySet:
        try:
            return parse_key_set(body, algorithms=self._algorithms)
        except ValueError as error:
            raise FetchError(f"the key set {error}") from error


def metadata_url(issuer: str) -> str:
    """Where an issuer's metadata lies: the well-known name stands between its host and its path (RFC 8414 §3.1)."""
    return f"{origin(issuer)}{AUTHORIZATION_SERVER}{urlsplit(issuer).path.rstrip('/')}"


def origin(url: str) -> str:
    """Scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
