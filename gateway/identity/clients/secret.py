"""Whether a secret is one of a client's, in a time that tells nothing (RFC 6749 §2.3.1, §10.10)."""

from collections.abc import Iterable
from hmac import compare_digest

from gateway.identity.clients.base import ClientAuthenticationParts
from gateway.model import Client, PresentedSecret, RegisteredSecret
from gateway.oauth.client_secret import secret_digest
from gateway.oauth.errors import Refusal

_NOBODYS = RegisteredSecret("nobody", "sha256:" + "0" * 64)
"""Compared with where a client is unknown or has no secret, so that it costs what a wrong secret costs."""


class Secrets:
    """The secrets of every client: those of the policies and those of the shared state."""

    def __init__(self, parts: ClientAuthenticationParts) -> None:
        self._registered = parts.registered
        self._stored = parts.stored_secrets
        self._are_known = parts.secrets_are_known
        self._note_use = parts.note_use
        self._clock = parts.clock

    def prove(self, presented: PresentedSecret) -> Client:
        """The client whose secret was sent. Every spelling is compared with every secret, whatever was found before.

        Raises ``Refusal`` ``client_authentication_failed``: alike for an unknown client, a wrong and an expired secret.
        Instead of it ``state_unavailable``, while nobody can know that the secret is not one of the shared state.
        """
        now, why = self._clock(), "no client id and secret can be read"
        found: tuple[str, RegisteredSecret] | None = None
        for client_id, secret in presented.spellings:
            registered = self._registered(client_id)
            held: tuple[RegisteredSecret, ...] = ()
            if registered is not None:
                held = registered.secrets + self._stored(client_id)
            match = _matching(held or (_NOBODYS,), secret_digest(secret))
            if found is not None:
                continue
            if match is None:
                why = "no such client" if registered is None else "wrong secret" if held else "it has no secret"
            elif match.expires_at is not None and now >= match.expires_at:
                why = f"the secret {match.id} has expired"
            else:
                found = client_id, match
        if found is None and not self._are_known():
            raise Refusal("state_unavailable", internal=f"{why}, as far as is known without the shared state")
        if found is None:
            raise Refusal("client_authentication_failed", internal=why)
        client_id, match = found
        self._note_use(client_id, match.id, now)
        return Client(client_id, presented.method, f"secret:{match.id}")


def _matching(held: Iterable[RegisteredSecret], digest: str) -> RegisteredSecret | None:
    """The one with this digest that lives longest, if there is any. Looks at all of them."""
    found = None
    for secret in held:
        if compare_digest(secret.digest, digest) and (found is None or _end(secret) > _end(found)):
            found = secret
    return found


def _end(secret: RegisteredSecret) -> float:
    return float("inf") if secret.expires_at is None else secret.expires_at
