"""Generated orders of Luxclusif Buyback, from the offer to the payment.

They include the documents' deviations: `"None"`, placeholder shipment ids, two shapes of the pickup reminder,
item ids that no snapshot has, several steps at one instant.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random

from worker.simulator.buyback_events import EventResults, appointment, event
from worker.simulator.buyback_fixtures import (
    Json,
    Order,
    new_order,
    new_shipment,
)
from worker.simulator.lifecycle import (
    Life,
    Step,
    happens,
    later,
    new_id,
)

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_NIL = "00000000-0000-0000-0000-000000000000"
_REJECTIONS = ("NonSaleableModel", "NotAuthentic", "ConditionWorseThanDescribed", "StrongOdour")


@dataclass(slots=True)
class Story:
    """The current state of an order.

    `one_instant`, if given, is the timestamp of all events from the pickup to the warehouse.
    """

    rng: Random
    order: Order
    at: datetime
    statuses: list[str]
    one_instant: datetime | None
    shipment: Json = field(default_factory=dict)

    def happens(self, probability: float) -> bool:
        return happens(self.rng, probability)

    def wait(self, mean: timedelta) -> None:
        self.at += later(self.rng, mean)

    @property
    def results(self) -> EventResults:
        return EventResults(self.order, self.statuses)

    def step(self, event_type: str, result: Json, printed: datetime | None = None) -> Step:
        """Send an event now, with the current instant or `printed` as its timestamp."""
        return Step(self.at, event(event_type, result, printed or self.at))


def buyback_life(rng: Random, at: datetime) -> Life:
    """The events of an order of one to three items, from the offer to the payment."""
    order = new_order(rng)
    story = Story(
        rng=rng,
        order=order,
        at=at,
        statuses=["Created"] * len(order.items),
        one_instant=at + _HOUR if happens(rng, 0.1) else None,
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
    # In the documents this event has a later timestamp than the following ones.
    printed = story.at + later(story.rng, 20 * _DAY) if story.happens(0.1) else story.at
    return story.step("OrderCreatedEvent", story.results.created(), printed)


def _reminded_to_schedule(story: Story) -> Life:
    """The first reminder is sent an hour after the order, the second some days later."""
    began = story.at
    story.at += timedelta(minutes=20)
    for days, probability in ((0, 0.4), (3, 0.5)):
        if not story.happens(probability):
            break
        story.at = began + days * _DAY + _HOUR
        yield story.step("OrderSchedulePickupReminderEvent", story.results.not_scheduled(days))
    story.wait(8 * _HOUR)


def _dropped_off(story: Story) -> Life:
    story.shipment = new_shipment(story.rng)
    story.statuses = ["DropOffPending"] * len(story.statuses)
    result = story.results.dropped_off(story.shipment)
    yield story.step("OrderDropOffPendingEvent", result)
    if story.happens(0.35):
        story.at += 7 * _DAY
        yield story.step("OrderDropOffReminderEvent", {"daysAfterCreation": 7, **result})
    story.wait(_DAY)


def _picked_up(story: Story) -> Life:
    """A pickup; if the customer misses it, a second one succeeds."""
    yield from _scheduled(story, is_reschedule=False)
    if story.happens(0.2):
        yield from _moved(story, "CollectionItemPickupMissedEvent", "MissedPickup", "MissedPickUp")
        story.wait(10 * _HOUR)
        yield from _scheduled(story, is_reschedule=True)


def _scheduled(story: Story, is_reschedule: bool) -> Life:
    """Book a slot, perhaps send a reminder, and advance the time to the slot."""
    story.shipment = new_shipment(story.rng)
    begins = (story.at + 3 * _DAY).replace(hour=9, minute=0, second=0, microsecond=0)
    more = appointment(story.order.order_id, begins, begins + 6 * _HOUR, is_reschedule=is_reschedule)
    event_type = "CollectionItemPickUpScheduledEvent"
    yield from _moved(story, event_type, "PickupScheduled", "PickUpScheduled", more)
    if story.happens(0.6):
        story.at = begins - _DAY
        yield _pickup_reminder(story, begins)
    story.at = begins
    story.wait(2 * _HOUR)


def _pickup_reminder(story: Story, begins: datetime) -> Step:
    """A reminder in one of its two documented shapes."""
    if story.happens(0.5):
        shipments: tuple[Json, ...] = ({**story.shipment, "id": _NIL},)
        order = story.results.snapshot("PickupScheduled", shipments)
        result: Json = {"id": new_id(story.rng), "withinDays": 1, "order": order}
        return story.step("OrderPickupReminderEvent", result)
    return story.step(
        "OrderPickupReminderEvent", story.results.picked_up_soon(story.shipment, begins, begins + 6 * _HOUR)
    )


def _moved(
    story: Story,
    event_type: str,
    order_status: str,
    item_status: str,
    more: Json | None = None,
) -> Life:
    """One event per item, each with the order after it."""
    for index, item in enumerate(story.order.items):
        story.statuses[index] = item_status
        # As documented, the item of an event can be missing in its snapshot.
        item_id = new_id(story.rng) if story.happens(0.03) else item["id"]
        result = story.results.moved(item_id, order_status, story.shipment, more or {})
        yield story.step(event_type, result, story.one_instant)
        story.wait(timedelta(seconds=20))


def _inspected(story: Story) -> Life:
    """The quality check's flat events, one per item: a rejection, or the permission to pay."""
    for index in range(len(story.order.items)):
        story.wait(_DAY)
        passes = not story.happens(0.15)
        story.statuses[index] = "Finalized" if passes else "QualityCheckFail"
        verdict: Json = (
            {"paymentType": story.order.payment_type}
            if passes
            else {"rejectionReasons": [story.rng.choice(_REJECTIONS)]}
        )
        event_type = "CollectionItemFinalizedEvent" if passes else "CollectionItemQualityCheckFailedEvent"
        yield story.step(event_type, story.results.inspected(index, verdict))


def _payment_details_given(story: Story) -> Step:
    shipments = ({"id": new_id(story.rng)}, story.shipment)
    # No bank account has the check digits 00.
    account_number = f"{story.order.country}00{story.rng.randrange(10**17, 10**18)}"
    identifier = f"{story.rng.randrange(10**8, 10**9)}"
    result = story.results.to_be_paid(shipments, account_number, identifier)
    return story.step("OrderCustomerPaymentDetailsCreatedEvent", result)
