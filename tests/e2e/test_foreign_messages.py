"""Messages that Stockhook did not publish stop no process and are archived, with any content."""

import json
import struct
from collections.abc import Iterable, Iterator
from urllib.parse import quote, urlsplit

import httpx
import pytest

from tests.e2e.test_webhooks import Subscribe, subscribe  # noqa: F401  # a fixture
from tests.support.amqp_tables import HEADERS, MESSAGE_ID, OURS, TIMESTAMP, TYPE, field, table
from tests.support.endpoint import endpoint
from tests.support.stack import Stack, until
from worker.amqp.codec import METHOD, _frame, _short
from worker.amqp.management import vhost_of

ARCHIVING = {"STOCKHOOK_KEEP_DEAD_LETTERS": "true"}
QUEUES = (
    "stockhook.inventory",
    "stockhook.inventory.dead",
    "stockhook.quarantine",
    "stockhook.actions",
    "stockhook.actions.dead",
    "stockhook.webhook.shop",
    "stockhook.webhook.shop.dead",
)
PART = b'{"event_type":"part.status.changed","timestamp":"2026-03-01T12:00:00Z","event_data":%s}'
SOLD = PART % b'{"part_id":"13","status":"sold","previous_status":"in_warehouse"}'
CONTENT_TYPE = 1 << 15


def text(value: bytes) -> bytes:
    return b"S" + struct.pack(">I", len(value)) + value


def nested(depth: int) -> bytes:
    value = b"F" + table()
    for _ in range(depth):
        value = b"F" + table(field(b"", value))
    return value


def malformed_properties() -> Iterator[tuple[int, bytes]]:
    yield TIMESTAMP, struct.pack(">Q", 1_772_355_600_000_000)
    yield TIMESTAMP, b"\xff" * 8
    yield TYPE, b"\xff" + b"\xff" * 255
    yield CONTENT_TYPE | MESSAGE_ID, b"\x02\xff\xfe\x02\xff\xfe"
    yield HEADERS, table(field(b"\xff\xfe", text(b"\xff")), field(b"t", b"T" + b"\xff" * 8))
    yield HEADERS, table(OURS, field(b"deep", nested(400)))
    yield HEADERS, table(field(b"x-event-id", text(b"\xff" * 100_000)))
    for name in (b"x-event-id", b"x-action-id", b"x-change-id", b"x-subject", b"x-reason", b"x-attempt"):
        yield HEADERS, table(field(name, nested(5)))
    yield HEADERS, table(*(field(b"x-%d" % number + b"\xff" * 200, b"V") for number in range(90)))


def ours(**overrides: str) -> bytes:
    """The headers of an ingest, with some replaced."""
    headers = {
        "x-event-type": "part.status.changed",
        "x-provider": "ovoko",
        "x-event-id": "00000000-0000-4000-8000-000000000001",
        "x-content-id": "00000000-0000-4000-8000-000000000002",
        "x-received-at": "2026-03-01T12:00:00Z",
        "x-stream": "1",
        "x-place": "1",
    } | {f"x-{name.replace('_', '-')}": value for name, value in overrides.items()}
    return table(*(field(name.encode(), text(value.encode())) for name, value in headers.items()))


def malformed_events() -> Iterator[tuple[int, bytes]]:
    for overrides in (
        {"place": "9" * 40},
        {"stream": "-9223372036854775809"},
        {"received_at": "2026-03-01T12:00:00"},
        {"received_at": "9999-12-31T23:59:59-23:59"},
        {"first_failed_at": "0001-01-01T00:00:00+23:59"},
        {"attempt": "9" * 5000},
        {"event_id": "{00000000-0000-4000-8000-000000000001"},
        {"received_at": "1e400"},
    ):
        yield HEADERS, ours(**overrides)


