"""`stockhook dead` against real dead letters: list, show, repair, edit, discard, replay."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from schemas import examples
from schemas.registry import Provider
from tests.e2e.test_dead_letters import ARCHIVING, BROKEN, WITHOUT_TYPE, archived_letters, put
from tests.e2e.test_retry_schedule import POISON
from tests.support.events import sold
from tests.support.fault_sql import REMOVE_FAULT
from tests.support.stack import BUYBACK_TOKEN, Stack, until
from worker.amqp.channel import Message
from worker.amqp.topology import QUARANTINE, RETURN
from worker.intake.intake import accept_again
from worker.postgres.locks import TRY_LOCK, AdvisoryLock

ACCOUNT = "GB33BUKB20201555555555"
CANARIES = ("Canary", "canary@example.org", "5550199", "Canary Road", ACCOUNT)
ORDER_ID = "0d2f6a0e-5f5c-4c54-9c8a-3a1f0f3f7a11"


def buyback_event(**result: Any) -> bytes:
    """A documented event with recognizable data of a customer."""
    customer = {
        "firstName": "Jane Canary",
        "lastName": "Canary",
        "email": "canary@example.org",
        "telephoneNumber": {"countryCode": "+44", "number": "5550199"},
        "address": {"firstLine": "1 Canary Road", "city": "Canary", "country": "GB"},
        "customerPaymentDetails": {"bankAccount": {"accountNumber": ACCOUNT, "accountName": "Jane Canary"}},
    }
    order = {"id": ORDER_ID, "status": "Created", "customerInformation": customer, "items": []}
    content = {"timestamp": "2026-03-01T12:00:00Z", "order": order, **result}
    return json.dumps({"type": "OrderCreatedEvent", "token": BUYBACK_TOKEN, "result": content}).encode()


def dead(stack: Stack, *arguments: str, **overrides: str) -> subprocess.CompletedProcess[str]:
    return stack.run("dead", *arguments, **overrides)


def output_of(stack: Stack, *arguments: str) -> Any:
    result = dead(stack, *arguments, "--json")
    assert result.stdout, result.stderr
    return json.loads(result.stdout)


def editor(folder: Path, old: str, new: str) -> str:
    script = folder / "editor"
    script.write_text(f'#!/bin/sh\nsed -i "s/{old}/{new}/" "$1"\n')
    script.chmod(0o700)
    return str(script)


@pytest.fixture
async def archiving(stack: Stack) -> Stack:
    stack.environment |= ARCHIVING
    await stack.started_apart()
    return stack


@pytest.fixture
async def poisoned(archiving: Stack) -> Any:
    await archiving.execute(POISON)
    yield archiving
    archiving.close()
    await archiving.execute(REMOVE_FAULT)


async def test_dead_letters_are_listed_by_filter_and_by_group(archiving: Stack) -> None:
    for number in (b"1", b"2"):
        await archiving.post_ovoko(BROKEN.replace(b'"7"', b'"%s"' % number))
    await archiving.post_ovoko(WITHOUT_TYPE)
    await archived_letters(archiving, 3)
    groups = output_of(archiving, "list", "--group")
    fingerprint = groups[0]["fingerprint"]

    def entities(*arguments: str) -> set[str]:
        return {letter["entity_id"] for letter in output_of(archiving, "list", *arguments)}

    assert [(group["letters"], group["origin"]) for group in groups] == [(2, "orders"), (1, "quarantine")]
    assert entities() == {"1", "2", "8"}
    assert entities("--origin", "quarantine") == {"8"}
    assert entities("--fingerprint", fingerprint) == entities("--type", "order.created") == {"1", "2"}
    assert entities("--reason", "NO event") == entities("--entity", "8") == {"8"}
    assert entities("--since", "1h") == {"1", "2", "8"}
    assert entities("--until", "1h") == entities("--state", "discarded") == set()
    table = dead(archiving, "list", COLUMNS="80").stdout
    for text in ("3 of 3", f"fingerprint {fingerprint}", "order.created 1", "orders, attempt "):
        assert text in table
    assert "Jane" not in table
    assert "\N{HORIZONTAL ELLIPSIS}" not in table
    assert dead(archiving, "list", "--origin", "invoices").returncode == 2
    assert dead(archiving, "list", "--since", "yesterday").returncode == 2
    assert dead(archiving, "list", "--since", "999999d").returncode == 2
    assert dead(archiving, "show", "999999999").returncode == 1


async def test_customer_data_is_shown_only_with_reveal_which_is_recorded(archiving: Stack) -> None:
    await archiving.post_buyback(buyback_event(timestamp="Canary, yesterday"))
    # Two queues: without this, either could be archived first.
    await archived_letters(archiving, 1)
    await archiving.post_buyback(buyback_event()[:-1] + b",}")
    await archived_letters(archiving, 2)
    letters = [str(letter["dead_letter_id"]) for letter in output_of(archiving, "list")]
    hidden = [
        dead(archiving, "show", *options, letter) for letter in letters for options in ((), ("--json",))
    ]
    hidden += [dead(archiving, "list"), dead(archiving, "repair", letters[1])]
    before = await archiving.count("dead_letter_audit")
    revealed = [dead(archiving, "show", letter, "--reveal") for letter in letters]
    noted = await archiving.fetch("SELECT action, who FROM dead_letter_audit")

    for output in hidden:
        assert output.returncode == 0
        assert not [canary for canary in CANARIES if canary in output.stdout + output.stderr]
    assert ORDER_ID in hidden[0].stdout
    assert "Jane Canary" in revealed[0].stdout
    assert "Jane Canary" in revealed[1].stdout
    assert ACCOUNT not in revealed[0].stdout
    assert "dead_letter.revealed" in revealed[0].stderr
    assert "Canary" not in revealed[0].stderr + revealed[1].stderr
    assert before == 0
    assert [row["action"] for row in noted] == ["revealed", "revealed"]
    assert all("@" in row["who"] for row in noted)


@pytest.mark.parametrize("end", [b"}", b",}"], ids=["JSON", "no JSON"])
async def test_a_terminal_takes_no_orders_from_a_body_that_is_revealed(archiving: Stack, end: bytes) -> None:
    """DEL and the characters 0x80 to 0x9f are commands too, and JSON need not escape them."""
    order = "\x1b]0;a\x07 \x9b2J \x7f \u202e"
    hostile = json.dumps({"event_type": None, "note": f"{order}é"}, ensure_ascii=False).encode()
    await archiving.post_ovoko(hostile[:-1] + end)
    [row] = await archived_letters(archiving, 1)
    shown = dead(archiving, "show", str(row["dead_letter_id"]), "--reveal")

    assert shown.returncode == 0, shown.stderr
    assert "é" in shown.stdout
    assert not [character for character in shown.stdout if not character.isprintable() and character != "\n"]


async def test_text_that_does_not_look_like_an_id_is_not_listed_after_a_repair(archiving: Stack) -> None:
    body = BROKEN.replace(b'"7"', b'"Jane Canary\x7f"').replace(
        b"yesterday, by Jane Canary", b"2026-03-01T12:00:00Z"
    )
    await archiving.post_ovoko(body[:-1] + b",}")
    [row] = await archived_letters(archiving, 1)
    accepted = dead(archiving, "repair", str(row["dead_letter_id"]), "--accept")
    [listed] = output_of(archiving, "list")

    assert accepted.returncode == 0, accepted.stderr
    assert (listed["type"], listed["entity_id"]) == ("order.created", None)


async def test_each_example_broken_in_print_is_repaired_replayed_and_then_known(archiving: Stack) -> None:
    for example in examples.as_printed():
        await archiving.post(example.provider, example.body)
    await archived_letters(archiving, 4)
    ids = [str(letter["dead_letter_id"]) for letter in output_of(archiving, "list")]
    early = output_of(archiving, "replay", "--all")
    proposed = [dead(archiving, "repair", number) for number in ids]
    accepted = [dead(archiving, "repair", number, "--accept") for number in ids]
    predicted = output_of(archiving, "replay", "--all", "--dry-run")
    replayed = output_of(archiving, "replay", "--all")
    logged = await archiving.fetch("SELECT type, body FROM event_log")
    rows = await archiving.fetch("SELECT state, body, original_body FROM dead_letters")
    # A repeat of the marketplace, now well formed, was already applied.
    for example in examples.documented():
        if any(example.name == other.name for other in examples.as_printed()):
            await archiving.post(example.provider, example.body)

    async def all_seen() -> bool:
        rows = await archiving.fetch("SELECT sum(duplicates)::int AS seen FROM event_sequences")
        return bool(rows[0]["seen"] == 4)

    assert (early["replayed"], len(early["not_replayed"])) == (0, 4)
    assert all("line" in result.stdout and result.returncode == 0 for result in proposed)
    assert all(result.stdout.endswith("repaired\n") for result in accepted)
    assert {row["would_be"] for row in predicted} <= {
        "applied",
        "older: it would be logged and change no row",
    }
    assert (replayed["replayed"], replayed["applied"], replayed["came_back"]) == (4, 4, 0)
    assert len(logged) == 4
    assert {row["state"] for row in rows} == {"replayed"}
    assert all(row["original_body"] not in (None, row["body"]) for row in rows)
    assert not [row for row in rows if b'accountNumber"' in row["body"]]
    await until(all_seen, "each is a duplicate")
    assert await archiving.count("event_log") == 4


async def test_an_edited_letter_is_checked_stored_beside_the_original_and_applied(archiving: Stack) -> None:
    event_id = (await archiving.post_ovoko(BROKEN)).json()["event_id"]
    [row] = await archived_letters(archiving, 1)
    number = str(row["dead_letter_id"])
    still_broken = dead(archiving, "edit", number, EDITOR=editor(archiving.folder, "yesterday", "today"))
    other_family = dead(
        archiving, "edit", number, EDITOR=editor(archiving.folder, "order.created", "order.return.created")
    )
    untouched = dead(archiving, "edit", number, EDITOR="true")
    failing = dead(archiving, "edit", number, EDITOR="false")
    none = dead(archiving, "edit", number, EDITOR="", VISUAL="")
    half_quoted = dead(archiving, "edit", number, EDITOR="'vi", VISUAL="")
    [unchanged] = await archiving.fetch("SELECT body, original_body FROM dead_letters")
    right = editor(archiving.folder, "yesterday, by Jane Canary", "2026-03-01T12:00:00Z")
    edited = dead(archiving, "edit", number, "--reason", "corrected by the shop", EDITOR=right)
    replayed = output_of(archiving, "replay", number, "--why", "repaired")
    [after] = await archiving.fetch("SELECT state, original_body FROM dead_letters")
    orders = await archiving.fetch("SELECT order_id, status FROM orders")
    logged = await archiving.fetch("SELECT event_id::text FROM event_log")
    shown = output_of(archiving, "show", number)
    audited = json.loads(archiving.run("audit", "--json").stdout)

    assert still_broken.returncode == other_family.returncode == failing.returncode == 1
    assert "timestamp" in still_broken.stderr
    assert "Jane" not in still_broken.stderr
    assert none.returncode == half_quoted.returncode == 2
    assert "nothing was changed" in untouched.stdout
    assert (unchanged["body"], unchanged["original_body"]) == (BROKEN, None)
    assert edited.returncode == 0
    assert replayed["applied"] == 1
    assert (after["state"], after["original_body"]) == ("replayed", BROKEN)
    assert orders == [{"order_id": "7", "status": "created"}]
    assert logged == [{"event_id": event_id}]
    actions = [(row["action"], row["reason"]) for row in shown["history"] if row["action"] != "revealed"]
    assert actions == [("edited", "corrected by the shop"), ("replayed", "repaired")]
    assert [(account["dead"], account["applied"]) for account in audited["accounts"]] == [(0, 1)]


async def test_bank_details_are_encrypted_again_when_a_letter_is_edited(archiving: Stack) -> None:
    await archiving.post_buyback(buyback_event()[:-1] + b", oops")
    [row] = await archived_letters(archiving, 1)
    number = str(row["dead_letter_id"])
    edited = dead(archiving, "edit", number, EDITOR=editor(archiving.folder, ", oops", "}"))
    replayed = output_of(archiving, "replay", number)
    [changed] = await archiving.fetch("SELECT body FROM dead_letters")
    [order] = await archiving.fetch(
        "SELECT payment_details_encrypted, account_number_ending FROM buyback_orders"
    )

    assert edited.returncode == 0, edited.stderr
    assert replayed["applied"] == 1
    assert ACCOUNT.encode() not in changed["body"]
    assert b"customerPaymentDetails" in changed["body"]
    assert order["payment_details_encrypted"] is not None
    assert order["account_number_ending"] == ACCOUNT[-4:]


OBSERVED = sold("13", 1).replace(b"part.status.changed", b"stockhook.observed.part")
REFUSED = "reserved event type: no marketplace can send what only Stockhook publishes"


async def test_an_observation_that_a_sender_sent_is_never_applied_by_a_replay(archiving: Stack) -> None:
    """Unchanged, edited or repaired; or from an older release, whose messages lack the provenance."""
    await archiving.post_ovoko(OBSERVED)
    await archiving.post_ovoko(OBSERVED.replace(b"}}", b"},}"))
    # It has its own id, because the same event in the quarantine would be the same letter.
    older = OBSERVED.replace(b"-000000000001", b"-000000000002")
    old = accept_again(Provider.OVOKO, older, datetime.now(UTC), None).message
    headers = {name: value for name, value in old.headers.items() if name != "x-provenance"}
    await put(archiving, Message(QUARANTINE, "", old.type, headers, older))
    rows = await archived_letters(archiving, 3)
    numbers = [str(row["dead_letter_id"]) for row in rows]
    [broken] = [str(row["dead_letter_id"]) for row in rows if b",}" in row["body"]]  # type: ignore[operator]
    repaired = dead(archiving, "repair", broken, "--accept")
    others = [number for number in numbers if number != broken]
    edited = [
        dead(archiving, "edit", number, EDITOR=editor(archiving.folder, "13", "14")) for number in others
    ]
    predicted = output_of(archiving, "replay", *others, "--dry-run")
    replayed = dead(archiving, "replay", *others)

    assert {row["provenance"] for row in rows} == {"webhook"}
    for refused in (repaired, *edited):
        assert refused.returncode == 1
        assert refused.stderr.splitlines()[-1] == f"stockhook: nothing was changed: {REFUSED}"
    assert {row["would_be"] for row in predicted} == {f"cannot be replayed: {REFUSED}"}
    assert replayed.returncode == 1
    assert replayed.stdout.count(f"was not replayed: {REFUSED}") == 2
    assert await archiving.count("parts") == await archiving.count("event_log") == 0


async def test_a_senders_message_cannot_be_edited_into_an_observation(archiving: Stack) -> None:
    """A waiting one of a release that allowed such an edit is not applied either."""
    await archiving.post_ovoko(sold("13", 1).replace(b"2026-03-01T12:00:00+00:00", b"yesterday"))
    [row] = await archived_letters(archiving, 1)
    number = str(row["dead_letter_id"])
    script = archiving.folder / "editor"
    script.write_text(
        """#!/bin/sh\nsed -i 's/yesterday/2026-03-01T12:00:00Z/; """
        """s/part.status.changed/stockhook.observed.part/' "$1"\n"""
    )
    script.chmod(0o700)
    edited = dead(archiving, "edit", number, EDITOR=str(script))
    await archiving.execute(
        "UPDATE dead_letters SET original_body = body, type = 'stockhook.observed.part', "
        f"body = convert_to('{OBSERVED.decode()}', 'UTF8')"
    )
    replayed = dead(archiving, "replay", number)

    assert row["origin"] == "inventory"
    assert edited.returncode == 1
    assert edited.stderr.splitlines()[-1] == f"stockhook: nothing was changed: {REFUSED}"
    assert replayed.returncode == 1
    assert REFUSED in replayed.stdout
    assert await archiving.count("parts") == 0


