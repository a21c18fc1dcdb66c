"""Foreign text on a terminal is visible and has no effect."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Group
from rich.table import Table

from worker.cli import terminal
from worker.cli.terminal import say, show
from worker.observability.inert_text import inert_json, json_text, visible

HOSTILE = (
    "[/x]",
    "[red]a[/red]",
    "[link=http://evil.example]a[/link]",
    ":warning:",
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x1b]8;;http://evil.example\x1b\\a\x1b]8;;\x1b\\",
    "\x9b2J",
    "\x7f",
    "\r",
    "\u202e",
    "\u2066",
    "\u200b",
    "\ufeff",
    "\u3164",
    "\U000e0041",
    "\ud800",
)
WITH_JSON_TYPES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters()) | st.sampled_from(HOSTILE),
    lambda children: st.lists(children) | st.dictionaries(st.text(st.characters()), children),
    max_leaves=8,
)


def is_inert(text: str) -> bool:
    return all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize("text", ["13", "Ünïcödé 部品 قطعة", "[/x]", "a b", ""])
def test_harmless_text_is_shown_as_it_is(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b", r"\x9b"),
        ("a\nb", r"a\x0ab"),
        ("\u202egnp", r"\u202egnp"),
        ("\U000e0041", r"\U000e0041"),
        ("\u3164", r"\u3164"),
        ("\ud800", r"\ud800"),
    ],
)
def test_a_character_that_steers_or_hides_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(text=st.text(st.characters()))
def test_no_text_holds_an_order_once_it_is_visible(text: str) -> None:
    assert visible(text).isprintable()
    visible(text).encode()


@given(value=WITH_JSON_TYPES)
def test_json_without_orders_is_the_same_json(value: object) -> None:
    text = json_text(value)

    assert is_inert(text)
    assert json.loads(text) == value


def test_json_that_came_raw_keeps_its_meaning_without_orders() -> None:
    raw = '{"a": "\x7f\x9b\u202e\U000e0041é"}'

    assert json.loads(inert_json(raw)) == json.loads(raw)
    assert is_inert(inert_json(raw))


@pytest.mark.parametrize("hostile", HOSTILE)
def test_tables_and_lines_show_hostile_text_and_do_not_obey_it(
    hostile: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    table = Table(hostile, "column")
    table.add_row("cell", hostile)
    show(Group(table, hostile), hostile, terminal.styled(hostile, "red"), terminal.assembled(hostile))
    say(hostile)

    shown = capsys.readouterr().out
    assert is_inert(shown)
    assert shown.count(visible(hostile)) == 7


def test_a_character_that_the_output_cannot_encode_is_no_failure() -> None:
    program = (
        "from worker.cli.entry_point import prepare_streams; from worker.cli.terminal import say; "
        "prepare_streams(); say('é\\u202e')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )

    assert (done.returncode, done.stdout) == (0, b"\\xe9\\u202e\n"), done.stderr
