"""Filters of dead letters: what an address means, and what a malformed one gets."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.console import application_with, browser, sign_in
from worker.console.letter_filters import (
    BadFilter,
    chosen,
    described,
    query_of,
    selection_in,
    selection_of,
    texts_of,
)
from worker.dead_letters.bulk_jobs import criteria_of
from worker.dead_letters.bulk_jobs import selection_of as selection_of_criteria
from worker.dead_letters.job_runner import FURTHER, MOST_EXAMPLES, MOST_OUTCOMES, Outcomes
from worker.dead_letters.search import Selection
from worker.dead_letters.store import State

GIVE_A_REASON = "Nothing was done: give a reason"
TOO_LONG = "Nothing was done: a reason has 500 characters at most"
WRONG_RATE = "Nothing was started: the rate must be 0.1 to 10,000 letters per second."

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

ALL_CRITERIA = Selection(
    ids=(3, 7),
    origin="webhook.shop",
    reason="100 % & more",
    fingerprint="0a1b2c3d",
    type="order.created",
    entity="ü/1+1",
    since=NOW - timedelta(days=1),
    until=NOW,
    states=None,
    gateway_id="https://gateway.example/events/1?a=b&c=d",
)


def test_without_filters_the_waiting_letters_are_meant() -> None:
    assert selection_of({"view": "list", "other": "x"}, NOW) == Selection()


def test_each_filter_is_a_criterion() -> None:
    selection = selection_of(
        {
            "origin": "orders",
            "state": "any",
            "reason": " exhausted ",
            "since": "12h",
            "until": "2026-03-01T13:00+02:00",
        },
        NOW,
    )

    assert selection == Selection(
        origin="orders",
        reason="exhausted",
        since=NOW - timedelta(hours=12),
        until=datetime(2026, 3, 1, 11, tzinfo=UTC),
        states=None,
    )


def test_an_empty_field_of_the_form_is_no_filter() -> None:
    assert selection_of({"origin": "", "state": "", "since": " "}, NOW) == Selection()


def test_ticked_letters_and_listed_ids_are_chosen() -> None:
    assert chosen({"letter-7": "1", "letter-3": "1", "ids": "3,9"}, NOW).ids == (3, 7, 9)


def test_without_a_criterion_all_letters_are_meant_only_if_the_address_says_so() -> None:
    assert chosen({"all": "1"}, NOW) == Selection(states=None)
    for parameters in ({}, {"state": "any"}, {"all": ""}, {"view": "list"}):
        with pytest.raises(BadFilter, match="No dead letters were chosen"):
            chosen(parameters, NOW)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"origin": "painters"}, "Origin must be one of inventory, "),
        ({"state": "lost"}, "State must be one of waiting, replaying, replayed, discarded, any"),
        ({"since": "yesterday"}, "Arrived since must be a time such as "),
        ({"until": "999999d"}, "Arrived before must be a time such as "),
        ({"until": "0001-01-01T00:00:00+14:00"}, "Arrived before must be a time such as "),
        ({"since": "٣h"}, "Arrived since must be a time such as "),
        ({"reason": "a\0b"}, r"Reason contains must be printable text .*a\\x00b"),
        ({"entity": "\ud800"}, "Entity must be printable text"),
        ({"type": "x" * 10_000}, "Event type must be printable text of at most 300 characters"),
        ({"ids": "1,two"}, "The id of a dead letter must be a number"),
        ({"ids": str(2**63)}, "The id of a dead letter must be a number"),
        ({"letter-": "1"}, "The id of a dead letter must be a number"),
        ({"ids": ",".join(map(str, range(1001)))}, "At most 1,000 dead letters can be named"),
    ],
)
def test_a_malformed_filter_is_named_in_a_sentence(parameters: dict[str, str], sentence: str) -> None:
    with pytest.raises(BadFilter, match=sentence):
        selection_of(parameters, NOW)


@pytest.mark.parametrize(
    "selection", [ALL_CRITERIA, Selection(states=None), Selection(ids=(1,), states=None)]
)
def test_a_selection_survives_the_form_and_the_table(selection: Selection) -> None:
    assert selection_in(query_of(selection), NOW + timedelta(days=9)) == selection
    as_stored: Any = criteria_of(selection) | {
        name: value.isoformat()
        for name, value in criteria_of(selection).items()
        if name in ("since", "until")
    }
    assert selection_of_criteria(as_stored) == Selection(
        **{**_fields(selection), "states": Selection().states}
    )


def _fields(selection: Selection) -> dict[str, Any]:
    return {name: getattr(selection, name) for name in Selection.__slots__}


@pytest.mark.parametrize("query", ["", "a=b", "origin=painters", "since=x", "&" * 100, "ids=x"])
def test_a_malformed_form_selects_nothing(query: str) -> None:
    with pytest.raises(BadFilter):
        selection_in(query, NOW)


def test_criteria_are_shown_with_fixed_times() -> None:
    assert described(selection_of({"since": "1h", "state": "any"}, NOW)) == [
        ("Arrived since", "2026-03-01T11:00:00+00:00")
    ]
    assert "state" not in texts_of(Selection(states=(State.WAITING,)))


def test_outcomes_of_a_dry_run_are_counted_with_a_bounded_number_of_examples() -> None:
    outcomes = Outcomes()
    for number in range(10_000):
        outcomes.add(number, "applied" if number % 2 else f"fails again: {number}")
    summary = outcomes.as_json()

    assert summary["handled"] == 10_000
    assert summary["outcomes"]["applied"]["letters"] == 5_000
    assert len(summary["outcomes"]["applied"]["examples"]) == MOST_EXAMPLES
    assert len(summary["outcomes"]) == MOST_OUTCOMES + 1
    assert summary["outcomes"][FURTHER]["letters"] == 5_000 - MOST_OUTCOMES + 1


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/new",
        "/jobs/new?ids=x",
        "/jobs/new?job=x",
        "/jobs/new?origin=painters",
        "/jobs/x",
        "/jobs/-1",
        "/jobs/99999999999999999999",
        "/jobs?before=x",
    ],
)
async def test_an_address_of_no_job_is_not_there(path: str) -> None:
    """None of them reaches the database."""
    async with browser(application_with()) as client:
        await sign_in(client)
        page = await client.get(path)

    assert page.status_code == 404, page.text


@pytest.mark.parametrize(
    ("path", "form", "sentence"),
    [
        ("/jobs/replay", {"reason": "x", "rate": "1"}, "No dead letters were chosen"),
        ("/jobs/replay", {"reason": " ", "rate": "1", "selection": "all=1", "last_id": "1"}, GIVE_A_REASON),
        ("/jobs/discard", {"reason": "x" * 501, "selection": "all=1", "last_id": "1"}, TOO_LONG),
        ("/jobs/1/cancel", {"reason": "x" * 501}, TOO_LONG),
        ("/jobs/replay", {"reason": "x", "rate": "0", "selection": "all=1", "last_id": "1"}, WRONG_RATE),
        (
            "/jobs/replay",
            {"reason": "x", "rate": "nan", "selection": "all=1", "last_id": "1"},
            WRONG_RATE,
        ),
        (
            "/jobs/replay",
            {"reason": "x", "rate": "inf", "selection": "all=1", "last_id": "1"},
            WRONG_RATE,
        ),
        (
            "/jobs/replay",
            {"reason": "x", "rate": "ten", "selection": "all=1", "last_id": "1"},
            WRONG_RATE,
        ),
        # With it, the time that is left would be no finite number, and the page of the job would fail.
        (
            "/jobs/replay",
            {"reason": "x", "rate": "5e-324", "selection": "all=1", "last_id": "1"},
            WRONG_RATE,
        ),
        (
            "/jobs/dry-run",
            {"selection": "all=1", "last_id": "x"},
            "Nothing was started: the form has no highest id",
        ),
        ("/jobs/dry-run", {"selection": "origin=x", "last_id": "1"}, "Origin must be one of"),
    ],
)
async def test_a_malformed_form_is_refused_with_a_sentence(
    path: str, form: dict[str, str], sentence: str
) -> None:
    """None of them reaches the database."""
    async with browser(application_with()) as client:
        await sign_in(client)
        token = (await client.get("/jobs/x")).text.partition('name="token" value="')[2].partition('"')[0]
        answer = await client.post(
            path, data={"token": token, "back": "/jobs/x", **form}, headers={"Sec-Fetch-Site": "same-origin"}
        )
        page = await client.get(answer.headers["location"])

    assert answer.status_code == 303
    assert f'role="alert">{sentence}' in page.text
