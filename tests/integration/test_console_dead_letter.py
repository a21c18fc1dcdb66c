"""One dead letter in the console: each action, by each role, on real letters of real messages."""

import html
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest

from tests.support.console import browser, console, sign_in, token_in, users
from tests.support.events import body, order_created, ovoko
from tests.support.stack import BUYBACK_TOKEN, Stack, until
from worker.postgres.locks import TRY_LOCK, AdvisoryLock

SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}
USERS = users(rita="reader", olga="operator", vera="revealer", anna="operator+revealer")

ACCOUNT = "GB33BUKB20201555555555"
CANARIES = ("Canary", "canary@example.org", "5550199", ACCOUNT, BUYBACK_TOKEN)
CUSTOMER = {
    "firstName": "Jane Canary",
    "lastName": "Canary",
    "email": "canary@example.org",
    "telephoneNumber": {"countryCode": "+44", "number": "5550199"},
    "customerPaymentDetails": {"bankAccount": {"accountNumber": ACCOUNT, "accountName": "Jane Canary"}},
}
ORDER = {"id": "a989e247-ea7d-4ca5-823f-4a2beca861be", "status": "Created", "customerInformation": CUSTOMER}

# It fails its schema: the entity of an order is a text or a number.
INVALID = body(ovoko("order.created", order_id={}))
# Once its comma is removed, it is an order.
BROKEN = body(order_created("7", 7))[:-1] + b",}"


def _buyback(timestamp: str = "2026-03-01T12:00:00Z") -> bytes:
    result = {"timestamp": timestamp, "order": {**ORDER, "items": []}}
    return body({"type": "OrderCreatedEvent", "token": BUYBACK_TOKEN, "result": result})


@pytest.fixture
async def archiving(stack: Stack) -> Stack:
    stack.environment |= {"STOCKHOOK_KEEP_DEAD_LETTERS": "true", "STOCKHOOK_CONSOLE_USERS": USERS}
    await stack.started_apart()
    return stack


class Users:
    """A signed-in client per user of one console."""

    def __init__(self, clients: dict[str, httpx.AsyncClient]) -> None:
        self.clients = clients

    def __getattr__(self, name: str) -> httpx.AsyncClient:
        return self.clients[name]


@asynccontextmanager
async def signed_in(stack: Stack, *names: str, **settings: str) -> AsyncIterator[Users]:
    async with console(stack, STOCKHOOK_CONSOLE_USERS=USERS, **settings) as (url, _), AsyncExitStack() as own:
        clients = {name: await own.enter_async_context(browser(url)) for name in names}
        for name, client in clients.items():
            await sign_in(client, name)
        yield Users(clients)


async def letters(stack: Stack, number: int) -> list[int]:
    """The ids of the archived letters, once there are this many."""

    async def archived() -> list[int]:
        rows = await stack.fetch("SELECT dead_letter_id FROM dead_letters ORDER BY dead_letter_id")
        ids = [row["dead_letter_id"] for row in rows]
        return ids if len(ids) == number else []

    ids: list[int] = await until(archived, f"{number} letters are archived")
    return ids


async def audit(stack: Stack) -> list[tuple[str, str, str]]:
    rows = await stack.fetch("SELECT action, who, reason FROM dead_letter_audit ORDER BY audit_id")
    return [(row["action"], row["who"], row["reason"]) for row in rows]


async def shown(client: httpx.AsyncClient, number: int) -> dict[str, Any]:
    answer = await client.get(f"/dead-letters/{number}.json")
    assert answer.status_code == 200, answer.text
    letter: dict[str, Any] = answer.json()
    return letter


async def act(client: httpx.AsyncClient, number: int, what: str, **form: str) -> httpx.Response:
    """Send a form of the letter's page; follows to the page with the notice."""
    path = f"/dead-letters/{number}"
    token = token_in((await client.get("/overview")).text)
    form = {"token": token, "back": path, **form}
    return await client.post(f"{path}/{what}", data=form, headers=SAME_ORIGIN, follow_redirects=True)


def text_field(page: str) -> str:
    """The text of the editor, as a browser reads it."""
    content = re.search(r"<textarea[^>]*>\n?(.*?)</textarea>", page, re.DOTALL)
    assert content is not None, page
    return html.unescape(content[1])


def hidden_field(page: str, name: str) -> str:
    value = re.search(rf'name="{name}"[^>]* value="([^"]*)"', page)
    assert value is not None, page
    return value[1]


