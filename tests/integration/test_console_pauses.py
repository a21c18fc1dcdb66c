"""Pausing and resuming a family in the console, with a real database."""

import json

import httpx
import pytest

from tests.support.console import browser, console, sign_in, token_in, users
from tests.support.stack import Stack
from worker.dead_letters.audit_trail import who

AUDIT = "SELECT who, action, subject, reason FROM operator_audit ORDER BY audit_id"
REASON = "repair of the table"


async def _act(client: httpx.AsyncClient, path: str, **form: str) -> str:
    """Send the form of an action; the page on which its answer is."""
    page = await client.get("/families/orders")
    fields = {"token": token_in(page.text), "back": "/families/orders", **form}
    answer = await client.post(path, data=fields, headers={"Sec-Fetch-Site": "same-origin"})
    assert answer.status_code == 303, answer.text
    return (await client.get(answer.headers["location"])).text


async def test_a_pause_in_the_page_has_the_users_name_and_the_page_shows_it_at_once(stack: Stack) -> None:
    async with console(stack) as (url, _), browser(url) as client:
        await sign_in(client)
        before = (await client.get("/families/orders")).text
        paused = await _act(client, "/families/orders/pause", reason=f"  {REASON} \u202e")
        overview = (await client.get("/overview")).text
        resumed = await _act(client, "/families/orders/resume", reason="")
        again = await _act(client, "/families/orders/resume", reason="")
    rows = [tuple(row.values()) for row in await stack.fetch(AUDIT)]

    assert 'action="/families/orders/pause"' in before
    assert "orders is paused by anna since " in paused
    assert 'action="/families/orders/resume"' in paused
    assert "use the button Resume orders above" in paused
    assert 'href="/families/orders#family-acts"' in overview
    assert "orders is resumed. It was paused by anna since " in resumed
    assert 'action="/families/orders/pause"' in resumed
    assert "orders is not paused. Nothing was changed." in again
    assert rows == [
        ("anna", "family.paused", "orders", f"{REASON} \\u202e"),
        ("anna", "family.resumed", "orders", None),
    ]


async def test_a_pause_by_another_operator_stays_and_is_named(stack: Stack) -> None:
    async with console(stack) as (url, _), browser(url) as client:
        await sign_in(client)
        stack.run("pause", "orders", "--reason", REASON)
        refused = await _act(client, "/families/orders/pause", reason="mine")
        status = json.loads(stack.run("status", "--json").stdout)

    (orders,) = [one for one in status["families"] if one["family"] == "orders"]
    assert f"orders is already paused by {who()} since " in refused
    assert f" UTC: {REASON}. Nothing was changed." in refused
    assert orders["paused"]["reason"] == REASON
    assert await stack.count("operator_audit") == 1


@pytest.mark.parametrize(
    ("path", "reason", "sentence"),
    [
        ("/families/orders/pause", " ", "Nothing was done: give a reason"),
        ("/families/orders/pause", "x" * 501, "a reason has 500 characters at most"),
        ("/families/orders/resume", "x" * 501, "a reason has 500 characters at most"),
        ("/families/painters/pause", "x", "There is no family painters."),
        ("/families/painters/resume", "x", "There is no family painters."),
    ],
)
async def test_a_wrong_form_pauses_nothing_and_says_why(
    stack: Stack, path: str, reason: str, sentence: str
) -> None:
    async with console(stack) as (url, _), browser(url) as client:
        await sign_in(client)
        page = await _act(client, path, reason=reason)

    assert sentence in page
    assert await stack.count("operator_audit") == await stack.count("paused_families") == 0


async def test_a_reader_sees_which_role_a_pause_needs(stack: Stack) -> None:
    async with (
        console(stack, STOCKHOOK_CONSOLE_USERS=users(rita="reader")) as (url, _),
        browser(url) as client,
    ):
        await sign_in(client, "rita")
        page = (await client.get("/families/orders")).text
        answer = await client.post(
            "/families/orders/pause",
            data={"token": token_in(page), "reason": REASON},
            headers={"Sec-Fetch-Site": "same-origin"},
        )

    assert "This needs the role operator." in page
    assert 'action="/families/orders/pause"' not in page
    assert answer.status_code == 403
    assert await stack.count("paused_families") == 0
