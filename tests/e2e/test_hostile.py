"""Bad input causes no crash and no 5xx, and is always stored in a known place."""

import asyncio
import socket

import httpx
import pytest

from tests.support.http_shapes import send, shapes
from tests.support.stack import BUYBACK_TOKEN, OVOKO_SECRET, Stack, free_port, until

KNOWN = b'{"event_type":"order.created","timestamp":"2026-03-01T12:00:00Z","event_data":{"order_id":%s}}'
TRADE_IN = b'{"type":"OrderCreatedEvent","token":"%s","result":%s}'

# The value of a field of a known event, and whether the event then fits its schema.
VALUES = [
    (b'"\\u0000"', False),
    (b'"a\\u0000b"', False),
    (b'"\\ud800"', None),
    (b"NaN", None),
    (b"-Infinity", None),
    (b"1e999", None),
    (b"1e99", True),
    (b"1" * 5000, None),
    (b"1" * 300, None),
    (b"1" * 99, True),
    (b"[" * 100_000, None),
    (b'"' + b"x" * 100_000 + b'"', False),
    (b"null", False),
    (b"{}", False),
    (b"true", False),
]


@pytest.fixture
async def running(stack: Stack) -> Stack:
    await stack.started_apart()
    return stack


async def test_hostile_values_are_answered_and_end_in_their_place(running: Stack) -> None:
    for value, _ in VALUES:
        assert (await running.post_ovoko(KNOWN % value)).status_code == 200
    quarantined = sum(fits is None for _, fits in VALUES)
    dead = sum(fits is False for _, fits in VALUES)
    applied = sum(fits is True for _, fits in VALUES)

    async def settled() -> bool:
        depths = await running.depths()
        return depths == {"stockhook.quarantine": quarantined, "stockhook.orders.dead": dead}

    await until(settled, "each is in its place")
    assert await running.count("orders") == applied


async def test_hostile_buyback_bodies_are_answered(running: Stack) -> None:
    token = BUYBACK_TOKEN.encode()
    statuses = [(await running.post_buyback(TRADE_IN % (token, value))).status_code for value, _ in VALUES]
    bare = [(await running.post_buyback(value)).status_code for value, _ in VALUES]

    assert set(statuses) == {200}
    assert set(bare) == {400, 401}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"event_type":"order.created","timestamp":"2026-03-01T12:00:00Z","event_data":{}}', "missing"),
        (KNOWN.replace(b"2026-03-01T12:00:00Z", b"secret-value") % b'"1"', "datetime"),
    ],
)
async def test_a_known_type_that_breaks_its_schema_is_dead_at_once(
    running: Stack, body: bytes, field: str
) -> None:
    answer = await running.post_ovoko(body)
    message = await until(lambda: running.get("stockhook.orders.dead"), "it is dead")
    reason = str(message.headers["x-reason"])

    assert answer.status_code == 200
    assert reason.startswith("invalid: ")
    assert field in reason
    assert "secret-value" not in reason
    assert message.headers["x-attempt"] == 1


@pytest.mark.parametrize("number", [b"1e999999999", b"-1e999999999", b"1e-999999999", b"1e99999"])
async def test_an_authentic_event_with_a_number_of_endless_digits_is_quarantined(
    running: Stack, number: bytes
) -> None:
    """The conversion of one of these to an integer or text would block a process permanently."""
    token = BUYBACK_TOKEN.encode()
    reminder = (
        b'{"type":"OrderDropOffReminderEvent","token":"%s","result":{"collectionId":"o",'
        b'"timestamp":"2026-03-01T12:00:00Z","daysAfterCreation":%s}}'
    )
    item = (
        b'{"id":"i","offers":[{"status":"WinningOffer","totalPrice":{"currencyIsoCode":"EUR","amount":%s}}]}'
    )
    order = (
        b'{"type":"OrderCreatedEvent","token":"%s","result":{"timestamp":"2026-03-01T12:00:00Z",'
        b'"order":{"id":"o","items":[%s]}}}'
    )
    scheduled = (
        b'{"type":"CollectionItemPickUpScheduledEvent","token":"%s","result":{"collectionId":"o",'
        b'"timestamp":%s,"isReschedule":%s,"initialSlot":%s}}'
    )
    answers = [
        await running.post_buyback(reminder % (token, number)),
        await running.post_buyback(order % (token, item % number)),
        await running.post_buyback(scheduled % (token, number, number, number)),
        await running.post_ovoko(KNOWN % number),
    ]

    async def are_quarantined() -> bool:
        return await running.depths() == {"stockhook.quarantine": 4}

    assert [answer.status_code for answer in answers] == [200] * 4
    await until(are_quarantined, "they are quarantined")


async def test_without_the_secret_nothing_is_stored(running: Stack) -> None:
    order = KNOWN % b'"1"'
    answers = [
        await running.post_ovoko(order, secret="wrong"),
        await running.post_ovoko(b"not json", secret=""),
        await running.post_buyback(TRADE_IN % (b"wrong", b"{}")),
    ]

    assert [answer.status_code for answer in answers] == [401] * 3
    assert {answer.headers["content-type"] for answer in answers} == {"application/problem+json"}
    assert await running.depths() == {}
    assert await running.count("event_log") == 0


