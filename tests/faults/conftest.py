"""What the tests in one process share: a time that they move by hand, and issuers that tell it."""

from collections.abc import AsyncIterator

import pytest

from tests.faults.neighbourhood import Neighbourhood, neighbours
from tests.support.time import HandClock


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def around(clock: HandClock) -> AsyncIterator[Neighbourhood]:
    async with neighbours(clock) as found:
        yield found
