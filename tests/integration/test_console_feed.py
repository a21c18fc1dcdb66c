"""The console's screens of changes and actions, as a process, with real subscribers, queues and tables."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import standardwebhooks

from tests.e2e.test_changes import has_died, status_change
from tests.support.console import browser, console, sign_in, token_in, users
from tests.support.endpoint import endpoint
from tests.support.stack import Stack, Worker, until
from tests.support.subscribers import SECRET, Subscribe, subscribing

SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}
USERS = users(anna="operator", rita="reader")


@pytest.fixture
async def subscribe(stack: Stack) -> AsyncIterator[Subscribe]:
    async with subscribing(stack) as configure:
        yield configure


@asynccontextmanager
async def _signed_in(stack: Stack, *workers: Worker, **settings: str) -> AsyncIterator[httpx.AsyncClient]:
    """Anna's browser, and a console that reads the ops ports of these processes."""
    ops = ",".join(f"http://127.0.0.1:{worker.ops_port}" for worker in workers)
    given = {"STOCKHOOK_CONSOLE_USERS": USERS, "STOCKHOOK_CONSOLE_OPS_URLS": ops, **settings}
    # The console needs no secret of a subscriber.
    async with (
        console(stack, STOCKHOOK_CHANGES_WEBHOOKS="[]", **given) as (url, _),
        browser(url) as client,
    ):
        await sign_in(client)
        yield client


async def _post(client: httpx.AsyncClient, page: str, path: str, **form: str) -> httpx.Response:
    """Send a form of a page, and return the page that follows it."""
    shown = await client.get(page)
    form = {"token": token_in(shown.text), "back": page, **form}
    answer = await client.post(path, data=form, headers=SAME_ORIGIN)
    return answer if answer.status_code != 303 else await client.get(answer.headers["location"])


def _shows(
    client: httpx.AsyncClient, what: Callable[[dict[str, Any]], object]
) -> Callable[[], Awaitable[object]]:
    """Whether this is true of the screen of changes."""

    async def condition() -> object:
        answer = await client.get("/changes.json")
        assert answer.status_code == 200, answer.text
        return what(answer.json())

    return condition


def _inventory(view: dict[str, Any]) -> dict[str, Any]:
    families: list[dict[str, Any]] = view["families"]
    return next(one for one in families if one["family"] == "inventory")


def _shop(view: dict[str, Any]) -> dict[str, Any]:
    return next(one for one in view["subscribers"] if one["name"] == "shop")


async def _audit(stack: Stack) -> list[tuple[str, str, str, str | None]]:
    rows = await stack.fetch("SELECT who, action, subject, reason FROM operator_audit ORDER BY audit_id")
    return [(row["who"], row["action"], row["subject"], row["reason"]) for row in rows]


async def test_changes_that_the_relay_cannot_publish_are_shown_until_it_can(stack: Stack) -> None:
    await stack.started("ingest")
    dying = stack.start("consume", "inventory", STOCKHOOK_CRASH_AT="change_taken")
    await stack.post_ovoko(status_change(1, "13", "sold"))
    await until(lambda: has_died(dying), "the relay dies before it publishes")
    async with _signed_in(stack, dying) as client:
        await until(_shows(client, lambda view: _inventory(view)["waiting"] == 1), "one waits")
        waiting = (await client.get("/changes.json")).json()
        page = await client.get("/changes")
        await stack.started("consume", "inventory")
        await until(_shows(client, lambda view: _inventory(view)["published"] == 1), "it is published")
        after = (await client.get("/changes.json")).json()

    silent = f"127.0.0.1:{dying.ops_port}"
    assert (_inventory(waiting)["committed"], _inventory(waiting)["published"]) == (1, 0)
    assert _inventory(waiting)["oldest_seconds"] > 0
    assert waiting["silent"] == [silent]
    assert f"No answer from {silent}" in page.text
    assert (_inventory(after)["waiting"], _inventory(after)["oldest_seconds"]) == (0, None)


