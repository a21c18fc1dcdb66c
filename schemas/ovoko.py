"""Ovoko's five webhook events (source: docs/providers.md), and what was seen in its lists."""

from abc import abstractmethod
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.fields import Id, Instant, Key, OptionalId
from schemas.tolerance import Tolerant


class OvokoModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)


class OvokoEvent(OvokoModel, Tolerant):
    event_id: OptionalId = None
    timestamp: Instant

    @property
    def occurred_at(self) -> datetime:
        return self.timestamp

    @property
    @abstractmethod
    def entity_id(self) -> str:
        """The id of what the event is about."""


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
    """What `stockhook reconcile --apply` saw of a part that differed, and when it asked."""

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
    """What `stockhook reconcile --apply` saw of a return that differed, and when it asked."""

    event_type: Literal["stockhook.observed.return"]
    event_data: ObservedReturn


Observation = PartObserved | ReturnObserved
Webhook = PartStatusChanged | OrderCreated | OrderCancelled | ReturnCreated | ReturnUpdated
Event = Annotated[Webhook | Observation, Field(discriminator="event_type")]
