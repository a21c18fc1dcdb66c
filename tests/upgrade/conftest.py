"""What every upgrade needs."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.upgrade.release import FROM_COMMIT, ROLLBACK_COMMIT, NoHistory, Release, recorded


@pytest.fixture(scope="session")
def old() -> Release:
    """The release from which users upgrade."""
    return _recorded(FROM_COMMIT)


@pytest.fixture(scope="session")
def rollback() -> Release:
    """The oldest release to which users can go back."""
    return _recorded(ROLLBACK_COMMIT)


def _recorded(file: Path) -> Release:
    """If the clone lacks the recorded commit, the test is skipped."""
    try:
        return recorded(file)
    except NoHistory as why:
        pytest.skip(str(why))


@pytest.fixture(autouse=True)
def _silent_simulation() -> Iterator[None]:
    """The simulated marketplaces log each request."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    yield
    structlog.reset_defaults()
