"""Reads an event from the event log."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from consumers.family import Event
from schemas.events import InvalidEvent, parse_logged
from schemas.registry import Provider


def read_logged(row: Mapping[str, Any], tolerance: timedelta) -> Event[Any] | None:
    """The event of a row with `event_id`, `provider`, `received_at` and `body`.

    None if an earlier release applied an event that this one cannot read: it counts as dropped from the log.
    """
    try:
        payload = parse_logged(Provider(row["provider"]), row["body"])
    except InvalidEvent:
        return None
    return Event(row["event_id"], row["received_at"], payload, tolerance=tolerance)
