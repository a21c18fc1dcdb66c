"""Each event that the marketplaces document, through the real stack to its rows."""

import json
from datetime import UTC, datetime
from decimal import Decimal

from cryptography.fernet import Fernet

from schemas.examples import as_printed, documented
from tests.support.stack import Stack, until


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


async def test_each_documented_event_comes_to_its_rows(stack: Stack) -> None:
    await stack.started("run")
    answers = [await stack.post(example.provider, example.body) for example in documented()]

    async def all_applied() -> bool:
        return await stack.count("event_log") == len(answers)

    assert [answer.status_code for answer in answers] == [200] * 18
    await until(all_applied, "all are in the log")
    await check_ovoko(stack)
    await check_buyback_orders(stack)
    await check_buyback_items(stack)
    await check_shipments(stack)
    await check_reminders(stack)
    await check_communications(stack)
    await check_findings(stack)
    await check_log(stack)
    assert await stack.depths() == {}


async def check_ovoko(stack: Stack) -> None:
    at = instant("2023-01-12T14:17:20+02:00")
    parts = await stack.fetch("SELECT part_id, external_id, status, is_sellable, occurred_at FROM parts")
    orders = await stack.fetch("SELECT order_id, status, created_at, cancelled_at FROM orders")
    returns = await stack.fetch(
        "SELECT return_id, order_id, opened_at, updated_at, update_count FROM returns"
    )

    assert parts == [
        {
            "part_id": "13",
            "external_id": "12345",
            "status": "sold",
            "is_sellable": False,
            "occurred_at": at,
        }
    ]
    assert orders == [{"order_id": "4555", "status": "cancelled", "created_at": at, "cancelled_at": at}]
    assert returns == [
        {"return_id": "4555", "order_id": "4555", "opened_at": at, "updated_at": at, "update_count": 1}
    ]


async def check_buyback_orders(stack: Stack) -> None:
    rows = await stack.fetch(
        """
        SELECT order_id, status, external_reference, country, payment_type, currency, total_amount
        FROM buyback_orders
        ORDER BY order_id
        """
    )
    (life,) = await stack.fetch("SELECT * FROM buyback_orders WHERE order_id LIKE 'a989e247%'")
    (paid,) = await stack.fetch("SELECT * FROM buyback_orders WHERE order_id LIKE '30656b1b%'")

    assert [tuple(row.values()) for row in rows] == [
        (
            "30656b1b-202b-4a99-8f46-6c1f799fd870",
            "closed",
            "externalReference",
            "US",
            "Cash",
            "USD",
            Decimal(105),
        ),
        ("a989e247-ea7d-4ca5-823f-4a2beca861be", "processing", "OC123456", "PT", None, "EUR", Decimal(110)),
        (
            "d59995c6-5dee-4638-a956-3fd6e391b3f3",
            "drop_off_pending",
            "ExternalReference1",
            None,
            None,
            "EUR",
            Decimal(110),
        ),
        ("e9bb1080-9333-4fd3-b7e1-0701edf5002c", None, "OC123456", "PT", "Credit", "EUR", Decimal(1150)),
    ]
    assert life["submission_external_reference"] == "QC123456"
    assert life["external_order_id"] == "ExternalOrderId1"
    assert life["customer_name"] == "FirstName1 LastName1"
    assert life["customer_email"] == "customer@trade-in.com"
    assert life["customer_telephone"] == "+351 910456789"
    assert json.loads(life["customer_address"])["firstLine"] == "FirstLine1"
    assert life["occurred_at"] == instant("2022-10-10T14:29:10.840922+00:00")
    assert paid["account_number_ending"] == "ESTE"
    sealed = Fernet(stack.environment["STOCKHOOK_SEALING_KEYS"]).decrypt(paid["payment_details_sealed"])
    assert json.loads(sealed)["bankAccount"]["accountNumber"] == "TESTE"


