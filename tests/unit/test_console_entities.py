"""Addresses of entities, their pages with hostile values, and parameters that make no sense."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

import pytest

from tests.support.console import application_with, browser, sign_in
from tests.unit.test_console_rendering import HOSTILE
from worker.config.console_accounts import Role
from worker.console.addresses import entity_in, entity_path
from worker.console.contract import Console, Elsewhere, Parameters, Screen
from worker.console.rendering import duration, iso, shown
from worker.console.screens.entity import EntityScreen, Other, read_instant, read_place
from worker.console.screens.search import Hit, SearchScreen
from worker.tools.explain.lookup import (
    EARLIEST,
    LATEST,
    OVERLAP,
    Letter,
    LoggedEvent,
    Partition,
    Row,
    span,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVENT_ID = UUID(int=7)


@pytest.mark.parametrize(
    "entity_id",
    ["13", "a/b", "..", ".", "13.json", "a b", "ü✓", "~2F", "%2F", "?q#f", "\u202e", "\n", "a\\b", "😀"],
)
def test_any_id_is_one_plain_segment_of_an_address(entity_id: str) -> None:
    path = entity_path("inventory", entity_id)
    segment = path.removeprefix("/entities/inventory/")

    assert segment
    assert all(character.isascii() and (character.isalnum() or character in "~-_") for character in segment)
    assert unquote(urlsplit(f"http://localhost{path}").path) == path
    assert entity_in(segment) == entity_id


@pytest.mark.parametrize(
    ("typed", "entity_id"),
    [("a.b", "a.b"), ("ü", "ü"), ("~", "~"), ("~2g", "~2g"), ("%", "%"), ("a b", "a b")],
)
def test_an_id_that_a_person_typed_stands_for_itself(typed: str, entity_id: str) -> None:
    assert entity_in(typed) == entity_id


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-03-01T12:00", NOW),
        ("2026-03-01T12:00:00Z", NOW),
        ("2026-03-01T14:00:00+02:00", NOW),
        ("2026-03-01T14:00:00 02:00", NOW),
        ("2026-03-01", NOW - timedelta(hours=12)),
        ("", None),
    ],
)
def test_a_time_without_an_offset_is_in_utc(text: str, instant: datetime | None) -> None:
    assert read_instant(text) == (instant, [])


@pytest.mark.parametrize(
    "text", ["yesterday", "\0", "2026-13-01", "9" * 10_000, "0001-01-01T00:00+23:00", "2026-03-01T25:00", "T"]
)
def test_a_malformed_time_is_a_sentence(text: str) -> None:
    instant, [fault] = read_instant(text)

    assert instant is None
    assert len(fault) < 120
    assert "is not a time such as" in fault


@pytest.mark.parametrize(
    "text", ["x", ",", "2026-03-01T12:00,", "2026-03-01T12:00,-1", ",7", f"2026-03-01,{'9' * 30}"]
)
def test_a_malformed_place_is_a_sentence(text: str) -> None:
    assert read_place(text) == (None, ["The parameter before is malformed: the last events are shown."])


def test_a_place_is_an_instant_and_a_sequence_number() -> None:
    assert read_place(f"{iso(NOW)}Z,7") == ((NOW, 7), [])


def test_values_of_states_are_readable() -> None:
    given = [None, True, NOW, ("a", "b"), (), {"a": 1}, Decimal("12.50"), 2**70]

    assert [shown(value) for value in given] == [
        "\N{EN DASH}",
        "yes",
        "2026-03-01 12:00:00 UTC",
        "a, b",
        "none",
        '{"a":1}',
        "12.50",
        str(2**70),
    ]
    assert duration(-90) == "\N{MINUS SIGN}1 min 30 s"


def _step(text: str) -> dict[str, Any]:
    finding = {"kind": text, "event_id": EVENT_ID, "message": text}
    return {
        "event_id": EVENT_ID,
        "id_used_twice": True,
        "type": text,
        "occurred_at": NOW,
        "received_at": NOW,
        "applied_at": NOW,
        "seconds_to_receive": -1.5,
        "seconds_to_apply": 0.5,
        "attempts": 3,
        "evidence": {text: text},
        "effect": "applied",
        "why": text,
        "changes": {text: {"from": text, "to": text}, "occurred_at": {"from": None, "to": "left out"}},
        "findings": [finding],
        "withdrawn": [finding],
        "communications": (text,),
    }


def _explanation(text: str) -> dict[str, Any]:
    return {
        "kind": "part",
        "entity_id": text,
        "at": None,
        "events": [_step(text), _step(text)],
        "states": [{text: text}],
        "findings": [{"kind": text, "event_id": None, "message": text}],
        "agrees_with_tables": False,
        "log_begins_at": NOW,
        "unreadable_events": 2,
        "enrichment": {"name": text, "items": ({"name": text},)},
    }


def _entity_screen(text: str, *, is_long: bool) -> EntityScreen:
    entity_id = text.replace("\ud800", "")  # Postgres stores no lone surrogates.
    logged = LoggedEvent(7, EVENT_ID, True, text, NOW, NOW, NOW, 1, 1, 3, {text: text}, NOW)
    return EntityScreen(
        family="inventory",
        kind="part",
        entity_id=entity_id,
        path=entity_path("inventory", "x"),
        at=NOW,
        faults=(text,),
        explanation=None if is_long else _explanation(text),
        log_events=(logged, logged) if is_long else (),
        findings=({"kind": text, "event_id": None, "message": text},),
        rows=(Row("parts", {text: text}),),
        letters=(Letter(1, text, text, EVENT_ID, None, text, text, text),),
        letters_searched=10,
        others=(Other(text, "/entities/orders/x"),),
        is_long=is_long,
        most_replayed=1,
        first_path="/entities/inventory/x",
        older_path="/entities/inventory/x?before=1",
    )


def _search_screen(text: str) -> SearchScreen:
    return SearchScreen(text, (Hit(text, text, "/entities/orders/x", text),), (text,), "/search?q=1")


@pytest.mark.parametrize(
    ("template", "view"),
    [
        ("entity.html", _entity_screen(HOSTILE, is_long=False)),
        ("entity.html", _entity_screen(HOSTILE, is_long=True)),
        ("search.html", _search_screen(HOSTILE)),
        ("search.html", SearchScreen(HOSTILE, ())),
    ],
    ids=["entity", "long", "search", "no match"],
)
async def test_hostile_text_is_inert_in_a_page_and_its_data(template: str, view: object) -> None:
    async def made(_: Console, __: Parameters) -> object:
        return view

    app = application_with(screens=(Screen("/overview", Role.READER, template, made),))
    async with browser(app) as client:
        await sign_in(client)
        page = (await client.get("/overview")).text
        data = await client.get("/overview.json")

    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "left out" not in page
    assert "{{7*7}}" in page
    assert not any(character in page for character in "\x00\x1b\r\u202e\u200b\ud800")
    assert " style=" not in page
    assert data.status_code == 200
    assert not any(character in data.text for character in "\x00\x1b\u202e\u200b")


async def test_a_screen_that_is_elsewhere_leads_there_and_its_twin_shows_the_data() -> None:
    async def view(_: Console, parameters: Parameters) -> object:
        return Elsewhere(entity_path("orders", "a/b") + "#event-1", {"q": parameters["q"]})

    app = application_with(
        {"console_base_path": "/base"}, screens=(Screen("/x", Role.READER, "base.html", view),)
    )
    async with browser(app) as client:
        await sign_in(client)
        page = await client.get("/x", params={"q": "1"})
        data = await client.get("/x.json", params={"q": "1"})

    assert (page.status_code, page.headers["location"]) == (303, "/base/entities/orders/a~2Fb#event-1")
    assert data.json() == {"q": "1"}


async def test_every_page_of_a_user_has_the_search_box() -> None:
    app = application_with()
    async with browser(app) as client:
        before = await client.get("/sign-in")
        await sign_in(client)
        missing = await client.get("/nowhere")
        search = await client.get("/search")

    assert 'action="/search"' not in before.text
    for page in (missing, search):
        assert 'id="search-header"' in page.text
        assert '<label class="hidden" for="search-header">' in page.text
    assert search.status_code == 200


def test_a_window_of_the_log_is_in_the_months_whose_numbers_it_has() -> None:
    months = [datetime(2026, month, 1, tzinfo=UTC) for month in (1, 2, 3)]
    listed = [Partition(months[0], 1), Partition(months[1], 100_000), Partition(months[2], 200_000)]

    assert span(listed, 120_000, 150_000) == (months[1], months[2])
    assert span(listed, 120_000, 200_000 - OVERLAP) == (months[1], LATEST)
    assert span(listed, 100_000 + OVERLAP - 1, 150_000) == (months[0], months[2])
    assert span(listed, -100, 50_000) == (EARLIEST, months[1])
    assert span([], 1, 2) == (EARLIEST, LATEST)
