"""Clients that ask for tokens, one after the other on a connection of their own, and remember every answer."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import aiohttp

from tests.support.parts import eventually
from tests.support.running import JWT, TOKEN_EXCHANGE, RunningGateway

CLIENTS = 8
CLIENT_TIMEOUT = aiohttp.ClientTimeout(total=20)


class Load:
    """What a number of clients was told so far."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        """Every access token that a client received."""
        self.refused: Counter[str] = Counter()
        """How often which reason was given."""
        self.broken: list[str] = []
        """Requests that got no answer."""
        self.stopped = asyncio.Event()

    async def more(self, tokens: int) -> None:
        """Returns when so many further tokens were received."""
        enough = len(self.tokens) + tokens

        async def there() -> bool:
            return len(self.tokens) >= enough

        await eventually(there)

    async def until_refused(self, reason: str, times: int = 1) -> None:
        """Returns when a reason was given so many further times."""
        enough = self.refused[reason] + times

        async def there() -> bool:
            return self.refused[reason] >= enough

        await eventually(there)

    async def run_client(self, url: str, new_token: Callable[[], str]) -> None:
        """Asks until ``stopped``, or until there is nobody to ask."""
        connector = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(connector=connector, timeout=CLIENT_TIMEOUT) as session:
            while not self.stopped.is_set():
                form = {"grant_type": TOKEN_EXCHANGE, "subject_token": new_token(), "subject_token_type": JWT}
                form["resource"] = "ledger-api"
                try:
                    async with session.post(f"{url}/token", data=form) as answer:
                        body = await answer.json()
                except (aiohttp.ClientError, OSError, TimeoutError) as error:
                    self.broken.append(repr(error))
                    return
                if answer.status == 200:
                    self.tokens.append(body["access_token"])
                else:
                    self.refused[body["reason"]] += 1
                    # Those who are refused come again a little later, as honest clients do.
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self.stopped.wait(), 0.01)


@asynccontextmanager
async def load(url: str, new_token: Callable[[], str], *, clients: int = CLIENTS) -> AsyncIterator[Load]:
    """Runs clients until the end of the block, and to the end of the request that each of them is in."""
    found = Load()
    async with asyncio.TaskGroup() as running:
        for _ in range(clients):
            running.create_task(found.run_client(url, new_token))
        try:
            yield found
        finally:
            found.stopped.set()


@asynccontextmanager
async def many_connections(gateway: RunningGateway) -> AsyncIterator[RunningGateway]:
    """The same gateway for a client without a limit on connections."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield RunningGateway(gateway.gateway, session)
