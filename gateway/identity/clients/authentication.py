"""Which client is calling: asks each method in turn, and gives one answer for every failure."""

from collections.abc import Sequence

from gateway.identity.clients.base import ClientAuthentication
from gateway.model import Client, Presented, Workload
from gateway.oauth.errors import Refusal


class ClientAuthenticator:
    """The methods that are served, in the order in which they are asked."""

    def __init__(self, methods: Sequence[ClientAuthentication]) -> None:
        self._methods = tuple(methods)

    async def authenticate(self, presented: Presented, client_id: str | None) -> Client | Workload:
        """The client, or the workload that a client assertion of its platform proves (RFC 7521 §4.2).

        ``client_id`` is the parameter of the request. Raises ``Refusal``: ``client_authentication_failed``,
        ``client_mismatch``, or what is wrong with an assertion whose signature verified.
        """
        for method in self._methods:
            proven = await method.prove(presented, client_id)
            if proven is None:
                continue
            if isinstance(proven, Client) and client_id not in {None, proven.client_id}:
                raise Refusal("client_mismatch", internal=f"{proven.client_id} authenticated by {proven.method}")
            return proven
        raise Refusal("client_authentication_failed", internal="no method takes this credential")

    async def close(self) -> None:
        """Ends background work."""
        for method in self._methods:
            await method.close()
