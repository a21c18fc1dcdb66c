"""The console's search and its pages of entities, with a real database."""

import asyncio
import html
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.integration.test_plans import plan, scanned_whole
from tests.support.applied_events import apply, item
from tests.support.console import browser, console_of, sign_in, users
from tests.support.events import buyback, ovoko, part_changed
from tests.support.stack import Stack
from worker.console.addresses import entity_path
from worker.console.application import application
from worker.console.screens.entity import MOST_REPLAYED, PER_PAGE
from worker.postgres.pool import Database
from worker.tools.explain import lookup

MINUTE = 60
SOLD_AT = "2026-03-01T12:05:00"

# One part with many events, as an operator's own SQL could write them: they are not readable.
LONG_HISTORY = """
WITH logged AS (
    INSERT INTO event_log
        (event_id, provider, type, family, entity_id, occurred_at, received_at, applied_at, body, evidence)
    SELECT gen_random_uuid(), 'ovoko', 'part.status.changed', 'inventory', 'long',
        '2026-03-01 12:00+00'::timestamptz + number * interval '1 minute',
        '2026-03-01 12:00+00'::timestamptz + number * interval '1 minute', $APPLIED_AT, '{}',
        '{"gateway_event": "evt_long"}'
    FROM generate_series(1, $COUNT) AS number
    RETURNING 1
)
SELECT count(*) FROM logged
"""


# Parts with two events each.
OTHERS = """
INSERT INTO event_log (event_id, provider, type, family, entity_id, occurred_at, received_at, body)
SELECT gen_random_uuid(), 'ovoko', 'part.status.changed', 'inventory', 'part-' || number / 2, now(), now(), ''
FROM generate_series(1, $COUNT) AS number
"""

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def others(count: int) -> str:
    return OTHERS.replace("$COUNT", str(count))


def rows_read(plan: Any) -> int:
    """By the scans of a plan that was executed."""
    children = plan.get("Plans", [])
    if children:
        return sum(map(rows_read, children))
    skipped = plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
    return int((plan["Actual Rows"] + skipped) * plan["Actual Loops"])


def long_history(count: int, applied_at: str = "now()") -> str:
    return LONG_HISTORY.replace("$COUNT", str(count)).replace("$APPLIED_AT", applied_at)


