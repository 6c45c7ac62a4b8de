"""Who is calling as a client: a service account by a credential of its own, or a workload that may act as one.

Both hallways begin here where the caller authenticates: the token endpoint (``gateway/exchange.py``), and
introspection and revocation (``gateway/inspection.py``).
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol

from gateway.identity.clients.authentication import ClientAuthenticator
from gateway.identity.replay import Replay
from gateway.model import Client, ClientCertificate, Decision, Presented, PresentedAssertion, PresentedSecret, Workload
from gateway.oauth.errors import Refusal
from gateway.policy.decision import decide_identity
from gateway.policy.generation import Generation
from gateway.state.quotas import QuotaExceeded

WORKLOAD_METHOD = "workload_assertion"
"""What records call a client that authenticated with its platform's token."""


@dataclass(frozen=True, slots=True)
class Caller:
    """What the edge knows about a request before reading it."""

    request_id: str
    source: str
    """The address that the request came from."""


class Policies(Protocol):
    """Whoever holds the generation in force."""

    @property
    def generation(self) -> Generation:
        """The policies that decide from now on."""


class Callers:
    """Authenticates callers against the policies in force."""

    def __init__(self, authenticator: ClientAuthenticator, policies: Policies, replay: Replay) -> None:
        self._authenticator = authenticator
        self._policies = policies
        self._replay = replay

    async def authenticate(self, presented: Presented, client_id: str | None) -> Client | Workload:
        """The client, or the workload whose token stood as its assertion. Raises ``Refusal``."""
        return await self._authenticator.authenticate(presented, client_id)

    async def authenticate_service_account(self, presented: Presented, client_id: str | None) -> Client:
        """The service account that is calling; a workload is the one that its trust rules make it.

        Its assertion is to be claimed (``claim_assertion``) once the request is known to succeed. Raises ``Refusal``.
        """
        proven = await self.authenticate(presented, client_id)
        return self._as_service_account(proven, client_id) if isinstance(proven, Workload) else proven

    async def claim_assertion(self, client: Client, presented: Presented | None) -> None:
        """Marks what the client authenticated with, where it works once. Raises ``Refusal`` the second time."""
        try:
            if client.workload is not None and isinstance(presented, PresentedAssertion):
                await self._replay.claim_workload_token(client.workload, presented.assertion)
            else:
                await self._replay.claim_assertion(client)
        except Refusal as refusal:
            refusal.of_client = True
            raise

    def generation_for(self, workload: Workload) -> Generation:
        """The policies in force, if they trust the issuer that the workload was verified under. Between two
        generations an issuer may have changed its URL or its keys and kept its name. Raises ``Refusal``.
        """
        generation = self._policies.generation
        if not generation.trusts(workload.issuer):
            raise Refusal("issuer_unavailable", internal=f"the issuer {workload.issuer.name} is being taken over")
        return generation

    def _as_service_account(self, workload: Workload, client_id: str | None) -> Client:
        """The service account that a workload is by the trust rules. Raises ``Refusal``."""
        account = decide_identity(self.generation_for(workload), workload, client_id)
        if isinstance(account, Decision):
            refusal = Refusal(account.reason, internal=account.wanted)
            refusal.of_client, refusal.issuer, refusal.claims = True, workload.issuer, workload.claims
            raise refusal
        credential = f"issuer:{workload.issuer.name}"
        return Client(account.name, WORKLOAD_METHOD, credential, workload=workload)


def claimed_client_id(client_id: str | None, presented: Presented | None) -> str | None:
    """Who a request says that it comes from: for records, where nothing was proven."""
    if client_id is None and isinstance(presented, PresentedSecret) and presented.spellings:
        return presented.spellings[0][0]
    return client_id


def is_fault_of_caller(refusal: Refusal) -> bool:
    """Whether a refusal counts against the network that the request came from. What cannot be answered now, for want of
    an issuer's keys as well, does not: an outage of one issuer must not turn away who comes from where its callers do.
    """
    return refusal.reason.stage != "quota" and refusal.reason.status < 500


def fingerprint(presented: Presented | None, otherwise: str) -> bytes:
    """A digest of what a caller presents: the same for one client with one credential, in whichever way it is sent.

    ``otherwise`` is what stands for a request that presents nothing: its token, or its own id.
    """
    match presented:
        case PresentedSecret(spellings=(pair, *_)):
            what = "\0".join(pair)
        case PresentedAssertion():
            what = presented.assertion
        case ClientCertificate():
            return hashlib.sha256(presented.der).digest()
        case _:
            what = otherwise
    return hashlib.sha256(what.encode(errors="surrogatepass")).digest()


def too_many_requests(exceeded: QuotaExceeded) -> Refusal:
    """The refusal of a request beyond a quota, with the time to wait."""
    refusal = Refusal("quota_exceeded", _WHOSE_QUOTA[exceeded.quota], internal=f"quota {exceeded.quota}")
    refusal.retry_after_seconds = exceeded.retry_after_seconds
    return refusal


_WHOSE_QUOTA = {
    "global": "The server has too many requests.",
    "service_account": "There were too many requests for this service account.",
    "workload": "There were too many requests of this workload.",
    "source_failures": "Too many requests from this address have failed.",
}
