"""Tables of commands in a terminal of 80 columns, with large numbers and long texts."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from consumers.registry import FAMILIES
from worker.change_feed.backlog import ChangeCounts, Feed, Webhook
from worker.cli import audit, status
from worker.cli.dead_letter_views import groups_as_table
from worker.cli.terminal import hours_minutes_seconds, show
from worker.tools.audit import Audit, SourceAccount, Waiting
from worker.tools.status import FamilyStatus, Status, UnhandledStatus

DAY = 86_400.0
RETRY = {"7s": 123_456, "35s": 123_456, "175s": 123_456}
FEED = Feed(
    tuple(ChangeCounts(family, 123_456_789, 123_456_788, 1_234_567, 12 * DAY) for family in FAMILIES),
    (Webhook("the-shop-in-the-north", False, 1_234_567, {**RETRY}, 12_345, 12_345, 10),),
)
AUDIT = Audit(
    accounts=tuple(
        SourceAccount(
            source, family, 123_456_789, 123_456_788, 12_345_678, 12_345, ((1, 123_456),), ((5, 1_234_567),)
        )
        for family in FAMILIES
        for source in (1, 12)
    ),
    waiting={family: Waiting(12_345_678, dict(RETRY), 123_456) for family in FAMILIES},
    quarantined=1,
    unhandled=1,
    spooled=None,
    missing={"inventory": ((12, 5, 1_234_567),)},
    feed=FEED,
)
STATUS = Status(
    broker="reachable",
    database="reachable",
    ingest="ready",
    spool=None,
    quarantine=1,
    quarantine_kept=1,
    unhandled=UnhandledStatus(),
    families=tuple(
        FamilyStatus(family, 1_234_567, 12, {**RETRY}, 12_345, 12_345, 3 * DAY, None) for family in FAMILIES
    ),
    changes=FEED.families,
    webhooks=FEED.webhooks,
    rows={"event_log": 2_123_456_789, "reused_event_ids": 1},
)


def printed(
    show_it: Callable[[], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    monkeypatch.setenv("COLUMNS", "80")
    show_it()
    return capsys.readouterr().out.splitlines()


def cells(lines: list[str], first: str) -> list[list[str]]:
    return [line.split() for line in lines if line.split()[:1] == [first]]


def test_the_tables_of_an_audit_cut_nothing_at_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = printed(lambda: show(audit.as_tables(AUDIT)), capsys, monkeypatch)

    assert "\N{HORIZONTAL ELLIPSIS}" not in "".join(lines)
    headings = ["family", "source", "accepted", "applied", "duplicate", "retrying", "dead", "unseen"]
    assert cells(lines, "family") == [headings, ["family", "in", "queue", *RETRY, "dead", "missing"]]
    for family in FAMILIES:
        numbers = ["123,456,789", "123,456,788", "12,345,678", "123,456", "12,345", "1,234,563"]
        missing = "1,234,563" if family == "inventory" else "0"
        assert cells(lines, family) == [
            [family, "1", *numbers],
            [family, "12", *numbers],
            [family, "12,345,678", *["123,456"] * 4, missing],
            [family, "123,456,789", "123,456,788", "1,234,567", "0", "288:00:00"],
        ]
    assert max(map(len, (line.rstrip() for line in lines[: lines.index("")]))) <= 80


def test_the_tables_of_a_status_cut_nothing_at_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = printed(lambda: show(status.as_tables(STATUS)), capsys, monkeypatch)

    assert "\N{HORIZONTAL ELLIPSIS}" not in "".join(lines)
    assert ["family", "waiting", *RETRY, "dead", "kept", "consumers", "at", "most"] in map(str.split, lines)
    for family in FAMILIES:
        assert cells(lines, family)[0] == [
            *(family, "1,234,567", *["123,456"] * 3, "12,345", "12,345", "12", "72:00:00")
        ]
    [webhook] = cells(lines, "the-shop-in-the-north")
    assert webhook[1:] == ["1,234,567", *["123,456"] * 3, "12,345", "12,345", "10"]
    assert cells(lines, "event_log") == [["event_log", "2,123,456,789"]]
    assert "webhook the-shop-in-the-north: it is no longer in" in "\n".join(lines)


def test_a_narrower_terminal_loses_no_digit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = printed(lambda: show(audit.as_tables(AUDIT)), capsys, monkeypatch)
    monkeypatch.setenv("COLUMNS", "50")
    show(audit.as_tables(AUDIT))
    narrow = capsys.readouterr().out

    digits = [sum(map(str.isdigit, text)) for text in ("".join(lines), narrow)]
    assert digits[0] == digits[1]


def test_groups_of_dead_letters_have_each_text_whole_at_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    group = {
        "fingerprint": "0123abcd",
        "letters": 1_234_567,
        "origin": "webhook.the-shop-in-the-north",
        "types": ["order.return.created", "a\nb"],
        "first_at": at,
        "last_at": at,
        "reason": "exhausted: RaiseError [P0001] in consumers/family.py:write",
    }
    lines = printed(lambda: show(groups_as_table([group])), capsys, monkeypatch)

    texts = [line[1:-1].split("│")[1].strip() for line in lines if line.startswith("│")]
    assert " ".join(texts) == (
        "1,234,567 of webhook.the-shop-in-the-north: order.return.created, a\\x0ab "
        "2026-03-01T00:00:00Z to 2026-03-01T00:00:00Z "
        "exhausted: RaiseError [P0001] in consumers/family.py:write"
    )
    assert "│ 0123abcd    │" in "\n".join(lines)


def test_a_duration_takes_few_columns() -> None:
    assert hours_minutes_seconds(timedelta(days=3, seconds=61)) == "72:01:01"
    assert hours_minutes_seconds(timedelta(0)) == "0:00:00"
