"""The buyback platform's twelve webhook events (sources and pitfalls: docs/providers.md)."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from schemas import identity
from schemas.event_schema import EventIds, EventSchema, NotIdentified, Payload
from schemas.fields import Days, Id, Instant, Money, NullableKey, OptionalId, Text


class BuybackModel(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="ignore", coerce_numbers_to_str=True, alias_generator=to_camel
    )


class Price(BuybackModel):
    currency_iso_code: Text
    amount: Money


class Promotion(BuybackModel):
    name: Text | None = None
    price: Price | None = None
    percentage: Money | None = None


class Offer(BuybackModel):
    base_price: Price | None = None
    total_price: Price | None = None
    status: NullableKey = None
    promotions: tuple[Promotion, ...] | None = None


class Named(BuybackModel):
    """A category or a brand."""

    id: OptionalId = None
    name: Text | None = None


class Item(BuybackModel):
    """An item as order snapshots show it."""

    id: Id
    status: NullableKey = None
    category: Named | None = None
    brand: Named | None = None
    model: Text | None = None
    offers: tuple[Offer, ...] | None = None
    rejection_reasons: tuple[Text, ...] | None = None

    @property
    def winning_offer(self) -> Offer | None:
        offers = self.offers or ()
        return next((offer for offer in offers if offer.status == "WinningOffer"), None)


class InspectedItem(BuybackModel):
    """An item as the two flat quality-check events show it."""

    id: Id
    status: NullableKey = None
    category_name: Text | None = None
    brand_name: Text | None = None
    model: Text | None = None
    customer_price: Price | None = None
    total_value: Price | None = None
    promotion_value: Money | None = None


class Shipment(BuybackModel):
    """`tracking_code` identifies a shipment: `id` is often absent or the nil UUID."""

    id: OptionalId = None
    waybill_url: Text | None = None
    tracking_code: OptionalId = None
    carrier: Text | None = None
    merged_documents: Text | None = None


class ActiveShipmentPickup(Shipment):
    start_date: Instant | None = None
    end_date: Instant | None = None


class Address(BuybackModel):
    first_line: Text | None = None
    second_line: Text | None = None
    zip_code: Text | None = None
    city: Text | None = None
    state: Text | None = None
    country: Text | None = None
    timezone: Text | None = None


class TelephoneNumber(BuybackModel):
    country_code: Text | None = None
    number: Text | None = None


class EncryptedPaymentDetails(BuybackModel):
    """`customerPaymentDetails` after the ingest: a Fernet token, and four characters that may be shown."""

    sealed: Text
    account_number_ending: Text | None = None


class Customer(BuybackModel):
    """`firstName` in snapshots, `name` in the flat quality-check events."""

    first_name: Text | None = Field(default=None, validation_alias=AliasChoices("firstName", "name"))
    last_name: Text | None = None
    email: Text | None = None
    address: Address | None = None
    telephone_number: TelephoneNumber | None = None
    customer_payment_details: Annotated[
        EncryptedPaymentDetails | None,
        WithJsonSchema({"type": ["object", "null"], "description": "Encrypted as soon as it is received"}),
    ] = None


class Order(BuybackModel):
    """The snapshot of an order that most events carry."""

    id: Id
    status: NullableKey = None
    external_order_id: OptionalId = None
    external_reference: OptionalId = None
    submission_external_reference: OptionalId = None
    country_of_origin: NullableKey = None
    payment_type: NullableKey = None
    customer_information: Customer | None = None
    items: tuple[Item, ...] | None = None
    shipments: tuple[Shipment, ...] | None = None


class Result(BuybackModel):
    timestamp: Instant
    collection_id: OptionalId = None
    item_id: OptionalId = None
    order: Order | None = None

    @property
    def order_id(self) -> str:
        """The order's own id where there is an order; `result.id` may be something else."""
        return self.order.id if self.order else self.collection_id or ""

    @model_validator(mode="after")
    def _names_its_order(self) -> Self:
        if not self.order_id:
            raise PydanticCustomError("order_id_missing", "Neither order.id nor collectionId is given")
        return self


class CreatedResult(Result):
    """Here, and only here, `result.id` is the order's."""

    collection_id: OptionalId = Field(default=None, validation_alias=AliasChoices("collectionId", "id"))


class ShipmentResult(Result):
    shipment: Shipment | None = None


class PickupScheduledResult(ShipmentResult):
    initial_slot: Instant | None = None
    final_slot: Instant | None = None
    is_reschedule: bool | None = None


class InspectionResult(Result):
    """Flat: the order's fields stand beside the items."""

    external_reference: OptionalId = None
    submission_external_reference: OptionalId = None
    country_iso_code: NullableKey = None
    payment_type: NullableKey = None
    rejection_reasons: tuple[Text, ...] | None = None
    customer_information: Customer | None = None
    items: tuple[InspectedItem, ...] | None = None


class PickupReminderResult(Result):
    """Documented twice: with `id` and `order.shipments`, and with `activeShipmentPickup`."""

    within_days: Days | None = None
    active_shipment_pickup: ActiveShipmentPickup | None = None


