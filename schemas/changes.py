"""The messages of the change feed: CloudEvents 1.0, and the fields of each type.

No type carries a customer's name, address, telephone number, email address or bank details.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, NamedTuple
from uuid import UUID

import orjson

from schemas.trace_context import TRACEPARENT

# CloudEvents 1.0, JSON event format in structured mode (source: cloudevents.io, spec 1.0.2).
CONTENT_TYPE = "application/cloudevents+json"
SOURCE = "/stockhook"
PREFIX = "stockhook."

NO_CONTEXTS: Mapping[UUID, str] = MappingProxyType({})

# The type of a test event: no change has it.
TEST = PREFIX + "test"


class Form(StrEnum):
    """What the text of a field looks like, where it may be shown to a person who looks at a dead letter.

    Other text is redacted: merchants write it.
    """

    ID = "id"
    WORD = "word"


Id = Annotated[str, Form.ID]
Word = Annotated[str, Form.WORD]


# No dataclass here has slots: orjson writes one with slots three times as slowly.


@dataclass(frozen=True)
class PartState:
    """`since` is when it came to this status; `external_id` is the merchant's own id."""

    part_id: Id
    status: Word
    since: datetime
    external_id: Id | None


@dataclass(frozen=True)
class OrderState:
    order_id: Id
    created_at: datetime | None
    cancelled_at: datetime | None


@dataclass(frozen=True)
class ReturnState:
    """`is_listed` is False once the marketplace no longer lists the return."""

    return_id: Id
    order_id: Id
    opened_at: datetime | None
    updated_at: datetime | None
    update_count: int
    is_listed: bool


@dataclass(frozen=True)
class BuybackItemState:
    """Amounts are decimal numbers in text."""

    item_id: Id
    status: Word | None
    brand: str | None
    category: str | None
    model: str | None
    base_amount: Decimal | None
    total_amount: Decimal | None
    currency: Word | None


@dataclass(frozen=True)
class BuybackShipmentState:
    tracking_code: str
    carrier: Word | None
    pickup_starts_at: datetime | None
    pickup_ends_at: datetime | None


@dataclass(frozen=True)
class BuybackState:
    """`occurred_at` is of the newest event; `total_amount` only where the items share a currency."""

    order_id: Id
    status: Word | None
    occurred_at: datetime | None
    external_order_id: Id | None
    external_reference: str | None
    payment_type: Word | None
    total_amount: Decimal | None
    currency: Word | None
    items: tuple[BuybackItemState, ...]
    shipments: tuple[BuybackShipmentState, ...]


@dataclass(frozen=True)
class ReminderState:
    """`days` counts from the order's creation, or down to the pickup."""

    order_id: Id
    kind: Word
    occurred_at: datetime
    days: int | None


@dataclass(frozen=True)
class CommunicationState:
    """A message to a customer that is due, without its text and addressee."""

    order_id: Id
    kind: Word
    item_id: Id | None
    occurred_at: datetime


State = PartState | OrderState | ReturnState | BuybackState | ReminderState | CommunicationState


# Every type, by its subject.
TYPES: dict[type[State], tuple[str, ...]] = {
    PartState: (
        "part.in_warehouse",
        "part.reserved",
        "part.sold",
        "part.returned",
        "part.written_off",
        "part.unknown_stock_status",
        "part.not_listed",
        "part.updated",
    ),
    OrderState: ("order.created", "order.cancelled", "order.updated"),
    ReturnState: ("return.opened", "return.updated"),
    BuybackState: (
        "buyback.created",
        "buyback.pickup_scheduled",
        "buyback.missed_pickup",
        "buyback.drop_off_pending",
        "buyback.in_transit",
        "buyback.processing",
        "buyback.received",
        "buyback.quality_check_failed",
        "buyback.finalized",
        "buyback.closed",
        "buyback.updated",
    ),
    ReminderState: ("reminder.schedule_pickup", "reminder.pickup", "reminder.drop_off"),
    CommunicationState: (
        "communication.collection_date_reminder",
        "communication.missed_collection",
        "communication.item_received",
        "communication.quality_check_failed",
        "communication.item_approved",
        "communication.payment_details_received",
        "communication.schedule_pickup_first",
        "communication.schedule_pickup_second",
        "communication.drop_off_reminder",
    ),
}


@dataclass(frozen=True)
class Change:
    """One change of one entity. `type` is without the prefix, such as `part.sold`.

    `before` is None for a new entity.
    """

    type: str
    subject: str
    event_id: UUID
    occurred_at: datetime
    before: State | None
    after: State


class Published(NamedTuple):
    """A change as it is published: a CloudEvent. `traceparent` is the context of the event that caused it."""

    change_id: str
    type: str
    subject: str
    body: bytes
    traceparent: str | None = None


def encode(changes: Sequence[Change], contexts: Mapping[UUID, str] = NO_CONTEXTS) -> bytes:
    """The changes of one batch, for the table `changes`. `contexts`: `traceparent` by event id."""
    encoded = orjson.dumps(changes, default=str, option=orjson.OPT_UTC_Z)
    if not contexts:
        return encoded
    documents = orjson.loads(encoded)
    for change, document in zip(changes, documents, strict=True):
        if (traceparent := contexts.get(change.event_id)) is not None:
            document[TRACEPARENT] = traceparent
    return orjson.dumps(documents)


def cloud_events(batch_id: UUID, sequence: int, changes: bytes) -> Iterator[Published]:
    """The CloudEvents of a row of the table `changes`."""
    for place, change in enumerate(orjson.loads(changes)):
        change_id = f"{batch_id}.{place}"
        event = {
            "specversion": "1.0",
            "id": change_id,
            "source": SOURCE,
            "type": PREFIX + change["type"],
            "subject": change["subject"],
            "time": change["occurred_at"],
            "datacontenttype": "application/json",
            # An extension of CloudEvents; compares as text.
            "sequence": f"{sequence:019}.{place:04}",
            "data": {name: change[name] for name in ("event_id", "before", "after")},
        }
        body = orjson.dumps(event)
        yield Published(change_id, PREFIX + change["type"], change["subject"], body, change.get(TRACEPARENT))


def with_traceparent(body: bytes, traceparent: str) -> bytes:
    """A CloudEvent with the extension for traces. Its other bytes stay as they are."""
    return b"%b,%b}" % (body[:-1], orjson.dumps({TRACEPARENT: traceparent})[1:-1])


def event_for_test(test_id: UUID, at: datetime) -> Published:
    """A CloudEvent with which an operator tests a subscriber. It has no sequence: it is no change."""
    event_id = f"{test_id}.0"
    event = {
        "specversion": "1.0",
        "id": event_id,
        "source": SOURCE,
        "type": TEST,
        "subject": "test",
        "time": at,
        "datacontenttype": "application/json",
        "data": {"is_test": True, "message": "A test event of Stockhook. Nothing has changed."},
    }
    return Published(event_id, TEST, "test", orjson.dumps(event, option=orjson.OPT_UTC_Z))
