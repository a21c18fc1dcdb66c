"""The console as a process, with a real broker, a real database and the real ingest and consumers."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from deploy.local.services import Services
from tests.support.authority import Authority
from tests.support.console import (
    PASSWORD,
    browser,
    console,
    password_hash,
    sign_in,
    token_in,
    users,
)
from tests.support.events import body, order_created, ovoko
from tests.support.stack import Stack, free_port, until

USERS = users(anna="operator+revealer")


async def _overview(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.get("/overview.json")
    assert answer.status_code == 200, answer.text
    overview: dict[str, Any] = answer.json()
    return overview


def _has(
    client: httpx.AsyncClient, what: Callable[[dict[str, Any]], object]
) -> Callable[[], Awaitable[object]]:
    """Whether this is true of the overview."""

    async def condition() -> object:
        return what(await _overview(client))

    return condition


def _orders(overview: dict[str, Any]) -> dict[str, Any]:
    families: list[dict[str, Any]] = overview["pipeline"]["families"]
    return next(family for family in families if family["name"] == "orders")


async def test_the_overview_shows_the_pipeline_as_it_is(stack: Stack) -> None:
    ingest, consumers = await stack.started("ingest"), await stack.started("consume")
    ops = ",".join(f"http://127.0.0.1:{worker.ops_port}" for worker in (ingest, consumers))
    for number in range(3):
        await stack.post_ovoko(body(order_created(number)))
    await stack.post_ovoko(body(ovoko("order.created", order_id={})))

    def is_settled(overview: dict[str, Any]) -> bool:
        losses = _orders(overview)["losses"]
        return (losses["applied"], losses["dead"], losses["missing"]) == (3, 1, 0)

    async with console(stack, STOCKHOOK_CONSOLE_OPS_URLS=ops) as (url, _), browser(url) as client:
        await sign_in(client)
        # An audit every 15 s, and two must agree.
        await until(_has(client, is_settled), "three are applied, one is dead, and none is missing", 60)
        overview = await _overview(client)
        page = await client.get("/overview")
        family = (await client.get("/families/orders.json")).json()
        missing = await client.get("/families/painters")

    orders = _orders(overview)
    assert overview["pipeline"]["troubles"] == []
    assert overview["pipeline"]["ingest"]["processes"] == 1
    assert (orders["state"], orders["queued"], orders["dead"]) == ("healthy", 0, 1)
    # A process begins with a consumer that delivers one at a time, which stays beside the usual one.
    assert orders["consumers"] in (1, 2)
    assert orders["losses"]["accepted"] == 4
    assert [retry["delay"] for retry in orders["retries"]] == ["1s", "2s", "3s"]
    assert "healthy" in page.text
    assert family["family"]["losses"] == orders["losses"]
    assert missing.status_code == 404


async def test_dead_letters_of_a_family_are_grouped_by_failure(stack: Stack) -> None:
    stack.environment["STOCKHOOK_KEEP_DEAD_LETTERS"] = "true"
    await stack.started_apart()
    for _ in range(2):
        await stack.post_ovoko(body(ovoko("order.created", order_id={})))

    async with console(stack) as (url, _), browser(url) as client:
        await sign_in(client)

        async def failures() -> Any:
            groups = (await client.get("/families/orders.json")).json()["failures"]
            return groups if groups and groups[0]["letters"] == 2 else None

        (failure,) = await until(failures, "both letters are in the table")
        page = await client.get("/families/orders")

    assert failure["types"] == ["order.created"]
    assert failure["fingerprint"] in page.text


async def test_what_cannot_be_reached_is_named_and_shown_as_unknown(services: Services, stack: Stack) -> None:
    if services.postgres is None or services.rabbitmq is None:
        pytest.skip("needs services of our own")
    nowhere = f"http://127.0.0.1:{free_port()}"
    async with console(stack, STOCKHOOK_CONSOLE_OPS_URLS=nowhere) as (url, _), browser(url) as client:
        await sign_in(client)
        await until(_has(client, lambda overview: _orders(overview)["queued"] == 0), "it reads the broker")
        services.postgres.stop()
        try:
            await until(
                _has(client, lambda overview: _orders(overview)["losses"] is None), "the database is away"
            )
            without_database = (await _overview(client))["pipeline"]
        finally:
            services.postgres.start()
        services.rabbitmq.stop()
        try:
            await until(
                _has(client, lambda overview: _orders(overview)["queued"] is None), "the broker is away"
            )
            without_broker = (await _overview(client))["pipeline"]
        finally:
            services.rabbitmq.start()
        page = await client.get("/overview")
        await until(
            _has(client, lambda overview: _orders(overview)["queued"] == 0 and _orders(overview)["losses"]),
            "both are read again",
            60,
        )

    assert any(
        trouble.startswith("The database cannot be read: ") for trouble in without_database["troubles"]
    )
    assert any(trouble.startswith("The broker cannot be read: ") for trouble in without_broker["troubles"])
    assert f"No answer from {nowhere.removeprefix('http://')}: it cannot be connected to" in page.text
    assert without_broker["ingest"] is None
    assert _orders({"pipeline": without_broker})["state"] == "unknown"


async def _regions(client: httpx.AsyncClient, number: int) -> list[str]:
    """The first regions of a stream."""
    regions: list[str] = []
    async with asyncio.timeout(30), client.stream("GET", "/overview?live=1") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        data: list[str] = []
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                data.append(line.removeprefix("data: "))
            elif not line and data:
                regions.append("\n".join(data))
                data = []
                if len(regions) == number:
                    break
    return regions


async def test_a_stream_sends_the_region_that_changes_and_many_viewers_share_the_poller(stack: Stack) -> None:
    async with console(stack) as (url, _), browser(url) as client:
        await sign_in(client)
        token = token_in((await client.get("/overview")).text)
        viewers = [asyncio.create_task(_regions(client, 3)) for _ in range(20)]
        streams = await asyncio.gather(*viewers)
        sessions = await stack.fetch(
            "SELECT FROM pg_stat_activity WHERE application_name = 'stockhook/console'"
        )

    assert all(len(regions) == 3 for regions in streams)
    assert "no consumers" in streams[0][0]
    assert "<html" not in streams[0][0]
    assert token not in "".join(streams[0])
    assert len(sessions) <= 4


async def test_a_stream_ends_with_the_session_and_with_the_process(stack: Stack) -> None:
    async with console(stack) as (url, worker), browser(url) as client:
        await sign_in(client)
        token = token_in((await client.get("/overview")).text)
        ended = asyncio.create_task(_regions(client, 1000))
        await asyncio.sleep(0)
        await client.post("/sign-out", data={"token": token}, headers={"Sec-Fetch-Site": "same-origin"})
        assert len(await ended) < 1000
        await sign_in(client)
        ended = asyncio.create_task(_regions(client, 1000))
        await until(lambda: _is_streaming(client), "another stream is open")
        assert worker.stop() == 0
        await asyncio.wait([ended])

    assert "console.stopped" in worker.lines()


async def _is_streaming(client: httpx.AsyncClient) -> bool:
    return bool(await _regions(client, 1))


async def test_a_changed_password_ends_sessions(stack: Stack) -> None:
    async with console(stack) as (url, _), browser(url) as client:
        await sign_in(client)
        assert (await client.get("/overview")).status_code == 200
        cookies = dict(client.cookies)
    other = f"anna:reader:{password_hash('another-password-1')}"
    async with console(stack, STOCKHOOK_CONSOLE_USERS=other) as (url, _), browser(url) as client:
        client.cookies.update(cookies)
        assert (await client.get("/overview")).status_code == 303
        assert (await sign_in(client)).status_code == 401
        assert (await sign_in(client, password="another-password-1")).status_code == 303


async def test_with_a_certificate_the_console_uses_tls(stack: Stack, authority: Authority) -> None:
    settings = {
        "STOCKHOOK_CONSOLE_CERTIFICATE_FILE": str(authority.certificate),
        "STOCKHOOK_CONSOLE_KEY_FILE": str(authority.key),
    }
    async with console(stack, **settings) as (url, _), browser(url) as client:
        answer = await sign_in(client)
        page = await client.get("/overview")

    assert answer.headers["set-cookie"].startswith("__Host-stockhook_console=")
    assert page.status_code == 200


def test_a_console_to_which_no_user_could_sign_in_does_not_start(stack: Stack) -> None:
    ended = stack.run("console")

    assert ended.returncode == 78
    assert "set STOCKHOOK_CONSOLE_USERS" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"HOST": "0.0.0.0", "USERS": USERS}, "passwords would be sent in clear"),
        ({"PROXY_USER_HEADER": "X-User"}, "STOCKHOOK_CONSOLE_PROXY_USER_HEADER needs"),
        (
            {"USERS": USERS, "PROXY_GROUPS_HEADER": "X-Groups"},
            "STOCKHOOK_CONSOLE_PROXY_GROUPS_HEADER needs",
        ),
        (
            {"USERS": USERS, "CERTIFICATE_FILE": "/nowhere", "KEY_FILE": "/nowhere"},
            "CONSOLE_CERTIFICATE_FILE",
        ),
    ],
)
def test_an_unsafe_console_does_not_start(stack: Stack, settings: dict[str, str], sentence: str) -> None:
    ended = stack.run("console", **{f"STOCKHOOK_CONSOLE_{name}": value for name, value in settings.items()})

    assert ended.returncode == 78
    assert sentence in ended.stderr.splitlines()[-1]


async def test_in_development_a_login_is_printed(stack: Stack) -> None:
    settings = {"STOCKHOOK_ENVIRONMENT": "development", "STOCKHOOK_CONSOLE_USERS": ""}
    async with console(stack, **settings) as (url, worker), browser(url) as client:
        lines = map(json.loads, worker.lines().splitlines())
        login = next(line for line in lines if line["event"] == "console.development_login")
        answer = await sign_in(client, login["user"], login["password"])

    assert answer.status_code == 303


def test_a_password_from_standard_input_is_hashed() -> None:
    def hashed(password: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "worker", "console", "hash-password"],
            input=f"{password}\n",
            capture_output=True,
            text=True,
            check=False,
        )

    done, weak = hashed(PASSWORD), hashed("short")

    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"scrypt\.32768\.8\.3\.[\w-]{22}\.[\w-]{43}\n", done.stdout)
    assert weak.returncode == 2
    assert weak.stderr == "stockhook: the password is shorter than 12 characters\n"