class SchedulePickupReminderResult(ShipmentResult):
    """The first and the second reminder of an order differ only in their days."""

    days_after_creation: Days


class DropOffReminderResult(ShipmentResult):
    days_after_creation: Days | None = None


class BuybackEvent(BuybackModel, Payload):
    result: Result

    @property
    def occurred_at(self) -> datetime:
        return self.result.timestamp

    @property
    def entity_id(self) -> str:
        return self.result.order_id


class OrderCreated(BuybackEvent):
    """The customer accepted one or more offers."""

    type: Literal["OrderCreatedEvent"]
    result: CreatedResult


class PickupScheduled(BuybackEvent):
    """A pickup slot is booked; invoice and waybill are there."""

    type: Literal["CollectionItemPickUpScheduledEvent"]
    result: PickupScheduledResult


class PickupMissed(BuybackEvent):
    """Courier and customer missed each other; a new pickup request is due."""

    type: Literal["CollectionItemPickupMissedEvent"]
    result: ShipmentResult


class DropOffPending(BuybackEvent):
    """The customer is to bring the parcel to a drop-off point."""

    type: Literal["OrderDropOffPendingEvent"]
    result: ShipmentResult


class ItemInTransit(BuybackEvent):
    """The item is on its way to the warehouse."""

    type: Literal["CollectionItemInTransitEvent"]
    result: ShipmentResult


class ItemReceived(BuybackEvent):
    """The warehouse has the item."""

    type: Literal["CollectionItemReceivedEvent"]
    result: ShipmentResult


class QualityCheckFailed(BuybackEvent):
    """The item goes back to the customer."""

    type: Literal["CollectionItemQualityCheckFailedEvent"]
    result: InspectionResult


class ItemFinalized(BuybackEvent):
    """The item passed; the customer can be paid."""

    type: Literal["CollectionItemFinalizedEvent"]
    result: InspectionResult


class PaymentDetailsCreated(BuybackEvent):
    """The customer gave a bank account, which the ingest encrypts."""

    type: Literal["OrderCustomerPaymentDetailsCreatedEvent"]
    result: Result


class SchedulePickupReminder(BuybackEvent):
    """The customer has not requested a pickup yet: first (day 0) or second reminder."""

    type: Literal["OrderSchedulePickupReminderEvent"]
    result: SchedulePickupReminderResult


class PickupReminder(BuybackEvent):
    """The pickup is due in a day."""

    type: Literal["OrderPickupReminderEvent"]
    result: PickupReminderResult


class DropOffReminder(BuybackEvent):
    """The parcel should have been dropped off a week ago."""

    type: Literal["OrderDropOffReminderEvent"]
    result: DropOffReminderResult


def _identify(event_type: str, event: Mapping[str, Any]) -> EventIds:
    """Buyback's events have no id: the id is computed from the content."""
    result = event.get("result")
    if not isinstance(result, dict):
        raise NotIdentified("no result")
    content_id = identity.content_id(event_type, result)
    return EventIds(content_id, content_id)


def _identify_unhandled(event_type: str, event: Mapping[str, Any]) -> EventIds:
    """The event id is the one that the event gets once a family handles its type.

    Until then, the whole content decides which events are the same.
    """
    content_id = identity.content_id(event_type, event)
    try:
        return EventIds(_identify(event_type, event).event_id, content_id)
    except NotIdentified:
        return EventIds(content_id, content_id)


def _possible_entity_ids(event: Mapping[str, Any]) -> Iterator[object]:
    result = event.get("result")
    if isinstance(result, dict):
        order = result.get("order")
        yield order.get("id") if isinstance(order, dict) else None
        yield result.get("collectionId")
        yield result.get("id")


SCHEMA = EventSchema(
    type_member="type",
    webhooks=(
        OrderCreated,
        PickupScheduled,
        PickupMissed,
        DropOffPending,
        ItemInTransit,
        ItemReceived,
        QualityCheckFailed,
        ItemFinalized,
        PaymentDetailsCreated,
        SchedulePickupReminder,
        PickupReminder,
        DropOffReminder,
    ),
    identify=_identify,
    identify_unhandled=_identify_unhandled,
    possible_entity_ids=_possible_entity_ids,
    # In the order of the documents.
    examples=(
        "OrderCreatedEvent",
        "CollectionItemPickUpScheduledEvent",
        "OrderPickupReminderEvent.1",
        "CollectionItemPickupMissedEvent",
        "CollectionItemInTransitEvent",
        "CollectionItemReceivedEvent",
        "CollectionItemQualityCheckFailedEvent",
        "CollectionItemFinalizedEvent",
        "OrderCustomerPaymentDetailsCreatedEvent",
        "OrderDropOffPendingEvent",
        "OrderSchedulePickupReminderEvent",
        "OrderPickupReminderEvent.2",
        "OrderDropOffReminderEvent",
    ),
    broken_examples=("CollectionItemFinalizedEvent", "OrderCustomerPaymentDetailsCreatedEvent"),
)
