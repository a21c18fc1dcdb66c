"""Each event that the marketplaces document, from the webhook to its rows."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal

import pytest
import pytest_asyncio
from cryptography.fernet import Fernet

from consumers.registry import FAMILY_OF
from deploy.local.services import Services
from schemas.events import routing_key
from schemas.examples import as_printed, documented
from tests.support.stack import Stack, empty_stack, until
from worker.amqp.topology import QUARANTINE


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


PRINTED_AT = instant("2023-01-12T14:17:20+02:00")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def applied(services: Services, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A running system that has applied every documented event."""
    async with empty_stack(services, tmp_path_factory.mktemp("documented")) as stack:
        await stack.started_apart()
        answers = [await stack.post(example.provider, example.body) for example in documented()]
        assert [answer.status_code for answer in answers] == [200] * len(documented())

        async def all_applied() -> bool:
            return await stack.count("event_log") == len(answers)

        await until(all_applied, "all documented events are applied")
        yield stack


async def test_a_sold_part(applied: Stack) -> None:
    parts = await applied.fetch("SELECT part_id, external_id, status, is_sellable, occurred_at FROM parts")

    assert parts == [
        {
            "part_id": "13",
            "external_id": "12345",
            "status": "sold",
            "is_sellable": False,
            "occurred_at": PRINTED_AT,
        }
    ]


async def test_an_order_that_was_created_and_cancelled(applied: Stack) -> None:
    orders = await applied.fetch("SELECT order_id, status, created_at, cancelled_at FROM orders")

    assert orders == [
        {"order_id": "4555", "status": "cancelled", "created_at": PRINTED_AT, "cancelled_at": PRINTED_AT}
    ]


async def test_a_return_that_was_created_and_updated(applied: Stack) -> None:
    returns = await applied.fetch(
        "SELECT return_id, order_id, opened_at, updated_at, update_count FROM returns"
    )

    assert returns == [
        {
            "return_id": "4555",
            "order_id": "4555",
            "opened_at": PRINTED_AT,
            "updated_at": PRINTED_AT,
            "update_count": 1,
        }
    ]


async def test_the_rows_of_buyback_orders(applied: Stack) -> None:
    rows = await applied.fetch(
        """
        SELECT order_id, status, external_reference, country, payment_type, currency, total_amount
        FROM buyback_orders
        ORDER BY order_id
        """
    )

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


async def test_a_buyback_order_has_its_customer(applied: Stack) -> None:
    (order,) = await applied.fetch("SELECT * FROM buyback_orders WHERE order_id LIKE 'a989e247%'")

    assert order["submission_external_reference"] == "QC123456"
    assert order["external_order_id"] == "ExternalOrderId1"
    assert order["customer_name"] == "FirstName1 LastName1"
    assert order["customer_email"] == "customer@trade-in.com"
    assert order["customer_telephone"] == "+351 910456789"
    assert json.loads(order["customer_address"])["firstLine"] == "FirstLine1"
    assert order["occurred_at"] == instant("2022-10-10T14:29:10.840922+00:00")


async def test_payment_details_are_encrypted(applied: Stack) -> None:
    (paid,) = await applied.fetch("SELECT * FROM buyback_orders WHERE order_id LIKE '30656b1b%'")

    assert paid["account_number_ending"] == "ESTE"
    details = Fernet(applied.environment["STOCKHOOK_SEALING_KEYS"]).decrypt(paid["payment_details_encrypted"])
    assert json.loads(details)["bankAccount"]["accountNumber"] == "TESTE"


async def test_the_rows_of_buyback_items(applied: Stack) -> None:
    """In the documents, the failed quality check has an earlier timestamp than the item's previous events."""
    rows = await applied.fetch(
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


async def test_the_rows_of_shipments(applied: Stack) -> None:
    rows = await applied.fetch(
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


async def test_the_rows_of_reminders(applied: Stack) -> None:
    rows = await applied.fetch(
        "SELECT left(order_id, 8) AS order_key, kind, occurred_at, days FROM reminders "
        "ORDER BY order_id, kind"
    )

    assert [tuple(row.values()) for row in rows] == [
        ("0b83a801", "drop_off", instant("2023-12-21T10:11:19.044005+00:00"), 7),
        ("427a56f6", "schedule_pickup", instant("2023-10-17T19:59:21.033727+00:00"), 0),
        ("a989e247", "pickup", instant("2022-11-21T14:29:07.125404+00:00"), 1),
        ("c66f9170", "pickup", instant("2023-10-23T10:22:54.429901+00:00"), 1),
    ]


async def test_the_messages_to_customers_that_are_due(applied: Stack) -> None:
    rows = await applied.fetch(
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


async def test_the_findings(applied: Stack) -> None:
    """The documents print one event id five times, and name items that their snapshots lack."""
    rows = await applied.fetch("SELECT kind, count(*) FROM findings GROUP BY kind ORDER BY kind")

    assert [tuple(row.values()) for row in rows] == [("event_id_reused", 1), ("item_outside_snapshot", 4)]


async def test_each_event_is_logged_by_its_family(applied: Stack) -> None:
    rows = await applied.fetch("SELECT family, count(*) FROM event_log GROUP BY family")
    examples = [routing_key(example.provider, example.event_type) for example in documented()]

    assert {row["family"]: row["count"] for row in rows} == Counter(map(FAMILY_OF.__getitem__, examples))


async def test_an_event_is_logged_with_its_bytes(applied: Stack) -> None:
    (sold,) = await applied.fetch("SELECT * FROM event_log WHERE family = 'inventory'")

    assert sold["body"] == documented()[0].body
    assert (sold["provider"], sold["type"], sold["entity_id"]) == ("ovoko", "part.status.changed", "13")
    assert sold["received_at"] <= sold["applied_at"]


async def test_no_event_waits_and_none_is_a_dead_letter(applied: Stack) -> None:
    depths = await applied.depths()

    assert not [queue for queue in depths if queue != QUARANTINE]


async def test_examples_that_are_no_json_are_accepted_and_quarantined(applied: Stack) -> None:
    answers = [await applied.post(example.provider, example.body) for example in as_printed()]

    assert [answer.status_code for answer in answers] == [200] * 4
    assert (await applied.depths())[QUARANTINE] == 4
