"""Ovoko's five webhook events (source: docs/providers.md), and what was seen in its lists."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

from schemas import identity
from schemas.event_schema import EventIds, EventSchema, Payload
from schemas.fields import Id, Instant, Key, OptionalId


class OvokoModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)


class OvokoEvent(OvokoModel, Payload):
    event_id: OptionalId = None
    timestamp: Instant

    @property
    def occurred_at(self) -> datetime:
        return self.timestamp


# The status of a part that the marketplace does not list any more: no webhook says so.
NOT_LISTED = "not_listed"


class PartData(OvokoModel):
    part_id: Id
    status: Key
    external_id: OptionalId = None
    id_bridge: OptionalId = None


class PartEvent(OvokoEvent):
    event_data: PartData

    @property
    def entity_id(self) -> str:
        return self.event_data.part_id

    @property
    def merchants_id(self) -> str | None:
        """The merchant's own id; the deprecated spelling counts only where the new one is null."""
        data = self.event_data
        return data.id_bridge if data.external_id is None else data.external_id


class PartStatusChanged(PartEvent):
    """A part's stock status changed."""

    event_type: Literal["part.status.changed"]


class PartObserved(PartEvent):
    """An observation of a part by `stockhook reconcile --apply`, at the time of its request."""

    event_type: Literal["stockhook.observed.part"]


class OrderData(OvokoModel):
    order_id: Id


class OrderEvent(OvokoEvent):
    event_data: OrderData

    @property
    def entity_id(self) -> str:
        return self.event_data.order_id


class OrderCreated(OrderEvent):
    """A customer ordered on the marketplace."""

    event_type: Literal["order.created"]


class OrderCancelled(OrderEvent):
    """An order was cancelled."""

    event_type: Literal["order.cancelled"]


class ReturnData(OvokoModel):
    return_id: Id
    order_id: Id


class ReturnEvent(OvokoEvent):
    event_data: ReturnData

    @property
    def entity_id(self) -> str:
        return self.event_data.return_id


class ReturnCreated(ReturnEvent):
    """A customer opened a return; the part is still on its way."""

    event_type: Literal["order.return.created"]


class ReturnUpdated(ReturnEvent):
    """An open return changed, for example by a second part of the same order."""

    event_type: Literal["order.return.updated"]


class ObservedReturn(ReturnData):
    """`order_id` is ours where it is not listed any more."""

    is_listed: bool
    created_at: Instant | None = None


class ReturnObserved(ReturnEvent):
    """An observation of a return by `stockhook reconcile --apply`, at the time of its request."""

    event_type: Literal["stockhook.observed.return"]
    event_data: ObservedReturn


Observation = PartObserved | ReturnObserved


def unwrapped(document: Any) -> Any:
    """Ovoko sends events flat, and wrapped as `{"event": {…}}`."""
    match document:
        case {"event": dict() as event} if "event_type" not in document:
            return event
        case _:
            return document


def _identify(event_type: str, event: Mapping[str, Any]) -> EventIds:
    """By the id that Ovoko gives it, if it gives one."""
    content = {name: value for name, value in event.items() if name != "event_id"}
    content_id = identity.content_id(event_type, content)
    return EventIds(identity.event_id("ovoko", event.get("event_id"), content_id), content_id)


def _possible_entity_ids(event: Mapping[str, Any]) -> Iterator[object]:
    data = event.get("event_data")
    if isinstance(data, dict):
        yield from (data.get(name) for name in ("part_id", "return_id", "order_id"))


SCHEMA = EventSchema(
    type_member="event_type",
    webhooks=(PartStatusChanged, OrderCreated, OrderCancelled, ReturnCreated, ReturnUpdated),
    observations=get_args(Observation),
    unwrap=unwrapped,
    identify=_identify,
    possible_entity_ids=_possible_entity_ids,
    # In the order of the documents.
    examples=(
        "part.status.changed",
        "order.created",
        "order.cancelled",
        "order.return.created",
        "order.return.updated",
    ),
    broken_examples=("order.return.created", "order.return.updated"),
)
