"""Instants as users write them."""

import re
from datetime import UTC, datetime, timedelta

UNITS = {"m": "minutes", "h": "hours", "d": "days"}
LONGEST_SHOWN = 40


class NotAnInstant(ValueError):
    """The text says what is accepted, and what was given."""


def read_instant(text: str) -> datetime:
    """ISO 8601, by default in UTC, or how long ago: `30m`, `12h`, `7d`.

    Raises:
        NotAnInstant
    """
    try:
        if ago := re.fullmatch(r"([0-9]{1,6})([mhd])", text):
            return datetime.now(UTC) - timedelta(**{UNITS[ago[2]]: int(ago[1])})
        instant = datetime.fromisoformat(text)
        # An instant in another zone may be outside of the range in UTC.
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        given = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
        raise NotAnInstant(
            f"must be a time such as 2026-03-01T12:00:00Z, or 12h (given: {given!r})"
        ) from None
