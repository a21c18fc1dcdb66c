"""Messages of dead-letter queues and the quarantine are archived once, even if processes die."""

import json

import pytest

from schemas import identity
from tests.support.events import body, order_created, ovoko
from tests.support.fault_sql import fail_writes
from tests.support.stack import BUYBACK_TOKEN, Stack, until
from worker.amqp.channel import Message
from worker.amqp.topology import QUARANTINE, RETURN

BROKEN = body(ovoko("order.created", at="yesterday, by Jane Canary", order_id="7"))
WITHOUT_TYPE = body({**order_created("8"), "event_type": None})

ARCHIVING = {"STOCKHOOK_KEEP_DEAD_LETTERS": "true"}


async def archived_letters(stack: Stack, rows: int, *, seconds: float = 20) -> list[dict[str, object]]:
    """Wait until the table has this many rows and the queues are empty, and return the rows."""

    async def there() -> bool:
        return await stack.count("dead_letters") == rows and not await stack.depths()

    await until(there, f"{rows} dead letters are kept", seconds)
    return await stack.fetch("SELECT * FROM dead_letters ORDER BY dead_letter_id")


async def put(stack: Stack, *messages: Message) -> None:
    async with stack.broker.connection() as connection:
        channel = await connection.channel()
        for message in messages:
            await channel.publish(message, 10)


async def test_dead_and_quarantined_messages_are_archived_with_their_properties(stack: Stack) -> None:
    await stack.started_apart(**ARCHIVING)
    dead_id = (await stack.post_ovoko(BROKEN)).json()["event_id"]
    await stack.post_ovoko(WITHOUT_TYPE)
    dead, quarantined = sorted(await archived_letters(stack, 2), key=lambda row: str(row["origin"]))

    assert (dead["origin"], dead["state"], str(dead["event_id"])) == ("orders", "waiting", dead_id)
    assert (dead["provider"], dead["type"], dead["entity_id"]) == ("ovoko", "order.created", "7")
    assert str(dead["reason"]).startswith("invalid: ")
    assert dead["attempts"] == 1
    assert dead["body"] == BROKEN
    assert None not in (dead["first_failed_at"], dead["last_failed_at"], dead["received_at"])
    assert "Jane" not in str(dead["headers"]) + str(dead["reason"])
    assert (quarantined["origin"], quarantined["type"], quarantined["entity_id"]) == ("quarantine", "", "8")
    assert quarantined["reason"] == "no event type"


async def test_an_unreadable_body_is_one_dead_letter_however_often_it_comes(stack: Stack) -> None:
    await stack.started_apart(**ARCHIVING)
    broken = b'{"type":"OrderCreatedEvent","token":"%s",' % BUYBACK_TOKEN.encode()
    for _ in range(3):
        for answer in (await stack.post_ovoko(b""), await stack.post_buyback(broken)):
            assert answer.status_code == 200
    # It follows them in the same queue.
    await stack.post_ovoko(b"last")
    rows = await archived_letters(stack, 3)

    assert [row["provider"] for row in rows].count("buyback") == 1
    assert {bytes(row["body"]) for row in rows if row["provider"] == "ovoko"} == {b"", b"last"}


async def test_one_kind_of_failure_has_one_fingerprint(stack: Stack) -> None:
    await stack.started_apart(**ARCHIVING)
    for number in (b"1", b"2"):
        await stack.post_ovoko(BROKEN.replace(b'"7"', b'"%s"' % number))
    await stack.post_ovoko(WITHOUT_TYPE)
    rows = await archived_letters(stack, 3)

    assert len({row["fingerprint"] for row in rows if row["origin"] == "orders"}) == 1
    assert len({row["fingerprint"] for row in rows}) == 2


async def test_a_crash_between_commit_and_ack_leaves_one_row_a_message(stack: Stack) -> None:
    letters = [
        Message(
            RETURN, "stockhook.orders.dead", "ovoko.order.created", {"x-reason": f"invalid: {number}"}, b"{}"
        )
        for number in range(10)
    ]
    await put(stack, *letters)
    dying = stack.start("consume", "orders", STOCKHOOK_CRASH_AT="dead_letter_stored", **ARCHIVING)
    assert dying.wait() < 0
    assert 0 < await stack.count("dead_letters") <= 10
    assert (await stack.depths())["stockhook.orders.dead"] == 10

    await stack.started("consume", "orders", **ARCHIVING)
    rows = await archived_letters(stack, 10)

    assert sorted(str(row["reason"]) for row in rows) == [f"invalid: {number}" for number in range(10)]


