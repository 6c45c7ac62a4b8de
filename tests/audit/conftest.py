import asyncio

import pytest


@pytest.fixture
async def opened():
    """Closes every sink that a test put in, so that no writer thread outlives its event loop."""
    sinks = []
    yield lambda sink: sinks.append(sink) or sink
    await asyncio.gather(*(sink.close() for sink in sinks), return_exceptions=True)
