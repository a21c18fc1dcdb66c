"""Events of unhandled types are stored apart from broken events, and replayed once a family handles them."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from schemas.identity import content_hash_id
from schemas.registry import Provider
from tests.e2e.test_dead_letters import ARCHIVING, archived_letters, put
from tests.support.applied_events import database_of
from tests.support.events import body, buyback, ovoko, sold
from tests.support.stack import BUYBACK_TOKEN, OVOKO_SECRET, Stack, until
from worker.amqp.channel import Message
from worker.amqp.topology import QUARANTINE
from worker.dead_letters import unhandled_store as store
from worker.dead_letters.unhandled_store import Arriving
from worker.intake.intake import accept

ACCOUNT = "GB33BUKB20201555555555"
# Long enough ago to differ from the time at which a test runs.
RECEIVED_AT = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)


def submission(number: int) -> bytes:
    result = {"id": number, "customer": {"email": "jane.canary@example.org"}, "note": BUYBACK_TOKEN}
    return json.dumps({"type": "SubmissionCreatedEvent", "token": BUYBACK_TOKEN, "result": result}).encode()


def moved(part_id: int) -> bytes:
    return body(ovoko("part.moved", part_id=str(part_id)))


def order(order_id: str, at: str = "2026-03-01T08:00:00Z", **customer: object) -> dict[str, Any]:
    known = {"firstName": "Jane Canary", **customer}
    return buyback(
        "OrderCreatedEvent",
        at,
        id=order_id,
        order={"id": order_id, "items": [], "customerInformation": known},
    )


async def archived(stack: Stack, rows: int) -> list[dict[str, Any]]:
    """Wait until the table has this many rows and the queues are empty, and return the rows."""

    async def there() -> bool:
        return await stack.count("unhandled_events") == rows and not await stack.depths()

    await until(there, f"{rows} unhandled events are kept", 40)
    return await stack.fetch("SELECT * FROM unhandled_events ORDER BY unhandled_event_id")


async def keep(stack: Stack, *events: tuple[Provider, str, bytes]) -> None:
    """Store events as a release that did not know these types."""
    encryptor = stack.settings.encryptor
    assert encryptor is not None, "the stack has keys"
    rows = [
        Arriving(
            provider,
            event_type,
            content_hash_id(body),
            content_hash_id(body),
            RECEIVED_AT,
            encryptor.encrypt(body) if provider is Provider.BUYBACK else body,
        )
        for provider, event_type, body in events
    ]
    async with database_of(stack) as database, database.transaction() as connection:
        await store.insert(connection, rows, ())


def output_of(stack: Stack, *arguments: str) -> Any:
    result = stack.run("unhandled", *arguments, "--json")
    assert result.stdout, result.stderr
    return json.loads(result.stdout)


def lines(log: str, event: str) -> Sequence[dict[str, Any]]:
    parsed = (json.loads(line) for line in log.splitlines() if line.startswith("{"))
    return [line for line in parsed if line["event"] == event]


async def test_a_day_of_submissions_is_counted_and_listed_and_no_dead_letter(stack: Stack) -> None:
    worker = await stack.started("run", **ARCHIVING)
    answers = [await stack.post_buyback(submission(number)) for number in range(30)]
    answers += [await stack.post_ovoko(moved(number)) for number in range(3)]
    # Sent again, since the answer was lost.
    answers += [await stack.post_buyback(submission(0)), await stack.post_ovoko(moved(0))]
    rows = await archived(stack, 33)
    listed = output_of(stack, "list")
    of_one = output_of(stack, "list", "--type", "part.moved", "--events", "--limit", "2")
    nothing = output_of(stack, "list", "--marketplace", "ovoko", "--type", "SubmissionCreatedEvent")
    status = json.loads(stack.run("status", "--json").stdout)
    shown = stack.run("status", COLUMNS="200").stdout
    audited = stack.run("audit", "--json")
    as_text = "".join(
        stack.run("unhandled", "list", *options, COLUMNS="80").stdout for options in ((), ("--events",))
    )
    number = str(rows[0]["unhandled_event_id"])
    hidden, revealed = (stack.run("unhandled", "show", number, *options) for options in ((), ("--reveal",)))
    findings = await stack.fetch("SELECT kind, family, entity_id, event_id FROM findings ORDER BY entity_id")
    metrics = (await stack.ops(worker.ops_port, "/metrics")).text

    assert {answer.status_code for answer in answers} == {200}
    assert {row["event_id"] for row in rows} == {UUID(answer.json()["event_id"]) for answer in answers}
    everything = repr(rows) + hidden.stdout + as_text + worker.lines()
    assert "canary@" not in everything
    assert BUYBACK_TOKEN not in everything + revealed.stdout
    assert "canary@" in revealed.stdout
    assert "unhandled_event.revealed" in revealed.stderr
    assert await stack.count("dead_letters") == 0
    assert [(one["type"], one["events"], one["taken_by"]) for one in listed] == [
        ("SubmissionCreatedEvent", 30, None),
        ("part.moved", 3, None),
    ]
    assert all(one["first_at"] <= one["last_at"] for one in listed)
    assert [one["type"] for one in of_one] == ["part.moved"] * 2
    assert nothing == []
    assert status["unhandled"] == {"events": 33, "types": 2, "replayable": 0}
    assert "unhandled: 33 events of 2 types" in shown
    assert "33 events of 2 types" in as_text
    assert str(rows[0]["event_id"]) in as_text
    assert "\N{HORIZONTAL ELLIPSIS}" not in as_text
    assert audited.returncode == 0
    assert json.loads(audited.stdout)["unhandled"] == 33
    assert findings == [
        {"kind": "unhandled_event_type", "family": "any", "entity_id": name, "event_id": None}
        for name in ("buyback.SubmissionCreatedEvent", "ovoko.part.moved")
    ]
    assert [line["type"] for line in lines(worker.lines(), "event_type.unhandled")] in (
        ["buyback.SubmissionCreatedEvent", "ovoko.part.moved"],
        ["ovoko.part.moved", "buyback.SubmissionCreatedEvent"],
    )
    assert not lines(worker.lines(), "event.quarantined")
    assert 'stockhook_unhandled_total{provider="buyback",type="SubmissionCreatedEvent"} 31.0' in metrics


async def test_dying_between_the_commit_and_the_ack_leaves_one_row_per_event(stack: Stack) -> None:
    messages = [accept(Provider.OVOKO, moved(number), RECEIVED_AT).message for number in range(10)]
    await put(stack, *messages)
    dying = stack.start("consume", "orders", STOCKHOOK_CRASH_AT="dead_letter_stored", **ARCHIVING)
    assert dying.wait(60) < 0
    before = await stack.count("unhandled_events")
    worker = await stack.started("consume", "orders", **ARCHIVING)
    rows = await archived(stack, 10)

    assert 0 < before <= 10
    assert {row["body"] for row in rows} == {moved(number) for number in range(10)}
    assert not lines(worker.lines(), "event_type.unhandled")


async def test_hostile_names_and_thousands_of_types_are_bounded_and_inert(stack: Stack) -> None:
    worker = await stack.started("run", **ARCHIVING)
    orders = "\x1b]0;a\x07\x9b2J\x7f\u202e\0[/b]"
    names = [orders, "x" * 200_000, *(f"type.{number}" for number in range(100))]
    for name in names:
        body = json.dumps({"event_type": name, "event_data": {}}, ensure_ascii=False).encode()
        assert (await stack.post_ovoko(body.replace(b"\0", b"\\u0000"))).status_code == 200
    forged = {"x-reason": "unhandled event type", "x-event-type": "a", "x-provider": "ebay"}
    await put(stack, Message(QUARANTINE, "", "", forged, b"{}"))
    rows = await archived(stack, len(names))
    await archived_letters(stack, 1)
    listed = stack.run("unhandled", "list", "--limit", "1000", COLUMNS="400")
    metrics = (await stack.ops(worker.ops_port, "/metrics")).text
    labels = [line for line in metrics.splitlines() if line.startswith("stockhook_unhandled_total{")]

    assert max(len(row["type"]) for row in rows) == 200
    assert len({row["type"] for row in rows}) == len(names)
    assert listed.returncode == 0, listed.stderr
    assert r"\x1b]0;a\x07\x9b2J\x7f\u202e\x00[/b]" in listed.stdout
    for text in (listed.stdout, worker.lines()):
        assert not [character for character in text if not character.isprintable() and character != "\n"]
    assert len(labels) <= 51


async def keep_some_of_each(stack: Stack) -> None:
    """Three events that this release handles, one that breaks its schema, and one of an unknown type."""
    paid = order("o2", customerPaymentDetails={"bankAccount": {"accountNumber": ACCOUNT}})
    await keep(
        stack,
        (Provider.BUYBACK, "OrderCreatedEvent", body(order("o1"))),
        (Provider.BUYBACK, "OrderCreatedEvent", body(paid)),
        (Provider.BUYBACK, "OrderCreatedEvent", body(order("o3", at="no"))),
        (Provider.OVOKO, "part.status.changed", sold("13", 1)),
        (Provider.OVOKO, "part.moved", moved(1)),
    )


async def has_applied(stack: Stack, events: int) -> None:
    async def are_applied() -> bool:
        return await stack.count("event_log") == events

    await until(are_applied, f"{events} events are applied")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--type", "part.moved"), 1, "part.moved"),
        (("--type", "OrderCreatedEvent", "--marketplace", "ovoko"), 1, ""),
        ((), 2, ""),
    ],
)
async def test_a_replay_of_no_event_that_a_family_handles_is_refused(
    stack: Stack, options: tuple[str, ...], code: int, message: str
) -> None:
    await keep_some_of_each(stack)
    refused = stack.run("unhandled", "replay", *options)

    assert refused.returncode == code
    assert message in refused.stderr
    assert await stack.count("unhandled_events") == 5


async def test_types_that_this_release_handles_are_listed_with_their_family(stack: Stack) -> None:
    await keep_some_of_each(stack)
    families = {one["type"]: one["taken_by"] for one in output_of(stack, "list")}
    status = json.loads(stack.run("status", "--json").stdout)

    assert families == {
        "OrderCreatedEvent": "buybacks",
        "part.status.changed": "inventory",
        "part.moved": None,
    }
    assert status["unhandled"] == {"events": 5, "types": 3, "replayable": 4}


async def test_a_dry_run_shows_what_a_replay_would_do_and_changes_nothing(stack: Stack) -> None:
    await keep_some_of_each(stack)
    planned = output_of(stack, "replay", "--all", "--dry-run")

    assert sorted((one["type"], one["would_be"].partition(":")[0], one["events"]) for one in planned) == [
        ("buyback.OrderCreatedEvent", "applied", 2),
        ("buyback.OrderCreatedEvent", "stays", 1),
        ("ovoko.part.status.changed", "applied", 1),
    ]
    assert await stack.count("unhandled_events") == 5
    assert await stack.depths() == {}


async def test_a_replay_of_all_leaves_what_breaks_its_schema_and_what_no_family_handles(stack: Stack) -> None:
    await keep_some_of_each(stack)
    await stack.started("run", **ARCHIVING)
    of_one = output_of(stack, "replay", "--type", "part.status.changed")
    rest = stack.run("unhandled", "replay", "--all", "--json")
    replayed = json.loads(rest.stdout)
    await has_applied(stack, 3)
    left = await stack.fetch("SELECT type FROM unhandled_events ORDER BY type")

    assert of_one == {"selected": 1, "replayed": 1, "left": []}
    assert rest.returncode == 1
    assert replayed["replayed"] == 2
    assert [one["events"] for one in replayed["left"]] == [1]
    assert "timestamp" in replayed["left"][0]["reason"]
    assert [row["type"] for row in left] == ["OrderCreatedEvent", "part.moved"]
    assert await stack.count("dead_letters") == 0


async def test_a_replayed_event_keeps_its_reception_and_is_known_when_it_is_sent_again(stack: Stack) -> None:
    await keep(stack, (Provider.BUYBACK, "OrderCreatedEvent", body(order("o1"))))
    await stack.started("run", **ARCHIVING)
    stack.run("unhandled", "replay", "--all")
    await has_applied(stack, 1)
    answer = await stack.post_buyback(body({**order("o1"), "token": BUYBACK_TOKEN}))

    async def is_duplicate() -> bool:
        [row] = await stack.fetch("SELECT sum(duplicates)::int AS duplicates FROM event_sequences")
        return row["duplicates"] == 1

    await until(is_duplicate, "the event that was sent again is a duplicate")
    [logged] = await stack.fetch("SELECT event_id::text, received_at FROM event_log")

    assert logged == {"event_id": answer.json()["event_id"], "received_at": RECEIVED_AT}


async def test_bank_details_of_a_replayed_event_are_encrypted(stack: Stack) -> None:
    paid = order("o2", customerPaymentDetails={"bankAccount": {"accountNumber": ACCOUNT}})
    await keep(stack, (Provider.BUYBACK, "OrderCreatedEvent", body(paid)))
    await stack.started("run", **ARCHIVING)
    stack.run("unhandled", "replay", "--all")
    await has_applied(stack, 1)
    [logged] = await stack.fetch("SELECT body FROM event_log")
    [row] = await stack.fetch("SELECT account_number_ending FROM buyback_orders WHERE order_id = 'o2'")

    assert ACCOUNT.encode() not in logged["body"]
    assert row["account_number_ending"] == ACCOUNT[-4:]


async def test_a_replay_that_died_leaves_its_events_and_each_is_applied_once(stack: Stack) -> None:
    await keep(
        stack,
        *((Provider.OVOKO, "part.status.changed", sold(f"part-{number}", number)) for number in range(30)),
    )
    arguments = ("unhandled", "replay", "--all", "--rate", "50")
    died = stack.run(*arguments, STOCKHOOK_CRASH_AT="unhandled_published:2")
    left = await stack.count("unhandled_events")
    await stack.started("consume", "inventory")
    resumed = stack.run(*arguments)

    async def applied() -> bool:
        return await stack.count("event_log") == 30 and not await stack.depths()

    await until(applied, "all are applied")

    assert died.returncode == -9
    assert left == 20
    assert resumed.stdout == "replayed 20 of 20 events\n"
    assert await stack.count("parts") == 30
    assert await stack.count("unhandled_events") == 0


async def test_dead_letters_of_older_releases_without_a_family_can_be_moved(stack: Stack) -> None:
    """Such a release did not distinguish them from broken events."""
    new = accept(Provider.OVOKO, moved(1), RECEIVED_AT).message
    headers = {**new.headers, "x-reason": "unknown event type", "x-event-type": ""}
    await put(stack, Message(QUARANTINE, "", new.type, headers, new.body))
    await stack.started("consume", "orders", **ARCHIVING)
    [letter] = await archived_letters(stack, 1)
    predicted = stack.run("dead", "replay", "--all", "--dry-run").stdout
    replayed = stack.run("dead", "replay", "--origin", "quarantine", "--reason", "unknown event type")
    rows = await archived(stack, 1)

    assert letter["type"] == "part.moved"
    assert "moved to the unhandled events" in predicted
    assert replayed.returncode == 0, replayed.stderr
    assert [(row["type"], row["received_at"]) for row in rows] == [("part.moved", RECEIVED_AT)]
    assert await stack.fetch("SELECT state FROM dead_letters") == [{"state": "replayed"}]


async def test_with_the_archiver_off_unhandled_events_wait_in_the_quarantine(stack: Stack) -> None:
    await stack.started_apart()
    await stack.post_ovoko(moved(1))

    assert await stack.depths() == {"stockhook.quarantine": 1}
    assert await stack.count("unhandled_events") == 0


async def test_ignored_types_are_counted_and_not_stored(stack: Stack) -> None:
    worker = await stack.started("ingest", STOCKHOOK_IGNORED_TYPES="ovoko.part.mov*, buyback.Submission*")
    answers = [await stack.post_buyback(submission(1)), await stack.post_ovoko(moved(1))]
    wrong = await stack.post_ovoko(moved(1), OVOKO_SECRET + "x")
    metrics = (await stack.ops(worker.ops_port, "/metrics")).text
    refused = stack.run("status", STOCKHOOK_IGNORED_TYPES="buyback.Order*")

    assert [answer.status_code for answer in answers] == [200, 200]
    assert wrong.status_code == 401
    assert await stack.depths() == {}
    for provider in Provider:
        assert f'stockhook_received_total{{provider="{provider}",result="ignored"}} 1.0' in metrics
    assert refused.returncode == 78
    [sentence] = refused.stderr.splitlines()
    assert sentence.startswith("stockhook: STOCKHOOK_IGNORED_TYPES: must not match buyback.Order")