async def test_a_discarded_letter_is_no_longer_waiting_but_still_stored(archiving: Stack) -> None:
    await archiving.post_ovoko(WITHOUT_TYPE)
    [row] = await archived_letters(archiving, 1)
    number = str(row["dead_letter_id"])
    without_reason = dead(archiving, "discard", number)
    discarded = dead(archiving, "discard", number, "--reason", "no such thing")
    again = dead(archiving, "discard", number, "--reason", "twice")
    replayed = output_of(archiving, "replay", number)

    assert without_reason.returncode != 0
    assert discarded.returncode == 0
    assert again.returncode == 1
    assert replayed["selected"] == 0
    assert output_of(archiving, "list") == []
    [letter] = output_of(archiving, "list", "--state", "discarded")
    assert output_of(archiving, "show", number)["history"][0]["reason"] == "no such thing"
    assert letter["state"] == "discarded"


async def test_a_permanently_failed_event_is_applied_once_its_cause_is_gone(poisoned: Stack) -> None:
    await poisoned.post_ovoko(sold("poison", 1))
    [row] = await archived_letters(poisoned, 1, seconds=40)
    number = str(row["dead_letter_id"])
    [would_fail] = output_of(poisoned, "replay", number, "--dry-run")
    await poisoned.execute(REMOVE_FAULT)
    replayed = output_of(poisoned, "replay", "--fingerprint", str(row["fingerprint"]))
    parts = await poisoned.fetch("SELECT part_id, status FROM parts")

    assert (row["exception"], row["attempts"]) == ("RaiseError", 4)
    assert "customer@example.com" not in str(row["reason"])
    # The database refuses it only when it is written.
    assert would_fail["would_be"] == "applied"
    assert replayed["applied"] == 1
    assert parts == [{"part_id": "poison", "status": "sold"}]


