"""Places without gaps, and their ranges."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from worker.pipeline.circuit_breaker import THRESHOLD, CircuitBreaker
from worker.postgres.ledger import Stream, multirange


def test_places_are_counted_per_family_from_one() -> None:
    stream = Stream()

    assert [stream.take("orders"), stream.take("orders"), stream.take("returns")] == [1, 2, 1]


def test_a_place_given_up_is_told_until_that_has_arrived() -> None:
    stream = Stream(number=5)
    stream.give_up("orders", stream.take("orders"))
    told = stream.unused("orders")
    stream.give_up("orders", stream.take("orders"))
    stream.told("orders", told)

    assert told == {"5:1"}
    assert stream.unused("orders") == {"5:2"}
    assert stream.unused("returns") == frozenset()


def test_streams_differ() -> None:
    assert Stream().number != Stream().number


@given(places=st.sets(st.integers(1, 60)))
def test_ranges_hold_the_places_and_nothing_else(places: set[int]) -> None:
    text = multirange(places)
    parts = [part.split(",") for part in text[2:-2].split("),[")] if places else []
    ranges = [(int(begin), int(end)) for begin, end in parts]

    assert {place for begin, end in ranges for place in range(begin, end)} == places
    assert all(end < begin for (_, end), (begin, _) in pairwise(ranges))


def test_a_breaker_opens_after_failures_in_a_row_and_pauses_grow() -> None:
    breaker = CircuitBreaker()
    for _ in range(THRESHOLD - 1):
        breaker.failed()
    assert not breaker.is_open
    pauses = []
    for _ in range(8):
        breaker.failed()
        pauses.append(breaker.pause_seconds)

    assert breaker.is_open
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    breaker.succeeded()
    assert (breaker.is_open, breaker.pause_seconds) == (False, 0)
