"""Buyback orders: the content of events, and the result of contradictory ones."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from consumers.buybacks import status
from consumers.buybacks.decide import BuybackOrder
from consumers.family import CommunicationKind, Finding
from consumers.registry import FAMILIES
from schemas.event_schema import Payload
from tests.support.events import claimed, event_id, flat, instant, item, snapshot
from tests.support.memory_store import Store

CREATED = "OrderCreatedEvent"
SCHEDULED = "CollectionItemPickUpScheduledEvent"
MISSED = "CollectionItemPickupMissedEvent"
IN_TRANSIT = "CollectionItemInTransitEvent"
RECEIVED = "CollectionItemReceivedEvent"
DROP_OFF = "OrderDropOffPendingEvent"
FAILED = "CollectionItemQualityCheckFailedEvent"
FINALIZED = "CollectionItemFinalizedEvent"
PAYMENT = "OrderCustomerPaymentDetailsCreatedEvent"


def after(*payloads: Payload) -> Store:
    async def run() -> Store:
        store = Store(FAMILIES["buybacks"])
        for number, payload in enumerate(payloads):
            await store.apply([claimed(payload, number)])
        return store

    return asyncio.run(run())


def order(store: Store) -> BuybackOrder:
    row = store.rows["o1"]
    assert isinstance(row, BuybackOrder)
    return row


def values(store: Store) -> dict[str, Any]:
    return dict(order(store).order.values)


def item_values(store: Store, item_id: str = "i1") -> dict[str, Any]:
    return dict(order(store).items[item_id].values)


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        ("PickupScheduled", "pickup_scheduled"),
        ("PickUpScheduled", "pickup_scheduled"),
        ("MissedPickup", "missed_pickup"),
        ("MissedPickUp", "missed_pickup"),
        ("QualityCheckFail", "quality_check_failed"),
        ("DropOffPending", "drop_off_pending"),
        ("InTransit", "in_transit"),
        ("Closed", "closed"),
        ("LostByCourier", "LostByCourier"),
    ],
)
def test_statuses_are_stored_in_one_spelling(spelling: str, expected: str) -> None:
    assert status.in_one_spelling(spelling) == expected


def test_created_yields_to_everything_even_when_printed_with_a_later_time() -> None:
    late_created = snapshot(CREATED, 99, items=(item(status="Created"),))
    scheduled = snapshot(SCHEDULED, 5, status="PickupScheduled", items=(item(status="PickUpScheduled"),))
    for store in (after(late_created, scheduled), after(scheduled, late_created)):
        assert values(store)["status"] == "pickup_scheduled"
        assert item_values(store)["status"] == "pickup_scheduled"
        assert values(store)["occurred_at"] == instant(5)


def test_at_the_same_instant_the_one_further_along_wins() -> None:
    steps = [
        snapshot(MISSED, 5, status="MissedPickup"),
        snapshot(RECEIVED, 5, status="Processing"),
        snapshot(SCHEDULED, 5, status="PickupScheduled"),
        snapshot(IN_TRANSIT, 5, status="InTransit"),
    ]

    assert values(after(*steps))["status"] == "processing"
    assert values(after(*reversed(steps)))["status"] == "processing"


def test_the_newest_status_wins_otherwise_even_backwards() -> None:
    store = after(
        snapshot(MISSED, 5, status="MissedPickup"), snapshot(SCHEDULED, 9, status="PickupScheduled")
    )

    assert values(store)["status"] == "pickup_scheduled"


@pytest.mark.parametrize(
    ("event_type", "order_status", "item_status"),
    [
        (CREATED, "created", "created"),
        (DROP_OFF, "drop_off_pending", "drop_off_pending"),
        (RECEIVED, "processing", "received"),
    ],
)
def test_a_status_of_none_is_derived_from_the_event_type(
    event_type: str, order_status: str, item_status: str
) -> None:
    store = after(snapshot(event_type, 1, status="None", items=(item(status="None"),)))

    assert values(store)["status"] == order_status
    assert item_values(store)["status"] == item_status


def test_the_word_none_for_a_country_does_not_overwrite_one() -> None:
    store = after(
        snapshot(SCHEDULED, 1, order={"countryOfOrigin": "PT"}),
        snapshot(IN_TRANSIT, 2, order={"countryOfOrigin": "None"}),
    )

    assert values(store)["country"] == "PT"


def test_amounts_are_exact_and_summed_over_items() -> None:
    store = after(snapshot(CREATED, 1, items=(item("i1", total=0.1), item("i2", total=100000000000000.2))))

    assert item_values(store, "i1")["total_amount"] == Decimal("0.1")
    assert order(store).total == ("EUR", Decimal("100000000000000.3"))


def test_amounts_in_several_currencies_are_not_summed_but_flagged() -> None:
    store = after(snapshot(CREATED, 1, items=(item("i1"), item("i2", currency="USD"))))

    assert order(store).total == (None, None)
    assert store.findings == {
        Finding("mixed_currencies", "o1", event_id(0), "items have different currencies")
    }


def test_an_item_outside_the_snapshot_is_a_finding_and_no_row() -> None:
    store = after(snapshot(IN_TRANSIT, 1, status="InTransit", items=(item("i1"),), itemId="other"))

    assert set(order(store).items) == {"i1"}
    assert store.findings == {
        Finding(
            "item_outside_snapshot", "o1", event_id(0), "item other is missing in the event's own snapshot"
        )
    }


def test_an_undocumented_status_is_stored_unchanged_and_flagged() -> None:
    store = after(snapshot(IN_TRANSIT, 1, status="LostByCourier"))

    assert values(store)["status"] == "LostByCourier"
    assert store.findings == {Finding("undocumented_status", "o1", event_id(0), "status LostByCourier")}


def test_a_flat_inspection_names_its_item_by_item_id() -> None:
    entry = {
        "id": "elsewhere",
        "model": "TEST",
        "brandName": "McQueen",
        "categoryName": "Bags",
        "totalValue": {"currencyIsoCode": "EUR", "amount": 1150},
        "customerPrice": {"currencyIsoCode": "EUR", "amount": 1000},
        "status": "QualityCheckFail",
    }
    store = after(flat(FAILED, 1, itemId="i1", rejectionReasons=["NonSaleableModel"], items=[entry]))

    assert set(order(store).items) == {"i1"}
    assert item_values(store) == {
        "status": "quality_check_failed",
        "model": "TEST",
        "brand": "McQueen",
        "category": "Bags",
        "base_amount": Decimal(1000),
        "total_amount": Decimal(1150),
        "currency": "EUR",
        "rejection_reasons": ("NonSaleableModel",),
    }


def test_a_flat_inspection_with_several_entries_updates_each_by_its_own_id() -> None:
    entries = [{"id": "i1", "status": "Finalized"}, {"id": "i2", "status": "QualityCheckFail"}]
    store = after(flat(FINALIZED, 1, itemId="i1", items=entries))

    assert item_values(store, "i1") == {"status": "finalized"}
    assert item_values(store, "i2") == {"status": "quality_check_failed"}


def test_shipments_are_distinguished_by_tracking_code() -> None:
    nil = "00000000-0000-0000-0000-000000000000"
    store = after(
        snapshot(
            SCHEDULED,
            1,
            order={"shipments": [{"id": nil, "trackingCode": "T1", "carrier": "UPS"}, {"id": nil}]},
            shipment={"id": nil, "trackingCode": "T2", "carrier": "DHL"},
            initialSlot="2022-10-20T09:00:00+00:00",
            isReschedule=False,
        )
    )
    shipments = order(store).shipments

    assert {code: shipment.values["carrier"] for code, shipment in shipments.items()} == {
        "T1": "UPS",
        "T2": "DHL",
    }
    assert shipments["T2"].values["is_reschedule"] is False


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (snapshot(MISSED, 1, itemId="i1", items=(item(),)), CommunicationKind.MISSED_COLLECTION),
        (snapshot(RECEIVED, 1, itemId="i1", items=(item(),)), CommunicationKind.ITEM_RECEIVED),
        (flat(FAILED, 1, itemId="i1"), CommunicationKind.QUALITY_CHECK_FAILED),
        (flat(FINALIZED, 1, itemId="i1"), CommunicationKind.ITEM_APPROVED),
        (snapshot(PAYMENT, 1), CommunicationKind.PAYMENT_DETAILS_RECEIVED),
    ],
)
def test_events_call_for_their_communications(payload: Payload, kind: CommunicationKind) -> None:
    (communication,) = after(payload).communications

    assert (communication.kind, communication.order_id) == (kind, "o1")


@pytest.mark.parametrize("event_type", [CREATED, SCHEDULED, IN_TRANSIT, DROP_OFF])
def test_other_events_call_for_none(event_type: str) -> None:
    assert after(snapshot(event_type, 1)).communications == set()


def test_the_four_characters_never_stand_beside_another_accounts_details() -> None:
    def paid(second: int, sealed: str, ending: str) -> Payload:
        details = {"sealed": sealed, "accountNumberEnding": ending}
        return snapshot(PAYMENT, second, order={"customerInformation": {"customerPaymentDetails": details}})

    same_instant = [paid(1, "aaa", "9999"), paid(1, "bbb", "1111")]

    assert values(after(*same_instant))["payment_details"] == ("bbb", "1111")
    assert values(after(*reversed(same_instant)))["payment_details"] == ("bbb", "1111")