async def test_a_dry_run_distinguishes_older_duplicate_and_invalid_and_writes_nothing(
    archiving: Stack,
) -> None:
    newest = sold("9", 1).replace(b"2026-03-01", b"2026-03-02")
    older, duplicate = sold("9", 2), newest
    envelopes: list[Message] = []
    await archiving.post_ovoko(newest)

    async def applied() -> bool:
        return await archiving.count("event_log") == 1

    await until(applied, "it is applied")
    for body, number in ((older, 2), (duplicate, 1)):
        envelopes.append(dead_message(body, number))
    await put(archiving, *envelopes)
    await archiving.post_ovoko(BROKEN)
    await archived_letters(archiving, 3)
    dry_run = output_of(archiving, "replay", "--all", "--dry-run")
    outcomes = sorted(row["would_be"].split(":")[0] for row in dry_run)

    assert outcomes == ["duplicate", "invalid", "older"]
    assert await archiving.count("event_log") == 1
    assert {letter["state"] for letter in output_of(archiving, "list")} == {"waiting"}


def dead_message(body: bytes, number: int) -> Message:
    """A message in the form in which a consumer dead-letters it."""
    taken = accept_again(Provider.OVOKO, body, datetime.now(UTC), None)
    headers = {**taken.message.headers, "x-attempt": 4, "x-reason": f"exhausted: Test #0000000{number}"}
    return Message(RETURN, "stockhook.inventory.dead", taken.message.type, headers, body)


