"""Differences between a marketplace's row and ours."""

from datetime import UTC, datetime, timedelta

import pytest

from consumers.returns.decide import Return
from schemas.events import parse
from schemas.ovoko import ObservedReturn, PartData, PartObserved, ReturnObserved
from schemas.ovoko_api import ListedPart, OrderReturn
from schemas.registry import Provider
from worker.intake.intake import accept_observed
from worker.tools.reconcile.difference import UNDER_WAY, Difference, Kind
from worker.tools.reconcile.ovoko import OurPart, compare_part, compare_return, part_observed, return_observed

NINE = datetime(2026, 3, 1, 9, tzinfo=UTC)
TEN = datetime(2026, 3, 1, 10, tzinfo=UTC)

PART = OurPart("13", "sold_in_ebay", NINE)
RETURN = Return("7", "70", NINE, None)


def there(status: str) -> ListedPart:
    return ListedPart(part_id="13", status=status, updated_at=TEN.isoformat())


def test_a_part_of_the_same_status_is_no_difference() -> None:
    assert compare_part(PART, there("2")) is None


def test_a_part_of_another_status_is_shown_with_both_instants() -> None:
    assert compare_part(PART, there("0")) == Difference(
        "13", Kind.DIFFERENT, "status", "sold_in_ebay", "0 (in stock)", NINE, TEN
    )


def test_a_part_of_only_one_side_is_shown_with_that_side() -> None:
    only_here = Difference("13", Kind.ONLY_HERE, "status", "sold_in_ebay", None, NINE, None)
    only_there = Difference("13", Kind.ONLY_THERE, "status", None, "reserved", None, TEN)

    assert (compare_part(PART, None), compare_part(None, there("reserved"))) == (only_here, only_there)


@pytest.mark.parametrize(
    ("ours", "order_id", "difference"),
    [
        (RETURN, "70", None),
        (RETURN, "71", Difference("7", Kind.DIFFERENT, "order_id", "70", "71", NINE, TEN)),
        (
            Return("7", "70", None, NINE),
            "70",
            Difference("7", Kind.DIFFERENT, "opened_at", None, TEN.isoformat(), NINE, TEN),
        ),
        (None, "70", Difference("7", Kind.ONLY_THERE, "status", None, "New", None, TEN)),
        (
            Return("7", "70", NINE, gone_at=TEN),
            "70",
            Difference("7", Kind.DIFFERENT, "gone_at", TEN.isoformat(), None, NINE, TEN),
        ),
        (Return("7", "70", NINE, TEN, gone_at=NINE), "70", None),
    ],
)
def test_a_return_differs_by_its_order_or_by_an_opening_that_never_came_or_by_being_there(
    ours: Return | None, order_id: str, difference: Difference | None
) -> None:
    theirs = OrderReturn(return_id="7", order_id=order_id, status="New", created_at=TEN.isoformat())

    assert compare_return(ours, theirs) == difference


def test_a_return_that_only_we_have_counts_with_its_newest_instant() -> None:
    ours = Return("7", "70", NINE, TEN)

    assert compare_return(ours, None) == Difference("7", Kind.ONLY_HERE, "order_id", "70", None, TEN, None)


def test_a_row_that_is_known_to_be_absent_is_no_difference() -> None:
    parts = [OurPart("13", status, NINE) for status in ("written_off", "not_listed")]

    assert [compare_part(part, None) for part in parts] == [None, None]
    assert compare_return(Return("7", "70", NINE, gone_at=TEN), None) is None


@pytest.mark.parametrize(
    ("at", "may_be"),
    [
        (TEN, True),
        (TEN - UNDER_WAY + timedelta(seconds=1), True),
        (TEN - UNDER_WAY, False),
        (TEN + timedelta(seconds=1), False),  # their clock may differ
        (None, False),
    ],
)
def test_a_row_that_changed_just_now_may_still_be_in_flight(at: datetime | None, may_be: bool) -> None:
    there = Difference("13", Kind.DIFFERENT, "status", "sold", "returned", NINE, at)
    here = Difference("13", Kind.DIFFERENT, "status", "sold", "returned", at, NINE)

    assert there.is_under_way(TEN) is here.is_under_way(TEN) is may_be


@pytest.mark.parametrize(
    ("status", "is_implausible", "may_be"),
    [("in_warehouse", True, False), ("in_warehouse", False, True), ("sold", True, True)],
)
def test_a_part_that_a_wrong_timestamp_makes_sellable_is_corrected_at_once(
    status: str, is_implausible: bool, may_be: bool
) -> None:
    difference = compare_part(
        OurPart("13", status, TEN, is_implausible), ListedPart(part_id="13", status="reserved")
    )

    assert difference is not None
    assert difference.is_under_way(TEN) is may_be


@pytest.mark.parametrize(
    ("listed", "status", "external_id"),
    [
        (ListedPart(part_id="13", status="2", id_bridge="shelf 4"), "sold", "shelf 4"),
        (ListedPart(part_id="13", status="sold_in_ebay"), "sold_in_ebay", None),
        (ListedPart(part_id="13", status="9"), "9", None),
        (None, "not_listed", None),
    ],
)
def test_an_observation_of_a_part_has_the_form_of_a_webhook(
    listed: ListedPart | None, status: str, external_id: str | None
) -> None:
    assert parse(Provider.OVOKO, part_observed(PART, listed, TEN)) == PartObserved(
        event_type="stockhook.observed.part",
        timestamp=TEN - timedelta(seconds=2),
        event_data=PartData(part_id="13", status=status, external_id=external_id),
    )


@pytest.mark.parametrize(
    ("listed", "order_id", "created_at"),
    [
        (OrderReturn(return_id="7", order_id="71", status="New", created_at=NINE.isoformat()), "71", NINE),
        (OrderReturn(return_id="7", order_id="71", status="New", created_at="0001-01-01T00:00Z"), "71", None),
        (None, "70", None),
    ],
)
def test_a_return_is_observed_under_the_order_that_the_marketplace_names(
    listed: OrderReturn | None, order_id: str, created_at: datetime | None
) -> None:
    assert parse(Provider.OVOKO, return_observed(RETURN, listed, TEN)) == ReturnObserved(
        event_type="stockhook.observed.return",
        timestamp=TEN - timedelta(seconds=2),
        event_data=ObservedReturn(
            return_id="7", order_id=order_id, is_listed=listed is not None, created_at=created_at
        ),
    )


def test_the_same_sight_is_one_event_and_the_same_seen_later_another() -> None:
    first, again, later = (
        accept_observed(Provider.OVOKO, part_observed(None, there("2"), requested_at), NINE)
        for requested_at in (TEN, TEN + timedelta(milliseconds=900), TEN + timedelta(seconds=1))
    )

    assert first.event_id == again.event_id != later.event_id
    assert (first.family, first.message.routing_key) == ("inventory", "ovoko.stockhook.observed.part")
