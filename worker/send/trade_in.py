"""Luxclusif Buyback's side of a generated marketplace: an order from its offer to its payment.

The documents' quirks are played too: `"None"`, placeholder shipment ids, two shapes of the pickup
reminder, item ids that no snapshot knows, several steps at one instant.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random

import orjson

from schemas.events import Provider
from worker.send.life import GeneratedEvent, Life, Step, happens, later, new_id
from worker.send.trade_in_order import PLACEHOLDER, Json, Order, new_order, new_shipment

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_NIL = "00000000-0000-0000-0000-000000000000"
_REJECTIONS = ("NonSaleableModel", "NotAuthentic", "ConditionWorseThanDescribed", "StrongOdour")


@dataclass(slots=True)
class Story:
    """An order as far as it has come.

    `one_instant`, if given, is what all events from the pickup to the warehouse print as their time.
    """

    chance: Random
    order: Order
    at: datetime
    statuses: list[str]
    one_instant: datetime | None
    shipment: Json = field(default_factory=dict)

    def happens(self, probability: float) -> bool:
        return happens(self.chance, probability)

    def wait(self, mean: timedelta) -> None:
        self.at += later(self.chance, mean)

    def snapshot(self, status: str, shipments: Sequence[Json]) -> dict[str, object]:
        """The order as most events carry it; one without a status has no country either."""
        return {
            "id": self.order.order_id,
            **self.order.references,
            "commercialInvoiceUrl": f"https://invoices.example/{self.order.order_id}.pdf",
            "status": status,
            "countryOfOrigin": "None" if status == "None" else self.order.country,
            "customerInformation": self.order.customer,
            "items": [
                {"id": item["id"], "status": status, **item}
                for item, status in zip(self.order.items, self.statuses, strict=True)
            ],
            "shipments": shipments,
        }

    def step(self, event_type: str, result: Json, printed: datetime | None = None) -> Step:
        """Send an event now; it says that it happened now, or at the instant `printed`."""
        occurred_at = printed or self.at
        body = orjson.dumps(
            {
                "type": event_type,
                "token": "",
                "result": {"timestamp": _stamp(occurred_at), **result},
            }
        )
        return Step(self.at, GeneratedEvent(Provider.BUYBACK, event_type, occurred_at, body))


def trade_in_life(chance: Random, at: datetime) -> Life:
    """An order of one to three items, from the offer through the quality check to its payment."""
    order = new_order(chance)
    story = Story(
        chance=chance,
        order=order,
        at=at,
        statuses=["Created"] * len(order.items),
        one_instant=at + _HOUR if happens(chance, 0.1) else None,
    )
    yield _created(story)
    yield from _reminded_to_schedule(story)
    yield from _dropped_off(story) if story.happens(0.25) else _picked_up(story)
    yield from _moved(story, "CollectionItemInTransitEvent", "InTransit", "InTransit")
    story.wait(2 * _DAY)
    yield from _moved(story, "CollectionItemReceivedEvent", "Processing", "Received")
    yield from _inspected(story)
    if order.payment_type == "Cash" and "Finalized" in story.statuses:
        story.wait(6 * _HOUR)
        yield _payment_details_given(story)


def _created(story: Story) -> Step:
    # The documents print this event with a later time than what follows it.
    printed = story.at + later(story.chance, 20 * _DAY) if story.happens(0.1) else story.at
    order = story.snapshot("Created", ())
    del order["status"], order["shipments"]
    return story.step("OrderCreatedEvent", {"id": story.order.order_id, "order": order}, printed)


def _reminded_to_schedule(story: Story) -> Life:
    """The first reminder comes an hour after the order, the second some days after it."""
    began = story.at
    story.at += timedelta(minutes=20)
    for days, probability in ((0, 0.4), (3, 0.5)):
        if not story.happens(probability):
            break
        story.at = began + days * _DAY + _HOUR
        result = {
            "daysAfterCreation": days,
            "order": story.snapshot("Created", ()),
            "collectionId": story.order.order_id,
        }
        yield story.step("OrderSchedulePickupReminderEvent", result)
    story.wait(8 * _HOUR)


def _dropped_off(story: Story) -> Life:
    story.shipment = new_shipment(story.chance)
    story.statuses = ["DropOffPending"] * len(story.statuses)
    result: Json = {
        "order": story.snapshot("None", ({**story.shipment, "id": PLACEHOLDER},)),
        "shipment": _without_id(story.shipment),
        "collectionId": story.order.order_id,
    }
    yield story.step("OrderDropOffPendingEvent", result)
    if story.happens(0.35):
        story.at += 7 * _DAY
        yield story.step("OrderDropOffReminderEvent", {"daysAfterCreation": 7, **result})
    story.wait(_DAY)


def _picked_up(story: Story) -> Life:
    """An appointment with the courier; where it is missed, a second one, which is kept."""
    yield from _scheduled(story, is_reschedule=False)
    if story.happens(0.2):
        yield from _moved(story, "CollectionItemPickupMissedEvent", "MissedPickup", "MissedPickUp")
        story.wait(10 * _HOUR)
        yield from _scheduled(story, is_reschedule=True)


def _scheduled(story: Story, is_reschedule: bool) -> Life:
    """Book a slot, remind of it perhaps, and let the time pass until then."""
    story.shipment = new_shipment(story.chance)
    begins = (story.at + 3 * _DAY).replace(hour=9, minute=0, second=0, microsecond=0)
    appointment = {
        "initialSlot": begins.isoformat(),
        "finalSlot": (begins + 6 * _HOUR).isoformat(),
        "isReschedule": is_reschedule,
        "commercialInvoiceUrl": f"https://invoices.example/{story.order.order_id}.pdf",
    }
    event_type = "CollectionItemPickUpScheduledEvent"
    yield from _moved(story, event_type, "PickupScheduled", "PickUpScheduled", appointment)
    if story.happens(0.6):
        story.at = begins - _DAY
        yield _pickup_reminder(story, begins)
    story.at = begins
    story.wait(2 * _HOUR)


def _pickup_reminder(story: Story, begins: datetime) -> Step:
    """In one of its two documented shapes."""
    if story.happens(0.5):
        shipments: tuple[Json, ...] = ({**story.shipment, "id": _NIL},)
        order = story.snapshot("PickupScheduled", shipments)
        result: Json = {"id": new_id(story.chance), "withinDays": 1, "order": order}
        return story.step("OrderPickupReminderEvent", result)
    pickup = {
        "startDate": _stamp(begins),
        "endDate": _stamp(begins + 6 * _HOUR),
        **_without_id(story.shipment),
    }
    result = {
        "withinDays": 1,
        "order": story.snapshot("None", ({**story.shipment, "id": PLACEHOLDER},)),
        "activeShipmentPickup": pickup,
        "collectionId": story.order.order_id,
    }
    return story.step("OrderPickupReminderEvent", result)


def _moved(
    story: Story,
    event_type: str,
    order_status: str,
    item_status: str,
    more: Json | None = None,
) -> Life:
    """One event per item, each with the order as it is from then on."""
    for index, item in enumerate(story.order.items):
        story.statuses[index] = item_status
        # As documented, the item that an event names need not be in its snapshot.
        item_id = new_id(story.chance) if story.happens(0.03) else item["id"]
        result = {
            "collectionId": story.order.order_id,
            "itemId": item_id,
            **(more or {}),
            "shipment": story.shipment,
            "order": story.snapshot(order_status, (story.shipment,)),
        }
        yield story.step(event_type, result, story.one_instant)
        story.wait(timedelta(seconds=20))


def _inspected(story: Story) -> Life:
    """The quality check's flat events, one per item: it fails, or the customer can be paid."""
    for index, item in enumerate(story.order.items):
        story.wait(_DAY)
        passes = not story.happens(0.15)
        story.statuses[index] = "Finalized" if passes else "QualityCheckFail"
        flat = {**story.order.flat_items[index], "status": story.statuses[index]}
        verdict: Json = (
            {"paymentType": story.order.payment_type}
            if passes
            else {"rejectionReasons": [story.chance.choice(_REJECTIONS)]}
        )
        result = {
            "collectionId": story.order.order_id,
            "itemId": item["id"],
            "externalReference": story.order.references["externalReference"],
            "submissionExternalReference": story.order.references["submissionExternalReference"],
            "countryIsoCode": story.order.country,
            **verdict,
            "customerInformation": _with_name(story.order.customer),
            "items": [flat],
        }
        event_type = "CollectionItemFinalizedEvent" if passes else "CollectionItemQualityCheckFailedEvent"
        yield story.step(event_type, result)