async def test_a_test_event_reaches_one_subscriber_signed_and_is_no_change(
    stack: Stack, subscribe: Subscribe
) -> None:
    async with endpoint() as shop, endpoint() as desk:
        subscribe(("shop", shop.url), ("desk", desk.url))
        consumers = await stack.started("consume", "inventory")
        async with _signed_in(stack, consumers) as client:
            await until(_shows(client, lambda view: _shop(view)["state"] == "healthy"), "it is ready")
            done = await _post(client, "/changes", "/changes/shop/test", reason="a new key")
            await until(
                _shows(client, lambda view: _shop(view)["posts"]["delivered"] == 1), "it is delivered"
            )
            view = (await client.get("/changes.json")).json()
            page = await client.get("/changes")
            unknown = await _post(client, "/changes", "/changes/shopp/test")
        by_command = stack.run("changes", "test", "shop", "--reason", "again", "--json")
        await until(lambda: _have_arrived(shop.requests, 2), "that of the command arrives")
        refused = stack.run("changes", "test", "shopp")

    first, second = shop.requests
    event = json.loads(first.body)
    standardwebhooks.Webhook(SECRET).verify(first.body, first.headers)
    assert desk.requests == []
    assert (event["type"], event["id"]) == ("stockhook.test", first.headers["webhook-id"])
    assert event["id"] in done.text
    assert "sequence" not in event
    assert await stack.count("change_counts") == await stack.count("changes") == 0
    assert [(one["status"], one["answers"]) for one in _shop(view)["posts"]["answers"]] == [("204", 1)]
    assert _shop(view)["posts"]["attempts"] == 1
    assert "204: 1" in page.text
    assert "there is no subscriber shopp, but desk, shop" in unknown.text
    assert (by_command.returncode, json.loads(by_command.stdout)["webhook_id"]) == (
        0,
        second.headers["webhook-id"],
    )
    assert refused.returncode == 1
    assert "there is no subscriber shopp" in refused.stderr
    trail = await _audit(stack)
    assert trail[0] == ("anna", "webhook.test_sent", "shop", "a new key")
    assert [one[1:] for one in trail[1:]] == [("webhook.test_sent", "shop", "again")]


async def _have_arrived(requests: list[Any], number: int) -> bool:
    return len(requests) >= number


async def test_a_test_event_that_fails_is_retried_and_becomes_a_dead_letter(
    stack: Stack, subscribe: Subscribe
) -> None:
    stack.environment["STOCKHOOK_KEEP_DEAD_LETTERS"] = "true"
    async with endpoint(lambda _: 503) as shop:
        subscribe(("shop", shop.url))
        consumers = await stack.started("consume", "inventory")
        assert stack.run("changes", "test", "shop").returncode == 0
        async with _signed_in(stack, consumers) as client:
            await until(_shows(client, lambda view: _shop(view)["dead"] == 1), "it is dead", 40)
            view = (await client.get("/changes.json")).json()
            page = await client.get("/changes")

    posts = _shop(view)["posts"]
    assert (posts["attempts"], posts["delivered"], posts["last"]["status"]) == (4, 0, "503")
    assert len({request.headers["webhook-id"] for request in shop.requests}) == 1
    assert 'href="/dead-letters?origin=webhook.shop"' in page.text


async def test_an_open_circuit_breaker_is_shown_until_the_endpoint_answers(
    stack: Stack, subscribe: Subscribe
) -> None:
    async with endpoint(lambda _: 500) as shop:
        subscribe(("shop", shop.url))
        await stack.started("ingest")
        consumers = await stack.started("consume", "inventory")
        for number in range(10):
            await stack.post_ovoko(status_change(number, f"p{number}", "sold"))
        async with _signed_in(stack, consumers) as client:
            await until(_shows(client, lambda view: _shop(view)["state"] == "circuit open"), "it opens", 40)
            page = await client.get("/changes")
            shop.behaviour = lambda _: 204
            await until(_shows(client, lambda view: _shop(view)["state"] == "healthy"), "it closes", 60)

    assert "Its endpoint failed repeatedly." in page.text


async def test_a_reader_and_a_read_only_console_send_no_test_event(
    stack: Stack, subscribe: Subscribe
) -> None:
    async with endpoint() as shop:
        subscribe(("shop", shop.url))
        await stack.started("consume", "inventory")
        async with _signed_in(stack, STOCKHOOK_CONSOLE_READ_ONLY="true") as client:
            read_only = await _post(client, "/changes", "/changes/shop/test")
        async with _signed_in(stack) as client:
            await client.post(
                "/sign-out",
                data={"token": token_in((await client.get("/changes")).text)},
                headers=SAME_ORIGIN,
            )
            await sign_in(client, "rita")
            reader = await _post(client, "/changes", "/changes/shop/test")

    assert (read_only.status_code, reader.status_code) == (403, 403)
    assert shop.requests == []
    assert await _audit(stack) == []


INSERT = """
INSERT INTO actions
    (action_id, kind, key, subject, request, is_encrypted, state, outcome, attempts, finished_at)
SELECT $1::uuid, 'buyback.rerequest_pickup', $1::uuid::text, 'o1', $2, $3, $4,
    '{"reason": "it answered 409"}', 2, now()
"""


