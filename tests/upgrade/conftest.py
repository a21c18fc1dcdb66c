"""What every upgrade needs."""

import logging
from collections.abc import Iterator

import pytest
import structlog

from tests.upgrade.release import NoHistory, Release, recorded


@pytest.fixture(scope="session")
def old() -> Release:
    """The recorded commit; where the clone does not have it, the test is skipped."""
    try:
        return recorded()
    except NoHistory as why:
        pytest.skip(str(why))


@pytest.fixture(autouse=True)
def _silent_simulation() -> Iterator[None]:
    """The simulated marketplaces log each request."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    yield
    structlog.reset_defaults()
