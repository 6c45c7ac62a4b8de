"""Names that nobody can guess: of tokens and of requests."""

import base64
import os
import secrets


class Identifiers:
    """Makes token ids and request ids: 128 random bits each as base64url, drawn from the system many at a time."""

    def __init__(self) -> None:
        self._drawn: list[str] = []
        # A forked process must not go on with what its parent drew.
        os.register_at_fork(after_in_child=self._drawn.clear)

    def __call__(self) -> str:
        """One that was never given before."""
        if not self._drawn:
            bits = secrets.token_bytes(16 * 256)
            self._drawn += [base64.urlsafe_b64encode(bits[i : i + 16])[:22].decode() for i in range(0, len(bits), 16)]
        return self._drawn.pop()
