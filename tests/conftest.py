"""Fixtures and options for every test."""

import hypothesis
import pytest

from tests.support.house import house
from tests.support.redis_server import redis_server

__all__ = ["house", "redis_server"]

# How long an example takes is the machine's matter: a busy one must not turn a property red.
hypothesis.settings.register_profile("any-machine", deadline=None)
hypothesis.settings.load_profile("any-machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full-faults", action="store_true", help="run the fault tests at full length, as make faults does"
    )


@pytest.fixture
def full_faults(request: pytest.FixtureRequest) -> bool:
    """Whether fault tests run at full length rather than in their short form."""
    return bool(request.config.getoption("--full-faults"))
