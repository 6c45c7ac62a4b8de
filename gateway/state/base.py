"""The port of shared state: what a backend promises, and the one error that it may raise."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class StateUnavailableError(Exception):
    """The backend cannot answer. Whoever asked decides what that means; nothing is assumed to be new or allowed."""


class ReplayMarks(Protocol):
    """Marks on tokens that work once."""

    async def claim_once(self, issuer: str, token_key: str, until: float) -> bool:
        """Sets the mark of one token, in one step: of any number of claims before ``until``, one gets True.

        ``issuer`` keeps the tokens of one platform from touching another's; ``token_key`` is the token's ``jti``, or
        the digest of a token without one; ``until`` is in seconds since the epoch and lies behind the end of the
        token's life. Returns False for a token that was seen. Raises ``StateUnavailableError``.
        """


@dataclass(frozen=True, slots=True)
class Record:
    """One small value that replicas share, under its kind and key.

    ``value`` is None for one that was removed. ``version`` grows with every change of any record of the backend.
    ``until``, in seconds since the epoch, is when it may be forgotten.
    """

    kind: str
    key: str
    value: bytes | None
    version: int
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """What was put since a version. ``whole``: these are all records that there are, not only the changed ones."""

    version: int
    records: Sequence[Record]
    whole: bool = False


class SharedRecords(Protocol):
    """A small table that every process reads whole and follows: revocations, client secrets, their last use."""

    async def put(
        self, kind: str, key: str, value: bytes | None, *, until: float | None = None, if_version: int | None = None
    ) -> bool:
        """Puts a record, or removes it (None), durably as far as the backend is, and in one step.

        With ``if_version`` only if the record has that version still (0: only if there is none); False otherwise.
        Raises ``StateUnavailableError``.
        """

    async def changes(self, since: int) -> Changes:
        """Everything put after the version ``since``; all of it where ``since`` is 0 or too old to tell.

        Raises ``StateUnavailableError``.
        """


class State(ReplayMarks, SharedRecords, Protocol):
    """One backend: everything that replicas share."""

    async def close(self) -> None:
        """Lets go of connections and files."""


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
