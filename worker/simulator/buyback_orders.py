"""Orders of the simulated buyback platform: the possible next steps, and their webhooks."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from random import Random

from worker.marketplaces.buyback.requests import Slot
from worker.simulator.buyback_events import EventResults, appointment, event
from worker.simulator.buyback_fixtures import Json, new_order, new_shipment
from worker.simulator.buyback_fixtures import Order as Subject
from worker.simulator.lifecycle import GeneratedEvent
from worker.simulator.marketplace import NotNow

# The steps of an order have different instants, because the newest one determines its status.
TICK = timedelta(milliseconds=1)

PICKUP, DROP_OFF = "pickup", "dropoff"
CASH = "Cash"
PICKED_UP_FROM = ("Created", "PickupScheduled", "MissedPickup")


class Step(StrEnum):
    """A step of an order that the platform makes without a request."""

    REMIND = "remind"
    MISS = "miss"
    COLLECT = "collect"
    RECEIVE = "receive"
    PASS = "pass"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Order:
    """`slots` were requested, `slot` is booked. Payment details are not stored, only that they were sent."""

    subject: Subject
    statuses: tuple[str, ...]
    at: datetime
    status: str = "Created"
    delivery: str | None = None
    slots: tuple[Slot, ...] = ()
    slot: Slot | None = None
    pickups_requested: int = 0
    reminders: int = 0
    has_payment_details: bool = False
    shipment: Json = field(default_factory=dict)

    @property
    def order_id(self) -> str:
        return self.subject.order_id

    @property
    def results(self) -> EventResults:
        return EventResults(self.subject, self.statuses)

    @property
    def may_be_picked_up(self) -> bool:
        return self.delivery != DROP_OFF and self.status in PICKED_UP_FROM

    @property
    def may_be_dropped_off(self) -> bool:
        return self.delivery != PICKUP and self.status in ("Created", "DropOffPending")

    @property
    def is_inspected(self) -> bool:
        return set(self.statuses) <= {"Finalized", "QualityCheckFail"}

    @property
    def is_to_be_paid(self) -> bool:
        return self.is_inspected and "Finalized" in self.statuses and self.subject.payment_type == CASH

    def as_json(self) -> dict[str, object]:
        items = zip(self.subject.items, self.statuses, strict=True)
        return {
            "id": self.order_id,
            "status": self.status,
            "items": [{"id": item["id"], "status": status} for item, status in items],
            "paymentType": self.subject.payment_type,
            "delivery": self.delivery,
            "slot": None if self.slot is None else self.slot.model_dump(mode="json", by_alias=True),
            "pickupsRequested": self.pickups_requested,
            "hasPaymentDetails": self.has_payment_details,
        }


@dataclass(frozen=True, slots=True)
class Happened:
    """An order after a step, and the webhooks that report it."""

    order: Order
    webhooks: tuple[GeneratedEvent, ...] = ()


def order_of(order_id: str, at: datetime) -> Order:
    """A new order; the id determines its invented items and customer."""
    subject = replace(new_order(Random(order_id)), order_id=order_id)
    return Order(subject, ("Created",) * len(subject.items), at)


def created(order_id: str, at: datetime, payment_type: str | None = None) -> Happened:
    order = order_of(order_id, at)
    if payment_type is not None:
        order = replace(order, subject=replace(order.subject, payment_type=payment_type))
    return Happened(order, (event("OrderCreatedEvent", order.results.created(), at),))


def stepped(order: Order, step: Step, now: datetime) -> Happened:
    """Raises: NotNow."""
    at = _later(order, now)
    match step, order.status:
        case Step.REMIND, ("Created" | "PickupScheduled" | "DropOffPending"):
            return _reminded(order, at)
        case Step.MISS, "PickupScheduled":
            missed = replace(order, slots=(), slot=None)
            return _moved(missed, "CollectionItemPickupMissedEvent", "MissedPickup", "MissedPickUp", at)
        case Step.COLLECT, ("PickupScheduled" | "DropOffPending"):
            collected = replace(order, slot=None)
            return _moved(collected, "CollectionItemInTransitEvent", "InTransit", "InTransit", at)
        case Step.RECEIVE, "InTransit":
            return _moved(order, "CollectionItemReceivedEvent", "Processing", "Received", at)
        case ((Step.PASS | Step.FAIL), "Processing") if not order.is_inspected:
            return _inspected(order, passes=step is Step.PASS, at=at)
        case _:
            raise NotNow(f"{step} is not possible for an order with status {order.status}")


def pickup_requested(order: Order, slots: Sequence[Slot], booked: Slot, now: datetime) -> Happened:
    """Schedule the courier for `booked`, one of the `slots`. A further request reschedules.

    Raises:
        NotNow
    """
    if not order.may_be_picked_up:
        raise NotNow(
            "the order has a drop-off" if order.delivery == DROP_OFF else "the order is already in transit"
        )
    is_reschedule = order.pickups_requested > 0
    requested = replace(
        order,
        delivery=PICKUP,
        slots=tuple(slots),
        slot=booked,
        pickups_requested=order.pickups_requested + 1,
        shipment=_shipment(order),
    )
    more = appointment(order.order_id, booked.initial_slot, booked.final_slot, is_reschedule=is_reschedule)
    event_type = "CollectionItemPickUpScheduledEvent"
    return _moved(requested, event_type, "PickupScheduled", "PickUpScheduled", _later(order, now), more)


def dropoff_requested(order: Order, now: datetime) -> Happened:
    """Raises: NotNow."""
    if not order.may_be_dropped_off:
        raise NotNow("the order has a pickup")
    at = _later(order, now)
    statuses = ("DropOffPending",) * len(order.statuses)
    requested = replace(
        order,
        status="DropOffPending",
        statuses=statuses,
        delivery=DROP_OFF,
        shipment=order.shipment or _shipment(order),
        at=at,
    )
    result = requested.results.dropped_off(requested.shipment)
    return Happened(requested, (event("OrderDropOffPendingEvent", result, at),))


def payment_details_given(order: Order, now: datetime) -> Happened:
    """Accept payment details at any time; the platform reports them once a payment is due."""
    given = replace(order, has_payment_details=True)
    return _paid(given, _later(order, now)) if given.is_to_be_paid else Happened(given)


def _later(order: Order, now: datetime) -> datetime:
    return max(now, order.at + TICK)


def _shipment(order: Order) -> Json:
    return new_shipment(Random(f"{order.order_id} {order.pickups_requested}"))


def _moved(
    order: Order, event_type: str, status: str, item_status: str, at: datetime, more: Json | None = None
) -> Happened:
    """Move all items, with one event per item: at the same instant, with the order after the move."""
    items = order.subject.items
    moved = replace(order, status=status, statuses=(item_status,) * len(items), at=at)
    results = [moved.results.moved(item["id"], status, order.shipment, more or {}) for item in items]
    return Happened(moved, tuple(event(event_type, result, at) for result in results))


def _reminded(order: Order, at: datetime) -> Happened:
    reminded = replace(order, reminders=order.reminders + 1, at=at)
    return Happened(reminded, (_reminder(order, at),))


def _reminder(order: Order, at: datetime) -> GeneratedEvent:
    if order.slot is not None:
        begins, ends = order.slot.initial_slot, order.slot.final_slot
        result = order.results.picked_up_soon(order.shipment, begins, ends)
        return event("OrderPickupReminderEvent", result, at)
    if order.delivery == DROP_OFF:
        result = {"daysAfterCreation": 7, **order.results.dropped_off(order.shipment)}
        return event("OrderDropOffReminderEvent", result, at)
    # The first reminder is sent an hour after the order, which is day 0.
    days = 0 if order.reminders == 0 else 3
    return event("OrderSchedulePickupReminderEvent", order.results.not_scheduled(days), at)


def _inspected(order: Order, *, passes: bool, at: datetime) -> Happened:
    """Inspect the next item. After the last one, report the bank account if it is known."""
    place = order.statuses.index("Received")
    status = "Finalized" if passes else "QualityCheckFail"
    statuses = (*order.statuses[:place], status, *order.statuses[place + 1 :])
    inspected = replace(order, statuses=statuses, at=at)
    verdict: Json = (
        {"paymentType": order.subject.payment_type}
        if passes
        else {"rejectionReasons": ["ConditionWorseThanDescribed"]}
    )
    event_type = "CollectionItemFinalizedEvent" if passes else "CollectionItemQualityCheckFailedEvent"
    events = (event(event_type, inspected.results.inspected(place, verdict), at),)
    if not (inspected.is_to_be_paid and inspected.has_payment_details):
        return Happened(inspected, events)
    paid = _paid(inspected, _later(inspected, at))
    return Happened(paid.order, (*events, *paid.webhooks))


def _paid(order: Order, at: datetime) -> Happened:
    """The bank account is invented, because given ones are not stored."""
    closed = replace(order, status="Closed", at=at)
    # No bank account has the check digits 00.
    account_number = f"{order.subject.country}00{Random(order.order_id).randrange(10**17, 10**18)}"
    result = closed.results.to_be_paid((order.shipment,), account_number, "000000000")
    return Happened(closed, (event("OrderCustomerPaymentDetailsCreatedEvent", result, at),))
