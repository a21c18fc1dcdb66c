"""Copies of a secret leave a body, whatever they are written in; its JSON stays."""

import base64
import json
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import read_json
from worker.intake import redaction
from worker.intake.redaction import SHORTEST_SECRET, without_secrets, without_values

SECRET = 'tök/en+"4f5a-\\0123456789'
DIGITS = "1234567890123"

ENCODINGS: dict[str, Callable[[str], str]] = {
    "plain": lambda secret: secret,
    "percent": lambda secret: quote(secret, safe=""),
    "every character in percent": lambda secret: "".join(f"%{byte:02x}" for byte in secret.encode()),
    "percent twice": lambda secret: quote(quote(secret, safe=""), safe=""),
    "JSON": json.dumps,
    "JSON twice": lambda secret: json.dumps(json.dumps(secret)),
    "every character escaped": lambda secret: "".join(f"\\u{ord(one):04x}" for one in secret),
    "base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "base64 one byte later": lambda secret: base64.b64encode(b"x" + secret.encode() + b"y").decode(),
    "base64 two bytes later": lambda secret: base64.urlsafe_b64encode(
        b"xy" + secret.encode() + b"z"
    ).decode(),
    "base64 in lines": lambda secret: "\n".join(base64.b64encode(secret.encode()).decode()),
    "hexadecimal": lambda secret: secret.encode().hex().upper(),
}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
copies = st.builds(
    lambda encode, before, behind: before + encode(SECRET) + behind,
    st.sampled_from(list(ENCODINGS.values())),
    st.sampled_from(["", " ", "a: "]),
    st.sampled_from(["", " b"]),
)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | texts | copies,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(texts | copies, children, max_size=3),
    max_leaves=10,
)
spacings = st.sampled_from([None, (",", ":"), (" ,\n", "\t: ")])


def is_json(body: bytes) -> bool:
    try:
        read_json(body)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize("secret", [SECRET, "canary-token-5f0c1e9a-7d3b-4a56", "abcdefgh"])
def test_no_copy_stays_however_it_is_written(secret: str, encode: Callable[[str], str]) -> None:
    for ascii_only in (True, False):
        document = {"a": encode(secret), encode(secret): [f"before {encode(secret)} behind"], "b": "stays"}
        left = without_secrets(json.dumps(document, ensure_ascii=ascii_only).encode(), [secret])
        found = json.loads(left)

        assert set(found) <= {"a", "b", *(name for name in found if "***" in name)}
        assert "***" in found["a"]
        assert encode(secret) not in left.decode()
        assert found["b"] == "stays"


def test_escapes_of_json_itself_hide_nothing() -> None:
    escaped = "".join(f"\\u{ord(one):04x}" for one in "abcdefgh")

    assert without_secrets(b'{"a":"x %s y"}' % escaped.encode(), ["abcdefgh"]) == b'{"a":"x *** y"}'


@given(document=documents, separators=spacings, ascii_only=st.booleans())
def test_the_result_is_json_and_what_holds_no_copy_stays_as_it_is(
    document: Any, separators: tuple[str, str] | None, ascii_only: bool
) -> None:
    whole = {"first": document, "last": "stays"}
    body = json.dumps(whole, separators=separators, ensure_ascii=ascii_only).encode()
    left = without_secrets(body, [SECRET])
    ending = json.dumps({"last": "stays"}, separators=separators)[1:].encode()

    assert is_json(left) == is_json(body)
    assert left.endswith(ending)
    assert without_secrets(left, [SECRET]) == left
    if "***" not in left.decode():
        assert left == body


fragments = st.lists(
    st.sampled_from(
        [
            b'"', b"{", b"}", b"[", b"]", b",", b":", b" ", b"\\", b"\\u0031", b"-", b".", b"e9", b"1",
            b"null", b"a", b"\xff", b"\x00", b"\\ud800", DIGITS.encode(), b'"%s"' % DIGITS.encode(),
            b'{"a":', b'"a":', b"e999999",
        ]
    ),
    max_size=12,
)  # fmt: skip


@given(pieces=fragments)
def test_what_is_no_json_does_not_become_any_and_what_is_stays_so(pieces: list[bytes]) -> None:
    body = b"".join(pieces)
    left = without_secrets(body, [DIGITS])

    assert is_json(left) == is_json(body)


@given(document=documents, separators=spacings)
def test_a_body_without_a_copy_stays_byte_for_byte(document: Any, separators: tuple[str, str] | None) -> None:
    body = json.dumps(document, separators=separators).encode()

    assert without_secrets(body, ["another-secret-altogether"]) == body


