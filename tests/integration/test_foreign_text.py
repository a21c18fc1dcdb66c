"""Foreign text has no effect on terminals: of webhooks, APIs, the broker, tables, or other servers."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from subprocess import CompletedProcess
from uuid import UUID, uuid4

import pytest

from tests.support.applied_events import apply, item
from tests.support.events import ovoko
from tests.support.stack import Stack, free_port, until
from worker.amqp.channel import Message
from worker.amqp.errors import Unroutable
from worker.amqp.topology import CHANGES

MARKUP = "[/x] [bold]b[/bold] :warning:"
HOSTILE = f"{MARKUP} \x1b[2J \x1b]8;;http://evil.example\x07a \x9b2J \x7f \r\n \u202e \u2066 \u200b"
ORDER = "a989e247-ea7d-4ca5-823f-4a2beca861be"

INSERT_LETTER = """
INSERT INTO dead_letters (message_key, origin, event_id, provider, type, entity_id, reason, fingerprint,
    attempts, headers, body)
VALUES (gen_random_uuid(), 'inventory', gen_random_uuid(), 'ovoko', $1, $1, $1, $1, 1, $2, $3)
RETURNING dead_letter_id
"""
INSERT_ACTION = """
INSERT INTO actions (action_id, kind, key, subject, request, state, outcome)
VALUES ($1, $2, $2, $2, '{}', 'failed', $3)
RETURNING action_id
"""


def part(status: str, at: float = 0) -> object:
    return ovoko("part.status.changed", at, part_id=HOSTILE, status=status, external_id=HOSTILE)


def check(done: CompletedProcess[str], *codes: int, is_json: bool = False) -> None:
    said = done.stdout + done.stderr
    assert done.returncode in (codes or (0,)), said
    assert "Traceback" not in said
    assert not [one for one in said if not one.isprintable() and one != "\n"]
    if is_json:
        json.loads(done.stdout)


@asynccontextmanager
async def answering(body: bytes, *head: bytes) -> AsyncIterator[str]:
    """The URL of a server with the same answer to every request."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        length = request.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length or b"0"))
        status = head or (b"200 OK",)
        lines = (
            b"HTTP/1.1 " + status[0],
            *status[1:],
            b"content-length: %d" % len(body),
            b"connection: close",
        )
        writer.write(b"\r\n".join((*lines, b"", body)))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture
def wide(stack: Stack) -> Stack:
    stack.environment["COLUMNS"] = "400"
    return stack


async def test_the_status_of_a_part_is_shown_as_inert_text(wide: Stack) -> None:
    await apply(wide, "inventory", [item(part(HOSTILE))])
    await apply(wide, "inventory", [item(part("sold", 3600))])
    explained = wide.run("explain", "part", HOSTILE)
    await wide.execute("UPDATE parts SET status = 'reserved' || status")
    rebuilt = wide.run("rebuild", "inventory")

    check(explained)
    assert MARKUP in explained.stdout
    check(wide.run("explain", "part", HOSTILE, "--json"), is_json=True)
    check(rebuilt, 1)
    assert MARKUP in rebuilt.stdout


async def test_dead_letters_and_actions_are_shown_and_not_obeyed(wide: Stack) -> None:
    headers = json.dumps({HOSTILE: HOSTILE})
    body = json.dumps({"event_type": HOSTILE, HOSTILE: HOSTILE}, ensure_ascii=False).encode()
    letter = str((await wide.fetch(INSERT_LETTER, HOSTILE, headers, body))[0]["dead_letter_id"])
    outcome = json.dumps({"reason": HOSTILE, HOSTILE: [HOSTILE]})
    action = str((await wide.fetch(INSERT_ACTION, uuid4(), HOSTILE, outcome))[0]["action_id"])
    commands = (
        ("dead", "list"),
        ("dead", "list", "--group"),
        ("dead", "show", letter),
        ("dead", "show", letter, "--reveal"),
        ("actions", "list"),
        ("actions", "show", action),
    )
    for command in commands:
        plain = wide.run(*command)
        check(plain)
        assert MARKUP in plain.stdout
    for command in (("dead", "show", letter, "--reveal"), ("actions", "show", action)):
        check(wide.run(*command, "--json"), is_json=True)
    check(wide.run("dead", "replay", "--all", "--dry-run"))


