"""The page of one dead letter: it shows what is known, and nothing of the sender is markup."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any
from uuid import UUID

import pytest

from tests.support.console import application_with, browser, sign_in, users
from worker.config.console_accounts import Role
from worker.console.contract import Console, NotThere, Parameters, Screen
from worker.console.rendering import Renderer
from worker.console.screens.dead_letter import (
    DeadLetterScreen,
    DryRunScreen,
    Moment,
    id_in,
    outcome_of,
    path_of_entity,
    timeline,
)
from worker.console.screens.dead_letter_actions import EditorPage, Revealed
from worker.dead_letters.body_diff import DiffLine, Sign
from worker.dead_letters.store import StoredLetter

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>\"'`{{7*7}}&amp;\x00\x1b[31m\r\u202e\u200b\ud800"
DELAYS = tuple(timedelta(seconds=seconds) for seconds in (7, 35, 175))
EVENT_ID = UUID(int=7)

LETTER = StoredLetter(
    dead_letter_id=17,
    origin="orders",
    state="waiting",
    event_id=EVENT_ID,
    provider="ovoko",
    type="order.created",
    entity_id="7",
    reason="exhausted: ValueError #0badcafe",
    exception="ValueError",
    fingerprint="0badcafe",
    attempts=4,
    received_at=NOW,
    first_failed_at=NOW + timedelta(seconds=1),
    last_failed_at=NOW + timedelta(seconds=219),
    arrived_at=NOW + timedelta(seconds=220),
    headers={"x-attempt": 4},
    body=b"{}",
    original_body=None,
    provenance="webhook",
    evidence=None,
    replayed_as=None,
    replay_of=None,
)


def _of_attempts(letter: StoredLetter) -> list[tuple[str, datetime | None, str | None]]:
    return [(moment.what, moment.at, moment.note) for moment in timeline(letter, DELAYS)]


def test_only_what_the_headers_have_is_in_the_timeline() -> None:
    moments = _of_attempts(LETTER)

    assert [what for what, _, _ in moments] == [
        "received by the ingest",
        "attempt 1 failed",
        "waited 7 s in a retry queue, by today's retry schedule",
        "attempt 2 failed",
        "waited 35 s in a retry queue, by today's retry schedule",
        "attempt 3 failed",
        "waited 175 s in a retry queue, by today's retry schedule",
        "attempt 4 failed",
        "stored as a dead letter",
    ]
    assert [at for _, at, _ in moments if at] == [
        LETTER.received_at,
        LETTER.first_failed_at,
        LETTER.last_failed_at,
        LETTER.arrived_at,
    ]
    assert [what for what, _, note in moments if note == LETTER.reason] == ["attempt 4 failed"]


@pytest.mark.parametrize(
    "letter",
    [
        replace(LETTER, attempts=9),
        replace(LETTER, last_failed_at=LETTER.first_failed_at),
        replace(LETTER, first_failed_at=None),
        replace(LETTER, attempts=2**63 - 1),
    ],
)
def test_delays_of_another_retry_schedule_are_not_claimed(letter: StoredLetter) -> None:
    moments = _of_attempts(letter)

    assert not [what for what, _, _ in moments if what.startswith("waited")]
    assert len(moments) <= 12
    assert f"attempt {letter.attempts} failed" in [what for what, _, _ in moments]


@pytest.mark.parametrize(
    ("letter", "whats"),
    [
        (replace(LETTER, attempts=1), ["received by the ingest", "attempt 1 failed"]),
        (
            replace(LETTER, origin="quarantine", attempts=1),
            ["received by the ingest", "sent to the quarantine, without an attempt"],
        ),
        (replace(LETTER, origin="webhook.shop", attempts=1, received_at=None), ["attempt 1 failed"]),
    ],
)
def test_a_letter_of_one_attempt_or_none_has_its_reason_there(letter: StoredLetter, whats: list[str]) -> None:
    moments = _of_attempts(letter)

    assert [what for what, _, _ in moments] == [*whats, "stored as a dead letter"]
    assert moments[-2][2] == LETTER.reason


@pytest.mark.parametrize(
    ("state", "is_back", "back", "looks", "part"),
    [
        ("waiting", None, [], "waiting", "replay it, or discard it"),
        ("discarded", None, [], "discarded", "discarded"),
        ("replaying", None, [], "replaying", "can be replayed again"),
        ("replayed", None, [], "replayed", "neither applied nor back yet"),
        ("replayed", False, [], "applied", "is applied"),
        ("replayed", True, [18, 19], "back", "came back as 18, 19."),
        ("replayed", True, [], "back", "a letter of the same event"),
    ],
)
def test_a_state_is_explained(
    state: str, is_back: bool | None, back: list[int], looks: str, part: str
) -> None:
    badge, sentence = outcome_of(replace(LETTER, state=state), is_back, back)

    assert badge == looks
    assert part in sentence


def test_what_is_published_elsewhere_has_no_outcome() -> None:
    sentences = [
        outcome_of(replace(LETTER, state="replayed", origin=origin), None, [])[1]
        for origin in ("webhook.shop", "quarantine")
    ]

    assert "in the queue of its subscriber" in sentences[0]
    assert "unhandled events" in sentences[1]


def test_an_entity_of_a_family_has_a_page() -> None:
    assert path_of_entity(replace(LETTER, entity_id="a/b?c")) == "/entities/orders/a~2Fb~3Fc"
    assert path_of_entity(replace(LETTER, origin="quarantine")) is None
    assert path_of_entity(replace(LETTER, entity_id=None)) is None


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "1\x00", "9" * 19, "1" * 10_000, "٣", "1.5"])
def test_an_id_that_no_letter_can_have_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(NotThere, match="is a number, such as 17"):
        id_in({"dead_letter_id": text})


def _screen(text: str = "x", **given: Any) -> DeadLetterScreen:
    values: dict[str, Any] = {
        "dead_letter_id": 17,
        "state": "waiting",
        "looks": "waiting",
        "outcome": text,
        "origin": text,
        "provider": text,
        "type": text,
        "event_id": EVENT_ID,
        "entity_id": text,
        "entity_path": None,
        "provenance": text,
        "evidence": {text: text},
        "reason": text,
        "exception": text,
        "fingerprint": "0badcafe",
        "attempts": 1,
        "received_at": NOW,
        "first_failed_at": NOW,
        "last_failed_at": NOW,
        "arrived_at": NOW,
        "bytes": 2,
        "is_changed": True,
        "replayed_as": EVENT_ID,
        "replay_of": 3,
        "came_back_as": (18,),
        "timeline": (Moment(text, NOW, text, True),),
        "history": ({"action": "edited", "who": text, "at": NOW, "reason": text},),
        "headers": {text: text, "x-death": [{text: 2**60}]},
        "repair": (text,),
        "repair_diff": (
            DiffLine(Sign.ADDED, text),
            DiffLine(Sign.REMOVED, text),
            DiffLine(Sign.GAP, "1 line"),
        ),
        "body": f"{text}\nnext",
        "original_body": text,
    }
    return DeadLetterScreen(**values | given)


PAGES = [
    ("dead_letter.html", _screen(HOSTILE)),
    ("dead_letter_dry_run.html", DryRunScreen(17, "waiting", HOSTILE, EVENT_ID, HOSTILE)),
    ("dead_letter_revealed.html", Revealed(17, HOSTILE, HOSTILE, f"{HOSTILE}\nnext", HOSTILE)),
    (
        "dead_letter_edit.html",
        EditorPage(17, "", "0", HOSTILE, HOSTILE, HOSTILE, (DiffLine(Sign.SAME, HOSTILE),), (1,)),
    ),
]


@pytest.mark.parametrize(("template", "view"), PAGES, ids=[template for template, _ in PAGES])
async def test_hostile_text_is_inert_on_each_page_of_a_letter(template: str, view: object) -> None:
    async def made(_: Console, __: Parameters) -> object:
        return view

    app = application_with(screens=(Screen("/overview", Role.READER, template, made),))
    async with browser(app) as client:
        await sign_in(client)
        page = (await client.get("/overview")).text
        data = (await client.get("/overview.json")).text

    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\\u202e" in page
    assert not any(character in page for character in "\x00\x1b\r\u202e\u200b\ud800")
    assert not any(character in data for character in "\x00\x1b\u202e\u200b")
    assert not re.search(r"<[^>]* (style|on\w+)=", page)
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    labels = set(re.findall(r'<label [^>]*for="([^"]*)"', page))
    fields = set(re.findall(r'<(?:input|textarea|select) id="([^"]*)"', page))
    assert fields == labels


def test_line_ends_of_a_body_are_line_ends_on_the_page() -> None:
    page = _page("dead_letter.html", _screen(body="{\n\t1\n}"))

    assert 'aria-label="Body, without customer data">{\n\t1\n}</pre>' in page


def test_a_text_field_holds_exactly_the_text() -> None:
    text = '\n{"name": "Jörg \u202e </textarea>&amp;"}\n'
    page = _page("dead_letter_edit.html", EditorPage(17, text, "0", "why"))
    content = re.search(r"<textarea[^>]*>\n(.*)</textarea>", page, re.DOTALL)

    assert content is not None
    assert unescape(content[1]) == text


def test_signs_of_a_diff_do_not_depend_on_colour() -> None:
    page = _page("dead_letter.html", _screen("x"))

    assert "<ins>+ x</ins><del>\N{MINUS SIGN} x</del>" in page


@pytest.mark.parametrize(
    ("evidence", "is_linked"),
    [
        ({"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}, True),
        ({"origin_trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}, True),
        ({"request_id": "4bf92f3577b34da6a3ce929d0e0e4736"}, False),
        ({"trace_id": "javascript:alert(1)"}, False),
    ],
)
def test_a_trace_leads_to_its_address(evidence: dict[str, str], is_linked: bool) -> None:
    view = replace(_screen("x"), evidence=evidence)
    (value,) = evidence.values()
    url = "https://traces.example/{trace_id}?a=1&b=2"
    linked, plain = (
        Renderer("", {"trace_id": trace_url}).region(
            "dead_letter.html", {"view": view, "roles": frozenset(Role)}
        )
        for trace_url in (url, None)
    )

    assert (f'<a href="https://traces.example/{value}?a=1&amp;b=2"' in linked) is is_linked
    assert value in plain
    assert "https://traces.example" not in plain


def _page(template: str, view: object, **context: Any) -> str:
    page = {"token": "0", "back": "/", "roles": frozenset(Role), "is_read_only": False}
    given = {
        "user": None,
        "token": "0",
        "page": page,
        "notice": None,
        "here": "/",
        "screens": [],
        "is_read_only": False,
        "live_path": None,
        "json_path": None,
        "roles": frozenset(Role),
        "view": view,
    }
    return Renderer("").page(template, given | context)


@pytest.mark.parametrize(
    ("granted", "is_read_only", "offered"),
    [
        ("reader", False, set()),
        ("operator", False, {"repair", "discard"}),
        ("revealer", False, {"edit", "reveal"}),
        ("operator+revealer", False, {"repair", "discard", "edit", "reveal"}),
        ("operator+revealer", True, set()),
    ],
)
async def test_a_page_offers_what_the_role_may_do_and_says_what_is_missing(
    granted: str, is_read_only: bool, offered: set[str]
) -> None:
    async def made(_: Console, __: Parameters) -> object:
        return _screen()

    given = {"console_users": users(anna=granted), "console_read_only": is_read_only}
    app = application_with(given, screens=(Screen("/overview", Role.READER, "dead_letter.html", made),))
    async with browser(app) as client:
        await sign_in(client)
        page = (await client.get("/overview")).text

    assert set(re.findall(r'action="/dead-letters/17/(\w+)"', page)) == offered
    missing = {"Repair", "Discard", "Edit", "Reveal"} - {name.capitalize() for name in offered}
    for label in missing:
        assert f'<button type="button" disabled>{label}</button>' in page
    assert ("The console is read-only." in page) == is_read_only


@pytest.mark.parametrize(
    ("state", "offered"),
    [
        ("waiting", {"repair", "discard", "edit", "reveal", "dry-run"}),
        ("replaying", {"reveal", "dry-run"}),
        ("replayed", {"reveal"}),
        ("discarded", {"reveal"}),
    ],
)
def test_a_state_allows_only_some_actions(state: str, offered: set[str]) -> None:
    page = _page("dead_letter.html", _screen(state=state, looks=state))

    assert set(re.findall(r'(?:action|href)="/dead-letters/17/([\w-]+)"', page)) == offered
