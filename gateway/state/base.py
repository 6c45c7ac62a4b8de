"""The port of shared state: what a backend promises, and the one error that it may raise."""

import hashlib
from typing import Protocol


class StateUnavailableError(Exception):
    """The backend cannot say whether a mark is set. Whoever asked must refuse: nothing is assumed to be new."""


class ReplayMarks(Protocol):
    """Marks on tokens that work once."""

    async def claim_once(self, issuer: str, token_key: str, until: float) -> bool:
        """Sets the mark of one token, in one step: of any number of claims before ``until``, one gets True.

        ``issuer`` keeps the tokens of one platform from touching another's; ``token_key`` is the token's ``jti``, or
        the digest of a token without one; ``until`` is in seconds since the epoch and lies behind the end of the
        token's life. Returns False for a token that was seen. Raises ``StateUnavailableError``.
        """


def mark_of(issuer: str, token_key: str) -> bytes:
    """The name under which a backend keeps a mark: 32 bytes, whatever was put in.

    The lengths stand in front, so that no two pairs run together to the same name.
    """
    digest = hashlib.sha256()
    for part in (issuer, token_key):
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.digest()
