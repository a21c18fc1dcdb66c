"""A redacted body: its structure, and those of its values that are known to be harmless.

A value is shown only at a place that the marketplace documents for such values, and only where it looks as
it should. At any other place it may be a person's name, address or account, whatever its member is called.
The name of an undocumented member may be one as well.
"""

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from schemas.events import read_json
from schemas.registry import Provider
from worker.marketplaces.registry import MARKETPLACES
from worker.marketplaces.shape import Shape, is_amount, is_boolean, is_id, is_instant, is_integer, is_word

# Our own change feed, which contains merchants' free text, but no customer data.
_STATE: Shape = {
    **dict.fromkeys(
        ("part_id", "external_id", "order_id", "return_id", "external_order_id", "item_id"), is_id
    ),
    **dict.fromkeys(("status", "kind", "payment_type", "currency"), is_word),
    **dict.fromkeys(
        ("since", "created_at", "cancelled_at", "opened_at", "updated_at", "occurred_at"), is_instant
    ),
    **dict.fromkeys(("update_count", "days"), is_integer),
    "is_listed": is_boolean,
    "total_amount": is_amount,
    "items": [
        {
            "item_id": is_id,
            **dict.fromkeys(("status", "currency"), is_word),
            **dict.fromkeys(("base_amount", "total_amount"), is_amount),
        }
    ],
    "shipments": [
        {"carrier": is_word, "pickup_starts_at": is_instant, "pickup_ends_at": is_instant},
    ],
}
CHANGE: Shape = {
    **dict.fromkeys(("id", "subject", "sequence"), is_id),
    "type": is_word,
    "time": is_instant,
    "data": {"event_id": is_id, "before": _STATE, "after": _STATE},
}

# Documented members of a change whose values are never shown.
_HIDDEN_IN_CHANGES = frozenset(
    {
        "brand",
        "category",
        "datacontenttype",
        "external_reference",
        "model",
        "source",
        "specversion",
        "tracking_code",
    }
)


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


def _names_of(shape: Shape) -> Iterator[str]:
    match shape:
        case Mapping():
            yield from shape
            for inner in shape.values():
                yield from _names_of(inner)
        case list():
            for inner in shape:
                yield from _names_of(inner)


_NAMES = _HIDDEN_IN_CHANGES.union(
    _names_of(CHANGE),
    *(_names_of(marketplace.shape) for marketplace in MARKETPLACES.values()),
    *(marketplace.hidden_names for marketplace in MARKETPLACES.values()),
)
