"""Sample's two webhook events."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from schemas import identity
from schemas.event_schema import EventIds, EventSchema, Payload
from schemas.fields import Id, Instant, Money, OptionalId


class SampleModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)


class Offer(SampleModel):
    offer_id: Id
    price: Money | None = None


class OfferEvent(SampleModel, Payload):
    id: OptionalId = None
    at: Instant
    offer: Offer

    @property
    def occurred_at(self) -> datetime:
        return self.at

    @property
    def entity_id(self) -> str:
        return self.offer.offer_id


class OfferPublished(OfferEvent):
    """An offer is for sale."""

    kind: Literal["offer.published"]


class OfferWithdrawn(OfferEvent):
    """An offer is not for sale any more."""

    kind: Literal["offer.withdrawn"]


def _identify(event_type: str, event: Mapping[str, Any]) -> EventIds:
    """By the id that Sample gives it."""
    content = {name: value for name, value in event.items() if name != "id"}
    content_id = identity.content_id(event_type, content)
    return EventIds(identity.event_id("sample", event.get("id"), content_id), content_id)


SCHEMA = EventSchema(
    type_member="kind",
    webhooks=(OfferPublished, OfferWithdrawn),
    identify=_identify,
    examples=("offer.published", "offer.withdrawn"),
)