async def test_changes_are_shown_as_they_go_by_and_not_obeyed(wide: Stack) -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC).isoformat()
    data = {"event_id": str(UUID(int=0)), "before": {"status": HOSTILE}, "after": {"status": HOSTILE * 2}}
    event = {"time": at, "type": f"stockhook.part.{HOSTILE}", "subject": HOSTILE, "data": data}
    bodies = [
        b"\xff",
        b"[1]",
        b'{"time": 1}',
        json.dumps(event, ensure_ascii=False).encode(),
        json.dumps({**event, "subject": "the last"}).encode(),
    ]
    tails = [wide.start("changes", "tail"), wide.start("changes", "tail", "--json")]

    async def all_shown() -> bool:
        async with wide.broker.connection() as connection:
            channel = await connection.channel()
            # The exchange returns messages while no queue is bound.
            with suppress(Unroutable):
                for body in bodies:
                    await channel.publish(Message(CHANGES, "stockhook.part.sold", "", {}, body), 10)
        return all("the last" in tail.lines() for tail in tails)

    await until(all_shown, "the changes are shown")
    for tail in tails:
        tail.signal(signal.SIGINT)
        tail.wait()
        said = tail.lines()
        assert "Traceback" not in said
        assert not [one for one in said if not one.isprintable() and one != "\n"]
    assert MARKUP in tails[0].lines()
    shown = [json.loads(line) for line in tails[1].lines().splitlines() if line.startswith("{")]
    assert event in shown


async def test_answers_of_foreign_servers_are_shown_as_inert_text(wide: Stack) -> None:
    malformed = json.dumps({"status": HOSTILE, "publishing": False, "spool": [HOSTILE]}).encode()
    for body in (malformed, json.dumps({"status": HOSTILE, "publishing": False, "spool": None}).encode()):
        async with answering(body) as url:
            port = url.rpartition(":")[2]
            status = await asyncio.to_thread(wide.run, "status", STOCKHOOK_INGEST_PORT=port)
            check(status)
            check(await asyncio.to_thread(wide.run, "health", "--port", port))
    assert MARKUP in status.stdout


async def test_answers_of_apis_are_shown_as_inert_text(wide: Stack) -> None:
    listed = {
        "status_code": "R200",
        "msg": HOSTILE,
        "list": [{"id": 13, "status": HOSTILE, "updated_at": "2026-03-01T10:00:00Z"}],
        "pagination": {"total_count": 1},
    }
    outputs = {
        "access_token": "token",
        "expires_in": 60,
        "token_type": "Bearer",
        "note": HOSTILE,
        HOSTILE: HOSTILE,
    }
    for document in (listed, {"status_code": HOSTILE, "msg": HOSTILE}):
        async with answering(json.dumps(document, ensure_ascii=False).encode()) as url:
            ovoko = {
                "STOCKHOOK_OVOKO_API_URL": url,
                "STOCKHOOK_OVOKO_USERNAME": "user",
                "STOCKHOOK_OVOKO_PASSWORD": "password",
                "STOCKHOOK_OVOKO_USER_TOKEN": "user-token",
                "STOCKHOOK_OVOKO_CALLS_PER_SECOND": "1000",
            }
            check(await asyncio.to_thread(wide.run, "reconcile", "ovoko", "parts", **ovoko), 0, 1)
    problem = json.dumps({"title": HOSTILE, "errors": {HOSTILE: HOSTILE}}, ensure_ascii=False).encode()
    answers = (
        (json.dumps(outputs, ensure_ascii=False).encode(), b"200 OK"),
        (problem, b"422 Unprocessable Content", b"content-type: application/problem+json"),
    )
    for body, *head in answers:
        async with answering(body, *head) as url:
            buyback = {
                "STOCKHOOK_BUYBACK_API_URL": url,
                "STOCKHOOK_BUYBACK_STS_URL": url,
                "STOCKHOOK_BUYBACK_CLIENT_ID": "client",
                "STOCKHOOK_BUYBACK_CLIENT_SECRET": "secret",
                "STOCKHOOK_BUYBACK_SELLER_ID": "seller",
                "STOCKHOOK_BUYBACK_REAL_IP": "127.0.0.1",
            }
            for options in ((), ("--json",)):
                done = await asyncio.to_thread(
                    wide.run, "buyback", "shipment-capabilities", ORDER, *options, **buyback
                )
                check(done, 0, 1)
                assert MARKUP in done.stdout + done.stderr or done.returncode
            sent = await asyncio.to_thread(wide.run, "send", "--documented", "--url", url)
            check(sent, 0, 1)
            check(await asyncio.to_thread(wide.run, "doctor", STOCKHOOK_MANAGEMENT_URL=url), 0, 1)


async def test_names_in_the_tables_are_shown_and_not_obeyed(wide: Stack) -> None:
    """The consumers' role can write them."""
    await wide.fetch("INSERT INTO change_locks (family) VALUES ($1)", HOSTILE)
    audited = wide.run("audit", STOCKHOOK_INGEST_PORT=str(free_port()))
    await wide.fetch("DELETE FROM change_locks WHERE family = $1", HOSTILE)

    check(audited)
    assert MARKUP in audited.stdout
