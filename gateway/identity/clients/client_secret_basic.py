"""``client_secret_basic``: a secret in an ``Authorization: Basic`` header (RFC 6749 §2.3.1)."""

from typing import ClassVar

from gateway.identity.clients.base import ClientAuthenticationParts
from gateway.identity.clients.secret import Secrets
from gateway.model import Client, Presented, PresentedSecret


class ClientSecretBasic:
    """See ``ClientAuthentication``."""

    name: ClassVar[str] = "client_secret_basic"

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
