"""The audit trail's filters, keys and CSV; other files test it with a database."""

import csv
from datetime import UTC, datetime
from io import StringIO

import pytest

from worker.console.screens.audit_trail import cell, csv_text, page_of
from worker.tools.audit_trail import BadTrailFilter, Key, TrailFilter


@pytest.mark.parametrize(
    "text",
    [
        '=HYPERLINK("http://evil.example","x")',
        "+1+1",
        "-2+3",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "\uff1d1",
    ],
)
def test_no_cell_is_calculated(text: str) -> None:
    assert cell(text).startswith("'")


@pytest.mark.parametrize("text", ["", "orders", "a=b", "12", "it's", "Ärger"])
def test_a_harmless_cell_is_as_it_was(text: str) -> None:
    assert cell(text) == text


def test_hidden_characters_are_written_out_and_quotes_are_doubled() -> None:
    text = csv_text([("a\u202eb", 'say "x", then', "two\nlines\x00")])

    assert next(csv.reader(StringIO(text))) == ["a\\u202eb", 'say "x", then', "two\\x0alines\\x00"]


def test_a_key_is_read_as_it_was_written() -> None:
    key = Key(datetime(2026, 3, 1, 12, 0, 0, 123456, UTC), "letter", 2**62)

    assert Key.read(str(key)[:-1]).at == key.at
    assert Key.read("1772366400123456-operator-7") == Key(key.at, "operator", 7)


@pytest.mark.parametrize(
    "text", ["1", "x-letter-1", "1-other-1", "1-letter-" + "9" * 30, "9" * 40, "1-letter-1\n", "\0"]
)
def test_another_key_is_refused(text: str) -> None:
    with pytest.raises(BadTrailFilter, match="begin with the first page"):
        Key.read(text)


@pytest.mark.parametrize(
    "given",
    [
        {"who": "x" * 10_000},
        {"subject": "a\0b"},
        {"since": "yesterday"},
        {"since": "0001-01-01T00:00:00+14:00"},
        {"until": "9" * 10_000},
        {"until": "12\0h"},
        {"since": "999999d"},
    ],
)
def test_a_bad_filter_is_a_sentence(given: dict[str, str]) -> None:
    with pytest.raises(BadTrailFilter) as caught:
        TrailFilter.read(**given)

    assert str(caught.value).startswith(next(iter(given)))
    assert len(str(caught.value)) < 200


def test_an_empty_filter_matches_all() -> None:
    assert TrailFilter.read("", " ", None, "", "") == TrailFilter()


@pytest.mark.parametrize(
    ("action", "subject", "page"),
    [
        ("dead_letter.replayed", "12", "/dead-letters/12"),
        ("family.paused", "orders", "/families/orders"),
        ("family.paused", "painters", None),
        ("job.started", "job 7", "/jobs/7"),
        ("action.retried", "0a1b", "/actions/0a1b"),
        ("webhook.test_sent", "shop", "/changes#subscriber-shop"),
        ("schema.migrated", "25", None),
        ("action.closed", "../sign-in", "/actions/..%2Fsign-in"),
    ],
)
def test_a_record_leads_to_the_page_of_what_was_changed(action: str, subject: str, page: str | None) -> None:
    assert page_of(action, subject) == page
