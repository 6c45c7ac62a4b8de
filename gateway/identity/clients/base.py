"""The port of client authentication: one way to prove that a caller is a client."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from gateway.identity.trust import TrustStore
from gateway.model import Client, Clock, Presented, RegisteredClient, RegisteredSecret, Workload

RegisteredClients = Callable[[str], RegisteredClient | None]
"""The registered client of a name, as the policies in force have it."""

NoteUse = Callable[[str, str, float], None]
"""Is told of each client and secret id that have just proven a caller, and when."""

SecretsOf = Callable[[str], tuple[RegisteredSecret, ...]]
"""The secrets of a client that are kept in the shared state, beside those of the policies."""


class ClientAuthentication(Protocol):
    """One method of ``token_endpoint_auth_methods_supported``."""

    name: ClassVar[str]
    """As metadata and records call it (RFC 7591 §2, RFC 8705 §2)."""

    def __init__(self, parts: "ClientAuthenticationParts") -> None: ...

    async def prove(self, presented: Presented, client_id: str | None) -> Client | Workload | None:
        """The client that the credential proves, or the workload whose token it is; None for one of another method.

        ``client_id`` is the request's own, which a certificate needs and anything else must agree with; that is
        checked by the caller. Raises ``Refusal``.
        """

    async def close(self) -> None:
        """Ends background work."""


@dataclass(frozen=True, slots=True)
class ClientAuthenticationParts:
    """What methods are made from; each takes what it needs."""

    issuer: str
    """Our issuer URL: the audience of assertions."""
    token_endpoint: str
    registered: RegisteredClients
    stored_secrets: SecretsOf
    secrets_are_known: Callable[[], bool]
    """Whether the shared state was read lately, so that a secret which is not in it is none."""
    note_use: NoteUse
    trust: TrustStore
    clock: Clock
