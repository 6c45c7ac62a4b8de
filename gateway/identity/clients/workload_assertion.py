"""A workload token as ``client_assertion``: the federated credential that Azure's SDKs send, or a JWT-SVID of SPIFFE.

``iss`` and ``sub`` are the platform's and not the client's (beyond RFC 7523 §2.2). The service account's trust rules
say whether this workload is that client, so that no secret is needed at all. A JWT-SVID needs ``iss``, by which its
trust domain is found among the issuers.
"""

from typing import ClassVar

from gateway.identity.clients.base import ClientAuthenticationParts
from gateway.model import Presented, PresentedAssertion, Workload
from gateway.oauth.errors import Refusal


class WorkloadAssertion:
    """See ``ClientAuthentication``. Asked after ``private_key_jwt``, which leaves what a trusted issuer signed."""

    name: ClassVar[str] = "private_key_jwt"  # RFC 7591 §2 has no name of its own for it; on the wire it is the same

    def __init__(self, parts: ClientAuthenticationParts) -> None:
        self._trust = parts.trust

    async def prove(self, presented: Presented, client_id: str | None) -> Workload | None:
        """See ``ClientAuthentication``."""
        del client_id
        if not isinstance(presented, PresentedAssertion):
            return None
        try:
            return await self._trust.authenticate(presented.assertion)
        except Refusal as refusal:
            refusal.of_client = True
            raise

    async def close(self) -> None:
        """See ``ClientAuthentication``: the issuers' keys are kept by others."""
