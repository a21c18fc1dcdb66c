"""Every screen, export and form of the console with malformed parameters: an answer, and no failure."""

from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.support.console import browser, console, sign_in, token_in
from tests.support.events import body, order_created, ovoko
from tests.support.stack import Stack, until
from worker.console.routes import ACTIONS, EXPORTS, SCREENS

MALFORMED = (
    "",
    " ",
    "\0",
    "%",
    ",",
    "-1",
    "1,2",
    "٣",
    "nan",
    "1e9",
    "5e-324",
    "x" * 10_000,
    "9" * 400,
    str(2**63 - 1),
    str(2**63),
    "999999d",
    "0001-01-01T00:00",
    "0001-01-01T00:00+14:00",
    "9999-12-31T23:59:59.999999",
    "9999-12-31T23:59-14:00",
    f"9999-12-31T23:59:59,{2**63 - 1}",
    "99999999999999999-letter-1",
    "0-operator-0",
    "00000000-0000-0000-0000-000000000000",
    "{12345678123456781234567812345678}",
    "\u202e<script>alert(1)</script>",
)

# The parameters that each screen and export reads.
READ = {
    "/overview": ("hours",),
    "/families/orders": ("hours",),
    "/dead-letters": (
        *("view", "after", "origin", "state", "reason", "fingerprint"),
        *("type", "entity", "since", "until", "gateway_id"),
    ),
    "/dead-letters/1": (),
    "/dead-letters/1/dry-run": (),
    "/jobs": ("before",),
    "/jobs/new": ("job", "ids", "all", "origin", "since", "until", "reason", "gateway_id", "entity"),
    "/jobs/1": (),
    "/search": ("q", "before"),
    "/entities/orders/1": ("at", "before"),
    "/changes": (),
    "/actions": ("state", "kind", "subject", "after"),
    "/actions/1": (),
    "/refusals": (),
    "/doctor": (),
    "/asyncapi": (),
    "/asyncapi/changes.json": (),
    "/asyncapi/topology.json": (),
    "/audit-trail": ("who", "action", "subject", "since", "until", "after"),
    "/audit-trail.csv": ("who", "action", "subject", "since", "until"),
}

# The fields that the forms of the actions have.
VALID = {"selection": "entity=none", "last_id": "1", "rate": "1"}
FIELDS = ("reason", "selection", "last_id", "rate", "text", "body_hash", "may_repeat", "back")


def _with_parts(path: str) -> Iterator[str]:
    """A path of the table, with each malformed value as its parts."""
    for value in MALFORMED if "{" in path else ():
        segment = quote(value, safe="")
        yield "/".join(segment if part.startswith("{") else part for part in path.split("/"))


def _example(path: str) -> str:
    examples = {"{family}": "orders"}
    return "/".join(examples.get(part, "1") if part.startswith("{") else part for part in path.split("/"))


def test_every_screen_is_tried() -> None:
    assert set(READ) == {_example(route.path) for route in (*SCREENS, *EXPORTS)}


@pytest.fixture
async def settled(stack: Stack) -> Stack:
    stack.environment["STOCKHOOK_KEEP_DEAD_LETTERS"] = "true"
    await stack.started_apart()
    await stack.post_ovoko(body(order_created("1")))
    await stack.post_ovoko(body(ovoko("order.created", order_id={})))

    async def are_settled() -> bool:
        return await stack.count("orders") == await stack.count("dead_letters") == 1

    await until(are_settled, "one is applied, and one is dead")
    return stack


async def test_malformed_parameters_get_an_answer(settled: Stack) -> None:
    failures = []
    async with console(settled) as (url, _), browser(url) as client:
        await sign_in(client)
        paths = [path for route in SCREENS for path in _with_parts(route.path)]
        for path, names in READ.items():
            assert (await client.get(path)).status_code in (200, 404), path
            paths += [f"{path}?{name}={quote(value)}" for name in names for value in MALFORMED]
        for path in paths:
            answer = await client.get(path)
            if answer.status_code >= 500:
                failures.append((answer.status_code, path[:200]))
            assert "<script>alert" not in answer.text
        token = token_in((await client.get("/overview")).text)
        for action in ACTIONS:
            for field in FIELDS:
                for value in MALFORMED:
                    given = {**VALID, field: value}
                    answer = await client.post(
                        _example(action.path),
                        data={"token": token, **given},
                        headers={"Sec-Fetch-Site": "same-origin"},
                    )
                    if answer.status_code >= 500:
                        failures.append((answer.status_code, f"{action.path} {field}={value[:40]}"))

    assert failures == []
