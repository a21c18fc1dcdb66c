"""Foreign text as inert text, which cannot steer a terminal or hide in a log.

`visible` is the only place that decides how foreign text looks.
"""

import json
import re

import orjson

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
