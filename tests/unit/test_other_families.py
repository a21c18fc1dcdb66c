"""Orders, returns and reminders."""

import asyncio
from datetime import datetime

import pytest

from consumers.family import CommunicationKind, Finding
from consumers.orders.decide import Order
from consumers.registry import FAMILIES
from consumers.reminders.decide import Reminder, ReminderKind
from consumers.returns.decide import Return
from schemas.event_schema import Payload
from tests.support.events import claimed, instant, observed_return, order, returned, snapshot
from tests.support.memory_store import Store


def after(family: str, *payloads: Payload) -> Store:
    async def run() -> Store:
        store = Store(FAMILIES[family])
        for number, payload in enumerate(payloads):
            await store.apply([claimed(payload, number)])
        return store

    return asyncio.run(run())


def test_an_order_whose_cancellation_came_first_is_stored() -> None:
    store = after("orders", order("order.cancelled", 9))

    assert store.rows == {"4555": Order("4555", None, instant(9))}


def test_an_order_keeps_the_earliest_of_each_instant() -> None:
    store = after("orders", order("order.created", 5), order("order.cancelled", 9), order("order.created", 2))

    assert store.rows == {"4555": Order("4555", instant(2), instant(9))}


def test_a_return_counts_its_updates_once() -> None:
    updates = [returned("order.return.updated", second) for second in (3, 9, 5)]
    store = after("returns", *updates, returned("order.return.created", 1))

    assert store.rows == {"77": Return("77", "4555", instant(1), instant(9), 3)}


def test_a_return_of_two_orders_is_flagged_and_the_same_from_either_side() -> None:
    one, other = (returned("order.return.created", 1, order_id=order_id) for order_id in ("10", "11"))
    flag = Finding("return_of_two_orders", "77", None, "events of the return name different orders")

    for store in (after("returns", one, other), after("returns", other, one)):
        assert store.rows["77"].order_id == "11"
        assert store.findings == {flag}


def test_a_return_belongs_to_the_order_under_which_it_was_last_seen() -> None:
    created = returned("order.return.created", 1, order_id="12")
    seen, seen_later = observed_return(5, order_id="11"), observed_return(6, order_id="10")

    for payloads in ((created, seen, seen_later), (seen_later, seen, created), (seen, created, seen_later)):
        assert after("returns", *payloads).rows["77"].order_id == "10"


@pytest.mark.parametrize(
    ("created", "opened_at"),
    [(3, instant(3)), (None, instant(5))],
    ids=["it says when", "it does not say when"],
)
def test_a_return_without_an_opening_event_was_opened_at_the_listed_instant(
    created: float | None, opened_at: datetime
) -> None:
    store = after("returns", observed_return(5, created=created))

    assert store.rows == {"77": Return("77", "4555", opened_at=opened_at, seen_at=instant(5))}


def test_a_return_is_gone_until_something_newer_is_known_of_it() -> None:
    created, gone = returned("order.return.created", 1), observed_return(5, is_listed=False)
    updated_before, updated_after = (returned("order.return.updated", second) for second in (4, 6))

    assert after("returns", created, gone).rows["77"].is_gone
    assert after("returns", gone, updated_before).rows["77"].is_gone
    assert not after("returns", gone, updated_after).rows["77"].is_gone
    assert not after("returns", gone, observed_return(6)).rows["77"].is_gone


@pytest.mark.parametrize(
    ("payload", "kind", "days", "communication"),
    [
        (
            snapshot("OrderSchedulePickupReminderEvent", 1, daysAfterCreation=0),
            ReminderKind.SCHEDULE_PICKUP,
            0,
            CommunicationKind.SCHEDULE_PICKUP_FIRST,
        ),
        (
            snapshot("OrderSchedulePickupReminderEvent", 1, daysAfterCreation=2),
            ReminderKind.SCHEDULE_PICKUP,
            2,
            CommunicationKind.SCHEDULE_PICKUP_SECOND,
        ),
        (
            snapshot("OrderPickupReminderEvent", 1, withinDays=1, id="something else"),
            ReminderKind.PICKUP,
            1,
            CommunicationKind.COLLECTION_DATE_REMINDER,
        ),
        (
            snapshot("OrderDropOffReminderEvent", 1, daysAfterCreation=7),
            ReminderKind.DROP_OFF,
            7,
            CommunicationKind.DROP_OFF_REMINDER,
        ),
    ],
)
def test_reminders_are_rows_and_call_for_communications(
    payload: Payload, kind: ReminderKind, days: int, communication: CommunicationKind
) -> None:
    store = after("reminders", payload)

    assert list(store.rows.values()) == [Reminder("o1", kind, instant(1), days)]
    assert [call.kind for call in store.communications] == [communication]
