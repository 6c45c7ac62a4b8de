"""``tls_client_auth``: a certificate that a CA issued, with the subject that the client registered (RFC 8705 §2.1)."""

from typing import ClassVar

from gateway.identity.clients.base import ClientAuthenticationParts
from gateway.identity.clients.certificate import matching, method_of
from gateway.jose.thumbprint import certificate_thumbprint
from gateway.model import Client, ClientCertificate, Presented


class TlsClientAuth:
    """See ``ClientAuthentication``."""

    name: ClassVar[str] = "tls_client_auth"

    def __init__(self, parts: ClientAuthenticationParts) -> None:
        self._registered = parts.registered
        self._clock = parts.clock

    async def prove(self, presented: Presented, client_id: str | None) -> Client | None:
        """See ``ClientAuthentication``. None where the client registered no such certificate for this method."""
        if not isinstance(presented, ClientCertificate) or client_id is None:
            return None
        client = self._registered(client_id)
        certificates = client.certificates if client is not None else ()
        of_this_method = [one for one in certificates if method_of(one) == self.name]
        if matching(presented, of_this_method, self._clock()) is None:
            return None
        shown = certificate_thumbprint(presented.der)
        return Client(client_id, self.name, f"certificate:{shown}")

    async def close(self) -> None:
        """See ``ClientAuthentication``: there is nothing in the background."""
