"""What the tests with real clients share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.interoperability.classic_gateway import ClassicGateway, classic_gateway


@pytest.fixture
async def classic(tmp_path: Path) -> AsyncIterator[ClassicGateway]:
    """A gateway with classic clients, over HTTPS."""
    async with classic_gateway(tmp_path) as started:
        yield started
