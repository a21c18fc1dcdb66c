"""What a repair or an edit changes, as lines; and a body on its way through a text field."""

import json
import random

import pytest

from schemas import examples
from worker.dead_letters.body_diff import MOST_SHOWN, Sign, edit_diff, repair_diff
from worker.dead_letters.edit import NotAText, form_text, from_form
from worker.dead_letters.json_repair import repair

CANARIES = ("Jane Canary", "canary@example.org", "GB33BUKB20201555555555", "5550199")


def _shown(body: bytes) -> list[str]:
    proposal = repair(body)
    assert proposal is not None
    diff = repair_diff(body, proposal)
    assert diff is not None
    return [f"{line.sign}{line.text}" for line in diff]


def test_a_repair_is_shown_line_by_line_with_values_hidden() -> None:
    body = b'{"event_type":"order.created" "event_data":{"order_id":"7","Jane":true,"n":[1,2,],"e":{}}}'

    assert _shown(body) == [
        " {",
        '-  "event_type": "<13 characters>"',
        '+  "event_type": "<13 characters>",',
        '   "event_data": {',
        '     "order_id": "<1 characters>",',
        '     "<name: 4 characters>": <boolean>,',
        '     "<name: 1 characters>": [',
        "       <number>,",
        "-      <number>,",
        "+      <number>",
        "     ],",
        '     "<name: 1 characters>": {}',
        "   }",
        "…1 line",
    ]


def test_a_byte_order_mark_is_a_line_of_its_own() -> None:
    assert _shown(b'\xef\xbb\xbf{"a":null}')[:2] == ["-\ufeff", " {"]


@pytest.mark.parametrize("seed", range(30))
def test_no_value_is_in_the_diff_of_a_repair(seed: int) -> None:
    rng = random.Random(seed)
    values = [*CANARIES, 5550199, {"Jane Canary": [CANARIES[1], '"\\{,}']}, True, None]
    rng.shuffle(values)
    document = {CANARIES[number]: value for number, value in enumerate(values[: len(CANARIES)])}
    text = json.dumps({"event_data": {**document, "firstName": values}}, separators=(",", ":"))
    commas = [
        place for place, character in enumerate(text) if character == "," and text[place + 1] in '{["5tn'
    ]
    place = rng.choice(commas)
    for body in (text[:place] + text[place + 1 :], text[:place] + "," + text[place:], text[:-1] + ",}"):
        proposal = repair(body.encode())
        shown = "" if proposal is None else str(repair_diff(body.encode(), proposal))
        assert not [canary for canary in CANARIES if canary in shown]


@pytest.mark.parametrize("example", examples.documented(), ids=lambda example: str(example.name))
def test_of_a_documented_event_no_value_is_in_the_diff_of_a_repair(example: examples.Example) -> None:
    def strings(value: object) -> set[str]:
        match value:
            case dict():
                return set().union(*map(strings, value.values()))
            case list():
                return set().union(*map(strings, value))
            case str() if len(value) > 3:
                return {value}
            case _:
                return set()

    body = example.body.rstrip()[:-1] + b",}"
    shown = "\n".join(_shown(body))

    assert not [value for value in strings(json.loads(example.body)) if f'"{value}"' in shown]


def test_an_edit_is_shown_with_what_differs() -> None:
    diff = edit_diff(b'{"a":1,"b":{"c":[1,2,3]}}', b'{"a":1, "b":{"c":[1,3]}}')

    assert [line.text.strip() for line in diff if line.sign is Sign.REMOVED] == ["2,"]
    assert not [line for line in diff if line.sign is Sign.ADDED]


def test_white_space_between_tokens_makes_no_difference() -> None:
    assert edit_diff(b'{"a":1}', b'{\n  "a": 1\n}\n') == ()


def test_an_edit_of_what_is_no_json_is_shown() -> None:
    diff = edit_diff(b'{"a":"x', b'{"a":"y"}')

    assert [(line.sign, line.text) for line in diff[1:]] == [
        (Sign.REMOVED, '  "a": "x'),
        (Sign.ADDED, '  "a": "y"'),
        (Sign.ADDED, "}"),
    ]


def test_the_diff_of_a_large_body_is_cut() -> None:
    rng = random.Random(1)
    body = json.dumps([rng.randrange(100) for _ in range(60_000)]).encode()
    diff = edit_diff(body, body.replace(b"5", b"6"))

    assert len(diff) == MOST_SHOWN + 1
    assert diff[-1].sign is Sign.GAP


BODIES = [
    b"",
    b"\n",
    b'{"a":1}',
    b'{\r\n"a":1\r\n}\r\n',
    b"{\r}",
    b"\n\n{\n\r\n\r}\n",
    '{"name":"Jörg\u202e\u200b"}'.encode(),
    b"</textarea><script>",
]


@pytest.mark.parametrize("body", BODIES)
def test_a_body_that_is_not_edited_keeps_its_bytes_in_a_form(body: bytes) -> None:
    text = form_text(body)
    assert isinstance(text, str)
    assert "\r" not in text

    assert from_form(text, body) == from_form(text.replace("\n", "\r\n"), body) == body


@pytest.mark.parametrize(
    ("body", "text", "edited"),
    [
        (b'{\n"a":1}', '{\r\n"a":2}', b'{\n"a":2}'),
        (b'{\r\n"a":1}', '{\r\n"a":2}', b'{\r\n"a":2}'),
        (b'{"a":1}', '{\r\n"a":1}', b'{\n"a":1}'),
    ],
)
def test_an_edited_body_keeps_its_kind_of_line_end(body: bytes, text: str, edited: bytes) -> None:
    assert from_form(text, body) == edited


@pytest.mark.parametrize(("body", "reason"), [(b"a\xff", "byte 1 is no UTF-8"), (b"a\0", "NUL")])
def test_a_body_that_a_form_would_change_is_named(body: bytes, reason: str) -> None:
    text = form_text(body)

    assert isinstance(text, NotAText)
    assert reason in text.reason