async def test_the_body_of_a_redelivered_message_is_not_parsed(stack: Stack) -> None:
    headers = {
        "x-event-type": "",
        "x-provider": "ovoko",
        "x-event-id": str(identity.content_hash_id(WITHOUT_TYPE)),
        "x-content-id": str(identity.content_hash_id(WITHOUT_TYPE)),
        "x-received-at": "2026-03-01T12:00:00Z",
    }
    await put(stack, Message(QUARANTINE, "", "quarantine.ovoko", headers, WITHOUT_TYPE))
    async with stack.broker.connection() as connection:
        channel = await connection.channel()
        came: list[bool] = []
        await channel.consume(QUARANTINE, "test", 1, lambda delivery: came.append(delivery.redelivered))

        async def arrived() -> bool:
            return bool(came)

        await until(arrived, "the message is in flight to a consumer, which then loses its connection")
    await stack.started("consume", "orders", **ARCHIVING)
    [row] = await archived_letters(stack, 1)

    assert (row["type"], row["entity_id"]) == ("", None)


async def test_strange_messages_are_archived_too(stack: Stack) -> None:
    strange = [
        Message(QUARANTINE, "", "", {}, b""),
        Message(
            QUARANTINE, "", "a\0b", {"x-reason": "a\0b", "x-event-type": "c\0d", "x-attempt": -1}, b"\0\xff"
        ),
        Message(QUARANTINE, "", "x", {"x-attempt": 2**63 - 1, "x-reason": "r" * 5000}, b"[" * 100_000),
    ]
    await put(stack, *strange)
    await stack.started("consume", "orders", **ARCHIVING)
    rows = await archived_letters(stack, 3)

    assert {row["body"] for row in rows} == {message.body for message in strange}
    assert {row["reason"] for row in rows} == {"not published by an ingest", r"a\x00b", "r" * 1000}


@pytest.mark.parametrize("sqlstate", ["55P03", "40P01", "57014", "XX001"])
async def test_a_letter_is_stored_completely_when_the_database_was_only_busy_or_failing(
    stack: Stack, sqlstate: str
) -> None:
    """A lock, a deadlock, a slow or broken disk: the dead letter is not the cause."""
    await stack.execute(fail_writes("dead_letters", sqlstate=sqlstate, times=2))
    await stack.started_apart(**ARCHIVING)
    await stack.post_ovoko(WITHOUT_TYPE)
    [row] = await archived_letters(stack, 1)

    assert (row["reason"], row["entity_id"]) == ("no event type", "8")


async def test_while_the_table_takes_nothing_dead_letters_wait(stack: Stack) -> None:
    worker = await stack.started("run", **ARCHIVING)

    async def paused() -> bool:
        return "dead_letters.paused" in worker.lines()

    await stack.execute("ALTER TABLE dead_letters RENAME TO dead_letters_away")
    try:
        await stack.post_ovoko(WITHOUT_TYPE)
        await until(paused, "the log says that the archiver waits")
    finally:
        await stack.execute("ALTER TABLE dead_letters_away RENAME TO dead_letters")

    assert (await archived_letters(stack, 1))[0]["body"] == WITHOUT_TYPE


async def test_switched_off_they_stay_on_the_broker(stack: Stack) -> None:
    await stack.started_apart()
    await stack.post_ovoko(WITHOUT_TYPE)

    assert await stack.depths() == {"stockhook.quarantine": 1}
    assert await stack.count("dead_letters") == 0


async def test_status_counts_waiting_letters_and_the_audit_stays_correct(stack: Stack) -> None:
    await stack.started_apart(**ARCHIVING)
    await stack.post_ovoko(BROKEN)
    await stack.post_ovoko(WITHOUT_TYPE)
    await archived_letters(stack, 2)
    status = json.loads(stack.run("status", "--json").stdout)
    audited = stack.run("audit", "--json")
    orders = next(family for family in status["families"] if family["family"] == "orders")
    [account] = json.loads(audited.stdout)["accounts"]

    assert (orders["dead"], orders["dead_kept"]) == (0, 1)
    assert (status["quarantine"], status["quarantine_kept"]) == (0, 1)
    assert audited.returncode == 0
    assert (account["accepted"], account["dead"]) == (1, 1)
