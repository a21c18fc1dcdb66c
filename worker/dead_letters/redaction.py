"""A redacted body: its structure, and those of its values that are known to be harmless.

A value is shown only at a place that the marketplace documents for such values, and only where it looks as
it should. At any other place it may be somebody's name, address or account, whatever its member is called;
so may the name of a member that no document has.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from schemas.events import Provider, read_json

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
_WORD = re.compile(r"[A-Za-z][A-Za-z_.]{0,63}")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]{5,18}(Z|[+-]\d\d:?\d\d)?")
_AMOUNT = re.compile(r"-?\d{1,9}(\.\d{1,7})?")
_IBAN = re.compile(r"[A-Za-z]{2}\d{2}[A-Za-z0-9]{11,30}")


def _is_id(value: object) -> bool:
    is_id = _is_integer(value) or (isinstance(value, str) and bool(_ID.fullmatch(value)))
    return is_id and not _may_be_an_account(str(value))


def _may_be_an_account(text: str) -> bool:
    """An IBAN, or a card's number (ISO 7812: its last digit is a checksum)."""
    bare = re.sub(r"[_.:-]", "", text)
    if _IBAN.fullmatch(bare):
        return True
    if not (bare.isdecimal() and 13 <= len(bare) <= 19):
        return False
    digits = [int(digit) for digit in reversed(bare)]
    return sum(digits[0::2] + [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]) % 10 == 0


def _is_word(value: object) -> bool:
    return isinstance(value, str) and bool(_WORD.fullmatch(value))


def _is_instant(value: object) -> bool:
    return isinstance(value, str) and bool(_INSTANT.fullmatch(value))


def _is_amount(value: object) -> bool:
    return not isinstance(value, bool) and bool(_AMOUNT.fullmatch(str(value)))


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_boolean(value: object) -> bool:
    return isinstance(value, bool)


# The documented shape of a body: an object's members by name, `[…]` for a list, and for a value that may be
# shown a check of its form. Everything else is hidden.
Shape = Mapping[str, "Shape"] | list["Shape"] | Callable[[object], bool]

_OVOKO_EVENT: Mapping[str, Shape] = {
    "event_id": _is_id,
    "event_type": _is_word,
    "timestamp": _is_instant,
    "event_data": {
        **dict.fromkeys(("part_id", "external_id", "id_bridge", "order_id", "return_id"), _is_id),
        "status": _is_word,
        "is_listed": _is_boolean,
        "created_at": _is_instant,
    },
}
_OVOKO: Shape = {**_OVOKO_EVENT, "event": _OVOKO_EVENT}

_PRICE: Shape = {"currencyIsoCode": _is_word, "amount": _is_amount}
_PROMOTION: Shape = {"id": _is_id, "percentage": _is_amount, "price": _PRICE}
_SHIPMENT: Shape = {"id": _is_id, "carrier": _is_word, "startDate": _is_instant, "endDate": _is_instant}
_ITEM: Shape = {
    **dict.fromkeys(("id", "brandId", "categoryId"), _is_id),
    "status": _is_word,
    "brand": {"id": _is_id},
    "category": {"id": _is_id},
    "attributes": [{"id": _is_id, "values": [{"id": _is_id}]}],
    "offers": [
        {
            "id": _is_id,
            "status": _is_word,
            "basePrice": _PRICE,
            "totalPrice": _PRICE,
            "promotions": [_PROMOTION],
        }
    ],
    "customerPrice": _PRICE,
    "totalValue": _PRICE,
    "promotionValue": _is_amount,
    "promotions": [_PROMOTION],
}
_BUYBACK: Shape = {
    "type": _is_word,
    "result": {
        **dict.fromkeys(("id", "collectionId", "itemId"), _is_id),
        **dict.fromkeys(("timestamp", "initialSlot", "finalSlot"), _is_instant),
        **dict.fromkeys(("countryIsoCode", "paymentType"), _is_word),
        **dict.fromkeys(("daysAfterCreation", "withinDays"), _is_integer),
        "isReschedule": _is_boolean,
        "rejectionReasons": [_is_word],
        "shipment": _SHIPMENT,
        "activeShipmentPickup": _SHIPMENT,
        "items": [_ITEM],
        "order": {
            **dict.fromkeys(("id", "externalOrderId"), _is_id),
            **dict.fromkeys(("status", "countryOfOrigin", "paymentType"), _is_word),
            "items": [_ITEM],
            "shipments": [_SHIPMENT],
        },
    },
}

# Our own change feed, which contains merchants' free text, but no customer data.
_STATE: Shape = {
    **dict.fromkeys(
        ("part_id", "external_id", "order_id", "return_id", "external_order_id", "item_id"), _is_id
    ),
    **dict.fromkeys(("status", "kind", "payment_type", "currency"), _is_word),
    **dict.fromkeys(
        ("since", "created_at", "cancelled_at", "opened_at", "updated_at", "occurred_at"), _is_instant
    ),
    **dict.fromkeys(("update_count", "days"), _is_integer),
    "is_listed": _is_boolean,
    "total_amount": _is_amount,
    "items": [
        {
            "item_id": _is_id,
            **dict.fromkeys(("status", "currency"), _is_word),
            **dict.fromkeys(("base_amount", "total_amount"), _is_amount),
        }
    ],
    "shipments": [
        {"carrier": _is_word, "pickup_starts_at": _is_instant, "pickup_ends_at": _is_instant},
    ],
}
CHANGE: Shape = {
    **dict.fromkeys(("id", "subject", "sequence"), _is_id),
    "type": _is_word,
    "time": _is_instant,
    "data": {"event_id": _is_id, "before": _STATE, "after": _STATE},
}

_SHAPES = {Provider.OVOKO: _OVOKO, Provider.BUYBACK: _BUYBACK}

# Documented members whose values are never shown.
_PRIVATE_NAMES = frozenset(
    {
        "accountNumber",
        "accountNumberEnding",
        "address",
        "bankAccount",
        "beneficiaryName",
        "billingAddress",
        "brand",
        "brandName",
        "category",
        "categoryName",
        "city",
        "commercialInvoiceUrl",
        "country",
        "countryCode",
        "customerInformation",
        "customerPaymentDetails",
        "datacontenttype",
        "description",
        "email",
        "externalReference",
        "externalUserId",
        "external_reference",
        "files",
        "financialInstitutionIdentifier",
        "firstLine",
        "firstName",
        "label",
        "lastName",
        "location",
        "mainPhotoUrl",
        "mergedDocuments",
        "metadata",
        "model",
        "name",
        "number",
        "order",
        "required",
        "returns",
        "sealed",
        "secondLine",
        "source",
        "specversion",
        "state",
        "subType",
        "submissionExternalReference",
        "telephoneNumber",
        "timezone",
        "token",
        "trackingCode",
        "tracking_code",
        "waybillUrl",
        "zipCode",
    }
)


def shape_of(provider: Provider | None) -> Shape:
    """The documented shape of a marketplace's events; empty for events without documentation."""
    return {} if provider is None else _SHAPES[provider]


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


_NAMES = _PRIVATE_NAMES.union(*(_names_of(shape) for shape in (*_SHAPES.values(), CHANGE)))