async def exchange(stack: Stack, *pieces: bytes, pause: float = 0.0) -> bytes:
    """Send raw bytes; return the answer until the server closes, or raise TimeoutError."""
    port = int(stack.environment["STOCKHOOK_INGEST_PORT"])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        return await asyncio.wait_for(reader.read(), 60)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def head(*lines: str) -> bytes:
    fixed = ["POST /webhooks/ovoko HTTP/1.1", "Host: x", f"X-Webhook-Secret: {OVOKO_SECRET}"]
    return "\r\n".join([*fixed, *lines, "Connection: close", "", ""]).encode()


async def test_requests_that_bend_http_are_refused(stack: Stack) -> None:
    await stack.started("ingest", STOCKHOOK_BODY_LIMIT="2048", STOCKHOOK_BODY_TIMEOUT="1")
    chunk = b"400\r\n" + b"x" * 1024 + b"\r\n"

    declared = await exchange(stack, head("Content-Length: 50000000"))
    chunked = await exchange(stack, head("Transfer-Encoding: chunked"), chunk * 3 + b"0\r\n\r\n")
    encoded = await exchange(stack, head("Content-Length: 2", "Content-Encoding: gzip"), b"{,")
    stalled = await exchange(stack, head("Content-Length: 100"), b"{")

    assert [answer[9:12] for answer in (declared, chunked, encoded, stalled)] == [
        b"413",
        b"413",
        b"415",
        b"408",
    ]


async def test_an_endpoint_answers_checks_and_accepts_extra_slashes(stack: Stack) -> None:
    await stack.started("ingest")
    async with httpx.AsyncClient(base_url=stack.url, trust_env=False) as client:
        looks = [
            await client.request(method, path)
            for path in ("/webhooks/ovoko", "/webhooks/buyback/")
            for method in ("GET", "HEAD", "OPTIONS")
        ]
        sent = [
            await client.post(path, content=KNOWN % b'"1"', headers={"X-Webhook-Secret": OVOKO_SECRET})
            for path in (
                "/webhooks/ovoko/",
                f"{stack.url}//webhooks//ovoko",
                "/webhooks/ovoko?a=b",
                "/webhooks/ovko",
            )
        ]

    assert [(answer.status_code, answer.content) for answer in looks] == [
        (200, b""),
        (200, b""),
        (204, b""),
    ] * 2
    assert [answer.status_code for answer in sent] == [200, 200, 200, 404]
    assert (await stack.depths()) == {"stockhook.orders": 3}


async def test_a_body_that_did_not_arrive_whole_is_never_stored(stack: Stack) -> None:
    worker = await stack.started("ingest")
    port = int(stack.environment["STOCKHOOK_INGEST_PORT"])
    malformed = [shape for shape in shapes(OVOKO_SECRET) if not shape.is_event]
    wrong = [shape.name for shape in malformed if await send(port, shape) not in shape.statuses]
    # The stack still works, and nothing else was stored.
    answer = await stack.post_ovoko(KNOWN % b'"1"')

    assert wrong == []
    assert answer.status_code == 200
    assert worker.stop() == 0
    assert await stack.depths() == {"stockhook.orders": 1}


async def test_half_sent_headers_and_silent_connections_are_cut_off(stack: Stack) -> None:
    await stack.started("ingest")
    half, silent = await asyncio.gather(
        exchange(stack, b"POST /webhooks/ovoko HTTP/1.1\r\nHost: x\r\n"), exchange(stack)
    )

    assert b" 200 " not in half + silent


async def test_a_sender_that_hangs_up_halfway_leaves_nothing(stack: Stack) -> None:
    await stack.started("ingest")
    with socket.create_connection(("127.0.0.1", int(stack.environment["STOCKHOOK_INGEST_PORT"]))) as sender:
        sender.sendall(head("Content-Length: 100") + b'{"event_type":')
    answer = await stack.post_ovoko(KNOWN % b'"1"')

    assert answer.status_code == 200
    assert await stack.depths() == {"stockhook.orders": 1}


async def test_with_neither_broker_nor_spool_the_sender_keeps_its_event(stack: Stack) -> None:
    worker = stack.start(
        "ingest",
        STOCKHOOK_AMQP_URL=f"amqp://stockhook:x@127.0.0.1:{free_port()}/",
        STOCKHOOK_SPOOL_PATH="/proc/nowhere/spool.sqlite3",
    )

    async def answers() -> bool:
        try:
            answer = await stack.post_ovoko(KNOWN % b'"1"')
        except httpx.TransportError:
            return False
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        return True

    await until(answers, "it answers")
    ready = await stack.look("/readyz")

    assert ready.status_code == 503
    assert ready.json()["status"] == "not ready"
    assert worker.stop() == 0