def _payment_details_given(story: Story) -> Step:
    order = story.snapshot("Closed", ({"id": new_id(story.chance)}, story.shipment))
    customer = story.order.customer
    names = {"firstName": customer["firstName"], "lastName": customer["lastName"]}
    # Check digits 00 belong to no bank account.
    number = f"{story.order.country}00{story.chance.randrange(10**17, 10**18)}"
    details = {
        **names,
        "bankAccount": {
            "accountNumber": number,
            "financialInstitutionIdentifier": f"{story.chance.randrange(10**8, 10**9)}",
            "beneficiaryName": f"{customer['firstName']} {customer['lastName']}",
        },
        "billingAddress": customer["address"],
    }
    order["paymentType"] = story.order.payment_type
    order["customerInformation"] = {**customer, "customerPaymentDetails": details}
    result = {"order": order, "collectionId": story.order.order_id}
    return story.step("OrderCustomerPaymentDetailsCreatedEvent", result)


def _without_id(shipment: Json) -> Json:
    return {name: value for name, value in shipment.items() if name != "id"}


def _with_name(customer: Json) -> Json:
    """The quality check's events call the first name `name`."""
    return {("name" if key == "firstName" else key): value for key, value in customer.items()}


def _stamp(instant: datetime) -> str:
    """UTC with up to seven fractional digits, trailing zeros left out, as the platform prints it."""
    digits = f"{instant.microsecond:06d}{instant.microsecond * 7 % 10}".rstrip("0")
    return f"{instant:%Y-%m-%dT%H:%M:%S}{'.' if digits else ''}{digits}Z"
