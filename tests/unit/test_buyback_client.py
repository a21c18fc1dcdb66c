"""Decisions about a marketplace's answers, without requests."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr, ValidationError
from structlog.testing import capture_logs

from worker.marketplaces.buyback.errors import refused_members, title
from worker.marketplaces.buyback.requests import PickupCapabilities, ShipmentCapabilities, Slot
from worker.marketplaces.http import (
    Unavailable,
    is_worth_repeating,
    repeated,
    retry_after,
)
from worker.marketplaces.oauth_token import Granted, TokenCache

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        ("999999999999", 86_400),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float) -> None:
    assert retry_after(text, NOW) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", [None, "", "soon", "-1", "1.5", "٣", "Sun, 99 Mar 2026 12:00:30 GMT"])
def test_an_unusable_retry_after_is_none(text: str | None) -> None:
    assert retry_after(text, NOW) is None


@pytest.mark.parametrize(
    ("status", "expected"), [(408, True), (425, True), (429, True), (500, True), (404, False), (302, False)]
)
def test_a_temporary_failure_is_worth_repeating(status: int, expected: bool) -> None:
    assert is_worth_repeating(status) is expected


async def test_retry_after_zero_still_pauses() -> None:
    async def ask() -> None:
        raise Unavailable("busy", retry_after=timedelta(0))

    with capture_logs() as lines, pytest.raises(Unavailable):
        await repeated(ask, "something", pause_seconds=0.002)

    assert [line["seconds"] > 0 for line in lines] == [True] * 3


@pytest.mark.parametrize(
    ("seconds", "lifetime"), [(3600, 3540), (600, 540), (100, 90), (10, 9), (10**9, 86_340)]
)
def test_a_token_is_renewed_a_little_before_it_ends(seconds: int, lifetime: float) -> None:
    granted = Granted(access_token=SecretStr("abc"), expires_in=seconds)

    assert granted.lifetime == timedelta(seconds=lifetime)


@pytest.mark.parametrize(
    "body",
    [
        b'{"token_type": "Bearer"}',
        b'{"access_token": ""}',
        b'{"access_token": 7}',
        b'{"access_token": "a\\r\\nx: y"}',
        '{"access_token": "ä"}'.encode(),
        b'{"access_token": "abc", "token_type": "mac"}',
        b'{"access_token": "abc", "expires_in": 0}',
        b'{"access_token": "abc", "expires_in": "soon"}',
        b"[]",
    ],
)
def test_an_invalid_token_is_refused(body: bytes) -> None:
    with pytest.raises(ValidationError):
        Granted.model_validate_json(body)


@dataclass
class Issuer:
    """Grants t1, t2, … that last 100 s; `gate` holds it back."""

    now: float = 0.0
    granted: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def fetch(self) -> Granted:
        await self.gate.wait()
        self.granted += 1
        return Granted(access_token=SecretStr(f"t{self.granted}"), expires_in=100)

    def clock(self) -> float:
        return self.now


async def test_one_fetch_serves_all_waiting_callers() -> None:
    issuer = Issuer()
    cache = TokenCache(issuer.fetch, issuer.clock)
    waiting = [asyncio.create_task(cache.token()) for _ in range(10)]
    await asyncio.sleep(0)
    issuer.gate.set()

    assert set(await asyncio.gather(*waiting)) == {"t1"}
    assert issuer.granted == 1


async def test_a_refused_token_is_replaced_once_for_all_callers() -> None:
    issuer = Issuer()
    issuer.gate.set()
    cache = TokenCache(issuer.fetch, issuer.clock)
    first = await cache.token()
    replaced = await asyncio.gather(*(cache.token(refused=first) for _ in range(10)))

    assert (first, set(replaced)) == ("t1", {"t2"})
    assert await cache.token(refused=first) == "t2"


async def test_a_cached_token_is_used_until_it_expires() -> None:
    issuer = Issuer()
    issuer.gate.set()
    cache = TokenCache(issuer.fetch, issuer.clock)
    tokens = []
    for now in (0.0, 89.9, 90.0, 179.9):
        issuer.now = now
        tokens.append(await cache.token())

    assert tokens == ["t1", "t1", "t2", "t2"]


async def test_a_cancelled_caller_leaves_the_fetch_to_the_next() -> None:
    issuer = Issuer()
    cache = TokenCache(issuer.fetch, issuer.clock)
    first, second = asyncio.create_task(cache.token()), asyncio.create_task(cache.token())
    await asyncio.sleep(0)
    first.cancel()
    issuer.gate.set()

    assert await second == "t1"


SENT = b'{"firstName": "A", "bankAccount": {"accountNumber": "PT50"}, "slots": [{"finalSlot": ""}]}'


@pytest.mark.parametrize(
    ("errors", "members"),
    [
        (b'{"errors": {"bankAccount.accountNumber": ["no"]}}', ["bankAccount.accountNumber"]),
        (b'{"errors": {"$.slots[0].finalSlot": ["no"]}}', ["$.slots[0].finalSlot"]),
        (b'{"errors": {"FirstName": [], "PT50": []}}', ["FirstName"]),
        (b'{"errors": {"1234567890": [], "": [], "$": []}}', []),
        (b'{"errors": ["PT50"]}', []),
        (b'["errors"]', []),
        (b"<html>", []),
        (b"", []),
    ],
)
def test_refused_members_are_those_that_were_sent(errors: bytes, members: list[str]) -> None:
    assert refused_members(errors, SENT) == members


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"title": "no such order"}', "no such order"),
        (b'{"title": "a\\u001b[31mb\\nc"}', r"a\x1b[31mb\x0ac"),
        (b'{"title": "' + b"x" * 500 + b'"}', "x" * 120),
        (b'{"title": 7}', ""),
        (b"null", ""),
    ],
)
def test_a_title_is_a_short_line(body: bytes, message: str) -> None:
    assert title(body) == message


def test_a_member_that_the_answer_lacks_is_none() -> None:
    assert ShipmentCapabilities.model_validate_json(b'{"news": 1}') == ShipmentCapabilities()
    assert PickupCapabilities.model_validate_json(b'{"news": 1}').slots == ()


@pytest.mark.parametrize("name", ["pickUpAllowed", "pickupAllowed"])
def test_two_spellings_are_read(name: str) -> None:
    assert ShipmentCapabilities.model_validate_json(f'{{"{name}": true}}').pickup_allowed is True


def test_a_slot_is_in_utc() -> None:
    slot = Slot.model_validate({"initialSlot": "2026-03-02T09:00+02:00", "finalSlot": "2026-03-02T12:00Z"})

    assert slot.initial_slot == datetime(2026, 3, 2, 7, tzinfo=UTC)
    assert slot.initial_slot.tzinfo is UTC
