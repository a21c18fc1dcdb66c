"""Printing for every command. Foreign text is shown as inert text, which cannot steer a terminal.

`visible` is the only place that decides how foreign text looks. All output goes through this module: ruff
refuses `print`, rich's `Console` and rich's `Text` elsewhere.
"""

import json
import re
import sys
from typing import IO, Any

import orjson
from rich.console import Console, RenderableType
from rich.style import StyleType
from rich.text import Text

# Characters that Python calls printable although a terminal shows nothing for them (Unicode's
# Default_Ignorable_Code_Point), and the blank pattern of Braille.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def visible(value: object, keep: str = "") -> str:
    r"""Text as it is, with each character that steers a terminal or hides written out, such as `\x1b`.

    These are control characters, line ends (but for those in `keep`), bidirectional and zero-width
    characters, lone surrogates and unassigned characters.
    """
    text = str(value)
    if text.isprintable() and not _INVISIBLE.search(text):
        return text
    return "".join(
        character if character in keep or _is_harmless(character) else _escaped(character)
        for character in text
    )


def json_text(value: object, *, indent: bool = False) -> str:
    r"""A value as JSON; what has no JSON type as text. What `visible` writes out is a `\u` escape here."""
    try:
        text = orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2 if indent else 0).decode()
    except TypeError:
        # An integer of more than 64 bits, or a lone surrogate: the standard library takes both.
        text = json.dumps(value, default=str, indent=2 if indent else None)
    return inert_json(text)


def inert_json(text: str) -> str:
    """The same JSON document, without a raw character that steers a terminal."""
    if text.isprintable() and not _INVISIBLE.search(text):
        return text
    # Outside of strings JSON has no such characters but for white space.
    return "".join(
        character if character in "\n\t" or _is_harmless(character) else _json_escaped(character)
        for character in text
    )


def say(value: object = "", *, file: IO[str] | None = None, keep: str = "") -> None:
    """Print one line of text, which may hold foreign text."""
    print(visible(value, keep), file=file, flush=True)


def say_json(value: object, *, indent: bool = False) -> None:
    """Print a value as JSON, on one line unless it is indented."""
    print(json_text(value, indent=indent), flush=True)


def show(*renderables: RenderableType, soft_wrap: bool = False) -> None:
    """Print tables and lines; strings in them may hold foreign text."""
    console().print(*renderables, soft_wrap=soft_wrap)


def console(*, stderr: bool = False) -> Console:
    """A rich console that takes no string for markup, for an emoji code or for orders to a terminal."""
    return _InertConsole(stderr=stderr, markup=False, emoji=False, highlight=False)


def styled(value: object, style: StyleType) -> Text:
    """Foreign text in a style of ours."""
    return Text(visible(value), style)


def assembled(*parts: str | tuple[object, str]) -> Text:
    """One line of several pieces of foreign text, with or without a style."""
    pieces = (part if isinstance(part, tuple) else (part, "") for part in parts)
    return Text.assemble(*((visible(value), style) for value, style in pieces))


def prepare_streams() -> None:
    """Let standard output write a character that its encoding lacks as an escape, not as a failure."""
    for stream in (sys.stdout, sys.stderr):
        # Not there where something else stands in for the stream, as in tests.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


class _InertConsole(Console):
    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text, keep="\n"), **options)


def _is_harmless(character: str) -> bool:
    return character.isprintable() and not _INVISIBLE.match(character)


def _escaped(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _json_escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place : place + 2].hex()}" for place in range(0, len(units), 2))
