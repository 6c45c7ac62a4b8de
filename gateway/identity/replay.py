"""Tokens that work once: the marks that are set after the decision and before anything is minted.

A mark outlives its token by the leeway, so that no window opens behind it. Without the shared state nothing is
assumed to be new: the answer is 503.
"""

from gateway.jose.compact import token_sha256
from gateway.model import Client, Workload
from gateway.oauth.errors import Refusal
from gateway.state.base import ReplayMarks, StateUnavailableError

MARGIN_SECONDS = 5


class Replay:
    """Claims each one-time token for the request that is about to succeed. Raises ``Refusal`` for a second claim."""

    def __init__(self, marks: ReplayMarks) -> None:
        self._marks = marks

    async def claim_workload_token(self, workload: Workload, token: str) -> None:
        """The token of an issuer whose tokens work once (``replay: reject``); any other is left alone."""
        if workload.issuer.replay != "reject":
            return
        # Without a jti, by what was signed: an ECDSA signature has a twin (r, n - s) that anybody can make.
        key = workload.token_id or token_sha256(token.rpartition(".")[0])
        await self._claim(workload.issuer.name, key, workload.expires_at + workload.issuer.leeway_seconds)

    async def claim_assertion(self, client: Client) -> None:
        """The assertion that a client authenticated with (RFC 7523 §3, item 7), if it was one."""
        if client.assertion_id is None or client.assertion_expires_at is None:
            return
        # No issuer is called so: a name in the policies has no colon.
        await self._claim(f"client:{client.client_id}", client.assertion_id, client.assertion_expires_at)

    async def claim_proof(self, key_thumbprint: str, proof_id: str, until: float) -> None:
        """A DPoP proof, by its key and its ``jti`` (RFC 9449 §11.1)."""
        await self._claim(f"dpop:{key_thumbprint}", proof_id, until, "proof_replayed")

    async def _claim(self, issuer: str, key: str, until: float, refusal: str = "token_replayed") -> None:
        try:
            first = await self._marks.claim_once(issuer, key, until + MARGIN_SECONDS)
        except StateUnavailableError as error:
            raise Refusal("state_unavailable", internal=str(error)) from error
        if not first:
            raise Refusal(refusal)
