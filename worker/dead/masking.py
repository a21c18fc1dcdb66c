"""A body as it may be shown: its shape, and of its values those that are known to be harmless."""

import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from schemas.events import read_json

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
_WORD = re.compile(r"[A-Za-z][A-Za-z_.]{0,63}")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]{5,18}(Z|[+-]\d\d:?\d\d)?")
_AMOUNT = re.compile(r"-?\d{1,9}(\.\d{1,7})?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def _is_id(value: object) -> bool:
    return _is_integer(value) or (isinstance(value, str) and bool(_ID.fullmatch(value)))


def _is_word(value: object) -> bool:
    return isinstance(value, str) and bool(_WORD.fullmatch(value))


def _is_instant(value: object) -> bool:
    return isinstance(value, str) and bool(_INSTANT.fullmatch(value))


def _is_amount(value: object) -> bool:
    return not isinstance(value, bool) and bool(_AMOUNT.fullmatch(str(value)))


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_never(_value: object) -> bool:
    return False


# By name: values that are harmless where they look as they should. Whatever else there is may be
# somebody's name, address or account.
_HARMLESS: Mapping[str, Callable[[object], bool]] = {
    **dict.fromkeys(("event_id", "part_id", "external_id", "id_bridge", "order_id", "return_id"), _is_id),
    **dict.fromkeys(("id", "collectionId", "itemId", "externalOrderId", "brandId"), _is_id),
    **dict.fromkeys(("event_type", "type", "status", "paymentType", "carrier"), _is_word),
    **dict.fromkeys(("countryIsoCode", "countryOfOrigin", "currencyIsoCode"), _is_word),
    **dict.fromkeys(("timestamp", "initialSlot", "finalSlot", "startDate", "endDate"), _is_instant),
    **dict.fromkeys(("amount", "percentage", "promotionValue"), _is_amount),
    **dict.fromkeys(("daysAfterCreation", "withinDays"), _is_integer),
    "isReschedule": lambda value: isinstance(value, bool),
}

# Within these nothing is harmless, whatever it is called.
_PRIVATE = frozenset(
    {"customerInformation", "customer", "customerPaymentDetails", "bankAccount", "address", "metadata"}
)


def masked(body: bytes) -> str:
    """The body, pretty-printed and masked.

    Raises:
        ValueError: It is no JSON.
    """
    return pretty(_mask(read_json(body), None, is_private=False))


def pretty(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False, default=_number)


def _number(value: object) -> str:
    assert isinstance(value, Decimal), "all else is JSON"
    return str(value)


def _mask(value: Any, name: str | None, *, is_private: bool) -> Any:
    match value:
        case dict():
            return {
                _shown_name(key, number): _mask(inner, key, is_private=is_private or key in _PRIVATE)
                for number, (key, inner) in enumerate(value.items())
            }
        case list():
            return [_mask(inner, name, is_private=is_private) for inner in value]
        case None:
            return None
        case _ if not is_private and _HARMLESS.get(name or "", _is_never)(value):
            return value
        case bool():
            return "<boolean>"
        case str():
            return f"<{len(value)} characters>" if value else ""
        case _:
            return "<number>"


def _shown_name(name: str, number: int) -> str:
    """Names are the marketplace's own, unless they do not look like it."""
    return name if _NAME.fullmatch(name) else f"<name {number}: {len(name)} characters>"
