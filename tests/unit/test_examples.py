"""The documented examples are complete, and the product can read them."""

from dataclasses import replace

import pytest
from cryptography.fernet import Fernet, MultiFernet

from schemas.events import InvalidEvent, parse, webhook_models
from schemas.examples import Example, as_printed, documented
from schemas.registry import Provider
from worker.intake.intake import body_to_store


def _named(example: Example) -> str:
    return f"{example.provider}/{example.name}"


def _as_published(example: Example) -> bytes:
    if example.provider is Provider.OVOKO:
        return example.body
    return body_to_store(example.provider, example.body, MultiFernet([Fernet(Fernet.generate_key())]))


@pytest.mark.parametrize("example", documented(), ids=_named)
def test_a_documented_example_fits_its_schema(example: Example) -> None:
    event = parse(example.provider, _as_published(example))

    assert type(event) is webhook_models(example.provider)[example.event_type]


def test_each_event_type_has_an_example_one_of_them_in_two_shapes() -> None:
    printed = [(example.provider, example.event_type) for example in documented()]

    known = {(provider, name) for provider in Provider for name in webhook_models(provider)}
    assert set(printed) == known
    assert [pair for pair in known if printed.count(pair) > 1] == [
        (Provider.BUYBACK, "OrderPickupReminderEvent")
    ]
    assert len(printed) == len(known) + 1


@pytest.mark.parametrize("example", as_printed(), ids=_named)
def test_four_examples_are_no_json_as_printed(example: Example) -> None:
    with pytest.raises(InvalidEvent, match="body: not JSON"):
        parse(example.provider, example.body)


@pytest.mark.parametrize("printed", as_printed(), ids=_named)
def test_the_repair_moved_exactly_one_comma(printed: Example) -> None:
    repaired = next(
        example
        for example in documented()
        if (example.provider, example.name) == (printed.provider, printed.name)
    )

    longer, shorter = sorted((repaired.body, printed.body), key=len, reverse=True)
    without_one_comma = {
        longer[:position] + longer[position + 1 :] for position, byte in enumerate(longer) if byte == ord(",")
    }
    assert shorter in without_one_comma
    assert replace(repaired, body=printed.body) == printed