async def _insert(stack: Stack, state: str, *, request: bytes = b'{"a": 1}', encrypted: bool = False) -> UUID:
    action_id = uuid4()
    await stack.fetch(INSERT, action_id, request, encrypted, state)
    return action_id


async def _row(stack: Stack, action_id: UUID) -> tuple[str, Any]:
    (row,) = await stack.fetch("SELECT state, outcome FROM actions WHERE action_id = $1", action_id)
    return row["state"], row["outcome"] and json.loads(row["outcome"])


async def test_the_search_leads_to_an_action_by_its_id_and_its_traces_are_links(stack: Stack) -> None:
    action_id, untraced = await _insert(stack, "failed"), await _insert(stack, "failed")
    own, cause = "a" * 32, "b" * 32
    await stack.fetch(
        "UPDATE actions SET published_traceparent = $2, traceparent = $3 WHERE action_id = $1",
        action_id,
        *(f"00-{trace_id}-{'1' * 16}-01" for trace_id in (own, cause)),
    )
    async with _signed_in(stack, STOCKHOOK_TRACE_URL="https://traces.example/{trace_id}") as client:
        answer = await client.get("/search", params={"q": str(action_id)})
        page = (await client.get(f"/actions/{action_id}")).text
        other = (await client.get(f"/actions/{untraced}")).text

    assert answer.headers["location"] == f"/actions/{action_id}"
    for name, trace_id in (("Trace id", own), ("Origin trace id", cause)):
        assert f"<dt>{name}</dt>" in page
        assert f'<a href="https://traces.example/{trace_id}" rel="noreferrer">' in page
    assert "race id" not in other


async def test_actions_are_retried_and_closed_with_the_users_name(stack: Stack) -> None:
    failed, unknown, closed, done = [
        await _insert(stack, state) for state in ("failed", "unknown", "refused", "done")
    ]
    async with _signed_in(stack) as client:
        retried = await _post(client, f"/actions/{failed}", f"/actions/{failed}/retry", reason="again")
        warned = await _post(client, f"/actions/{unknown}", f"/actions/{unknown}/retry")
        before = await _row(stack, unknown)
        await _post(client, f"/actions/{unknown}", f"/actions/{unknown}/retry", may_repeat="yes")
        no_reason = await _post(client, f"/actions/{closed}", f"/actions/{closed}/close", reason=" ")
        open_ = await _row(stack, closed)
        await _post(client, f"/actions/{closed}", f"/actions/{closed}/close", reason="by phone")
        over = await _post(client, f"/actions/{done}", f"/actions/{done}/retry")
        gone = await _post(client, "/actions", f"/actions/{uuid4()}/close", reason="x")

    assert "The action is due again." in retried.text
    assert await _row(stack, failed) == ("due", {"retried_by": "anna", "reason": "again"})
    assert "it may be executed twice: nothing was changed" in warned.text
    assert before[0] == "unknown"
    assert await _row(stack, unknown) == ("due", {"retried_by": "anna"})
    assert "give a reason" in no_reason.text
    assert open_[0] == "refused"
    assert await _row(stack, closed) == ("done", {"closed_by": "anna", "reason": "by phone"})
    assert "It is done: nothing was changed." in over.text
    assert "There is no action" in gone.text
    assert await _audit(stack) == [
        ("anna", "action.retried", str(failed), "again"),
        ("anna", "action.retried", str(unknown), None),
        ("anna", "action.closed", str(closed), "by phone"),
    ]


async def test_the_commands_leave_the_same_record(stack: Stack) -> None:
    failed, unknown = await _insert(stack, "failed"), await _insert(stack, "unknown")
    retried = stack.run("actions", "retry", str(unknown), "--reason", "again", "--json")
    closed = stack.run("actions", "close", str(failed), "--reason", "by phone")
    again = stack.run("actions", "close", str(failed), "--reason", "by phone")
    gone = stack.run("actions", "retry", str(uuid4()))

    assert (retried.returncode, closed.returncode) == (0, 0), retried.stderr + closed.stderr
    assert json.loads(retried.stdout) == {"action_id": str(unknown), "state": "due"}
    assert (again.returncode, gone.returncode) == (1, 1)
    assert "it is done: nothing was changed" in again.stderr
    trail = await _audit(stack)
    assert [one[1:] for one in trail] == [
        ("action.retried", str(unknown), "again"),
        ("action.closed", str(failed), "by phone"),
    ]
    assert {one[0] for one in trail} == {(await _row(stack, failed))[1]["closed_by"]}


