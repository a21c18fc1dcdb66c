"""Sequence numbers without gaps, and their ranges."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from worker.pipeline.circuit_breaker import THRESHOLD, CircuitBreaker
from worker.postgres.ledger import EventSequence, multirange


def test_events_are_numbered_per_family_from_one() -> None:
    sequence = EventSequence()

    assert [sequence.next("orders"), sequence.next("orders"), sequence.next("returns")] == [1, 2, 1]


def test_a_voided_number_is_named_until_a_message_has_delivered_it() -> None:
    sequence = EventSequence(source=5)
    sequence.void("orders", sequence.next("orders"))
    voids = sequence.voids("orders")
    sequence.void("orders", sequence.next("orders"))
    sequence.acknowledge_voids("orders", voids)

    assert voids == {"5:1"}
    assert sequence.voids("orders") == {"5:2"}
    assert sequence.voids("returns") == frozenset()


def test_sources_differ() -> None:
    assert EventSequence().source != EventSequence().source


@given(numbers=st.sets(st.integers(1, 60)))
def test_ranges_hold_the_numbers_and_nothing_else(numbers: set[int]) -> None:
    text = multirange(numbers)
    parts = [part.split(",") for part in text[2:-2].split("),[")] if numbers else []
    ranges = [(int(begin), int(end)) for begin, end in parts]

    assert {number for begin, end in ranges for number in range(begin, end)} == numbers
    assert all(end < begin for (_, end), (begin, _) in pairwise(ranges))


def test_a_circuit_breaker_opens_after_failures_in_a_row_and_pauses_grow() -> None:
    circuit_breaker = CircuitBreaker()
    for _ in range(THRESHOLD - 1):
        circuit_breaker.failed()
    assert not circuit_breaker.is_open
    pauses = []
    for _ in range(8):
        circuit_breaker.failed()
        pauses.append(circuit_breaker.pause_seconds)

    assert circuit_breaker.is_open
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    circuit_breaker.succeeded()
    assert (circuit_breaker.is_open, circuit_breaker.pause_seconds) == (False, 0)
