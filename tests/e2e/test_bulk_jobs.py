"""Replay and discard of many dead letters in the console: progress, cancel, resume, killed processes."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest

from deploy.local.services import Services
from tests.e2e.test_dead_commands import dead_message
from tests.e2e.test_dead_letters import ARCHIVING, BROKEN, WITHOUT_TYPE, archived_letters, put
from tests.support.bulk_jobs import SAME_ORIGIN, ended, hidden, job, start
from tests.support.console import browser, console, sign_in, token_in, users
from tests.support.events import sold
from tests.support.stack import Stack, until
from worker.dead_letters.audit_trail import who
from worker.postgres.locks import TRY_LOCK, AdvisoryLock

USERS = {"STOCKHOOK_CONSOLE_USERS": users(anna="operator", berta="operator", rita="reader")}

AUDIT = "SELECT dead_letter_id, who, action, reason FROM dead_letter_audit ORDER BY audit_id"
JOBS_AUDIT = "SELECT who, action, subject, reason FROM operator_audit ORDER BY audit_id"


@pytest.fixture
async def archiving(stack: Stack) -> Stack:
    stack.environment |= ARCHIVING
    await stack.started("consume")
    return stack


@asynccontextmanager
async def signed_in(
    stack: Stack, name: str = "anna", **settings: str
) -> AsyncIterator[tuple[httpx.AsyncClient, Any]]:
    async with console(stack, **{**USERS, **settings}) as (url, worker), browser(url) as client:
        await sign_in(client, name)
        yield client, worker


async def sold_parts(stack: Stack, number: int) -> list[int]:
    """Dead letters whose events can be applied now; their ids."""
    await put(stack, *(dead_message(sold(f"part-{one}", one), one) for one in range(number)))
    rows = await archived_letters(stack, number)
    return [int(str(row["dead_letter_id"])) for row in rows]


async def broken_orders(stack: Stack, number: int) -> None:
    """Dead letters whose events fail again."""
    await stack.started("ingest")
    for one in range(number):
        await stack.post_ovoko(BROKEN.replace(b'"7"', b'"%d"' % one))
    await archived_letters(stack, number)


async def post(client: httpx.AsyncClient, path: str, **form: str) -> httpx.Response:
    token = token_in((await client.get("/overview")).text)
    return await client.post(path, data={"token": token, **form}, headers=SAME_ORIGIN)


async def when_replayed(client: httpx.AsyncClient, job_id: int, letters: int) -> None:
    async def has() -> bool:
        return bool((await job(client, job_id))["tally"]["replayed"] >= letters)

    await until(has, f"{letters} letters are replayed")


async def check_each_once(stack: Stack, number: int) -> None:
    """Each letter is replayed once by the audit, and its event is applied once."""

    async def applied() -> bool:
        return await stack.count("event_log") == number and not await stack.depths()

    await until(applied, f"{number} events are applied")
    audit = await stack.fetch(AUDIT)
    states = await stack.fetch("SELECT state FROM dead_letters")

    assert len(audit) == len({row["dead_letter_id"] for row in audit}) == number
    assert {row["action"] for row in audit} == {"replayed"}
    assert await stack.count("parts") == number
    assert {row["state"] for row in states} == {"replayed"}
    assert len(states) == number, "none came back"


async def test_letters_are_shown_in_groups_and_by_filter(archiving: Stack) -> None:
    await archiving.started("ingest")
    for one in (b"1", b"2"):
        await archiving.post_ovoko(BROKEN.replace(b'"7"', b'"%s"' % one))
    await archiving.post_ovoko(WITHOUT_TYPE)
    await archived_letters(archiving, 3)
    async with signed_in(archiving) as (client, _):
        groups = (await client.get("/dead-letters.json")).json()
        page = await client.get("/dead-letters")
        fingerprint = groups["groups"][0]["fingerprint"]
        family = await client.get("/families/orders")

        async def entities(**query: str) -> list[str]:
            shown = (await client.get("/dead-letters.json", params=query)).json()
            assert shown["fault"] is None
            assert shown["matched"] == len(shown["letters"])
            return sorted(letter["entity_id"] for letter in shown["letters"])

        assert await entities(view="list") == ["1", "2", "8"]
        assert await entities(origin="quarantine") == ["8"]
        assert await entities(fingerprint=fingerprint, origin="orders") == ["1", "2"]
        assert await entities(reason="NO event") == await entities(entity="8") == ["8"]
        assert await entities(since="1h") == await entities(state="any") == ["1", "2", "8"]
        assert await entities(until="1h") == await entities(state="discarded") == []
        lines = await client.get("/dead-letters", params={"view": "list"})
        after = (await client.get("/dead-letters.json", params={"after": "1", "view": "list"})).json()
        nothing = await client.get("/dead-letters", params={"entity": "none"})

    assert groups["shown"] == "groups"
    assert [(one["letters"], one["origin"]) for one in groups["groups"]] == [
        (2, "orders"),
        (1, "quarantine"),
    ]
    assert f"/dead-letters?origin=orders&amp;fingerprint={fingerprint}" in family.text
    assert fingerprint in page.text
    assert f'href="/dead-letters/{after["letters"][0]["dead_letter_id"]}"' in lines.text
    assert "No dead letter matches" in nothing.text
    assert "Jane" not in lines.text + page.text


async def test_the_list_has_pages_by_key(archiving: Stack) -> None:
    ids = await sold_parts(archiving, 120)
    pages: list[int] = []
    async with signed_in(archiving) as (client, _):
        path: str | None = "/dead-letters.json?view=list"
        while path:
            shown = (await client.get(path)).json()
            pages += [letter["dead_letter_id"] for letter in shown["letters"]]
            assert shown["matched"] == 120
            path = shown["next_after"] and f"/dead-letters.json?view=list&after={shown['next_after']}"
        everything = await client.get("/jobs/new?origin=inventory")
        waiting = await client.get("/dead-letters?state=waiting&view=list")
        replayed = await client.get("/dead-letters?state=any&view=list")
        some = (await client.get(f"/jobs/new.json?letter-{ids[0]}=1&letter-{ids[7]}=1")).json()
        none = await client.get("/jobs/new")

    assert pages == ids
    assert "Replay or discard 120 dead letters" in everything.text, "not only the first page"
    assert some["letters"] == 2
    assert 'href="/jobs/new?all=1"' in waiting.text
    assert "/jobs/new" not in replayed.text
    assert none.status_code == 404
    assert "No dead letters were chosen" in none.text


async def test_a_dry_run_counts_outcomes_and_changes_nothing(archiving: Stack) -> None:
    await archiving.started("ingest")
    ids = await sold_parts(archiving, 60)
    await archiving.post_ovoko(WITHOUT_TYPE)
    await archived_letters(archiving, 61)
    async with signed_in(archiving) as (client, _):
        tried = await ended(client, number := await start(client, "dry-run", "all=1"))
        page = await client.get(f"/jobs/{number}")
        following = await client.get(f"/jobs/new?job={number}")
        states = await archiving.fetch("SELECT DISTINCT state FROM dead_letters")

    (applied, refused) = tried["outcomes"]
    assert (applied["outcome"], applied["letters"], applied["examples"]) == ("applied", 60, ids[:20])
    assert refused["letters"] == 1
    assert refused["outcome"].startswith("cannot be replayed: ")
    assert tried["line"]["percent"] == 100
    assert f"/jobs/new?job={number}" in page.text
    assert "and 40 more" in following.text
    assert "Start the replay of 61 dead letters" in following.text
    assert [row["state"] for row in states] == ["waiting"]
    assert await archiving.count("event_log") == await archiving.count("dead_letter_audit") == 0


async def test_a_group_is_replayed_in_the_name_of_the_user(archiving: Stack) -> None:
    await sold_parts(archiving, 30)
    async with signed_in(archiving) as (client, _):
        group = (await client.get("/dead-letters.json")).json()["groups"][0]
        query = f"origin=inventory&reason=exhausted&type={group['types'][0]}"
        done = await ended(client, number := await start(client, "replay", query))
        page = await client.get(f"/jobs/{number}")
        jobs = await client.get("/jobs")
    audit = await archiving.fetch(AUDIT)

    await check_each_once(archiving, 30)
    assert done["line"]["state"] == "done"
    assert done["tally"] == {
        "replayed": 30,
        "applied": 30,
        "handed_on": 0,
        "came_back": 0,
        "not_replayed": 0,
        "under_way": 0,
    }
    assert {(row["who"], row["reason"]) for row in audit} == {("anna", f"job {number}: a test")}
    assert [tuple(row.values()) for row in await archiving.fetch(JOBS_AUDIT)] == [
        ("anna", "job.started", f"job {number}", "replay: a test")
    ]
    assert "30 of 30 letters" in page.text
    assert f'href="/jobs/{number}"' in jobs.text


async def test_letters_are_discarded_in_the_name_of_the_user(archiving: Stack) -> None:
    ids = await sold_parts(archiving, 30)
    async with signed_in(archiving) as (client, _):
        some = f"letter-{ids[0]}=1&letter-{ids[1]}=1"
        done = await ended(client, await start(client, "discard", some))
        await ended(client, await start(client, "discard", "origin=inventory"))
        nothing = await client.get("/jobs/new?origin=inventory")
    audit = await archiving.fetch(AUDIT)

    assert done["tally"] == {"discarded": 2}
    assert [row["dead_letter_id"] for row in audit] == ids
    assert {(row["who"], row["action"]) for row in audit} == {("anna", "discarded")}
    assert "No dead letter that waits matches" in nothing.text


async def test_letters_that_arrive_after_the_confirmation_are_not_taken(archiving: Stack) -> None:
    await sold_parts(archiving, 5)
    async with signed_in(archiving) as (client, _):
        page = (await client.get("/jobs/new?origin=inventory")).text
        await put(archiving, dead_message(sold("late", 9), 9))
        await archived_letters(archiving, 6)
        number = await start(client, "discard", "origin=inventory", last_id=hidden(page, "last_id"))
        done = await ended(client, number)

    assert done["tally"] == {"discarded": 5}


async def test_a_job_is_cancelled_within_a_second_and_resumed(archiving: Stack) -> None:
    await sold_parts(archiving, 30)
    async with signed_in(archiving) as (client, _):
        number = await start(client, "replay", "origin=inventory", rate="2")
        await when_replayed(client, number, 2)
        assert (await post(client, f"/jobs/{number}/cancel")).status_code == 303
        cancelled = await ended(client, number, seconds=2)
        again = await post(client, f"/jobs/{number}/cancel")
        refusal = await client.get(again.headers["location"])
        waiting = await archiving.fetch("SELECT FROM dead_letters WHERE state = 'waiting'")
        await archiving.execute("UPDATE bulk_jobs SET rate = 1000")
        await sign_in(client, "berta")
        assert (await post(client, f"/jobs/{number}/resume")).status_code == 303
        done = await ended(client, number)

    assert cancelled["line"]["state"] == "cancelled"
    assert 20 < len(waiting) <= 28
    assert f"Job {number} is cancelled already." in refusal.text
    assert (done["line"]["state"], done["tally"]["applied"], done["resumed_by"]) == ("done", 30, "berta")
    await check_each_once(archiving, 30)
    assert [tuple(row.values())[:3] for row in await archiving.fetch(JOBS_AUDIT)] == [
        ("anna", "job.started", f"job {number}"),
        ("anna", "job.cancelled", f"job {number}"),
        ("berta", "job.resumed", f"job {number}"),
    ]
    assert {row["who"] for row in await archiving.fetch(AUDIT)} == {"anna", "berta"}


async def test_a_replay_stops_when_most_letters_fail_again_and_takes_none_of_them_twice(
    archiving: Stack,
) -> None:
    await broken_orders(archiving, 60)
    async with signed_in(archiving) as (client, _):
        number = await start(client, "replay", "origin=orders", rate="20")
        stopped = await ended(client, number)
        page = await client.get(f"/jobs/{number}")
        await post(client, f"/jobs/{number}/resume")
        again = await ended(client, number)
    taken = await archiving.fetch(
        "SELECT max(dead_letter_id) AS last, count(*) AS letters, count(DISTINCT dead_letter_id) AS ids "
        "FROM dead_letter_audit"
    )

    assert (stopped["line"]["state"], stopped["note"]) == ("stopped", "most letters fail again")
    assert 5 <= stopped["tally"]["came_back"] <= stopped["tally"]["replayed"] < 60
    assert len(stopped["returned"]) == stopped["tally"]["came_back"]
    assert "most letters fail again" in page.text
    assert again["line"]["state"] == "stopped"
    assert again["tally"]["replayed"] > stopped["tally"]["replayed"]
    assert taken[0]["letters"] == taken[0]["ids"] == again["tally"]["replayed"]
    assert taken[0]["last"] <= stopped["last_id"]


async def test_letters_that_come_back_during_a_run_are_not_taken_again(archiving: Stack) -> None:
    """Their arrival may be earlier than the start by the clock of the database."""
    await archiving.execute(
        "CREATE FUNCTION set_back() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.arrived_at := NEW.arrived_at - interval '2 s'; RETURN NEW; END $$"
    )
    await archiving.execute(
        "CREATE TRIGGER set_back BEFORE INSERT ON dead_letters FOR EACH ROW EXECUTE FUNCTION set_back()"
    )
    try:
        await broken_orders(archiving, 4)
        replayed = archiving.run("dead", "replay", "--all", "--rate", "5", "--json")
    finally:
        await archiving.execute("DROP FUNCTION set_back CASCADE")
    audit = await archiving.fetch(AUDIT)

    assert replayed.stdout, replayed.stderr
    assert len(audit) == 4


@pytest.mark.parametrize("point", ["replay_started", "replay_published"])
async def test_a_killed_console_leaves_a_replay_that_the_next_one_finishes(
    archiving: Stack, point: str
) -> None:
    await sold_parts(archiving, 30)
    dying = console(archiving, **USERS, STOCKHOOK_CRASH_AT=f"{point}:2")
    url, worker = await dying.__aenter__()
    async with browser(url) as client:
        await sign_in(client)
        number = await start(client, "replay", "origin=inventory", rate="50")
        await asyncio.to_thread(worker.wait, 20)
    states = await archiving.fetch("SELECT state, count(*)::int AS letters FROM dead_letters GROUP BY state")
    async with signed_in(archiving) as (client, _):
        done = await ended(client, number)

    assert worker.process.poll() == -9
    assert {row["state"]: row["letters"] for row in states} == {
        "replayed": 10,
        "replaying": 10,
        "waiting": 10,
    }
    assert (done["line"]["state"], done["starts"], done["line"]["total"]) == ("done", 2, 30)
    assert (done["tally"]["replayed"], done["tally"]["applied"]) == (30, 30)
    await check_each_once(archiving, 30)


async def test_a_killed_console_leaves_a_discard_that_another_one_finishes(archiving: Stack) -> None:
    await sold_parts(archiving, 30)
    dying = console(archiving, **USERS, STOCKHOOK_CRASH_AT="letters_discarded")
    url, worker = await dying.__aenter__()
    async with browser(url) as client:
        await sign_in(client)
        number = await start(client, "discard", "origin=inventory")
        await asyncio.to_thread(worker.wait, 20)
    async with signed_in(archiving) as (client, _):
        done = await ended(client, number)

    assert (done["line"]["state"], done["tally"]) == ("done", {"discarded": 30})
    assert len(await archiving.fetch(AUDIT)) == 30


async def test_a_job_of_a_process_that_ended_continues_after_the_letters_that_it_handled(
    archiving: Stack,
) -> None:
    """As the row says, not as the letters do: the first ones still wait here."""
    ids = await sold_parts(archiving, 30)

    async def left(kind: str, position: int, tally: dict[str, Any]) -> Any:
        await archiving.execute(
            "INSERT INTO bulk_jobs (kind, selection, last_id, matched, rate, who, reason, state, total, "
            "position, tally, starts, started_at) "
            f"VALUES ('{kind}', '{{}}', {ids[-1]}, 30, 1000, 'anna', 'a test', 'running', 30, {position}, "
            f"'{json.dumps(tally)}', 1, now())"
        )
        [row] = await archiving.fetch("SELECT max(job_id) AS number FROM bulk_jobs")
        return await ended(client, row["number"])

    async with signed_in(archiving) as (client, _):
        outcomes = {"applied": {"letters": 10, "examples": ids[:10]}}
        tried = await left("dry_run", ids[9], {"outcomes": outcomes})
        replayed = await left("replay", ids[19], {"replayed": 20, "applied": 20})
        discarded = await left("discard", ids[9], {"discarded": 10})
    audit = await archiving.fetch(AUDIT)

    assert [one["starts"] for one in (tried, replayed, discarded)] == [2, 2, 2]
    assert tried["tally"] == {"handled": 30}
    assert (replayed["tally"]["replayed"], replayed["tally"]["applied"]) == (30, 30)
    assert discarded["tally"] == {"discarded": 20}
    assert [row["dead_letter_id"] for row in audit if row["action"] == "replayed"] == ids[20:]
    assert [row["dead_letter_id"] for row in audit if row["action"] == "discarded"] == ids[10:20]


async def test_of_two_consoles_one_runs_a_job_and_the_other_takes_it_up_when_it_is_killed(
    archiving: Stack,
) -> None:
    await sold_parts(archiving, 40)
    dying = console(archiving, **USERS)
    url, worker = await dying.__aenter__()
    async with browser(url) as client:
        await sign_in(client)
        number = await start(client, "replay", "origin=inventory", rate="5")
        await when_replayed(client, number, 2)
        async with signed_in(archiving) as (other, _):
            before = await job(other, number)
            worker.kill()
            await archiving.execute("UPDATE bulk_jobs SET rate = 1000")
            done = await ended(other, number)

    assert before["starts"] == 1
    assert (done["line"]["state"], done["starts"], done["tally"]["applied"]) == ("done", 2, 40)
    await check_each_once(archiving, 40)


async def test_a_job_waits_for_the_broker_and_continues(services: Services, archiving: Stack) -> None:
    if services.rabbitmq is None:
        pytest.skip("needs a RabbitMQ of our own")
    await sold_parts(archiving, 30)
    async with signed_in(archiving) as (client, _):
        number = await start(client, "replay", "origin=inventory", rate="5")
        await when_replayed(client, number, 2)
        services.rabbitmq.stop()
        try:

            async def waits() -> bool:
                note = (await job(client, number))["note"]
                return note is not None and "cannot reach the broker" in note

            await until(waits, "the page says why the job waits")
        finally:
            services.rabbitmq.start()
        done = await ended(client, number, seconds=90)

    assert done["line"]["state"] == "done"
    await check_each_once(archiving, 30)


async def test_of_two_users_who_start_the_same_the_second_has_nothing_left(archiving: Stack) -> None:
    await sold_parts(archiving, 30)
    async with console(archiving, **USERS) as (url, _), browser(url) as anna, browser(url) as berta:
        await sign_in(anna)
        await sign_in(berta, "berta")
        first, second = await asyncio.gather(
            *(start(client, "replay", "origin=inventory", rate="20") for client in (anna, berta))
        )
        first, second = sorted((first, second))
        waits = await job(anna, second)
        done, nothing = await ended(anna, first), await ended(berta, second)
        page = await berta.get(f"/jobs/{second}")

    assert (waits["line"]["state"], waits["waits_for"]) == ("queued", first)
    assert done["tally"]["applied"] == 30
    assert (nothing["line"]["state"], nothing["line"]["matched"], nothing["line"]["total"]) == ("done", 30, 0)
    assert "Nothing was left to do" in page.text
    await check_each_once(archiving, 30)


async def test_a_form_that_is_sent_twice_starts_one_job(archiving: Stack) -> None:
    """Otherwise the second one would go on with what a cancel of the first one leaves."""
    await sold_parts(archiving, 30)
    async with signed_in(archiving) as (client, _):
        numbers = await asyncio.gather(
            *(start(client, "replay", "origin=inventory", rate="2") for _ in range(2))
        )
        await when_replayed(client, numbers[0], 1)
        again = await start(client, "replay", "origin=inventory", rate="2")
        await post(client, f"/jobs/{numbers[0]}/cancel")
        await ended(client, numbers[0], seconds=5)
        later = await start(client, "replay", "origin=inventory", rate="1000")
        done = await ended(client, later)

    assert {*numbers, again} == {numbers[0]}
    assert later != numbers[0], "it is over"
    assert 20 < done["line"]["total"] < 30
    assert await archiving.count("bulk_jobs") == 2
    assert len(await archiving.fetch(JOBS_AUDIT)) == 3, "two were started, one was cancelled"
    await check_each_once(archiving, 30)


async def test_a_job_waits_for_a_replay_of_the_command(archiving: Stack) -> None:
    await sold_parts(archiving, 3)
    other = await asyncpg.connect(archiving.environment["STOCKHOOK_DATABASE_URL"])
    await other.fetch(TRY_LOCK, AdvisoryLock.REPLAY)
    async with signed_in(archiving) as (client, _):
        number = await start(client, "replay", "origin=inventory")
        tried = await ended(client, await start(client, "dry-run", "origin=inventory"))
        waits = await job(client, number)
        await other.close()
        done = await ended(client, number)

    assert tried["line"]["state"] == "done", "a dry run waits for no replay"
    assert (waits["line"]["state"], done["line"]["state"]) == ("queued", "done")


async def test_a_reader_and_a_read_only_console_start_nothing(archiving: Stack) -> None:
    await sold_parts(archiving, 3)
    async with signed_in(archiving, "rita") as (client, _):
        page = (await client.get("/jobs/new?origin=inventory")).text
        form = {"selection": hidden(page, "selection"), "last_id": hidden(page, "last_id"), "reason": "x"}
        refused = [
            (await post(client, path, rate="1", **form)).status_code
            for path in ("/jobs/dry-run", "/jobs/replay", "/jobs/discard", "/jobs/1/cancel", "/jobs/1/resume")
        ]
    async with signed_in(archiving, STOCKHOOK_CONSOLE_READ_ONLY="true") as (client, _):
        read_only = await post(client, "/jobs/discard", **form)

    assert "This needs the role operator." in page
    assert set(refused) == {403}
    assert read_only.status_code == 403
    assert await archiving.count("bulk_jobs") == await archiving.count("dead_letter_audit") == 0


async def test_the_command_discards_in_the_name_of_the_user_of_the_system(archiving: Stack) -> None:
    ids = await sold_parts(archiving, 2)
    archiving.run("dead", "discard", str(ids[0]), "--reason", "a test")
    (row,) = await archiving.fetch(AUDIT)

    assert tuple(row.values()) == (ids[0], who(), "discarded", "a test")


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("origin=painters", "Origin must be one of "),
        ("reason=a%00b", r"Reason contains must be printable text"),
        (f"entity={'x' * 10_000}", "Entity must be printable text of at most 300 characters"),
        ("since=yesterday&until=2026", "Arrived since must be a time such as "),
        ("state=lost", "State must be one of "),
        ("view=list&after=x", "The id after which the page begins must be a number"),
        ("view=list&after=99999999999999999999", "The id after which the page begins must be a number"),
        ("view=table", "The view must be groups or list."),
    ],
)
async def test_a_malformed_filter_gets_a_sentence(stack: Stack, query: str, sentence: str) -> None:
    async with signed_in(stack) as (client, _):
        page = await client.get(f"/dead-letters?{query}")
        data = await client.get(f"/dead-letters.json?{query}")

    assert page.status_code == data.status_code == 200
    assert f'role="alert">{sentence}' in page.text
    assert (data.json()["fault"].startswith(sentence), data.json()["matched"]) == (True, None)


async def test_foreign_text_is_inert(archiving: Stack) -> None:
    await sold_parts(archiving, 1)
    foreign = "<script>alert(1)</script>\u202e&\x1b"
    connection = await asyncpg.connect(archiving.environment["STOCKHOOK_DATABASE_URL"])
    await connection.execute(
        "UPDATE dead_letters SET type = $1, entity_id = $1, reason = $1, fingerprint = $1", foreign
    )
    await connection.close()
    async with signed_in(archiving) as (client, _):
        pages = [await client.get(path) for path in ("/dead-letters", "/dead-letters?view=list")]
        number = await start(client, "discard", "all=1", reason=f"because {foreign}")
        await ended(client, number)
        pages += [await client.get(path) for path in ("/jobs", f"/jobs/{number}", f"/jobs/new?job={number}")]

    for page in pages:
        assert page.status_code == 200
        assert "<script>alert" not in page.text
        assert "\u202e" not in page.text
        assert "\x1b" not in page.text
