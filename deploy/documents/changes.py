"""The types of changes, from schemas/changes.py."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from schemas.changes import PREFIX, TYPES

_WORDS = {
    "bool": "boolean",
    "datetime": "instant, RFC 3339",
    "Decimal": "decimal number in text",
    "int": "integer",
    "str": "text",
}


def changes_reference() -> str:
    """A section for each kind of entity: its types and fields."""
    return "\n".join(_section(state, types) for state, types in TYPES.items())


def _section(state: Any, types: tuple[str, ...]) -> str:
    kind = types[0].partition(".")[0]
    named = ", ".join(f"`{PREFIX}{name}`" for name in types)
    rows = "\n".join(f"| `{name}` | {words} |" for name, words in _rows(state))
    note = "" if (state.__doc__ or "").startswith(state.__name__) else f"{state.__doc__}\n\n"
    return f"## {kind.capitalize()}\n\n{named}\n\n{note}| field | type |\n| --- | --- |\n{rows}\n"


def _rows(state: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    hints = get_type_hints(state)
    for field in fields(state):
        hint = hints[field.name]
        name = prefix + field.name
        inner = get_args(hint)
        if inner and is_dataclass(inner[0]):
            yield from _rows(inner[0], f"{name}[].")
            continue
        is_optional = type(None) in inner
        kind = next(one for one in inner if one is not type(None)) if is_optional else hint
        yield name, _WORDS[kind.__name__] + (", or null" if is_optional else "")