async def test_customer_data_is_on_no_page_without_a_recorded_reason(archiving: Stack) -> None:
    await archiving.post_buyback(_buyback("Canary, yesterday"))
    await letters(archiving, 1)
    await archiving.post_buyback(_buyback()[:-1] + b",}")
    ids = await letters(archiving, 2)
    async with signed_in(archiving, "rita", "anna", "vera") as by:
        pages = [
            await client.get(path)
            for client in (by.rita, by.anna)
            for number in ids
            for path in (
                f"/dead-letters/{number}",
                f"/dead-letters/{number}.json",
                f"/dead-letters/{number}/dry-run",
                f"/dead-letters/{number}/dry-run.json",
            )
        ]
        async with by.anna.stream("GET", f"/dead-letters/{ids[0]}?live=1") as stream:
            region = await anext(stream.aiter_text())
        refused = [
            await act(by.rita, ids[0], "reveal", reason="curious"),
            await act(by.rita, ids[0], "edit", reason="curious"),
            await act(by.vera, ids[0], "reveal", reason=" "),
            await act(by.vera, ids[0], "edit/check", reason="x", text="{}", body_hash="0"),
        ]
        before = await audit(archiving)
        revealed = [await act(by.vera, number, "reveal", reason="a\0 complaint") for number in ids]
        got = await by.vera.get(f"/dead-letters/{ids[0]}/reveal")
        history = (await shown(by.rita, ids[0]))["history"]

    for answer in (*pages, *refused, *revealed):
        assert answer.headers["cache-control"] == "no-store"
    for text in (*(answer.text for answer in (*pages, *refused)), region):
        assert not [canary for canary in CANARIES if canary in text]
    assert all(answer.status_code == 200 for answer in pages)
    assert ORDER["id"] in pages[0].text
    assert "came back" not in region
    assert [answer.status_code for answer in refused] == [403, 403, 200, 200]
    assert "give a reason" in refused[2].text
    assert "Open the editor first" in refused[3].text
    assert before == []
    for answer in revealed:
        assert "Jane Canary" in html.unescape(answer.text)
        assert BUYBACK_TOKEN not in answer.text
    assert ACCOUNT not in revealed[0].text
    assert got.status_code == 405, "what is revealed has no address"
    assert await audit(archiving) == [("revealed", "vera", "a\\x00 complaint")] * 2
    assert [(action["action"], action["who"]) for action in history] == [("revealed", "vera")]


async def test_what_cannot_be_recorded_is_not_shown(archiving: Stack) -> None:
    await archiving.post_buyback(_buyback("Canary, yesterday"))
    [number] = await letters(archiving, 1)
    await archiving.execute("ALTER TABLE dead_letter_audit ADD CONSTRAINT full_disk CHECK (false) NOT VALID")
    try:
        async with signed_in(archiving, "vera") as by:
            answers = [await act(by.vera, number, what, reason="x") for what in ("reveal", "edit")]
    finally:
        await archiving.execute("ALTER TABLE dead_letter_audit DROP CONSTRAINT full_disk")

    for answer in answers:
        assert answer.status_code == 503
        assert not [canary for canary in CANARIES if canary in html.unescape(answer.text)]


async def test_a_page_has_what_the_command_shows(archiving: Stack) -> None:
    await archiving.post_ovoko(INVALID)
    [number] = await letters(archiving, 1)
    command = json.loads(archiving.run("dead", "show", str(number), "--json").stdout)
    async with signed_in(archiving, "rita") as by:
        letter = await shown(by.rita, number)
        page = (await by.rita.get(f"/dead-letters/{number}")).text

    repair = command.pop("repair")
    assert letter["repair"] == repair
    assert {name: letter[name] for name in command} == command
    assert [moment["what"] for moment in letter["timeline"]] == [
        "received by the ingest",
        "attempt 1 failed",
        "stored as a dead letter",
    ]
    for text in (letter["reason"], letter["fingerprint"], letter["headers"]["x-event-id"], "order.created"):
        assert text in html.unescape(page)