def raw_publish(channel: int, queue: str, flags: int, properties: bytes, body: bytes) -> bytes:
    """Publish with raw properties, which no codec has encoded."""
    method = b"\x00\x3c\x00\x28\x00\x00" + _short("") + _short(queue) + b"\x00"
    header = struct.pack(">HHQH", 60, 0, len(body), flags) + properties
    return _frame(METHOD, channel, method) + _frame(2, channel, header) + _frame(3, channel, body)


async def put(stack: Stack, messages: Iterable[tuple[str, int, bytes, bytes]]) -> None:
    async with stack.broker.connection() as connection:
        channel = await connection.channel()
        tap = channel._tap
        for queue, flags, properties, body in messages:
            tap._write(raw_publish(tap._number, queue, flags, properties, body))
        # The answer on the same channel shows that the broker has accepted all of them.
        assert await channel.depth(QUEUES[0]) is not None


async def test_no_message_stops_its_consumer_and_each_is_stored_with_its_bytes(
    stack: Stack,
    subscribe: Subscribe,  # noqa: F811
) -> None:
    async with endpoint() as shop:
        subscribe(("shop", shop.url))
        assert stack.run("topology").returncode == 0
        messages = [
            (queue, flags, properties, f"{queue} {number}".encode())
            for queue in QUEUES
            for number, (flags, properties) in enumerate(malformed_properties())
        ]
        messages += [
            ("stockhook.inventory", flags, properties, SOLD.replace(b"13", b"odd-%d" % number))
            for number, (flags, properties) in enumerate(malformed_events())
        ]
        expected = {body for *_, body in messages}
        await put(stack, messages)
        worker = await stack.started("run", **ARCHIVING)

        async def is_archived() -> bool:
            return await stack.count("dead_letters") == len(expected) and not await stack.depths()

        await until(is_archived, "all are archived", 60)
        assert (await stack.post_ovoko(SOLD)).status_code == 200
        await until(lambda: _has_request(shop.requests), "an event is applied and published")

    rows = await stack.fetch("SELECT body, origin FROM dead_letters")
    assert {row["body"] for row in rows} == expected
    assert {row["origin"] for row in rows} == {"inventory", "quarantine", "webhook.shop"}
    assert worker.process.poll() is None
    assert "Traceback" not in worker.lines()
    assert "subscription.lost" not in worker.lines()
    assert len(shop.requests) == 1
    assert await stack.fetch("SELECT part_id FROM parts") == [{"part_id": "13"}]
    assert stack.run("audit").returncode == 0


async def _has_request(requests: list[object]) -> bool:
    return bool(requests)


async def test_messages_of_the_management_api_stop_no_consumer(stack: Stack) -> None:
    """Its form has a field for the timestamp, where users enter milliseconds or microseconds."""
    management = stack.environment.get("STOCKHOOK_MANAGEMENT_URL")
    if management is None:
        pytest.skip("needs the management API")
    worker = await stack.started("run", **ARCHIVING)
    vhost = quote(vhost_of(stack.environment["STOCKHOOK_AMQP_URL"]), safe="")
    async with httpx.AsyncClient(base_url=management, trust_env=False) as client:
        for queue in ("stockhook.inventory", "stockhook.quarantine", "stockhook.orders.dead"):
            for timestamp in (1_772_355_600_000_000, -1):
                answer = await client.post(
                    f"/api/exchanges/{vhost}/amq.default/publish",
                    json={
                        "routing_key": queue,
                        "properties": {"timestamp": timestamp},
                        "payload": f"{queue} {timestamp}",
                        "payload_encoding": "string",
                    },
                )
                assert answer.json() == {"routed": True}, answer.text

    async def is_archived() -> bool:
        return await stack.count("dead_letters") == 6 and not await stack.depths()

    await until(is_archived, "all are archived", 30)
    assert worker.process.poll() is None
    assert json.loads((await stack.ops(worker.ops_port, "/readyz")).text)["status"] == "ready"
    assert urlsplit(management).password not in worker.lines()
