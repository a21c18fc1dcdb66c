"""Queued messages and spool files of the release before the renames are applied and counted."""

import sqlite3
from pathlib import Path

from tests.support.stack import Stack, until
from worker.amqp.channel import Message
from worker.ingest.spool.spool import Spool

# A spool file of that release, as SQL: two events with sequence numbers, and one for the quarantine without.
SPOOL = """
PRAGMA page_size = 4096;
PRAGMA auto_vacuum = INCREMENTAL;
CREATE TABLE entries (
    number INTEGER PRIMARY KEY,
    spooled_at TEXT NOT NULL,
    stream INTEGER,
    family TEXT,
    place INTEGER,
    exchange TEXT NOT NULL,
    routing_key TEXT NOT NULL,
    type TEXT NOT NULL,
    headers TEXT NOT NULL,
    checksum BLOB NOT NULL,
    body BLOB NOT NULL
);
INSERT INTO entries VALUES (
    1, '2026-11-29T02:53:41.226391+00:00', 3059555436318649386, 'orders', 1,
    'stockhook.events', 'ovoko.order.created', 'order.created',
    '{"x-event-type":"order.created","x-provider":"ovoko",'
    || '"x-event-id":"00000000-0000-4000-8000-000000000001",'
    || '"x-content-id":"00000000-0000-5000-8000-000000000001",'
    || '"x-received-at":"2026-03-01T12:00:00Z","x-attempt":1,"x-unused":"5:1"}',
    X'F08AE6482B30D7364722CFD8CC05E45F',
    CAST('{"event_type":"order.created","timestamp":"2026-03-01T12:00:00Z",'
    || '"event_data":{"order_id":"7"}}' AS BLOB)
);
INSERT INTO entries VALUES (
    2, '2026-11-29T02:53:41.227649+00:00', 3059555436318649386, 'orders', 2,
    'stockhook.events', 'ovoko.order.created', 'order.created',
    '{"x-event-type":"order.created","x-provider":"ovoko",'
    || '"x-event-id":"00000000-0000-4000-8000-000000000002",'
    || '"x-content-id":"00000000-0000-5000-8000-000000000001",'
    || '"x-received-at":"2026-03-01T12:00:00Z","x-attempt":1}',
    X'57BB19E30C60D6869863672F9DD7F836',
    CAST('{"event_type":"order.created","timestamp":"2026-03-01T12:00:00Z",'
    || '"event_data":{"order_id":"8"}}' AS BLOB)
);
INSERT INTO entries VALUES (
    3, '2026-11-29T02:53:41.228604+00:00', NULL, NULL, NULL,
    'stockhook.events', 'quarantine.ovoko', '', '{"x-reason":"not JSON","x-provider":"ovoko"}',
    X'86FF0B40811727AE4640C47C9EA6E0EF', X'7B'
);
CREATE TABLE state (
    stream INTEGER NOT NULL,
    last_number INTEGER NOT NULL,
    depth INTEGER NOT NULL,
    size INTEGER NOT NULL,
    places TEXT NOT NULL,
    checksum BLOB NOT NULL
);
INSERT INTO state VALUES (
    3059555436318649386, 3, 3, 676, '{"orders":2}', X'1ADFA2F0043A1B1968B5306F4C0FDC95'
);
"""
SOURCE = 3059555436318649386

QUEUED = Message(
    exchange="",
    routing_key="stockhook.orders",
    type="order.created",
    headers={
        "x-event-type": "order.created",
        "x-provider": "ovoko",
        "x-event-id": "00000000-0000-4000-8000-000000000009",
        "x-content-id": "00000000-0000-5000-8000-000000000009",
        "x-received-at": "2026-03-01T12:00:00Z",
        "x-attempt": 1,
        "x-stream": 11,
        "x-place": 2,
        "x-unused": "11:1",
    },
    body=b'{"event_type":"order.created","timestamp":"2026-03-01T12:00:00Z","event_data":{"order_id":"9"}}',
)


def written_by_the_release_before(path: Path) -> Path:
    connection = sqlite3.connect(path)
    connection.executescript(SPOOL)
    connection.close()
    return path


async def test_the_spool_continues_the_file_of_the_release_before(tmp_path: Path) -> None:
    path = written_by_the_release_before(tmp_path / "spool.sqlite3")
    async with Spool(path, 1_000_000) as spool:
        await spool.put(
            Message("stockhook.events", "ovoko.order.created", "order.created", {}, b"{}"), "orders"
        )
        entries = await spool.oldest(10)

    numbers = [
        (entry.message.headers.get("x-stream"), entry.message.headers.get("x-place")) for entry in entries
    ]
    assert numbers == [(SOURCE, 1), (SOURCE, 2), (None, None), (SOURCE, 3)]
    assert not list(tmp_path.glob("*.damaged-*"))


async def test_queued_and_spooled_messages_of_the_release_before_are_applied_and_accounted_for(
    stack: Stack,
) -> None:
    written_by_the_release_before(Path(stack.environment["STOCKHOOK_SPOOL_PATH"]))
    async with stack.broker.connection() as connection:
        await (await connection.channel()).publish(QUEUED, 10)
    await stack.started("run")

    async def are_applied() -> bool:
        return await stack.count("orders") == 3

    await until(are_applied, "the queued event and the two spooled ones are applied")
    rows = await stack.fetch(
        "SELECT source, seen::text, voided::text, applied FROM event_sequences ORDER BY source"
    )
    assert [tuple(row.values()) for row in rows] == [
        (5, "{}", "{[1,2)}", 0),
        (11, "{[2,3)}", "{[1,2)}", 1),
        (SOURCE, "{[1,3)}", "{}", 2),
    ]
    assert stack.run("audit").returncode == 0
