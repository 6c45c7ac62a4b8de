"""``client_secret_post``: a secret in the body, beside ``client_id`` (RFC 6749 §2.3.1)."""

from typing import ClassVar

from gateway.identity.clients.base import ClientAuthenticationParts
from gateway.identity.clients.secret import Secrets
from gateway.model import Client, Presented, PresentedSecret


class ClientSecretPost:
    """See ``ClientAuthentication``."""

    name: ClassVar[str] = "client_secret_post"

    def __init__(self, parts: ClientAuthenticationParts) -> None:
        self._secrets = Secrets(parts)

    async def prove(self, presented: Presented, client_id: str | None) -> Client | None:
        """See ``ClientAuthentication``."""
        del client_id
        if not isinstance(presented, PresentedSecret) or presented.method != self.name:
            return None
        return self._secrets.prove(presented)

    async def close(self) -> None:
        """See ``ClientAuthentication``: there is nothing in the background."""
