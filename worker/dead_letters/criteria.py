"""Criteria for dead letters, from the text that a person gives."""

import re
from datetime import UTC, datetime, timedelta

from consumers.registry import FAMILIES
from worker.config.subscribers import ORIGIN_PREFIX
from worker.dead_letters.message import QUARANTINE_ORIGIN, is_of_webhook

ORIGINS = (*FAMILIES, QUARANTINE_ORIGIN)


class BadCriterion(ValueError):
    """The text says what a criterion must be."""


def origin_of(text: str) -> str:
    """Raises: BadCriterion."""
    if text not in ORIGINS and not is_of_webhook(text):
        raise BadCriterion(f"must be one of {', '.join((*ORIGINS, f'{ORIGIN_PREFIX}NAME'))}")
    return text


def instant_of(text: str, now: datetime) -> datetime:
    """A time in ISO 8601, UTC unless it says otherwise, or `30m`, `12h`, `7d` ago.

    Raises:
        BadCriterion
    """
    try:
        if ago := re.fullmatch(r"([0-9]{1,6})([mhd])", text):
            unit = {"m": "minutes", "h": "hours", "d": "days"}[ago[2]]
            return now - timedelta(**{unit: int(ago[1])})
        # In an address, a "+" that is not encoded is a space.
        instant = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        # A time zone may lead to a year that has no UTC.
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadCriterion("must be a time such as 2026-03-01T12:00:00Z, or 12h") from None
