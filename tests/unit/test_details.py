"""The newest answer of a marketplace wins, in any order of arrival."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from consumers.details import newest
from consumers.inventory.details import PartDetails
from consumers.returns.details import ReturnDetails, ReturnItem

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

# Few values, so that equal instants and equal answers are frequent.
instants = st.integers(0, 2).map(lambda second: NOON + timedelta(seconds=second))
texts = st.sampled_from([None, "", "Door", "Türe"])
amounts = st.sampled_from([None, Decimal("1"), Decimal("1.0"), Decimal("275.11"), Decimal("1E+2")])
parts = st.builds(PartDetails, instants, texts, amounts, texts, texts, texts, texts)
items = st.builds(ReturnItem, texts, texts, texts, amounts, amounts, texts)
returns = st.builds(
    ReturnDetails,
    instants,
    st.sampled_from(["New", "Accepted"]),
    st.none() | instants,
    amounts,
    texts,
    st.lists(items, max_size=2).map(tuple),
)


def left_of(answers: Sequence[PartDetails | ReturnDetails]) -> PartDetails | ReturnDetails | None:
    known: PartDetails | ReturnDetails | None = None
    return reduce(lambda known, answer: newest(known, answer), answers, known)


@given(st.lists(parts, min_size=1, max_size=6) | st.lists(returns, min_size=1, max_size=6), st.data())
def test_any_order_and_repetition_of_answers_leaves_the_same(
    answers: list[PartDetails | ReturnDetails], data: st.DataObject
) -> None:
    repeats = data.draw(st.lists(st.sampled_from(answers), max_size=4))
    shuffled = data.draw(st.permutations(answers + repeats))

    left = left_of(shuffled)

    assert left == left_of(answers)
    assert left is not None
    assert left.enriched_at == max(answer.enriched_at for answer in answers)


@given(parts, parts)
def test_newer_details_replace_all_older_ones(one: PartDetails, other: PartDetails) -> None:
    if one.enriched_at != other.enriched_at:
        assert newest(one, other) == (one if one.enriched_at > other.enriched_at else other)
