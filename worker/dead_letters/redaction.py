"""A redacted body: its structure, and those of its values that are known to be harmless.

A value is shown only at a place that the marketplace documents for such values, and only where it looks as
it should. At any other place it may be a person's name, address or account, whatever its member is called.
The name of an undocumented member may be one as well.
"""

import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from typing import Any, get_args, get_type_hints

from schemas.changes import TYPES, Id, Word
from schemas.events import read_json
from schemas.registry import Provider
from worker.marketplaces.registry import MARKETPLACES
from worker.marketplaces.shape import Shape, is_amount, is_boolean, is_id, is_instant, is_integer, is_word

_CHECKS: dict[object, Shape] = {
    Id: is_id,
    Word: is_word,
    datetime: is_instant,
    Decimal: is_amount,
    int: is_integer,
    bool: is_boolean,
}


def _shape_of_state(state: type) -> dict[str, Shape]:
    hints = get_type_hints(state, include_extras=True)
    return {field.name: _shape_of_hint(hints[field.name]) for field in fields(state)}


def _shape_of_hint(hint: Any) -> Shape:
    """The shape of a field: text without a form is hidden."""
    if hint in _CHECKS:
        return _CHECKS[hint]
    match get_args(hint):
        case (inner, types.NoneType):
            return _shape_of_hint(inner)
        case (inner, types.EllipsisType()):
            return [_shape_of_state(inner)]
        case _:
            return {}


# The states of all types together: a dead letter of the change feed may be of any.
_STATE: Shape = {name: shape for state in TYPES for name, shape in _shape_of_state(state).items()}
CHANGE: Shape = {
    **dict.fromkeys(("id", "subject", "sequence"), is_id),
    "type": is_word,
    "time": is_instant,
    "data": {"event_id": is_id, "before": _STATE, "after": _STATE},
    # Documented, and never shown.
    "datacontenttype": {},
    "source": {},
    "specversion": {},
}


def shape_of(provider: Provider | None) -> Shape:
    """The documented shape of a marketplace's events; empty for events without documentation."""
    return {} if provider is None else MARKETPLACES[provider].shape


def masked(body: bytes, shape: Shape) -> str:
    """The body, pretty-printed, with only the values that the shape allows.

    Raises:
        ValueError: It is no JSON.
    """
    return pretty(_mask(read_json(body), shape))


def pretty(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False, default=_number)


def _number(value: object) -> str:
    assert isinstance(value, Decimal), "all else is JSON"
    return str(value)


def _mask(value: Any, shape: Shape) -> Any:
    match value:
        case dict():
            inner = shape if isinstance(shape, Mapping) else {}
            return {
                _shown_name(name, number): _mask(member, inner.get(name, {}))
                for number, (name, member) in enumerate(value.items())
            }
        case list():
            return [_mask(each, shape[0] if isinstance(shape, list) else {}) for each in value]
        case None:
            return None
        case _ if callable(shape) and shape(value):
            return value
        case bool():
            return "<boolean>"
        case str():
            return f"<{len(value)} characters>" if value else ""
        case _:
            return "<number>"


def _shown_name(name: str, number: int) -> str:
    """A documented member name; any other could be personal data, too."""
    return name if name in _NAMES else f"<name {number}: {len(name)} characters>"


def shown_name(name: str) -> str:
    """The same for a name whose place in its object does not matter."""
    return name if name in _NAMES else f"<name: {len(name)} characters>"


def _names_of(shape: Shape) -> Iterator[str]:
    match shape:
        case Mapping():
            yield from shape
            for inner in shape.values():
                yield from _names_of(inner)
        case list():
            for inner in shape:
                yield from _names_of(inner)


_NAMES = frozenset().union(
    _names_of(CHANGE),
    *(_names_of(marketplace.shape) for marketplace in MARKETPLACES.values()),
    *(marketplace.hidden_names for marketplace in MARKETPLACES.values()),
)
