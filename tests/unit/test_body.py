"""Cutting and replacing members in the bytes of a body."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.intake.json_bytes import (
    Replacement,
    may_be_values,
    members,
    string_values,
    top_level_string,
    with_replaced,
    without_member,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(["token", "a", 'quo"te', "back\\"]), children, max_size=3)
    ),
    max_leaves=12,
)
documents = st.dictionaries(
    st.sampled_from(["type", "token", "result", 'quo"te', "to\\ken"]), json_values, max_size=5
)
spacings = st.sampled_from([None, (",", ":"), (" ,\n", "\t: ")])


@given(document=documents, separators=spacings, ascii_only=st.booleans())
def test_the_result_is_the_document_without_the_member(
    document: dict[str, Any], separators: tuple[str, str] | None, ascii_only: bool
) -> None:
    body = json.dumps(document, separators=separators, ensure_ascii=ascii_only).encode()
    expected = {name: value for name, value in document.items() if name != "token"}

    assert json.loads(without_member(body, "token")) == expected


@given(document=documents)
def test_a_string_of_the_outermost_object_is_returned(document: dict[str, Any]) -> None:
    token = document.get("token")

    string = top_level_string(json.dumps(document).encode(), "token")

    assert string == (token if isinstance(token, str) else None)


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (b'{"token":"a","token":"b","x":1}', b'{"x":1}'),
        (b'{"x":1,"token":"a","token":"b"}', b'{"x":1}'),
        (b'{"\\u0074oken":"a","x":1}', b'{"x":1}'),
        (b'{"x": {"token":"inner"},\n "token" : "a" }', b'{"x": {"token":"inner"}}'),
        (b'{"token":"a"}', b"{}"),
        (b'{"x":"token"}', b'{"x":"token"}'),
    ],
)
def test_every_member_of_the_name_is_cut_and_the_rest_stays_as_it_was(body: bytes, left: bytes) -> None:
    assert without_member(body, "token") == left


@pytest.mark.parametrize(
    "broken",
    [
        b'{"type":"X","token":"secret","result":{"a":1 "b":2}}',
        b'{"type":"X","token":"secret","result":{"a":1,}}',
        b'{"type":"X","token":"secret","result":{',
        b'{"type":"X" "y":1,"token":"secret"',
        b'\xef\xbb\xbf{"token":"secret","x":NaN}',
    ],
)
def test_a_token_is_cut_from_broken_documents(broken: bytes) -> None:
    assert top_level_string(broken, "token") == "secret"
    assert b"secret" not in without_member(broken, "token")


def test_values_are_replaced_at_any_depth() -> None:
    body = b'{"a":[{"k": {"k":1} }],"\\u006b":"x","not":"k"}'
    values = [(each.value_start, each.end) for each in members(body) if each.name == "k"]
    replaced = with_replaced(body, [Replacement(start, end, lambda value: b"0") for start, end in values])

    assert replaced == b'{"a":[{"k":0}],"\\u006b":0,"not":"k"}'


@given(document=documents, separators=spacings)
def test_strings_that_are_values_are_returned(
    document: dict[str, Any], separators: tuple[str, str] | None
) -> None:
    def strings(value: Any) -> list[str]:
        match value:
            case dict():
                return [text for inner in value.values() for text in strings(inner)]
            case list():
                return [text for inner in value for text in strings(inner)]
            case str():
                return [value]
            case _:
                return []

    body = json.dumps(document, separators=separators).encode()

    assert [json.loads(body[start:end]) for start, end in string_values(body)] == strings(document)


def test_hostile_bodies_take_time_in_proportion_to_their_size() -> None:
    for hostile in (
        b'"' + b'\\"' * 130_000,
        b"{" * 260_000,
        b'{"' * 130_000,
        b"\\" * 260_000,
        b'{"a":[' + b'"",' * 85_000,
        b'{"a":[' + b'"\\' * 130_000,
        b'{"a":[' + b"[]" * 130_000,
        b'{"a":[' + b"[" * 260_000,
    ):
        assert without_member(hostile, "token") == hostile


pieces_of_bodies = st.lists(
    st.sampled_from(
        [
            b'"token":"a"', b'"token" x : "b"', b'"\\u0074o\\u006Ben":"\\u0063"', b'"a":"token"',
            b'"token":', b'"d"', b"{", b"}", b"[", b"]", b",", b",", b":", b'"', b"\\", b" ",
            b'"\\"token":"e"',
        ]
    ),
    max_size=10,
)  # fmt: skip


@given(pieces=pieces_of_bodies)
def test_the_outermost_members_are_the_same_if_inner_ones_are_skipped(pieces: list[bytes]) -> None:
    """Of valid and of broken bodies."""
    body = b'{"a":' + b"".join(pieces)

    assert list(members(body, deepest=1)) == [each for each in members(body) if each.depth == 1]


@given(pieces=pieces_of_bodies)
def test_a_scan_returns_only_possible_values(pieces: list[bytes]) -> None:
    body = b"{" + b"".join(pieces)
    string = top_level_string(body, "token")

    assert string is None or string in {json.loads(each) for each in may_be_values(body, "token")}


def test_possible_values_in_hostile_bodies_take_time_in_proportion_to_their_size() -> None:
    for hostile in (
        b'"token"' * 37_000,
        b'"token":' * 32_000,
        b'"token"' + b" " * 260_000,
        b'"token":"\\' * 26_000,
    ):
        assert len(may_be_values(hostile, "token")) <= 1