def test_a_number_with_the_secret_in_it_goes_as_a_whole() -> None:
    body = b'{"a": -1%s.5e3, "b":1}' % DIGITS.encode()

    assert without_secrets(body, [DIGITS]) == b'{"a": "***", "b":1}'


def test_a_secret_so_short_that_it_may_be_part_of_a_word_is_left() -> None:
    short = "a" * (SHORTEST_SECRET - 1)

    assert without_secrets(f'"{short}"'.encode(), [short]) == f'"{short}"'.encode()


def test_hostile_bodies_take_time_in_proportion_to_their_size() -> None:
    for hostile in (
        b'"' + b'\\"' * 120_000,
        b'["' + b"%25" * 80_000 + b'"]',
        b'["' + b"\\\\" * 120_000 + b'"]',
    ):
        assert without_secrets(hostile, ["abcdefgh"]) == hostile


@pytest.mark.parametrize("item", ["\n", "%", "\\", '"', "%41\n", "long enough for a secret"])
def test_a_string_that_can_hold_no_copy_is_not_decoded(item: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps({"mark": "%", "many": [item] * 1000}).encode()
    loads = Mock(wraps=json.loads)
    monkeypatch.setattr(redaction.json, "loads", loads)

    assert without_secrets(body, [SECRET]) == body
    assert not loads.called


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
def test_a_copy_is_found_among_many_strings(encode: Callable[[str], str]) -> None:
    many = ["\n", "%", "plain", "abcdefg"] * 10
    body = json.dumps({"many": [*many, encode("abcdefgh"), *many]}).encode()
    left = json.loads(without_secrets(body, ["abcdefgh", SECRET]))["many"]

    assert (left[:40], left[41:]) == (many, many)
    assert "***" in left[40]


# Values of members of a name, whatever they are

NAME = "token"
UNKNOWN = "unknown-secret-4f5a"
values = st.recursive(
    st.just(UNKNOWN) | st.just(f"before {UNKNOWN}"),
    lambda children: (
        st.lists(children, min_size=1, max_size=2) | st.dictionaries(texts, children, min_size=1)
    ),
    max_leaves=3,
)
with_values = st.recursive(
    st.builds(
        lambda value, others: {**others, NAME: value}, values, st.dictionaries(texts, texts, max_size=2)
    ),
    lambda children: (
        st.builds(lambda child: [child, "stays"], children)
        | st.builds(lambda child: {"in": child, "a": "stays"}, children)
        | st.builds(json.dumps, children)
        | st.builds(lambda child: "text: " + json.dumps(child, ensure_ascii=False), children)
    ),
    max_leaves=6,
)


@given(document=with_values, separators=spacings, ascii_only=st.booleans(), end=st.integers(0, 40))
def test_no_value_of_a_name_stays_at_any_depth_or_in_a_string(
    document: Any, separators: tuple[str, str] | None, ascii_only: bool, end: int
) -> None:
    body = json.dumps([document, "last"], separators=separators, ensure_ascii=ascii_only).encode()
    left = without_values(body, NAME)
    cut = without_values(body[: len(body) - end], NAME)

    assert json.loads(left)[1] == "last"
    assert UNKNOWN.encode() not in left
    assert UNKNOWN.encode() not in cut
    assert without_values(left, NAME) == left


@given(document=documents, separators=spacings)
def test_members_of_other_names_stay_byte_for_byte(document: Any, separators: tuple[str, str] | None) -> None:
    body = json.dumps(document, separators=separators).encode()

    assert without_values(body, "another name") == body


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (b'{"a":{"token": "x" , "b":1}}', b'{"a":{"token":"***", "b":1}}'),
        (b'{"token":[1,{"token":"x"}]}', b'{"token":"***"}'),
        (b'{"token":null,"a":"token"}', b'{"token":null,"a":"token"}'),
        (b'{"t\\u006fken":5}', b'{"t\\u006fken":"***"}'),
        (b'{"a":"{\\"token\\":\\"x\\"}"}', b'{"a":"{\\"token\\":\\"***\\"}"}'),
        (b'{"a":"{\\"token\\":x"}', b'{"a":"{\\"token\\":\\"***\\""}'),
        (b'{"token":"x" y}', b'{"token":"***\x00"}'),
        (b'{"token":}', b'{"token":}'),
        (b'{"a":"{\\"token\\":\\"x', b'{"a":"***\x00"'),
    ],
)
def test_what_stands_for_a_value_of_a_name(body: bytes, left: bytes) -> None:
    assert without_values(body, NAME) == left


@given(pieces=fragments, name=st.sampled_from(["a", "1", ""]))
def test_json_without_the_values_of_a_name_is_json_and_nothing_else_is(
    pieces: list[bytes], name: str
) -> None:
    body = b"".join(pieces)

    assert is_json(without_values(body, name)) == is_json(body)
