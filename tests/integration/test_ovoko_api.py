"""The client of Ovoko's API against a simulated one over real HTTP, with its faults."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import date
from time import monotonic
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from tests.support.stack import free_port
from worker.config.settings import BadSettings, Settings
from worker.marketplaces.http import (
    CallRefused,
    CredentialsRefused,
    Unavailable,
    UnexpectedResponse,
)
from worker.marketplaces.ovoko.client import OvokoApi, open_ovoko
from worker.marketplaces.rate_limiter import RateLimiter
from worker.simulator.marketplace import Request, Response, as_json
from worker.simulator.ovoko_api import (
    PASSWORD,
    USER_TOKEN,
    USERNAME,
    OrderReturn,
    Ovoko,
    Part,
)
from worker.simulator.router import Simulation
from worker.simulator.server import serving


@dataclass(frozen=True, slots=True)
class World:
    """A simulated Ovoko, its client, and the control of its faults."""

    ovoko: Ovoko
    api: OvokoApi
    control: httpx.AsyncClient

    async def ask(self, kind: str, **fault: object) -> None:
        (await self.control.post("/control/faults", json={"kind": kind, **fault})).raise_for_status()

    async def calls(self) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = (await self.control.get("/control/requests")).json()
        return calls


def settings(url: str, **given: Any) -> Settings:
    return Settings(
        ovoko_api_url=url,
        ovoko_username=USERNAME,
        ovoko_password=PASSWORD,
        ovoko_user_token=USER_TOKEN,
        ovoko_calls_per_second=1000,
        **{"ovoko_timeout": 2, **given},
    )


@asynccontextmanager
async def world(**given: Any) -> AsyncIterator[World]:
    ovoko = Ovoko()
    async with serving(Simulation({"ovoko": ovoko})) as port:
        url = f"http://127.0.0.1:{port}"
        async with (
            open_ovoko(settings(f"{url}/ovoko", **given)) as api,
            httpx.AsyncClient(base_url=url) as control,
        ):
            yield World(ovoko, replace(api, pause_seconds=0.01), control)


def have_parts(ovoko: Ovoko, count: int) -> None:
    ovoko.parts.update({number: Part(id=number, status=0) for number in range(1, count + 1)})


async def test_a_part_or_a_return_is_asked_for_by_its_id() -> None:
    async with world() as there:
        there.ovoko.parts[13] = Part(id=13, status=2, external_id="SKU-1")
        there.ovoko.returns[7] = OrderReturn(id=7, order_id=70)
        part = (await there.api.part("13")).row
        order_return = (await there.api.order_return("7")).row
        missing = [(await there.api.part("14")).row, (await there.api.order_return("8")).row]

    assert part is not None
    assert (part.part_id, part.status_text, part.merchants_id) == ("13", "2 (sold)", "SKU-1")
    assert order_return is not None
    assert (order_return.return_id, order_return.order_id, order_return.status) == ("7", "70", "New")
    assert missing == [None, None]


async def test_parts_come_page_by_page() -> None:
    async with world() as there:
        have_parts(there.ovoko, 250)
        pages = [await there.api.parts(page, limit=100) for page in (1, 2, 3, 4)]

    assert [len(rows.read) for rows, _ in pages] == [100, 100, 50, 0]
    assert {total for _, total in pages} == {250}
    assert len({part.part_id for rows, _ in pages for part in rows.read}) == 250


async def test_more_parts_on_a_page_than_ovoko_gives_are_not_asked_for() -> None:
    async with world() as there:
        with pytest.raises(ValueError, match="between 1 and 100"):
            await there.api.parts(1, limit=101)


async def test_returns_come_by_the_day_they_were_created() -> None:
    async with world() as there:
        for number, created_at in ((1, "2026-03-01T10:00:00Z"), (2, "2026-03-02T10:00:00Z")):
            there.ovoko.returns[number] = OrderReturn(id=number, order_id=70, created_at=created_at)
        found = await there.api.order_returns(1, created_from=date(2026, 3, 2), created_to=date(2026, 3, 3))
        after = await there.api.order_returns(2)

    assert [each.return_id for each in found.read] == ["2"]
    assert after.read == []


@pytest.mark.parametrize("kind", ["rate-limited", "error", "error-as-200", "unavailable", "hang-up", "cut"])
async def test_a_passing_failure_is_got_over(kind: str) -> None:
    async with world() as there:
        have_parts(there.ovoko, 1)
        await there.ask(kind, times=2, seconds=0)
        found = await there.api.part("1")

    assert found.row is not None


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("rate-limited", "HTTP 429"),
        ("error", "HTTP 500"),
        ("error-as-200", r"R500 \(simulated error\)"),
        ("unavailable", "HTTP 503"),
        ("hang-up", "the connection broke"),
        ("cut", "the connection broke"),
        ("slow", "no whole answer within 0.3 s"),
        ("trickle", "no whole answer within 0.3 s"),
    ],
)
async def test_a_lasting_failure_is_given_up_after_four_attempts(kind: str, words: str) -> None:
    async with world(ovoko_timeout=0.3) as there:
        have_parts(there.ovoko, 1)
        await there.ask(kind, seconds=0 if kind in ("rate-limited", "unavailable") else 1)
        with pytest.raises(Unavailable, match=words):
            await there.api.part("1")

        assert len(await there.calls()) == 4


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("redirect", r"a redirect \(302\)"),
        ("oversized", "larger than 8,388,608 bytes"),
        ("declared", "larger than 8,388,608 bytes"),
        ("compressed", "compressed"),
        ("wrong-types", "status_code: string_type"),
        ("not-json", "HTTP 200, no JSON"),
        ("unauthorized", "HTTP 401, status_code: missing"),
    ],
)
async def test_an_odd_answer_is_asked_for_once_and_named(kind: str, words: str) -> None:
    async with world() as there:
        have_parts(there.ovoko, 1)
        await there.ask(kind)
        with pytest.raises(UnexpectedResponse, match=words) as raised:
            await there.api.part("1")

        assert len(await there.calls()) == 1
    assert PASSWORD not in str(raised.value)


async def test_a_refusal_is_not_repeated() -> None:
    async with world() as there:
        account = replace(there.api.account, user_token=SecretStr("another-token"))
        stranger = replace(there.api, account=account)
        with pytest.raises(CredentialsRefused, match=r"R401 \(Wrong username") as raised:
            await stranger.part("1")

        assert len(await there.calls()) == 1
    assert "another-token" not in str(raised.value)
    assert "another-token" not in repr(stranger)


async def test_retry_after_is_waited_for() -> None:
    async with world() as there:
        have_parts(there.ovoko, 1)
        await there.ask("rate-limited", times=1, seconds=1)
        began = monotonic()
        await there.api.part("1")

    assert monotonic() - began >= 1


async def test_nobody_waits_for_an_hour() -> None:
    async with world() as there:
        await there.ask("unavailable", seconds=3600)
        with pytest.raises(Unavailable, match="requests a delay of 3600 s"):
            await there.api.part("1")


async def test_calls_keep_their_pace() -> None:
    async with world() as there:
        have_parts(there.ovoko, 1)
        measured = replace(there.api, rate_limiter=RateLimiter(20))
        began = monotonic()
        for _ in range(11):
            await measured.part("1")

    assert monotonic() - began >= 0.5


async def test_a_part_that_was_not_asked_for_is_an_error() -> None:
    async with world() as there:
        there.ovoko.parts[13] = Part(id=14, status=0)
        with pytest.raises(UnexpectedResponse, match="13 was requested, and the answer is about another one"):
            await there.api.part("13")


async def test_nobody_there_is_unavailable() -> None:
    async with open_ovoko(settings(f"http://127.0.0.1:{free_port()}")) as api:
        with pytest.raises(Unavailable, match="cannot connect"):
            await replace(api, pause_seconds=0.01).part("1")


async def test_missing_credentials_are_named() -> None:
    with pytest.raises(BadSettings, match="STOCKHOOK_OVOKO_PASSWORD, STOCKHOOK_OVOKO_USER_TOKEN are not set"):
        async with open_ovoko(Settings(ovoko_username=USERNAME)):
            pass


async def test_a_message_that_quotes_our_secrets_is_not_quoted() -> None:
    class Quoting(Ovoko):
        async def handle(self, request: Request) -> Response:
            return as_json(200, {"status_code": "R403", "msg": f"no such token: {USER_TOKEN}"})

    async with (
        serving(Simulation({"ovoko": Quoting()})) as port,
        open_ovoko(settings(f"http://127.0.0.1:{port}/ovoko")) as api,
    ):
        with pytest.raises(CallRefused) as raised:
            await api.part("1")

    assert str(raised.value) == "R403 (a text with our secrets in it)"
