"""Keeps one access token fresh for a program of many threads."""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from gateway.client.errors import ClientError
from gateway.client.timing import REAL, Timing
from gateway.client.token import Token, refresh_at, useless_from

LONGEST_PAUSE_SECONDS = 60.0
"""After a refresh that failed, while the token at hand is still good: the next one comes at latest after this."""


@dataclass(frozen=True, slots=True)
class _Held:
    token: Token
    refresh_at: float
    useless_from: float


def in_thread(work: Callable[[], None]) -> None:
    """Runs the work beside the caller; it does not keep the program from ending."""
    # Where no thread can be had, the token at hand is still good.
    with suppress(RuntimeError):
        threading.Thread(target=work, name="gateway-token-refresh", daemon=True).start()


class TokenCache:
    """Hands out a token that is good now: ``TokenCache(partial(exchange, url, source, resource=...)).get()``.

    At about 80 % of a token's life one caller sets off the refresh in the background; all go on with the token at hand
    meanwhile, and for as long as the refresh fails and that token lasts. Only without any good token do callers wait,
    all for the same exchange, and share its error.
    """

    def __init__(
        self,
        fetch: Callable[[], Token],
        *,
        timing: Timing = REAL,
        background: Callable[[Callable[[], None]], None] = in_thread,
    ) -> None:
        self._fetch = fetch
        self._timing = timing
        self._background = background
        self._fetching = threading.Lock()
        self._held: _Held | None = None
        self._exchanges = 0
        self._fault: ClientError | None = None

    @property
    def last_error(self) -> ClientError | None:
        """Why the latest exchange failed; None after a good one."""
        return self._fault

    def get(self) -> Token:
        """A token that is good now. Raises what the exchange raises when none can be had."""
        held, now = self._held, self._timing.clock()
        if held is None or now >= held.useless_from:
            return self._wait_for_token()
        if now >= held.refresh_at and self._claim_refresh(held):
            self._background(self._refresh)
        return held.token

    def _wait_for_token(self) -> Token:
        seen = self._exchanges
        with self._fetching:
            held = self._held
            if held is not None and self._timing.clock() < held.useless_from:
                return held.token
            # Somebody else failed while we waited: the same exchange again would only add to the queue.
            if self._exchanges != seen and self._fault is not None:
                raise self._fault
            return self._exchange()

    def _claim_refresh(self, held: _Held) -> bool:
        """Whether this caller is the one to set off the refresh; the next is due later, whatever becomes of this."""
        if not self._fetching.acquire(blocking=False):
            return False
        try:
            if self._held is not held:
                return False
            pause = 1.0 + self._timing.random() * (LONGEST_PAUSE_SECONDS - 1.0)
            self._held = _Held(held.token, self._timing.clock() + pause, held.useless_from)
            return True
        finally:
            self._fetching.release()

    def _refresh(self) -> None:
        with self._fetching, suppress(ClientError):
            self._exchange()

    def _exchange(self) -> Token:
        asked_at = self._timing.clock()
        try:
            token = self._fetch()
        except ClientError as fault:
            self._fault = fault
            raise
        else:
            self._fault = None
        finally:
            self._exchanges += 1
        self._held = _Held(token, refresh_at(token, asked_at, self._timing.random), useless_from(token, asked_at))
        return token
