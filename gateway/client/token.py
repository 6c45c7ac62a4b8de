"""An access token as its holder sees it, and when to fetch the next one."""

from collections.abc import Callable
from dataclasses import dataclass

USELESS_BEFORE_EXPIRY_SECONDS = 10.0
"""A token this close to its end would expire on the way to the API (at most a tenth of its life)."""


@dataclass(frozen=True, slots=True)
class Token:
    """An access token (RFC 6749 §5.1). ``access_token`` is a secret; the other members may be shown."""

    access_token: str
    expires_at: int
    """Seconds since the epoch, by the clock of this machine."""
    scope: str
    """Scope names with a space between them (RFC 6749 §3.3)."""
    token_type: str = "Bearer"

    @property
    def authorization(self) -> str:
        """The value of the ``Authorization`` header (RFC 6750 §2.1)."""
        return f"Bearer {self.access_token}"

    def __repr__(self) -> str:
        return f"Token(expires_at={self.expires_at}, scope={self.scope!r}, token_type={self.token_type!r})"


def refresh_at(token: Token, fetched_at: float, random: Callable[[], float]) -> float:
    """When to fetch the next token: at about 80 % of the life, spread so that a fleet does not come at once."""
    return fetched_at + (token.expires_at - fetched_at) * (0.75 + 0.1 * random())


def useless_from(token: Token, fetched_at: float) -> float:
    """From when on the token is not handed out any more."""
    return token.expires_at - min(USELESS_BEFORE_EXPIRY_SECONDS, (token.expires_at - fetched_at) / 10)