async def test_a_replay_stops_by_itself_when_most_of_it_fails_again(archiving: Stack) -> None:
    for number in range(60):
        await archiving.post_ovoko(BROKEN.replace(b'"7"', b'"%d"' % number))
    await archived_letters(archiving, 60)
    result = dead(archiving, "replay", "--all", "--rate", "20", "--json")
    tally = json.loads(result.stdout)

    assert result.returncode == 1
    assert "most letters fail again" in result.stderr
    assert 5 <= tally["came_back"] <= tally["replayed"] < 60
    came_back = await archiving.fetch("SELECT replay_of FROM dead_letters WHERE replay_of IS NOT NULL")
    assert len(came_back) >= 5


@pytest.mark.parametrize("point", ["replay_started", "replay_published"])
async def test_a_killed_replay_continues_and_applies_each_letter_once(archiving: Stack, point: str) -> None:
    messages = [dead_message(sold(f"part-{number}", number), number) for number in range(30)]
    await put(archiving, *messages)
    await archived_letters(archiving, 30)
    died = dead(archiving, "replay", "--all", "--rate", "50", STOCKHOOK_CRASH_AT=f"{point}:2")
    states = await archiving.fetch("SELECT state, count(*)::int AS letters FROM dead_letters GROUP BY state")
    resumed = output_of(archiving, "replay", "--all")
    applied = await archiving.fetch("SELECT sum(applied)::int AS applied FROM event_sequences")

    assert died.returncode == -9
    assert {row["state"]: row["letters"] for row in states} == {
        "replayed": 10,
        "replaying": 10,
        "waiting": 10,
    }
    assert (resumed["selected"], resumed["applied"], resumed["came_back"]) == (20, 20, 0)
    assert await archiving.count("event_log") == await archiving.count("parts") == 30
    assert applied[0]["applied"] in (None, 30)
    assert output_of(archiving, "list", "--state", "any", "--origin", "inventory")[0]["state"] == "replayed"


