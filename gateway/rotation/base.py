"""The port of a secret store: where a client reads its secret from, and how a new one gets there.

Owns the two values that pass through it, its error, and what the stores have in common: how they are named by URLs,
and what a payload of several members looks like. Does no I/O.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from gateway.oauth.client_secret import PATTERN, secret_digest

CLIENT_ID = "client_id"
CLIENT_SECRET = "client_secret"
"""The members of a payload, as RFC 6749 §2.3.1 names the parameters."""

REQUEST_SECONDS = 10
"""How long one request to a store may take."""

_SECRETS = re.compile(PATTERN)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_PLAIN = re.compile(r"[\x21-\x7e]{1,2048}")


class SecretStoreError(Exception):
    """The store cannot be reached, refuses, or holds something that it should not. The text says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(_SECRETS.sub("[secret]", message))  # whatever a server may have repeated to us


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """A secret in clear, and whose it is; ``client_id`` is None where the store does not say."""

    client_id: str | None
    secret: str = field(repr=False)

    @property
    def digest(self) -> str:
        """What the gateway keeps of it."""
        return secret_digest(self.secret)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a store holds: ``current`` is what the client reads, ``pending`` what waits to take its place."""

    current: ClientSecret | None
    pending: ClientSecret | None


class SecretStore(Protocol):
    """One place from which a client reads its secret. Every method raises ``SecretStoreError``.

    Each change is made in one step or not at all, and may be made again after a crash, however far it came.
    """

    async def read(self) -> Contents:
        """What is there now: None for what is not."""

    async def stage(self, secret: ClientSecret) -> None:
        """Keeps the secret as pending, in place of any other; who reads the current one notices nothing."""

    async def promote(self, secret: ClientSecret) -> None:
        """Makes the pending secret the current one; the one before stays to be had where the store keeps history.

        Does nothing if it is current already. Refuses if it is not the one that is pending: somebody else is at it.
        """

    async def close(self) -> None:
        """Lets go of connections."""


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A store's URL taken apart: ``kind://place/path?option=value``."""

    place: str
    path: str
    options: Mapping[str, str]


def parse_store_url(url: str, *, form: str, options: frozenset[str]) -> StoreUrl:
    """``form`` is shown to whoever gets it wrong; ``options`` are the names that may stand behind the question mark.

    Raises ``ValueError`` for a URL of another form, for an unknown option and for one that names a user: what is in
    this URL is logged and shown, a secret has no place in it.
    """
    parts, given = _split(url, form)
    if "@" in parts.netloc or parts.fragment:
        raise ValueError(f"{parts.scheme}://: no user, password or fragment; the form is {form}")
    names = [name for name, _ in given]
    if unknown := sorted(set(names) - options):
        allowed = ", ".join(sorted(options)) or "none"
        raise ValueError(f"{parts.scheme}://: no option {unknown[0]}; there are: {allowed}")
    if len(set(names)) < len(names):
        raise ValueError(f"{parts.scheme}://: an option is given twice")
    return StoreUrl(unquote(parts.netloc), unquote(parts.path.removeprefix("/")), dict(given))


def check_address(address: str) -> str:
    """A server's URL without a slash at the end. Raises ``ValueError`` for one that would show secrets to a network."""
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"{address!r} is not a URL") from None
    if not host or parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"{address!r} is not the URL of a server: https://host:port")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
        raise ValueError(f"{address} would show secrets to the network: use https (http is for loopback alone)")
    return address.rstrip("/")


def parse_payload(text: str, place: str) -> dict[str, Any]:
    """The JSON object of a store whose convention is one. Raises ``SecretStoreError`` for anything else."""
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError):
        payload = None
    if not isinstance(payload, dict):
        raise SecretStoreError(
            f'{place} holds something other than {{"client_id": ..., "client_secret": ...}}: empty it, or name another'
        )
    return payload


def secret_in(payload: Mapping[str, Any], member: str, place: str) -> ClientSecret | None:
    """The secret in a member of a payload; None where there is none. Raises ``SecretStoreError``."""
    secret, client_id = payload.get(member), payload.get(CLIENT_ID)
    if secret is None:
        return None
    if not isinstance(secret, str) or not isinstance(client_id, str | None):
        raise SecretStoreError(f"{place}: {member} and {CLIENT_ID} are text in what this gateway keeps there")
    return ClientSecret(client_id, secret)


def check_pending(contents: Contents, secret: ClientSecret, place: str) -> bool:
    """Whether the secret is still to be promoted; False if it is current. Raises ``SecretStoreError``."""
    if contents.current is not None and contents.current.digest == secret.digest:
        return False
    if contents.pending is None or contents.pending.digest != secret.digest:
        raise SecretStoreError(f"{place}: another secret is pending by now: is something else rotating it?")
    return True


def _split(url: str, form: str) -> tuple[SplitResult, list[tuple[str, str]]]:
    if not _PLAIN.fullmatch(url):
        raise ValueError(f"is not of the form {form}")
    try:
        parts = urlsplit(url)
        return parts, parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True) if parts.query else []
    except ValueError:
        raise ValueError(f"is not of the form {form}") from None
