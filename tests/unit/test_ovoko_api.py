"""Reading the answers of Ovoko's API."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from schemas.ovoko_api import (
    Entity,
    InvalidAnswer,
    ListedPart,
    OrderReturn,
    PartDescription,
    ReturnedItem,
    read_answer,
    rows_of,
)

RETURN = b"""
{"list": [[{"id": 456, "order_id": 12345, "status": "New", "created_at": "2023-07-10T20:14:39+03:00",
"order_return_items": [{"id": 12, "part_id": 77, "name": "Front door window", "price": 275.11,
"return_reason": "Not suitable", "returnable_amount": 64.730000000000004, "currency": "PLN"}],
"total_returnable_amount": "294.950", "currency": "PLN", "customer": {"first_name": "John"}}]],
"msg": "OK", "status_code": "R200"}
"""


def listed(document: bytes) -> ListedPart:
    return rows_of(read_answer(b'{"status_code": "R200", "list": [[%b]]}' % document), ListedPart).read[0]


def test_a_return_is_read_out_of_its_two_lists_with_exact_money() -> None:
    answer = read_answer(RETURN)

    assert answer.is_success
    assert rows_of(answer, OrderReturn).read == [
        OrderReturn(
            return_id="456",
            order_id="12345",
            status="New",
            created_at="2023-07-10T17:14:39Z",
            currency="PLN",
            total_returnable_amount=Decimal("294.950"),
            order_return_items=(
                ReturnedItem(
                    part_id="77",
                    name="Front door window",
                    return_reason="Not suitable",
                    price=Decimal("275.11"),
                    returnable_amount=Decimal("64.730000000000004"),
                    currency="PLN",
                ),
            ),
        )
    ]


@pytest.mark.parametrize("members", ['"list": [{"id": 1, "status": 0}]', '"data": [{"id": 1, "status": 0}]'])
def test_rows_are_read_from_one_list_too_and_under_either_name(members: str) -> None:
    answer = read_answer(b'{%b, "status_code": "R200"}' % members.encode())

    assert [part.part_id for part in rows_of(answer, ListedPart).read] == ["1"]


@pytest.mark.parametrize(
    ("number", "webhook", "agrees"),
    [
        ("0", "in_warehouse", True),
        ("0", "sold", False),
        ("2", "sold", True),
        ("2", "sold_in_ebay", True),
        ("2", "sold_in_allegro", True),
        ("2", "in_warehouse", False),
        ("2", "unknown_stock_status", True),
        ("4", "unknown_stock_status", False),
        ("4", "written_off", True),
        ("9", "sold", False),
        ('"sold_in_ebay"', "sold_in_ebay", True),
        ('"sold_in_ebay"', "sold", False),
    ],
)
def test_a_number_agrees_with_the_statuses_that_it_stands_for(
    number: str, webhook: str, agrees: bool
) -> None:
    part = listed(b'{"id": 13, "status": %b}' % number.encode())

    assert part.agrees_with(webhook) is agrees


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("2023-01-12T14:17:20+02:00", datetime(2023, 1, 12, 12, 17, 20, tzinfo=UTC)),
        ("2023-01-12 14:17:20", None),
        ("0000-00-00 00:00:00", None),
        ("0001-01-01T00:00:00+14:00", None),
    ],
)
def test_an_instant_needs_an_offset(given: str, read: datetime | None) -> None:
    part = listed(b'{"id": 13, "status": 0, "updated_at": "%b"}' % given.encode())

    assert part.updated_at == read


def test_a_part_goes_by_the_deprecated_name_where_the_new_one_is_null() -> None:
    part = listed(b'{"id": 13, "status": 0, "external_id": null, "id_bridge": 12345}')

    assert part.merchants_id == "12345"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"status_code": ["R200"]}',
        b'{"list": []}',
        b'{"status_code": "R200", "list": {"items": []}}',
        b'{"status_code": "R200", "list": [], "pagination": {"total_count": -1}}',
        b"[" * 100_000,
    ],
)
def test_the_members_around_the_rows_are_checked(body: bytes) -> None:
    with pytest.raises(InvalidAnswer):
        read_answer(body)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('"part-13"', "row 1: it: model_type"),
        ('{"id": 13}', "row 1: status: missing"),
        ('{"id": 13, "status": []}', "row 1: status: string_type"),
        ('{"id": "\\u0000secret", "status": 0}', "row 1: id: string_pattern_mismatch"),
        ("null", "row 1: it: model_type"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_and_the_others_are_read(row: str, message: str) -> None:
    answer = read_answer(
        b'{"status_code": "R200", "list": [{"id": 1, "status": 0}, %b, {"id": 2, "status": 0}]}'
        % row.encode()
    )
    rows = rows_of(answer, ListedPart)

    assert [part.part_id for part in rows.read] == ["1", "2"]
    assert rows.unreadable == (message,)


def test_an_answer_without_a_list_is_refused() -> None:
    with pytest.raises(InvalidAnswer, match="list: missing"):
        rows_of(read_answer(b'{"status_code": "R200"}'), ListedPart)


UNREADABLE = ("false", "[]", "{}", '"\\u0000"')


@pytest.mark.parametrize("value", UNREADABLE)
@pytest.mark.parametrize(
    ("model", "required"),
    [
        (ListedPart, {"id": 13, "status": 0}),
        (PartDescription, {"id": 13}),
        (OrderReturn, {"id": 1, "order_id": 2, "status": "New"}),
    ],
)
def test_an_unreadable_optional_field_of_a_row_counts_as_absent(
    model: type[Entity], required: dict[str, Any], value: str
) -> None:
    names = [name for name, field in model.model_fields.items() if not field.is_required()]
    silent = [name for name in names if name in ("updated_at", "created_at")]
    members = ", ".join(f'"{name}": {value}' for name in names)
    document = json.dumps(required)[:-1] + f", {members}}}"
    rows = rows_of(read_answer(b'{"status_code": "R200", "list": [%b]}' % document.encode()), model)

    assert rows.unreadable == ()
    assert rows.read[0].model_dump() == model.model_validate(required).model_dump()
    assert set(names) - set(silent) - {"order_return_items"} <= set(rows.unreadable_fields)


def test_an_unreadable_field_of_an_item_leaves_its_other_fields() -> None:
    answer = read_answer(RETURN.replace(b'"price": 275.11', b'"price": {}'))
    rows = rows_of(answer, OrderReturn)
    (item,) = rows.read[0].order_return_items

    assert (item.part_id, item.name, item.price) == ("77", "Front door window", None)
    assert rows.unreadable_fields == {"order_return_items.price": 1}


@pytest.mark.parametrize("number", ["13", "13.0", '" 13 "', '"13"', "1.3e1", "1300e-2"])
def test_an_id_is_the_same_as_a_number_and_as_text(number: str) -> None:
    part = listed(b'{"id": %b, "status": 0, "external_id": %b}' % (number.encode(), number.encode()))

    assert (part.part_id, part.external_id) == ("13", "13")


def test_a_part_is_described_with_exact_money_and_empty_texts_as_nothing() -> None:
    answer = read_answer(
        b'{"status_code": "R200", "list": [[{"id": 77, "name": "Front door", "price": "64.730000000000004", '
        b'"currency": "EUR", "manufacturer_code": 5123, "visible_code": "", "other_code": null, '
        b'"internal_notes": "bought from Doe", "status": 0}]]}'
    )

    assert rows_of(answer, PartDescription).read == [
        PartDescription(
            part_id="77",
            name="Front door",
            price=Decimal("64.730000000000004"),
            currency="EUR",
            manufacturer_code="5123",
        )
    ]


@pytest.mark.parametrize("price", ['"a lot"', "[1]", '"NaN"', "1e99", '"1e999999999"', "true"])
def test_a_price_that_is_none_counts_as_absent(price: str) -> None:
    answer = read_answer(
        b'{"status_code": "R200", "list": [[{"id": 77, "name": "a", "price": %b}]]}' % price.encode()
    )
    rows = rows_of(answer, PartDescription)

    assert [(row.name, row.price, row.unreadable_fields) for row in rows.read] == [("a", None, ("price",))]
