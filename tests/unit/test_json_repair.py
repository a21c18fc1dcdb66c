"""The smallest repair of a body, and bodies without one."""

import json

import pytest

from schemas import examples
from worker.dead_letters.json_repair import Repair, fault, repair


@pytest.mark.parametrize("example", examples.as_printed(), ids=lambda example: str(example.name))
def test_each_example_that_is_no_json_as_printed_is_repaired(example: examples.Example) -> None:
    whole = next(other for other in examples.documented() if other.name == example.name)
    repaired = repair(example.body)

    assert repaired is not None
    assert json.loads(repaired.body) == json.loads(whole.body)


@pytest.mark.parametrize(
    ("body", "edits", "repaired"),
    [
        (b'\xef\xbb\xbf{"a":1}', ("at the beginning: a byte order mark is taken out",), b'{"a":1}'),
        (b'{"a":1,}', ("line 1, column 7: a comma is taken out",), b'{"a":1}'),
        (b"[1,]", ("line 1, column 3: a comma is taken out",), b"[1]"),
        (b'{"a":1,,"b":2}', ("line 1, column 8: a comma is taken out",), b'{"a":1,"b":2}'),
        (b'{"a":1\n "b":2}', ("line 1, column 7: a comma is put in",), b'{"a":1,\n "b":2}'),
        (b'{"a":"x"\n "b":2,\n}', None, b'{"a":"x",\n "b":2\n}'),
        (b'{"a":1},', ("line 1, column 8: a comma is taken out",), b'{"a":1}'),
    ],
)
def test_a_comma_or_a_byte_order_mark(body: bytes, edits: tuple[str, ...] | None, repaired: bytes) -> None:
    result = repair(body)

    assert result is not None
    assert result == Repair(edits or result.edits, repaired)
    assert len(result.edits) == len(edits or (1, 2))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b'{"a":1',
        b'{"a":NaN}',
        b"\xff",
        b'{"a"}',
        b"[" * 100_000,
        b'{"a":1}',
        b'{"a" 1}',
        b"[1 2]",
    ],
)
def test_where_more_is_wrong_or_nothing_nothing_is_repaired(body: bytes) -> None:
    assert repair(body) is None


def test_the_fault_is_reported_without_a_value() -> None:
    assert fault(b'{"a": Jane}') == "line 1, column 7: Expecting value"
    assert fault(b"\xffJane") == "byte 0 is no UTF-8"
