"""The audit trail, in the console and as a command, with a real database."""

import asyncio
import csv
import json
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest

from tests.support.applied_events import database_of
from tests.support.console import browser, console, sign_in, users
from tests.support.stack import Stack
from worker.tools.audit_trail import SELECT, TrailFilter, all_pages

LETTERS = """
INSERT INTO dead_letters (message_key, origin, event_id, type, reason, fingerprint, attempts, headers, body)
SELECT gen_random_uuid(), 'orders', gen_random_uuid(), 'order.created', 'x', '00000000', 1, '{}', ''
FROM generate_series(1, 2)
"""
# Two records of each table at each instant.
RECORDS = """
INSERT INTO dead_letter_audit (dead_letter_id, at, who, action, reason)
SELECT 1 + number % 2, $2::timestamptz + (number / 2) * interval '1 second', 'anna', 'replayed',
    '=1+' || number
FROM generate_series(0, $1::int - 1) AS number
"""
OTHERS = """
INSERT INTO operator_audit (at, who, action, subject, reason)
SELECT $2::timestamptz + (number / 2) * interval '1 second', 'root@host', 'family.paused', 'orders',
    'r' || number
FROM generate_series(0, $1::int - 1) AS number
"""
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


async def _fill(stack: Stack, number: int) -> None:
    await stack.execute("TRUNCATE dead_letters, dead_letter_audit, operator_audit RESTART IDENTITY")
    await stack.execute(LETTERS)
    for statement in (RECORDS, OTHERS):
        await stack.fetch(statement, number, START)


async def _pages(client: Any, **query: str) -> list[dict[str, Any]]:
    pages = []
    after: dict[str, str] = {}
    while True:
        answer = await client.get("/audit-trail.json", params={**query, **after})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        pages.append(page)
        if page["next"] is None:
            return pages
        after = {"after": page["next"]}


async def test_the_trail_has_both_tables_newest_first_and_every_record_once(stack: Stack) -> None:
    await _fill(stack, 61)
    async with console(stack) as (url, _), browser(url) as client:
        await sign_in(client)
        pages = await _pages(client)
        page = (await client.get("/audit-trail")).text
        filtered = [record for one in await _pages(client, who="root") for record in one["records"]]
        letter = [record for one in await _pages(client, subject="2") for record in one["records"]]
        window = await _pages(client, since="2026-03-01T12:00:10Z", until="2026-03-01T12:00:11Z")
    records = [record for one in pages for record in one["records"]]

    assert [len(one["records"]) for one in pages] == [50, 50, 22]
    assert len({(one["action"], one["reason"]) for one in records}) == 122
    assert [one["at"] for one in records] == sorted((one["at"] for one in records), reverse=True)
    assert {one["action"] for one in records} == {"dead_letter.replayed", "family.paused"}
    assert 'href="/dead-letters/1"' in page
    assert 'href="/families/orders"' in page
    assert 'rel="next" href="/audit-trail?after=' in page
    assert (len(filtered), {one["who"] for one in filtered}) == (61, {"root@host"})
    assert (len(letter), {one["subject"] for one in letter}) == (30, {"2"})
    assert len(window[0]["records"]) == 4


async def test_the_export_has_every_record_and_no_formula(stack: Stack) -> None:
    await _fill(stack, 1100)
    async with console(stack) as (url, worker), browser(url) as client:
        await sign_in(client)
        answer = await client.get("/audit-trail.csv")
        filtered = await client.get("/audit-trail.csv", params={"action": "paused"})
        none = await client.get("/audit-trail.csv", params={"who": "painter"})
    rows = list(csv.DictReader(StringIO(answer.text, newline="")))

    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="stockhook-audit-trail.csv"'
    assert len(rows) == 2200
    assert {row["reason"][:3] for row in rows if row["who"] == "anna"} == {"'=1"}
    assert len(filtered.text.splitlines()) == 1101
    assert none.text == "at,who,action,subject,reason\r\n"
    exported = [json.loads(line) for line in worker.lines().splitlines() if '"console.exported"' in line]
    assert [(line["export"], line["user"]) for line in exported] == [("/audit-trail.csv", "anna")] * 3


@pytest.mark.parametrize("query", ["after=x", "since=tomorrow", "who=a%00b", "subject=" + "x" * 10_000])
async def test_a_malformed_query_is_a_sentence(stack: Stack, query: str) -> None:
    async with console(stack) as (url, _), browser(url) as client:
        await sign_in(client)
        page = await client.get(f"/audit-trail?{query}")
        data = (await client.get(f"/audit-trail.json?{query}")).json()
        export = await client.get(f"/audit-trail.csv?{query}")

    assert page.status_code == 200
    assert 'id="trail-fault"' in page.text
    assert data["records"] is None
    assert data["fault"].endswith(".")
    assert export.status_code == (200 if query.startswith("after") else 400)


async def test_what_a_user_wrote_is_text(stack: Stack) -> None:
    await stack.fetch(
        "INSERT INTO operator_audit (who, action, subject, reason) VALUES ($1, 'family.paused', $1, $1)",
        "<script>\u202e",
    )
    async with console(stack) as (url, _), browser(url) as client:
        await sign_in(client)
        page = (await client.get("/audit-trail")).text

    assert '<td role="cell" class="wrap" data-label="Why">&lt;script&gt;\\u202e</td>' in page


async def test_the_page_and_the_export_need_a_session(stack: Stack) -> None:
    async with (
        console(stack, STOCKHOOK_CONSOLE_USERS=users(rita="reader")) as (url, _),
        browser(url) as client,
    ):
        export = await client.get("/audit-trail.csv")
        await sign_in(client, "rita")
        read = await client.get("/audit-trail.csv")

    assert export.status_code == 303
    assert read.status_code == 200


async def test_the_command_prints_the_same(stack: Stack) -> None:
    await _fill(stack, 3)
    ran = await asyncio.to_thread(
        stack.run, "audit-trail", "--json", "--who", "anna", "--since", "2026-03-01", "--limit", "2"
    )
    table = stack.run("audit-trail", COLUMNS="160")
    bad = stack.run("audit-trail", "--since", "tomorrow")
    nothing = stack.run("audit-trail", "--json", "--action", "painted")

    assert ran.returncode == 0, ran.stderr
    assert [(one["who"], one["action"], one["reason"]) for one in json.loads(ran.stdout)] == [
        ("anna", "dead_letter.replayed", "=1+2"),
        ("anna", "dead_letter.replayed", "=1+1"),
    ]
    assert "family.paused" in table.stdout
    assert (bad.returncode, "--since must be a time such as" in bad.stderr) == (2, True)
    assert (nothing.returncode, nothing.stdout) == (0, "[]\n")


async def test_a_page_reads_only_its_part_of_both_indexes(stack: Stack) -> None:
    await _fill(stack, 2000)
    await stack.execute("ANALYZE dead_letter_audit, operator_audit")
    middle = START + timedelta(seconds=500)
    async with database_of(stack) as database, database.connection() as connection:
        rows = await connection.fetch(f"EXPLAIN {SELECT}", middle, 0, 0, START, "anna", None, None, None, 51)
        plan = "\n".join(row[0] for row in rows)
    async with database_of(stack) as database:
        pages = [page async for page in all_pages(database, TrailFilter(), 999)]

    assert "Index Scan Backward using dead_letter_audit_by_time" in plan
    assert "Index Scan Backward using operator_audit_by_time" in plan
    assert [len(page) for page in pages] == [999, 999, 999, 999, 4]
