"""Pages of the console: foreign text is inert, numbers are readable, and what is vendored is unchanged."""

import hashlib
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from tests.support.console import application_with, browser, sign_in
from worker.config.console_accounts import Role
from worker.console import rendering
from worker.console.contract import Console, Parameters, Screen
from worker.console.pipeline import FamilyView, IngestView, Losses, PipelineView, RetryStep, State, Totals
from worker.console.rendering import STATIC, Renderer, area, bytes_text, duration, line, number, rate
from worker.console.screens.family import FamilyScreen
from worker.console.screens.overview import Overview

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>\"'`{{7*7}}&amp;\x00\x1b[31m\r\n\u202e\u200b\ud800"

# From the package htmx.org 4.0.1.
VENDORED = {
    "htmx-4.0.1.min.js": "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130",
    "hx-sse-4.0.1.min.js": "18ef2761356ec1fe0bb6d92612315b37517a7c1e9856b661c5ae81fef239d103",
    "htmx.LICENSE": "d3d2456f76414f2456104660ebd65aff1c04cd7966b942bdabd63f3cdb316a38",
}


@pytest.mark.parametrize(("name", "digest"), VENDORED.items())
def test_a_vendored_file_is_unchanged(name: str, digest: str) -> None:
    assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == digest


def test_every_script_is_vendored_or_ours() -> None:
    assert {path.name for path in STATIC.glob("*.js")} == {*VENDORED, "console.js"} - {"htmx.LICENSE"}


def _family(name: str = "orders", state: State = State.HEALTHY) -> FamilyView:
    retries = (RetryStep("7s", 2, NOW), RetryStep("35s", None, None))
    return FamilyView(name, state, 3, 1, 1, 2.5, 12.25, retries, 4, Losses(9, 1, 2, 3, 1, 2, 0), name)


def _overview(text: str = "") -> Overview:
    families = tuple(_family(f"{text}{state}", state) for state in State)
    pipeline = PipelineView(
        NOW,
        (text,),
        IngestView(2, 1.5, 7, 1234, 10**9, 65),
        families,
        Totals(1, 2, 3.5, 4, 5, None),
        None,
        None,
    )
    return Overview(pipeline, {family.name: [None, 1, 2] for family in families})


def _family_screen(text: str = "") -> FamilyScreen:
    failure = {
        "reason": text,
        "fingerprint": text,
        "origin": text,
        "types": [text],
        "letters": 2,
        "first_at": NOW,
        "last_at": NOW,
    }
    return FamilyScreen(NOW, (text,), _family(text), (text,), {"p50": 0.25}, [1.0, None], [], [failure], None)


@pytest.mark.parametrize(
    ("template", "view"), [("overview.html", _overview(HOSTILE)), ("family.html", _family_screen(HOSTILE))]
)
async def test_hostile_text_is_inert_in_a_page_its_region_and_its_data(template: str, view: object) -> None:
    async def made(_: Console, __: Parameters) -> object:
        return view

    app = application_with(screens=(Screen("/overview", Role.READER, template, made, is_live=True),))
    async with browser(app) as client:
        await sign_in(client)
        page = (await client.get("/overview", params={"q": HOSTILE.encode("utf-8", "replace")})).text
        data = await client.get("/overview.json")
    region = Renderer("").region(template, {"view": view, "roles": frozenset({Role.READER})})

    for text in (page, region):
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
        assert "{{7*7}}" in text
        assert not any(character in text for character in "\x00\x1b\r\u202e\u200b\ud800")
        assert "\\u202e" in text
    assert " style=" not in page
    assert " on" not in page.replace(" on ", " ").replace(" only", "").replace(" one", "")
    assert data.headers["content-type"] == "application/json"
    assert not any(character in data.text for character in "\x00\x1b\u202e\u200b")


def test_a_page_of_a_family_without_any_number_is_rendered() -> None:
    retries = (RetryStep("7s", None, None),)
    family = FamilyView("orders", State.UNKNOWN, None, None, None, None, None, retries, None, None, None)
    view = FamilyScreen(NOW, (), family, (), {"p50": None}, [], [], None, "starting")

    text = Renderer("").region("family.html", {"view": view, "roles": frozenset[Role]()})

    assert "unknown" in text
    assert "The database cannot be read: starting" in text


async def test_the_first_page_is_small() -> None:
    """At most 60 kB, compressed, with everything that it loads."""

    async def made(_: Console, __: Parameters) -> object:
        return _overview()

    app = application_with(screens=(Screen("/overview", Role.READER, "overview.html", made, is_live=True),))
    names = [name for name in rendering.fingerprints() if "LICENSE" not in name]
    sizes = {}
    async with browser(app, **{"Accept-Encoding": "gzip"}) as client:
        await sign_in(client)
        for path in (
            "/overview",
            *(f"/static/{name}" for name in names),
        ):
            async with client.stream("GET", path) as answer:
                sizes[path] = sum([len(part) async for part in answer.aiter_raw()])

    assert sum(sizes.values()) <= 60_000, sizes


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "\N{EN DASH}"),
        (0.25, "250 ms"),
        (0, "0 s"),
        (1, "1 s"),
        (2.54, "2.5 s"),
        (9.97, "10 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (90_061, "1 d 1 h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_numbers_are_grouped_and_what_is_unknown_is_no_number() -> None:
    assert (number(1234567), number(0), number(None)) == ("1,234,567", "0", "\N{EN DASH}")
    assert (rate(1234.6), rate(1.25), rate(0), rate(None)) == ("1,235/s", "1.2/s", "0/s", "\N{EN DASH}")
    assert (bytes_text(12), bytes_text(1_500), bytes_text(2 * 10**9)) == ("12 B", "1.5 kB", "2.0 GB")


def test_an_instant_is_shown_in_utc() -> None:
    local = datetime(2026, 1, 1, 14, tzinfo=timezone(timedelta(hours=2)))

    assert rendering.instant(local) == "2026-01-01 12:00:00 UTC"


@pytest.mark.parametrize("values", [[], [None], [0, 0, 0], [None, 5, 1]])
def test_a_chart_of_any_values_has_finite_points(values: list[float | None]) -> None:
    known = [value for value in values if value is not None]

    assert len(line(values).split()) == len(known)
    assert area(values) == "" or len(area(values).split()) == len(known) + 2
    assert "nan" not in line(values) + area(values)


def test_templates_have_no_inline_code_and_no_other_host() -> None:
    for path in (Path(rendering.__file__).parent / "templates").glob("*.html"):
        text = path.read_text()
        assert "|safe" not in text.replace(" ", ""), path.name
        assert "style=" not in text, path.name
        assert "http://" not in text, path.name
        assert "https://" not in text, path.name
        assert "<script>" not in text, path.name
