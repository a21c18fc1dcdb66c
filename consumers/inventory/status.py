"""The statuses of a part, and what one event says about them."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from consumers.family import Event
from schemas.ovoko import NOT_LISTED, PartEvent, PartObserved

IN_WAREHOUSE = "in_warehouse"
WRITTEN_OFF = "written_off"
SOLD = frozenset({"sold", "sold_in_ebay", "sold_in_allegro"})

# A higher rank speaks more against selling. At the same instant the higher rank wins, because overselling is
# the loss that merchants fear. An undocumented status ranks with `sold`.
_RANKS = {
    IN_WAREHOUSE: 0,
    "returned": 1,
    "unknown_stock_status": 2,
    "reserved": 3,
    "sold": 4,
    "sold_in_ebay": 4,
    "sold_in_allegro": 4,
    NOT_LISTED: 4,
    WRITTEN_OFF: 5,
}
_ANY = frozenset(_RANKS)

# Source: docs/providers.md#part-statuses. Nothing may follow written_off. What is listed again may be
# anything by now.
_MAY_BECOME = {
    IN_WAREHOUSE: _ANY,
    "unknown_stock_status": _ANY,
    NOT_LISTED: _ANY,
    "reserved": SOLD | {IN_WAREHOUSE, WRITTEN_OFF},
    "sold": {"returned"},
    "sold_in_ebay": {"returned"},
    "sold_in_allegro": {"returned"},
    "returned": {IN_WAREHOUSE, WRITTEN_OFF},
    WRITTEN_OFF: frozenset[str](),
}


class StatusChange(NamedTuple):
    """One status that a part was given. Sorts in the order in which changes happened.

    `occurred_at` is the first reception if the sender's timestamp is implausible.
    """

    occurred_at: datetime
    rank: int
    event_id: UUID
    status: str

    @classmethod
    def of(cls, event: Event[PartEvent]) -> "StatusChange":
        return cls.of_status(event.payload.event_data.status, event.instant, event.event_id)

    @classmethod
    def of_status(cls, status: str, occurred_at: datetime, event_id: UUID) -> "StatusChange":
        return cls(occurred_at, _RANKS.get(status, _RANKS["sold"]), event_id, status)


class StatusReport(NamedTuple):
    """What one event says about a part. `is_observed`: read from the marketplace's list, not sent."""

    change: StatusChange
    received_at: datetime
    is_plausible: bool
    is_observed: bool
    external_id: str | None

    @classmethod
    def of(cls, event: Event[PartEvent]) -> "StatusReport":
        payload = event.payload
        is_observed = type(payload) is PartObserved
        return cls(
            StatusChange.of(event), event.received_at, event.is_plausible, is_observed, payload.merchants_id
        )


def is_documented(status: str) -> bool:
    return status in _RANKS


def is_documented_step(before: str, after: str) -> bool:
    # An undocumented status is a finding of its own; steps to and from it are not reported again.
    if before == after or before not in _RANKS or after not in _RANKS:
        return True
    return after in _MAY_BECOME[before]