async def test_an_operator_repairs_and_replays_a_letter(archiving: Stack) -> None:
    await archiving.post_ovoko(BROKEN)
    [number] = await letters(archiving, 1)
    async with signed_in(archiving, "rita", "olga", "vera") as by:
        page = (await by.rita.get(f"/dead-letters/{number}")).text
        refused = [await act(client, number, "repair") for client in (by.rita, by.vera)]
        repaired = await act(by.olga, number, "repair")
        again = await act(by.olga, number, "repair")
        letter = await shown(by.olga, number)
        dry_run = (await by.rita.get(f"/dead-letters/{number}/dry-run.json")).json()
        refused += [await act(client, number, "replay", reason="r") for client in (by.rita, by.vera)]
        without_reason = await act(by.olga, number, "replay")
        replayed = await act(by.olga, number, "replay", reason="the comma is gone")

        async def is_applied() -> bool:
            return (await shown(by.rita, number))["looks"] == "applied"

        await until(is_applied, "the page shows that the event is applied")
        gone = (await by.rita.get(f"/dead-letters/{number}/dry-run")).text
        too_late = await act(by.olga, number, "replay", reason="again")

    assert "a comma is taken out" in page
    assert "<del>" in page
    assert [answer.status_code for answer in refused] == [403] * 4
    assert f"Dead letter {number} was repaired." in repaired.text
    assert "No repair is known" in again.text
    assert (letter["is_changed"], letter["repair"], letter["repair_diff"]) == (True, [], None)
    assert "a comma is taken out" not in letter["body"]
    assert "(with the proposed repair)" in letter["original_body"]
    assert dry_run["would_be"] == "applied"
    assert "give a reason" in without_reason.text
    assert f"Dead letter {number} was replayed." in replayed.text
    assert "it cannot be replayed" in gone
    assert "its state allows no replay" in too_late.text
    assert await archiving.count("orders") == 1
    noted = await audit(archiving)
    assert [(action, who) for action, who, _ in noted] == [("repaired", "olga"), ("replayed", "olga")]
    assert noted[1][2] == "the comma is gone"


async def test_a_letter_that_fails_again_comes_back_with_connections_both_ways(archiving: Stack) -> None:
    await archiving.post_ovoko(INVALID)
    [number] = await letters(archiving, 1)
    async with signed_in(archiving, "olga") as by:
        dry_run = (await by.olga.get(f"/dead-letters/{number}/dry-run")).text
        await act(by.olga, number, "replay", reason="again")
        _, came_back = await letters(archiving, 2)
        pages = [(await by.olga.get(f"/dead-letters/{each}")).text for each in (number, came_back)]
        states = [await shown(by.olga, each) for each in (number, came_back)]

    assert "invalid: " in dry_run
    assert [letter["looks"] for letter in states] == ["back", "waiting"]
    assert f'href="/dead-letters/{came_back}"' in pages[0]
    assert f'href="/dead-letters/{number}"' in pages[1]


async def test_a_replay_waits_for_no_other(archiving: Stack) -> None:
    await archiving.post_ovoko(INVALID)
    [number] = await letters(archiving, 1)
    other = await asyncpg.connect(archiving.environment["STOCKHOOK_DATABASE_URL"])
    await other.fetch(TRY_LOCK, AdvisoryLock.REPLAY)
    async with signed_in(archiving, "olga") as by:
        answer = await act(by.olga, number, "replay", reason="now")
        letter = await shown(by.olga, number)
    await other.close()

    assert "another replay is running" in answer.text
    assert letter["state"] == "waiting"
    assert await audit(archiving) == []


async def test_an_edit_is_checked_compared_and_stored_beside_the_original(archiving: Stack) -> None:
    await archiving.post_ovoko(INVALID.replace(b", ", b",\n"))
    [number] = await letters(archiving, 1)
    [stored] = await archiving.fetch("SELECT body FROM dead_letters")
    async with signed_in(archiving, "rita", "olga", "vera") as by:
        refused = [await act(client, number, "edit", reason="x") for client in (by.rita, by.olga)]
        opened = await act(by.vera, number, "edit", reason="the id is missing")
        form = {
            "body_hash": hidden_field(opened.text, "body_hash"),
            "reason": hidden_field(opened.text, "reason"),
        }
        text = text_field(opened.text).replace("\n", "\r\n")
        unchanged = [
            await act(by.vera, number, what, **form, text=text) for what in ("edit/check", "edit/save")
        ]
        untouched = await archiving.fetch("SELECT body FROM dead_letters WHERE original_body IS NULL")
        broken = '{"event_type": "order.created", "</textarea>'
        faults = [
            await act(by.vera, number, what, **form, text=broken) for what in ("edit/check", "edit/save")
        ]
        valid = text.replace("{}", '"7"')
        assert valid != text
        checked = await act(by.vera, number, "edit/check", **form, text=valid)
        without_reason = await act(by.vera, number, "edit/save", **form | {"reason": ""}, text=valid)
        saved = await act(by.vera, number, "edit/save", **form, text=valid)
        late = await act(by.vera, number, "edit/save", **form, text=valid.replace('"7"', '"8"'))
        letter = await shown(by.rita, number)
        dry_run = (await by.rita.get(f"/dead-letters/{number}/dry-run.json")).json()

    [row] = await archiving.fetch("SELECT body, original_body FROM dead_letters")
    assert [answer.status_code for answer in refused] == [403, 403]
    assert opened.headers["cache-control"] == "no-store"
    assert text_field(opened.text).encode() == stored["body"]
    assert all("Nothing was changed" in answer.text for answer in unchanged)
    assert untouched == [stored]
    for answer in faults:
        assert "Not stored: " in answer.text
        assert text_field(answer.text) == broken
        assert "<del>" in answer.text
    assert "It fits its schema, as the event order.created about 7." in checked.text
    assert '<ins>+     "order_id": "7"</ins>' in html.unescape(checked.text)
    assert text_field(checked.text).replace("\r\n", "\n") == valid.replace("\r\n", "\n")
    assert "give a reason" in without_reason.text
    assert f"Dead letter {number} was edited." in saved.text
    assert "the letter was changed in the meantime" in late.text
    assert '"8"' in text_field(late.text)
    assert row["body"] == stored["body"].replace(b"{}", b'"7"')
    assert row["original_body"] == stored["body"]
    assert (letter["is_changed"], letter["entity_id"]) == (True, "7")
    assert dry_run["would_be"] == "applied"
    assert await audit(archiving) == [
        ("revealed", "vera", "to edit it: the id is missing"),
        ("edited", "vera", "the id is missing"),
    ]