@asynccontextmanager
async def reader(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    """A signed-in client of the application, with the stack's database."""
    stack.environment["STOCKHOOK_CONSOLE_USERS"] = users(rita="reader")
    stopping = asyncio.Event()
    console = console_of(stack.settings, stopping)
    try:
        async with browser(application(console, stopping)) as client:
            await sign_in(client, "rita")
            yield client
    finally:
        await console.database.close()


async def _data(client: httpx.AsyncClient, path: str, **query: str) -> Any:
    answer = await client.get(f"{path}.json", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def _sold_and_returned(stack: Stack, part_id: str = "13") -> UUID:
    sold = uuid4()
    await apply(
        stack,
        "inventory",
        [item(part_changed(part_id, "sold", 5 * MINUTE), sold, attempt=3)],
        [item(part_changed(part_id, "in_warehouse", 1 * MINUTE))],
        [item(part_changed(part_id, "returned", 30 * MINUTE))],
    )
    return sold


async def _letter(stack: Stack, entity_id: str, event_id: UUID, evidence: str = "{}") -> int:
    rows = await stack.fetch(
        """
        INSERT INTO dead_letters (message_key, origin, event_id, provider, type, entity_id, reason,
            fingerprint, attempts, headers, body, evidence)
        VALUES (gen_random_uuid(), 'inventory', $1, 'ovoko', 'part.status.changed', $2, 'it was unlucky',
            '00000000', 4, '{}', '', $3::text::jsonb)
        RETURNING dead_letter_id
        """,
        event_id,
        entity_id,
        evidence,
    )
    return int(rows[0]["dead_letter_id"])


async def test_a_part_that_was_sold_and_returned_has_the_steps_of_the_command(stack: Stack) -> None:
    sold = await _sold_and_returned(stack)
    dead_letter_id = await _letter(stack, "13", sold)
    printed = stack.run("explain", "part", "13", "--json")

    async with reader(stack) as client:
        data = await _data(client, "/entities/inventory/13")
        page = (await client.get("/entities/inventory/13")).text

    assert data["explanation"] == json.loads(printed.stdout)
    assert [event["effect"] for event in data["explanation"]["events"]] == [
        "older than the state",
        "applied",
        "applied",
    ]
    assert [letter["dead_letter_id"] for letter in data["letters"]] == [dead_letter_id]
    statuses = re.findall(r"<ins>([^<]*)</ins>", page)
    assert statuses[:2] == ["13", "sold"]
    assert "<del>sold</del>" in page
    assert "attempt 3" in page
    assert f'id="event-{sold}"' in page
    assert f'href="/dead-letters/{dead_letter_id}"' in page
    assert 'href="/dead-letters?entity=13"' in page
    assert 'href="/actions?subject=13"' in page
    assert "The tables hold this state." in page
    assert len(re.findall(r' id="([^"]+)"', page)) == len(set(re.findall(r' id="([^"]+)"', page)))


async def test_the_state_at_a_time_is_that_of_the_command(stack: Stack) -> None:
    await _sold_and_returned(stack)
    printed = stack.run("explain", "part", "13", "--at", SOLD_AT, "--json")

    async with reader(stack) as client:
        data = await _data(client, "/entities/inventory/13", at=SOLD_AT)
        page = (await client.get("/entities/inventory/13", params={"at": SOLD_AT})).text
        early = await client.get("/entities/inventory/13", params={"at": "2026-02-01"})
        unreadable = await client.get("/entities/inventory/13", params={"at": "yesterday"})

    assert data["explanation"] == json.loads(printed.stdout)
    assert data["explanation"]["states"][0]["status"] == "sold"
    assert data["rows"][0]["values"]["status"] == "returned"
    assert "State at 2026-03-01 12:05:00 UTC" in page
    assert 'value="2026-03-01T12:05:00"' in page
    assert "Row in the tables now" in page
    assert early.status_code == unreadable.status_code == 200
    assert "Nothing had happened to part 13 by then" in early.text
    assert "yesterday is not a time such as" in unreadable.text


async def test_an_unknown_entity_is_a_page_that_says_so(stack: Stack) -> None:
    await _sold_and_returned(stack)
    async with reader(stack) as client:
        unknown = await client.get("/entities/inventory/14")
        other = await client.get("/entities/orders/13")
        family = await client.get("/entities/painters/13")
        unreadable = await client.get("/entities/inventory/~FF")
        null = await client.get("/entities/inventory/~00")
        long = await client.get(f"/entities/inventory/{'x' * 10_000}")
        data = await client.get("/entities/inventory/14.json")

    answers = (unknown, other, family, unreadable, null, long, data)
    assert {answer.status_code for answer in answers} == {404}
    assert "There is no part 14." in unknown.text
    assert "There is no order 13." in other.text
    assert data.json() == {"error": "There is no part 14."}


async def test_an_entity_of_which_no_event_is_applied_yet_has_its_dead_letters(stack: Stack) -> None:
    dead_letter_id = await _letter(stack, "14", uuid4())
    async with reader(stack) as client:
        page = await client.get("/entities/inventory/14")
        other = await client.get("/entities/orders/14")

    assert page.status_code == 200
    assert "No event of this part is applied: its dead letters are below." in page.text
    assert f'href="/dead-letters/{dead_letter_id}"' in page.text
    assert other.status_code == 404


@pytest.mark.parametrize(
    "entity_id",
    [
        "a/b",
        "..",
        "../../sign-in",
        "13.json",
        "with space",
        "täil ✓",
        "~41%41",
        "?a=b&c#d",
        "<script>alert(1)</script>",
        "\u202e\u200b\r\n",
        "//evil.example/",
    ],
)
async def test_any_id_has_an_address_and_is_reached_by_the_search(stack: Stack, entity_id: str) -> None:
    await apply(stack, "orders", [item(ovoko("order.created", order_id=entity_id))])
    stored = (await stack.fetch("SELECT entity_id FROM event_log"))[0]["entity_id"]

    async with reader(stack) as client:
        moved = await client.get("/search", params={"q": stored})
        page = await client.get(moved.headers.get("location", entity_path("orders", stored)))
        data = await _data(client, entity_path("orders", stored))

    assert page.status_code == 200
    assert data["entity_id"] == stored
    assert "<script>alert" not in page.text
    assert "\u202e" not in page.text
    if stored == stored.strip():
        assert moved.headers["location"] == entity_path("orders", stored)


async def test_an_id_that_several_families_have_leads_to_each(stack: Stack) -> None:
    await _sold_and_returned(stack)
    await apply(stack, "orders", [item(ovoko("order.created", order_id="13"))])
    async with reader(stack) as client:
        both = await _data(client, "/search", q="13")
        page = (await client.get("/entities/inventory/13")).text

    assert [(hit["kind"], hit["path"]) for hit in both["hits"]] == [
        ("part", "/entities/inventory/13"),
        ("order", "/entities/orders/13"),
    ]
    assert 'href="/entities/orders/13">The order with this id' in page


async def test_each_kind_of_id_leads_to_its_page(stack: Stack) -> None:
    sold = await _sold_and_returned(stack)
    await apply(stack, "returns", [item(ovoko("order.return.created", return_id="9", order_id="7"))])
    await apply(
        stack,
        "buybacks",
        [item(buyback("OrderCreatedEvent", 9 * MINUTE, id="o1", order={"id": "o1", "items": []}))],
    )
    waiting = uuid4()
    dead_letter_id = await _letter(stack, "77", waiting, '{"gateway_event": "evt_dead"}')
    await stack.execute(
        """UPDATE event_log SET evidence = '{"gateway_event": "evt_9"}' WHERE entity_id = '9'"""
    )

    async with reader(stack) as client:

        async def leads_to(query: str) -> str:
            answer = await client.get("/search", params={"q": query})
            if answer.status_code == 303:
                return answer.headers["location"]
            hits = (await _data(client, "/search", q=query))["hits"]
            assert all(f'href="{hit["path"]}"' in answer.text for hit in hits)
            return ",".join(hit["path"] for hit in hits)

        assert await leads_to(" 13 ") == "/entities/inventory/13"
        assert await leads_to("9") == "/entities/returns/9"
        assert await leads_to("o1") == "/entities/buybacks/o1"
        assert await leads_to(str(sold)) == f"/entities/inventory/13#event-{sold}"
        assert await leads_to(str(sold).upper()) == f"/entities/inventory/13#event-{sold}"
        assert await leads_to(str(dead_letter_id)) == f"/dead-letters/{dead_letter_id}"
        assert await leads_to(str(waiting)) == f"/dead-letters/{dead_letter_id}"
        assert await leads_to("77") == f"/dead-letters/{dead_letter_id}"
        assert await leads_to("evt_dead") == f"/dead-letters/{dead_letter_id}"
        assert (await leads_to("evt_9")).startswith("/entities/returns/9#event-")
        assert await leads_to("nothing has this") == ""
        page = (await client.get("/search", params={"q": "evt_9"})).text

        missing = (await client.get("/search", params={"q": "evt_nothing"})).text

    assert "This search covered the sequence numbers" in page
    assert "Nothing that was searched has the id evt_nothing." in missing


async def test_private_values_are_redacted_as_by_the_command(stack: Stack) -> None:
    customer = {"firstName": "Ada", "lastName": "Canary", "email": "canary@example.com"}
    order = {"id": "o1", "items": [], "customerInformation": customer}
    await apply(stack, "buybacks", [item(buyback("OrderCreatedEvent", 9 * MINUTE, id="o1", order=order))])
    await stack.execute("UPDATE buyback_orders SET customer_name = 'Canary the second'")
    async with reader(stack) as client:
        page = (await client.get("/entities/buybacks/o1")).text
        data = (await client.get("/entities/buybacks/o1.json")).text

    assert "anary" not in page + data
    assert "Ada" not in page + data
    assert "(redacted)" in page
    assert "The tables hold a different state" in page
    assert "Row in the tables now" in page


async def test_what_the_log_no_longer_has_is_still_shown_by_its_row(stack: Stack) -> None:
    await _sold_and_returned(stack)
    await stack.execute("TRUNCATE event_log")
    async with reader(stack) as client:
        moved = await client.get("/search", params={"q": "13"})
        page = await client.get("/entities/inventory/13")

    assert moved.headers["location"] == "/entities/inventory/13"
    assert page.status_code == 200
    assert "The event log no longer has events of it." in page.text
    assert "Row in the tables now" in page.text


async def test_a_long_history_is_shown_page_by_page_and_not_replayed(stack: Stack) -> None:
    count = MOST_REPLAYED + 1
    await stack.execute(long_history(count))
    async with reader(stack) as client:
        path, pages, seen = "/entities/inventory/long", 0, []
        while path:
            data = await _data(client, path.partition("?")[0], **dict(httpx.URL(path).params))
            seen += [event["event_id"] for event in data["log_events"]]
            path = data["older_path"]
            pages += 1
        page = (await client.get("/entities/inventory/long")).text
        until = await _data(client, "/entities/inventory/long", at="2026-03-01T12:02:00")
        wrong = await client.get("/entities/inventory/long", params={"before": "x,y"})

    assert pages == -(-count // PER_PAGE)
    assert len(set(seen)) == len(seen) == count
    assert data["explanation"] is None
    assert f"has more than {MOST_REPLAYED} events" in html.unescape(page)
    assert "Next page" in page
    assert len(until["log_events"]) == 2
    assert "The parameter before is malformed" in wrong.text


async def test_a_long_history_is_in_the_order_of_happening_whenever_it_was_applied(stack: Stack) -> None:
    """Events of one instant, in several months of the log, are each on one page."""
    counts = {0: 2, 1: 3, 5: 4, 30: MOST_REPLAYED, 90: 1}
    await stack.execute("SELECT add_event_log_months(now() - interval '3 years', now())")
    for months, count in counts.items():
        await stack.execute(long_history(count, f"now() - interval '{months} months'"))
    async with reader(stack) as client:
        path, seen = "/entities/inventory/long", []
        while path:
            data = await _data(client, path.partition("?")[0], **dict(httpx.URL(path).params))
            seen += [(event["occurred_at"], event["seq"]) for event in data["log_events"]]
            path = data["older_path"]

    assert len(seen) == sum(counts.values())
    assert seen == sorted(set(seen), reverse=True)


async def test_a_page_of_a_long_history_begins_at_its_time_and_has_older_pages(stack: Stack) -> None:
    count = 2 * PER_PAGE + 50
    await stack.execute(long_history(count))
    at = START + (PER_PAGE + 10) * timedelta(minutes=1)
    async with reader(stack) as client:
        first = await _data(client, "/entities/inventory/long", at=at.isoformat())
        older = await _data(client, "/entities/inventory/long", **dict(httpx.URL(first["older_path"]).params))
        early = await client.get("/entities/inventory/long", params={"at": "2026-02-01"})
        page = (await client.get("/entities/inventory/long", params={"at": at.isoformat()})).text

    seen = [
        datetime.fromisoformat(event["occurred_at"]) for event in first["log_events"] + older["log_events"]
    ]
    assert seen == [at - number * timedelta(minutes=1) for number in range(PER_PAGE + 10)]
    assert len(first["log_events"]) == PER_PAGE
    assert older["older_path"] is None
    assert "No events on this page." in early.text
    assert "Events until 2026-03-01 13:50:00 UTC, the last to happen first" in page
    # A state of that time would need all events.
    assert "State at 2026" not in page


async def test_an_implausible_timestamp_in_a_long_history_is_listed_as_stated(stack: Stack) -> None:
    await stack.execute(long_history(MOST_REPLAYED + 1))
    await stack.execute(
        "UPDATE event_log SET occurred_at = '9999-12-31 23:59:59.999999+00' "
        "WHERE occurred_at = (SELECT min(occurred_at) FROM event_log)"
    )
    async with reader(stack) as client:
        whole = await client.get("/entities/inventory/long")
        data = await _data(client, "/entities/inventory/long")
        until = await client.get("/entities/inventory/long", params={"at": "2026-03-02"})

    first = data["log_events"][0]
    assert first["occurred_at"].startswith("9999-12-31")
    assert first["instant"] == first["received_at"]
    reason = "its timestamp is implausible, so the time of its reception counts"
    assert whole.text.count(reason) == 1
    assert reason not in until.text
    assert "an event with an implausible timestamp is listed at that timestamp" in until.text


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_a_page_of_a_long_history_reads_the_events_that_it_shows(stack: Stack, mode: str) -> None:
    """However many the entity has, wherever in its history the page begins, and without statistics."""
    await stack.execute("SELECT add_event_log_months('2026-01-01', '2026-12-31')")
    await stack.execute(others(20_000))
    for month in range(1, 13):
        await stack.execute(long_history(1_000, f"'2026-{month:02}-15'"))
    database = Database(stack.environment["STOCKHOOK_DATABASE_URL"], 1, "test")
    middle = (START + 500 * timedelta(minutes=1)).isoformat()
    given = f"'long', 'inventory', '1 h', '{middle}', 'infinity', 0, {PER_PAGE + 1}"
    async with lookup.reading_by_time(database) as connection:
        await connection.execute(
            f"SET LOCAL plan_cache_mode = {mode}; PREPARE page AS {lookup.LATEST_EVENTS}"
        )
        rows = await connection.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE page({given})")
    await database.close()

    # One event in advance per month, and the others of the last one's instant.
    assert PER_PAGE < rows_read(json.loads(rows[0][0])[0]["Plan"]) <= PER_PAGE + 1 + 2 * 12


async def test_a_search_reads_only_the_partitions_that_can_have_the_event(stack: Stack) -> None:
    """In each other one, it would read the pages that have no entry in the index yet."""
    await stack.execute("SELECT add_event_log_months('2026-01-01', '2026-12-31')")
    for number, month in enumerate((1, 2, 3, 4)):
        await stack.execute(f"SELECT setval('event_log_seq', {1 + number * 1_000_000})")
        await stack.execute(long_history(500, f"'2026-0{month}-15'::timestamptz + number * interval '1 s'"))
    newest = (await stack.fetch("SELECT event_id FROM event_log ORDER BY seq DESC LIMIT 1"))[0]["event_id"]
    third = "SELECT * FROM event_log WHERE applied_at < '2026-04-01' ORDER BY seq DESC LIMIT 1"
    event = (await stack.fetch(third))[0]
    database = Database(stack.environment["STOCKHOOK_DATABASE_URL"], 1, "test")
    async with lookup.searching(database) as connection:
        listed = await lookup.partitions(connection)
        last = await lookup.newest_seq(connection, listed)
        first, until = lookup.span(listed, event["seq"] - 100, event["seq"] + 100)
        rows = await connection.fetch(
            f"EXPLAIN {lookup.EVENTS_BY_GATEWAY_ID}", "x", event["seq"] - 100, event["seq"], first, until
        )
        entities = [
            await lookup.entities_by_event(connection, listed, event["event_id"], event["applied_at"]),
            await lookup.entities_by_event(connection, listed, newest, None),
            await lookup.entities_by_event(connection, listed, uuid4(), event["applied_at"]),
        ]
        hits = await lookup.events_by_gateway_id(connection, listed, "evt_long", event["seq"])
    await database.close()
    plan_of_search = "\n".join(row[0] for row in rows)

    assert [one.start.month for one in listed] == [1, 2, 3, 4]
    assert 3_000_501 <= last <= 3_001_501
    # A month of so few events may overlap with the one before.
    assert set(re.findall(r"on event_log_(2026_\d\d) ", plan_of_search)) == {"2026_02", "2026_03"}
    assert [[entity for _, entity in located] for located in entities] == [["long"], ["long"], []]
    assert len(hits) == 50


async def test_a_search_in_an_empty_log_has_no_partition(stack: Stack) -> None:
    database = Database(stack.environment["STOCKHOOK_DATABASE_URL"], 1, "test")
    async with lookup.searching(database) as connection:
        listed = await lookup.partitions(connection)
        newest = await lookup.newest_seq(connection, listed)
        entities = await lookup.entities_by_event(connection, listed, uuid4(), datetime.now(UTC))
    await database.close()

    assert (listed, newest, entities) == ([], 0, [])


async def test_a_gateways_id_is_searched_in_one_window_after_the_other(stack: Stack) -> None:
    await stack.execute("SELECT setval('event_log_seq', 1)")
    await stack.execute(long_history(3))
    await stack.execute("SELECT setval('event_log_seq', 1000000)")
    await _sold_and_returned(stack)
    async with reader(stack) as client:
        path, steps = "/search?q=evt_long", 0
        hits: list[Any] = []
        while path and not hits:
            data = await _data(client, path.partition("?")[0], **dict(httpx.URL(path).params))
            hits, path, steps = data["hits"], data["older_path"], steps + 1

    assert 1_000_000 // lookup.WINDOW <= steps <= 1_000_000 // lookup.WINDOW + 2
    assert len(hits) == 3


async def test_a_trace_leads_to_its_event_and_its_dead_letter(stack: Stack) -> None:
    trace, origin, of_letter = (character * 32 for character in "abc")
    event_id = await _sold_and_returned(stack, "9")
    evidence = f'{{"trace_id": "{trace}", "origin_trace_id": "{origin}"}}'
    await stack.execute(f"UPDATE event_log SET evidence = '{evidence}' WHERE event_id = '{event_id}'")
    dead_letter_id = await _letter(stack, "77", uuid4(), f'{{"trace_id": "{of_letter}"}}')
    stack.environment["STOCKHOOK_TRACE_URL"] = "https://traces.example/{trace_id}"
    async with reader(stack) as client:
        events = [await _data(client, "/search", q=trace_id) for trace_id in (trace, origin)]
        letters = await _data(client, "/search", q=of_letter)
        entity = (await client.get("/entities/inventory/9")).text
        letter = (await client.get(f"/dead-letters/{dead_letter_id}")).text

    assert [[hit["name"] for hit in data["hits"]] for data in events] == [[str(event_id)]] * 2
    assert [hit["path"] for hit in letters["hits"]] == [f"/dead-letters/{dead_letter_id}"]
    for trace_id in (trace, origin):
        assert f'<a href="https://traces.example/{trace_id}" rel="noreferrer">' in entity
    assert f'<a href="https://traces.example/{of_letter}" rel="noreferrer">' in letter


async def test_an_event_is_located_by_its_reception_in_a_long_log(stack: Stack) -> None:
    """The log has more events after it than one search covers."""
    await stack.execute("SELECT setval('event_log_seq', 2000000)")
    sold = await _sold_and_returned(stack)
    await stack.execute("UPDATE event_ids SET received_at = now(); SELECT setval('event_log_seq', 2200000)")
    await stack.execute(long_history(20_000, "now() + number * interval '1 second'"))
    async with reader(stack) as client:
        moved = await client.get("/search", params={"q": str(sold)})

    assert moved.headers["location"] == f"/entities/inventory/13#event-{sold}"


@pytest.mark.parametrize(
    "query", ["\0", "x" * 10_000, "9" * 30, "'; DROP TABLE parts; --", "\ud800", "%", "٣"]
)
async def test_a_strange_query_is_answered(stack: Stack, query: str) -> None:
    async with reader(stack) as client:
        answer = await client.get("/search", params={"q": query.encode("utf-8", "replace")})
        before = await client.get("/search", params={"q": "x", "before": query.encode("utf-8", "replace")})

    assert (answer.status_code, before.status_code) == (200, 200)


async def test_every_lookup_uses_an_index(stack: Stack) -> None:
    await stack.execute(long_history(20_000))
    await stack.execute("ANALYZE")
    statements = {
        name: value for name, value in vars(lookup).items() if isinstance(value, str) and "$1" in value
    } | lookup.ROWS_OF_ENTITY
    database = Database(stack.environment["STOCKHOOK_DATABASE_URL"], 1, "test")
    async with database.connection() as connection:
        scans = {
            name: whole
            for name, statement in statements.items()
            if (whole := list(scanned_whole(await plan(connection, statement))))
        }
    await database.close()

    assert len(statements) >= 12
    assert scans == {}
