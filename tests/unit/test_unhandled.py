"""Types that may be ignored, and types with their own metric label."""

import pytest

from tests.unit.test_service import settings
from worker.dead_letters.unhandled_labels import MOST_LABELS, OTHER, Labels


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("ovoko.order.*", "must not match ovoko.order.created, which the family orders takes"),
        ("buyback.*", "which the family buybacks takes"),
        ("buyback.OrderCreatedEvent", "which the family buybacks takes"),
        ("ovoko.stockhook.*", "must not match ovoko.stockhook.observed"),
        ("*", "must be event types that begin with their marketplace"),
        ("Submission*", "must be event types that begin with their marketplace"),
        ("ebay.order.*", "must be event types that begin with their marketplace"),
        ("ovoko.", "must be event types that begin with their marketplace"),
        ("ovoko.offer.made, part.*", "must be event types that begin with their marketplace"),
    ],
)
def test_a_type_that_a_family_takes_cannot_be_ignored(pattern: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence.replace(".", r"\.")):
        settings(ignored_types=pattern)


def test_thousands_of_types_share_a_few_labels() -> None:
    labels = Labels()
    first = [labels.of("ovoko", f"type.{number}") for number in range(MOST_LABELS)]
    others = {labels.of("buyback", f"Type{number}") for number in range(10_000)}

    assert first == [f"type.{number}" for number in range(MOST_LABELS)]
    assert others == {OTHER}
    assert labels.of("ovoko", "type.0") == "type.0"


@pytest.mark.parametrize("event_type", ["", "x" * 81, "a b", "a�", 'a"b', "ä"])
def test_a_type_that_does_not_look_like_one_is_no_label(event_type: str) -> None:
    assert Labels().of("ovoko", event_type) == OTHER
