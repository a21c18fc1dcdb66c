"""The broker's clock, from an answer of its management API."""

from datetime import UTC, datetime, timedelta

import pytest

from worker.amqp.management import _ahead
from worker.marketplaces.http import retry_after

UNREADABLE = [
    *("", "soon", "Sat,", "Sat, 28 Nov 99999 17:46:01 GMT", "Sat, 28 Nov 2026 17:46:01 +9999"),
    "Sat, 28 Nov 2026 17:46:01 +99999999999999999999",
]


@pytest.mark.parametrize("zone", ["GMT", "+0000", "-0000", ""])
def test_a_date_in_utc_is_read_with_any_name_of_the_zone(zone: str) -> None:
    ahead = _ahead((datetime.now(UTC) + timedelta(hours=1)).strftime("%a, %d %b %Y %H:%M:%S ") + zone)

    assert ahead is not None
    assert 3500 < ahead < 3601


@pytest.mark.parametrize("date", [None, *UNREADABLE])
def test_a_date_that_cannot_be_read_counts_as_none(date: str | None) -> None:
    assert _ahead(date) is None
    assert retry_after(date, datetime.now(UTC)) is None
