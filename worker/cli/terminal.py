"""Printing for every command. Foreign text is shown as inert text, which cannot steer a terminal.

All output goes through this module: ruff refuses `print`, rich's `Console` and rich's `Text` elsewhere.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import IO, Any

import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.style import StyleType
from rich.table import Column, Table
from rich.text import Text

from worker.observability.inert_text import json_text, visible


def say(value: object = "", *, file: IO[str] | None = None, keep: str = "") -> None:
    """Print one line of text, which may hold foreign text."""
    print(visible(value, keep), file=file, flush=True)


def say_json(value: object, *, indent: bool = False) -> None:
    """Print a value as JSON, on one line unless it is indented."""
    print(json_text(value, indent=indent), flush=True)


def show(*renderables: RenderableType, soft_wrap: bool = False) -> None:
    """Print tables and lines; strings in them may hold foreign text."""
    console().print(*renderables, soft_wrap=soft_wrap)


def table_of_numbers(*headings: str, names: int = 1) -> Table:
    """A table whose first columns have names, and the others numbers or durations.

    Without lines between the columns, large numbers fit into a terminal of 80. In a narrower one, a value
    continues on the next line, and no digit is lost.
    """
    return Table(
        *(
            Column(heading, justify="left" if number < names else "right", overflow="fold")
            for number, heading in enumerate(headings)
        ),
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )


def table_of_texts(heading: str, text: str, rows: Iterable[Sequence[str]]) -> Table:
    """A table with the id of each row, and beside it the row's other texts as lines of their own.

    Of more columns, a terminal of 80 shows a few letters each. The texts may be foreign.
    """
    table = Table(Column(heading, overflow="fold"), Column(text, overflow="fold"))
    for first, *lines in rows:
        table.add_row(visible(first), "\n".join(map(visible, lines)), end_section=True)
    return table


def hours_minutes_seconds(duration: timedelta) -> str:
    """Hours, minutes and seconds, in few columns."""
    minutes, seconds = divmod(round(duration.total_seconds()), 60)
    return f"{minutes // 60:,}:{minutes % 60:02}:{seconds:02}"


def console(*, stderr: bool = False) -> Console:
    """A rich console that interprets no string as markup, as an emoji code or as a control sequence."""
    return _InertConsole(stderr=stderr, markup=False, emoji=False, highlight=False)


def styled(value: object, style: StyleType) -> Text:
    """Foreign text in a style of ours."""
    return Text(visible(value), style)


def assembled(*parts: str | tuple[object, str]) -> Text:
    """One line of several pieces of foreign text, with or without a style."""
    pieces = (part if isinstance(part, tuple) else (part, "") for part in parts)
    return Text.assemble(*((visible(value), style) for value, style in pieces))


class _InertConsole(Console):
    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text, keep="\n"), **options)


def on_one_line(value: object) -> str:
    """A value as text; a document as JSON, an instant in UTC."""
    match value:
        case dict() | list():
            return orjson.dumps(value, default=str).decode()
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case _:
            return str(value)
