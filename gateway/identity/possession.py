"""Which keys a caller has proven to hold, and what a token is bound to for it (RFC 7800, RFC 8705 §3, RFC 9449 §5)."""

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.jose.dpop import DpopProof, verify_sole_proof
from gateway.jose.thumbprint import certificate_thumbprint
from gateway.model import SenderConstraint, TokenRequest
from gateway.oauth.errors import Refusal

CONFIRMATION_MEMBERS: Mapping[SenderConstraint, str | None] = {
    "none": None,
    "dpop": "jkt",  # RFC 9449 §6.1
    "mtls": "x5t#S256",  # RFC 8705 §3.1
}
"""The member of ``cnf`` that a resource's sender constraint asks for."""


@dataclass(frozen=True, slots=True)
class Possession:
    """What was proven: ``keys`` by their members of ``cnf``, and the DPoP proof, which is to be claimed once."""

    keys: Mapping[str, str]
    proof: DpopProof | None


def verify_possession(request: TokenRequest, url: str, now: float) -> Possession:
    """The keys behind a request to the token endpoint at ``url``: that of its DPoP proof, and of its TLS certificate.

    Raises ``Refusal`` ``invalid_dpop_proof``.
    """
    keys: dict[str, str] = {}
    proof = None
    if request.dpop_proofs:
        proof = verify_sole_proof(request.dpop_proofs, method="POST", url=url, now=now)
        keys["jkt"] = proof.jkt
    if request.certificate is not None:
        keys["x5t#S256"] = certificate_thumbprint(request.certificate.der)
    return Possession(keys, proof)


def confirmation(
    possession: Possession,
    sender_constraint: SenderConstraint,
    of_subject: Mapping[str, str] | None = None,
) -> Mapping[str, str] | None:
    """``cnf`` of the token to be minted; None for a bearer token. Pure.

    A certificate may be the connection's and no more, so it binds only where the resource asks for that; a DPoP proof
    is sent to be bound to. Whoever comes with a token that is bound itself (``of_subject``) has proven those very keys.
    Raises ``Refusal`` ``sender_constraint_missing``.
    """
    keys = possession.keys
    for member, key in (of_subject or {}).items():
        if keys.get(member) != key:
            raise Refusal("sender_constraint_missing", "The subject token is bound to a key that was not proven.")
    wanted = CONFIRMATION_MEMBERS[sender_constraint]
    if wanted is not None and wanted not in keys:
        raise Refusal("sender_constraint_missing", internal=f"{sender_constraint}: {wanted} was not proven")
    binding = {"jkt", wanted, *(of_subject or ())}
    return {member: key for member, key in keys.items() if member in binding} or None