async def test_an_event_that_is_dead_twice_comes_back_twice(archiving: Stack) -> None:
    for _ in range(2):
        await archiving.post_ovoko(BROKEN)
    await archived_letters(archiving, 2)
    result = dead(archiving, "replay", "--all", "--json")
    tally = json.loads(result.stdout)

    assert (tally["replayed"], tally["came_back"], tally["under_way"]) == (2, 2, 0)
    assert tally["stopped"] is None


async def test_a_letter_that_returned_before_does_not_count_against_a_resumed_replay(poisoned: Stack) -> None:
    """The replay died after all was published; the events failed again, and then the cause was repaired."""
    await put(poisoned, dead_message(sold("poison", 1), 1))
    await archived_letters(poisoned, 1)
    died = dead(poisoned, "replay", "--all", STOCKHOOK_CRASH_AT="replay_published")
    await archived_letters(poisoned, 2, seconds=40)
    await poisoned.execute(REMOVE_FAULT)
    resumed = output_of(poisoned, "replay", "--all")

    assert died.returncode == -9
    assert (resumed["selected"], resumed["applied"], resumed["came_back"]) == (2, 2, 0)


async def test_two_replays_never_run_at_once(stack: Stack) -> None:
    other = await asyncpg.connect(stack.environment["STOCKHOOK_DATABASE_URL"])
    await other.fetch(TRY_LOCK, AdvisoryLock.REPLAY)
    refused = dead(stack, "replay", "--all")
    await other.close()
    allowed = dead(stack, "replay", "--all")

    assert refused.returncode == 1
    assert "another replay is running" in refused.stderr
    assert allowed.returncode == 0


async def test_a_replay_requires_a_selection(stack: Stack) -> None:
    assert dead(stack, "replay").returncode == 2
    assert dead(stack, "replay", "--all", "--rate", "0").returncode == 2
    assert dead(stack, "replay", "--all", STOCKHOOK_AMQP_URL="amqp://127.0.0.1:1/").returncode == 69