async def test_an_encrypted_request_is_not_shown(stack: Stack) -> None:
    encrypted = await _insert(stack, "failed", request=b"canary-token", encrypted=True)
    plain = await _insert(stack, "failed", request=b'{"slots": [1]}')
    async with _signed_in(stack) as client:
        texts = [(await client.get(f"/actions/{encrypted}{suffix}")).text for suffix in ("", ".json")]
        shown = (await client.get(f"/actions/{plain}.json")).json()
        missing = await client.get(f"/actions/{uuid4()}")

    assert not any("canary" in text for text in texts)
    assert shown["action"]["request"] == {"slots": [1]}
    assert (shown["action"]["attempts"], shown["action"]["outcome"]) == (2, {"reason": "it answered 409"})
    assert missing.status_code == 404


async def test_a_reader_and_a_read_only_console_change_no_action(stack: Stack) -> None:
    failed = await _insert(stack, "failed")
    paths = [f"/actions/{failed}/{change}" for change in ("retry", "close")]
    async with _signed_in(stack, STOCKHOOK_CONSOLE_READ_ONLY="true") as client:
        statuses = [(await _post(client, "/actions", path, reason="x")).status_code for path in paths]
    async with _signed_in(stack, STOCKHOOK_CONSOLE_USERS=users(anna="reader")) as client:
        statuses += [(await _post(client, "/actions", path, reason="x")).status_code for path in paths]

    assert statuses == [403] * 4
    assert (await _row(stack, failed))[0] == "failed"
    assert await _audit(stack) == []


# Several have the same instant, as the actions of one batch do.
MANY = """
INSERT INTO actions (kind, key, subject, request, state, created_at)
SELECT 'ovoko.part_details', 'key ' || number, 's' || number % 7, '{}',
    (ARRAY['due', 'doing', 'unknown', 'refused', 'failed', 'done'])[1 + number % 6],
    now() - (number / 10) * interval '1 s'
FROM generate_series(1, 130) AS number
"""
OLD = """
INSERT INTO actions (kind, key, subject, request, state, created_at)
VALUES ('buyback.dropoff_request', 'old', 's', '{}', 'done', now() - interval '1 day');
INSERT INTO actions (kind, key, subject, request, state)
SELECT 'ovoko.part_details', 'key ' || number, 's', '{}', 'done' FROM generate_series(1, 2500) AS number
"""


async def _walked(client: httpx.AsyncClient, path: str) -> list[list[dict[str, Any]]]:
    """The actions of all pages."""
    pages = []
    following: str | None = path
    while following is not None:
        answer = await client.get(following.replace("/actions", "/actions.json", 1))
        assert answer.status_code == 200, answer.text
        view = answer.json()
        pages.append(view["actions"])
        following = view["next_path"]
    return pages


async def test_the_pages_of_a_list_have_each_action_once(stack: Stack) -> None:
    await stack.execute(MANY)
    async with _signed_in(stack) as client:
        everything = await _walked(client, "/actions")
        failed = await _walked(client, "/actions?state=failed&kind=ovoko.part_details")
        subject = await _walked(client, "/actions?subject=s3&state=due")
        nothing = await client.get("/actions?subject=nowhere")
        misplaced = await client.get(f"/actions?after={uuid4()}")
        unreadable = await client.get("/actions?after=x")
        counts = (await client.get("/actions.json")).json()["counts"]

    assert [len(page) for page in everything] == [50, 50, 30]
    keys = [one["key"] for page in everything for one in page]
    assert len(set(keys)) == 130
    instants = [one["created_at"] for page in everything for one in page]
    assert instants == sorted(instants, reverse=True)
    assert {one["state"] for page in failed for one in page} == {"failed"}
    assert sum(map(len, failed)) == next(one["actions"] for one in counts if one["state"] == "failed")
    expected = [number for number in range(1, 131) if number % 7 == 3 and number % 6 == 0]
    assert sorted(one["key"] for page in subject for one in page) == sorted(f"key {n}" for n in expected)
    assert "No action matches." in nothing.text
    assert (misplaced.status_code, unreadable.status_code) == (400, 400)
    assert "there is no such action" in misplaced.text


async def test_a_search_by_kind_is_bounded_and_says_so(stack: Stack) -> None:
    await stack.execute(OLD)
    async with _signed_in(stack) as client:
        pages = await _walked(client, "/actions?kind=buyback.dropoff_request")
        page = await client.get("/actions?kind=buyback.dropoff_request")
        counts = (await client.get("/actions.json")).json()["counts"]

    assert [[one["key"] for one in page] for page in pages] == [[], ["old"]]
    assert "The next page searches older ones." in page.text
    done = next(one for one in counts if one["state"] == "done")
    assert (done["actions"], done["is_more"]) == (1000, True)
