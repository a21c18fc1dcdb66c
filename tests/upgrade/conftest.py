"""Fixtures of every upgrade."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.upgrade.release import FROM_COMMIT, ROLLBACK_COMMIT, NoHistory, Release, recorded


@pytest.fixture(scope="session")
def old() -> Release:
    """The release to upgrade from."""
    return _recorded(FROM_COMMIT)


@pytest.fixture(scope="session")
def rollback() -> Release:
    """The oldest release that a rollback can reach."""
    return _recorded(ROLLBACK_COMMIT)


def _recorded(file: Path) -> Release:
    """A recorded release; without its commit in the clone, the test is skipped."""
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
