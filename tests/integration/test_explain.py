"""`stockhook explain` agrees with the consumers' handling of an entity's events."""

import json
from typing import Any
from uuid import uuid4

from tests.support.applied_events import apply, item
from tests.support.events import buyback, ovoko, part_changed
from tests.support.stack import Stack

MINUTE = 60


def part(status: str, minute: int) -> Any:
    return part_changed(13, status, minute * MINUTE)


def explained(stack: Stack, *arguments: str) -> Any:
    result = stack.run("explain", *arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


async def test_a_part_is_explained_in_the_order_of_happening(stack: Stack) -> None:
    sold, late = uuid4(), uuid4()
    await apply(
        stack,
        "inventory",
        [item(part("sold", 5), sold, attempt=3)],
        [item(part("reserved", 1), late)],
        [item(part("in_warehouse", 9), sold)],
        [item(part("written_off", 7))],
        [item(part("returned", 30))],
    )

    explanation = explained(stack, "part", "13")
    rows = await stack.fetch("SELECT status FROM parts")
    noted = await stack.fetch("SELECT kind, message FROM findings WHERE family = 'inventory'")

    events = [(event["occurred_at"][14:16], event["effect"], event["why"]) for event in explanation["events"]]
    assert events == [
        ("01", "older than the state", "the newest status wins, and a newer one is known"),
        ("05", "applied", "first status of the part"),
        ("07", "applied", "written_off is final, and replaces a newer status"),
        (
            "09",
            "applied",
            "its id was used before with other contents, so it counts as an event of its own; "
            "the newest status wins",
        ),
        ("30", "changed nothing", "written_off is final"),
    ]
    assert [event["attempts"] for event in explanation["events"]] == [1, 3, 1, 1, 1]
    assert explanation["events"][1]["event_id"] == explanation["events"][3]["event_id"] == str(sold)
    assert explanation["events"][1]["seconds_to_receive"] == 12 * 3600 - 5 * 60
    assert explanation["events"][1]["seconds_to_apply"] > 0
    assert explanation["states"][0]["status"] == rows[0]["status"] == "written_off"
    assert sorted((one["kind"], one["message"]) for one in explanation["findings"]) == sorted(
        (row["kind"], row["message"]) for row in noted
    )
    assert {one["kind"] for one in explanation["findings"]} == {"after_written_off"}
    assert explanation["agrees_with_tables"] is True


async def test_an_earlier_state_follows_the_order_of_the_events_instants(stack: Stack) -> None:
    await apply(
        stack,
        "inventory",
        [item(part("sold", 5))],
        [item(part("in_warehouse", 1))],
    )

    then = explained(stack, "part", "13", "--at", "2026-03-01T12:04:00")
    now = explained(stack, "part", "13")

    assert [state["status"] for state in then["states"]] == ["in_warehouse"]
    assert then["agrees_with_tables"] is None
    assert [state["status"] for state in now["states"]] == ["sold"]


async def test_a_manually_changed_row_is_distinguished_from_the_state_of_its_events(stack: Stack) -> None:
    await apply(stack, "inventory", [item(part("sold", 5))])
    await stack.execute("UPDATE parts SET status = 'in_warehouse'")

    explanation = explained(stack, "part", "13")
    shown = stack.run("explain", "part", "13")

    assert explanation["agrees_with_tables"] is False
    assert "the tables hold a different state" in shown.stdout
    # Not wrapped on a terminal of 80 columns, so that it can be copied.
    assert explanation["events"][0]["event_id"] in shown.stdout


async def test_an_observation_is_explained_as_one(stack: Stack) -> None:
    kind = "stockhook.observed.part"
    await apply(
        stack,
        "inventory",
        [item(part("sold", 5))],
        [
            item(
                ovoko(kind, 9 * MINUTE, part_id="13", status="in_warehouse", external_id="shelf 4"),
            )
        ],
        [item(part("reserved", 12))],
        [item(ovoko(kind, 11 * MINUTE, part_id="13", status="not_listed"))],
        # Arrives late, and loads the history.
        [item(part("reserved", 1))],
    )
    await apply(
        stack,
        "returns",
        [item(ovoko("order.return.created", 4 * MINUTE, return_id="9", order_id="7"))],
        [
            item(
                ovoko("stockhook.observed.return", 6 * MINUTE, return_id="9", order_id="7", is_listed=False),
            )
        ],
    )

    explanation, returned = explained(stack, "part", "13"), explained(stack, "return", "9")
    rebuilt = [stack.run("rebuild", family) for family in ("inventory", "returns")]

    assert [(event["type"], event["effect"], event["why"]) for event in explanation["events"][2:4]] == [
        (
            kind,
            "applied",
            "observed on the marketplace; the newest status wins; "
            "the newest event that names the merchant's own id sets it",
        ),
        (
            kind,
            "older than the state",
            "observed on the marketplace; the newest status wins, and a newer one is known",
        ),
    ]
    assert (explanation["states"][0]["status"], explanation["states"][0]["external_id"]) == (
        "reserved",
        "shelf 4",
    )
    assert explanation["findings"] == []
    assert [event["why"] for event in returned["events"]] == [
        "first creation of the return",
        "observed on the marketplace; the marketplace no longer lists the return",
    ]
    assert explanation["agrees_with_tables"] is returned["agrees_with_tables"] is True
    assert [done.returncode for done in rebuilt] == [0, 0], rebuilt[0].stderr + rebuilt[1].stderr


async def test_orders_and_returns_are_explained(stack: Stack) -> None:
    created, cancelled = ("order.created", 3), ("order.cancelled", 2)
    await apply(
        stack,
        "orders",
        *([item(ovoko(*arguments, order_id="7"))] for arguments in (created, cancelled)),
    )
    opened, updated, before = (
        ("order.return.created", 4),
        ("order.return.updated", 6),
        ("order.return.updated", 5),
    )
    await apply(
        stack,
        "returns",
        *([item(ovoko(*arguments, return_id="9", order_id="7"))] for arguments in (opened, updated, before)),
    )

    order = explained(stack, "order", "7")
    returned = explained(stack, "return", "9")

    assert [event["why"] for event in order["events"]] == [
        "first cancellation of the order",
        "first creation of the order",
    ]
    assert [event["why"] for event in returned["events"]] == [
        "first creation of the return",
        "each update is counted, and an equal or newer one set the time",
        "first update of the return",
    ]
    assert returned["states"][0]["update_count"] == 2
    assert order["agrees_with_tables"] is returned["agrees_with_tables"] is True


async def test_buyback_orders_and_their_reminders_are_explained_without_private_data(stack: Stack) -> None:
    customer = {"firstName": "Ada", "lastName": "Canary", "email": "canary@example.com"}
    order = {
        "id": "o1",
        "items": [{"id": "i1", "model": "Model1"}],
        "customerInformation": customer,
    }
    await apply(
        stack,
        "buybacks",
        [item(buyback("CollectionItemReceivedEvent", 5 * MINUTE, order=order, itemId="i1"))],
        [item(buyback("OrderCreatedEvent", 9 * MINUTE, id="o1", order=order))],
    )
    await apply(
        stack,
        "reminders",
        [
            item(
                buyback("OrderDropOffReminderEvent", 20 * MINUTE, collectionId="o1", daysAfterCreation=7),
            )
        ],
    )

    explanation = explained(stack, "buyback", "o1")
    reminded = explained(stack, "reminder", "o1")
    shown = stack.run("explain", "buyback", "o1")

    assert [event["effect"] for event in explanation["events"]] == ["applied", "changed nothing"]
    assert explanation["events"][1]["why"] == "per column: the created event yields to every other event"
    assert explanation["events"][0]["communications"] == ["item_received"]
    assert explanation["states"][0]["order.status"] == "processing"
    assert explanation["states"][0]["order.customer_name"] == "(redacted)"
    assert "anary" not in json.dumps(explanation) + shown.stdout
    assert reminded["states"][0]["days"] == 7
    assert explanation["agrees_with_tables"] is reminded["agrees_with_tables"] is True


async def test_an_unknown_entity_is_one_sentence_and_exit_1(stack: Stack) -> None:
    await apply(stack, "inventory", [item(part("sold", 5))])

    unknown = stack.run("explain", "part", "14")
    other = stack.run("explain", "order", "13")
    early = stack.run("explain", "part", "13", "--at", "2026-02-01")
    wrong = stack.run("explain", "car", "13")

    assert unknown.stderr == "stockhook: there is no part 14 in the event log\n"
    assert other.stderr == "stockhook: there is no order 13 in the event log\n"
    assert early.stderr.startswith("stockhook: nothing had happened to part 13 by then")
    assert [unknown.returncode, other.returncode, early.returncode] == [1, 1, 1]
    assert wrong.returncode != 0