async def check_buyback_items(stack: Stack) -> None:
    """The failed quality check is printed with an earlier time than what the item went through before."""
    rows = await stack.fetch(
        """
        SELECT left(order_id, 8) AS order_key, left(item_id, 8) AS item_key, status, model, brand,
            category, base_amount, total_amount, currency, rejection_reasons
        FROM buyback_items
        ORDER BY order_id, item_id
        """
    )

    assert [tuple(row.values()) for row in rows] == [
        (
            "30656b1b",
            "b670ed67",
            "finalized",
            "TESTE",
            "Gucci",
            "Bags",
            Decimal("100.0"),
            Decimal("105.0"),
            "USD",
            [],
        ),
        (
            "a989e247",
            "83f94362",
            "received",
            "Model1",
            "Brand",
            "Bag",
            Decimal(100),
            Decimal(110),
            "EUR",
            ["NonSaleableModel"],
        ),
        (
            "d59995c6",
            "5bcdc800",
            "drop_off_pending",
            "Model1",
            "Brand",
            "Bag",
            Decimal(100),
            Decimal(110),
            "EUR",
            [],
        ),
        (
            "e9bb1080",
            "83f94362",
            "finalized",
            "TEST",
            "Alexander McQueen",
            "Bags",
            Decimal(1000),
            Decimal(1150),
            "EUR",
            [],
        ),
    ]


async def check_shipments(stack: Stack) -> None:
    rows = await stack.fetch(
        """
        SELECT left(order_id, 8) AS order_key, tracking_code, carrier, waybill_url, pickup_starts_at,
            is_reschedule
        FROM buyback_shipments
        ORDER BY order_id, tracking_code
        """
    )

    assert [tuple(row.values()) for row in rows] == [
        ("30656b1b", "123456789", "DHL", "http://my-docs.com/waybill.pdf", None, None),
        (
            "a989e247",
            "123456789",
            "DHLExpress",
            "https://my-waybill.net/file.pdf",
            instant("2022-10-20T09:00:00+00:00"),
            False,
        ),
        ("d59995c6", "123456789", "UPS", "http://my-docs.com/waybill.pdf", None, None),
        ("d59995c6", "TrackingCode1", "Carrier1", "http://my-docs.com/waybill.pdf", None, None),
    ]


async def check_reminders(stack: Stack) -> None:
    rows = await stack.fetch(
        "SELECT left(order_id, 8) AS order_key, kind, occurred_at, days FROM reminders "
        "ORDER BY order_id, kind"
    )

    assert [tuple(row.values()) for row in rows] == [
        ("0b83a801", "drop_off", instant("2023-12-21T10:11:19.044005+00:00"), 7),
        ("427a56f6", "schedule_pickup", instant("2023-10-17T19:59:21.033727+00:00"), 0),
        ("a989e247", "pickup", instant("2022-11-21T14:29:07.125404+00:00"), 1),
        ("c66f9170", "pickup", instant("2023-10-23T10:22:54.429901+00:00"), 1),
    ]


async def check_communications(stack: Stack) -> None:
    rows = await stack.fetch(
        "SELECT left(order_id, 8) AS order_key, kind, left(item_id, 8) AS item_key FROM communications "
        "ORDER BY order_id, kind"
    )

    assert [tuple(row.values()) for row in rows] == [
        ("0b83a801", "drop_off_reminder", None),
        ("30656b1b", "payment_details_received", None),
        ("427a56f6", "schedule_pickup_first", None),
        ("a989e247", "collection_date_reminder", None),
        ("a989e247", "item_received", "a6182370"),
        ("a989e247", "missed_collection", "a6182370"),
        ("a989e247", "quality_check_failed", "83f94362"),
        ("c66f9170", "collection_date_reminder", None),
        ("e9bb1080", "item_approved", "83f94362"),
    ]


async def check_findings(stack: Stack) -> None:
    """The documents print one event id five times, and name items that their snapshots do not show."""
    rows = await stack.fetch("SELECT kind, count(*) FROM findings GROUP BY kind ORDER BY kind")

    assert [tuple(row.values()) for row in rows] == [("event_id_reused", 1), ("item_outside_snapshot", 4)]


async def check_log(stack: Stack) -> None:
    rows = await stack.fetch("SELECT family, count(*) FROM event_log GROUP BY family ORDER BY family")
    (sold,) = await stack.fetch("SELECT * FROM event_log WHERE family = 'inventory'")
    example = documented()[0]

    assert [tuple(row.values()) for row in rows] == [
        ("buybacks", 9),
        ("inventory", 1),
        ("orders", 2),
        ("reminders", 4),
        ("returns", 2),
    ]
    assert sold["body"] == example.body
    assert (sold["provider"], sold["type"], sold["entity_id"]) == ("ovoko", "part.status.changed", "13")
    assert sold["received_at"] <= sold["applied_at"]


async def test_each_broken_example_is_accepted_and_set_aside(stack: Stack) -> None:
    await stack.started("ingest")
    answers = [await stack.post(example.provider, example.body) for example in as_printed()]

    assert [answer.status_code for answer in answers] == [200] * 4
    assert await stack.depths() == {"stockhook.quarantine": 4}