async def test_a_discarded_letter_takes_no_more_changes(archiving: Stack) -> None:
    await archiving.post_ovoko(BROKEN)
    [number] = await letters(archiving, 1)
    async with signed_in(archiving, "rita", "vera", "anna") as by:
        opened = await act(by.anna, number, "edit", reason="x")
        form = {"body_hash": hidden_field(opened.text, "body_hash"), "text": "{}", "reason": "x"}
        refused = [await act(client, number, "discard", reason="x") for client in (by.rita, by.vera)]
        without_reason = await act(by.anna, number, "discard")
        discarded = await act(by.anna, number, "discard", reason="a test")
        late = {
            what: (await act(by.anna, number, what, **form)).text
            for what in ("discard", "repair", "replay", "edit", "edit/check", "edit/save")
        }
        letter = await shown(by.rita, number)

    assert [answer.status_code for answer in refused] == [403, 403]
    assert "give a reason" in without_reason.text
    assert f"Dead letter {number} was discarded." in discarded.text
    assert "it no longer waits" in late["discard"]
    assert "its state allows no replay" in late["replay"]
    for what in ("repair", "edit", "edit/check", "edit/save"):
        assert "it is discarded, no longer waiting" in late[what], what
    assert text_field(late["edit/save"]) == "{}", "the text is not lost"
    assert letter["looks"] == "discarded"
    assert [(action, who) for action, who, _ in await audit(archiving)] == [
        ("revealed", "anna"),
        ("discarded", "anna"),
    ]


async def test_a_read_only_console_changes_and_reveals_nothing(archiving: Stack) -> None:
    await archiving.post_ovoko(BROKEN)
    [number] = await letters(archiving, 1)
    async with signed_in(archiving, "anna", STOCKHOOK_CONSOLE_READ_ONLY="true") as by:
        answers = {
            what: (await act(by.anna, number, what, reason="x", text="{}", body_hash="0")).status_code
            for what in ("repair", "replay", "discard", "reveal", "edit", "edit/check", "edit/save")
        }
        page = (await by.anna.get(f"/dead-letters/{number}")).text
        dry_run = await by.anna.get(f"/dead-letters/{number}/dry-run")

    assert set(answers.values()) == {403}
    assert "The console is read-only." in page
    assert dry_run.status_code == 200
    assert await audit(archiving) == []
    assert (await archiving.fetch("SELECT state FROM dead_letters"))[0]["state"] == "waiting"


async def test_a_letter_that_is_gone_is_a_page_that_says_so(stack: Stack) -> None:
    async with signed_in(stack, "anna") as by:
        answers = [
            await by.anna.get(f"/dead-letters/{number}{suffix}")
            for number in ("999999999", "0", "x", "9" * 400, "%00")
            for suffix in ("", ".json", "/dry-run")
        ]
        acted = await act(by.anna, 999_999_999, "discard", reason="x")

    assert {answer.status_code for answer in answers} == {404}
    assert "There is no dead letter 999999999." in answers[0].text
    assert acted.status_code == 404, "its page is gone, too"
    assert "There is no dead letter 999999999." in acted.text
