"""An order at the simulated buyback platform: what may happen to it next, and which webhooks report it."""

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

# No two steps of an order have the same instant: the newest one determines its status.
TICK = timedelta(milliseconds=1)

PICKUP, DROP_OFF = "pickup", "dropoff"
CASH = "Cash"
PICKED_UP_FROM = ("Created", "PickupScheduled", "MissedPickup")


class Step(StrEnum):
    """What happens to an order at the platform, without a request."""

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
    """An order from now on, and the webhooks that report it."""

    order: Order
    webhooks: tuple[GeneratedEvent, ...] = ()


def order_of(order_id: str, at: datetime) -> Order:
    """An order as it begins; its items and customer are made up, always the same ones for an id."""
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
            raise NotNow(f"{step} is not what can happen to an order that is {order.status}")


def pickup_requested(order: Order, slots: Sequence[Slot], booked: Slot, now: datetime) -> Happened:
    """The courier is to come at `booked`, one of the `slots`. Another request reschedules.

    Raises:
        NotNow
    """
    if not order.may_be_picked_up:
        raise NotNow(
            "the order is dropped off" if order.delivery == DROP_OFF else "the order is on its way already"
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
        raise NotNow("the order is picked up")
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
    """Whom to pay may be said at any time; the platform reports it when there is something to pay."""
    given = replace(order, has_payment_details=True)
    return _paid(given, _later(order, now)) if given.is_to_be_paid else Happened(given)


def _later(order: Order, now: datetime) -> datetime:
    return max(now, order.at + TICK)


def _shipment(order: Order) -> Json:
    return new_shipment(Random(f"{order.order_id} {order.pickups_requested}"))


def _moved(
    order: Order, event_type: str, status: str, item_status: str, at: datetime, more: Json | None = None
) -> Happened:
    """All items at once, and an event of each: at one instant, with the whole order as it is then."""
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
    # The first comes an hour after the order, which is day 0.
    days = 0 if order.reminders == 0 else 3
    return event("OrderSchedulePickupReminderEvent", order.results.not_scheduled(days), at)


def _inspected(order: Order, *, passes: bool, at: datetime) -> Happened:
    """The next item. With the last one, the bank account is reported, if it is known."""
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
    """The bank account is made up: the one that was given is not kept."""
    closed = replace(order, status="Closed", at=at)
    # Check digits 00 belong to no bank account.
    account_number = f"{order.subject.country}00{Random(order.order_id).randrange(10**17, 10**18)}"
    result = closed.results.to_be_paid((order.shipment,), account_number, "000000000")
    return Happened(closed, (event("OrderCustomerPaymentDetailsCreatedEvent", result, at),))
