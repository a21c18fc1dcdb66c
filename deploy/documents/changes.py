"""The page of the change feed, from schemas/changes.py."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from schemas.changes import PREFIX, TYPES

_INTRODUCTION = """\
# The change feed

<!-- made by `make docs` from schemas/changes.py -->

Every change of a part, an order, a return, a trade-in or a reminder, and every message to a customer that
falls due, is published to the topic exchange `stockhook.changes`: CloudEvents 1.0 in JSON (structured
mode, `application/cloudevents+json`), persistent, with the event's `type` as the routing key. Bind a queue of
your own to the types that you want (`stockhook.part.sold`, `stockhook.order.*`, `stockhook.#`). Where
nobody is bound a change goes to nobody; what was published before you bind is not repeated.

| attribute | what it is |
| --- | --- |
| `id` | stands for the change: one that comes twice has the same |
| `type` | `stockhook.` and what became of it, as below |
| `subject` | the entity's id at the marketplace |
| `time` | when it happened, by the marketplace's clock |
| `sequence` | compares as text; of one entity, later changes have greater ones |
| `data.event_id` | the event that did it, a webhook or an observation |
| `data.before`, `data.after` | the entity's fields; `before` is null for one that was not known |

At least once: a change may come again, under the same `id`, after a crash. In order per entity: a change is
published once the one before it is confirmed. `before` is what the change before it called `after`. Events
that are repeated, or older than the state, change nothing and are not told. What `stockhook rebuild --swap`
brings is not told either.

A change of a customer's data alone is told as an update in which no field differs: no type carries names,
addresses, telephone numbers, email addresses or bank details.
"""


def changes_page() -> str:
    return "\n".join([_INTRODUCTION, *(_section(state, types) for state, types in TYPES.items())])


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
        words = {"datetime": "instant, RFC 3339", "Decimal": "decimal number in text", "str": "text"}
        yield name, words.get(kind.__name__, "integer") + (", or null" if is_optional else "")
