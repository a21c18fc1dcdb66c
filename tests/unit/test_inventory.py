"""Part statuses: the winner, and flagged changes."""

import asyncio
from collections.abc import Sequence

import pytest

from consumers.family import Event, Finding
from consumers.registry import FAMILIES
from schemas.event_schema import Payload
from tests.support.events import claimed, event_id, instant, observed, part
from tests.support.memory_store import Store


def after(*payloads: Payload) -> Store:
    """Apply each payload in a separate batch, named by its position."""

    async def run() -> Store:
        store = Store(FAMILIES["inventory"])
        for number, payload in enumerate(payloads):
            await store.apply([claimed(payload, number)])
        return store

    return asyncio.run(run())


def status(store: Store) -> str:
    return str(store.rows["13"].latest.status)


def test_an_older_webhook_after_a_newer_one_changes_nothing() -> None:
    store = after(part("sold", 10), part("in_warehouse", 5))

    assert status(store) == "sold"
    assert store.rows["13"].latest.occurred_at == instant(10)


def test_in_the_same_second_the_less_sellable_status_wins() -> None:
    assert status(after(part("sold", 5), part("in_warehouse", 5))) == "sold"
    assert status(after(part("in_warehouse", 5), part("sold", 5))) == "sold"


def test_in_the_same_second_the_greater_event_id_wins_between_equals() -> None:
    greater = max(event_id(0), event_id(1))
    expected = "sold" if greater == event_id(0) else "sold_in_ebay"

    assert status(after(part("sold", 5), part("sold_in_ebay", 5))) == expected


def test_nothing_leaves_written_off() -> None:
    store = after(part("written_off", 5), part("in_warehouse", 9))

    assert status(store) == "written_off"
    assert store.findings == {
        Finding("after_written_off", "13", event_id(1), "in_warehouse after written_off")
    }


def test_a_late_written_off_flags_later_changes() -> None:
    store = after(part("in_warehouse", 9), part("sold", 12), part("written_off", 5))

    assert status(store) == "written_off"
    assert store.findings == {
        Finding("after_written_off", "13", event_id(0), "in_warehouse after written_off"),
        Finding("after_written_off", "13", event_id(1), "sold after written_off"),
    }


@pytest.mark.parametrize(
    ("before", "next_status"),
    [
        ("in_warehouse", "sold"),
        ("in_warehouse", "written_off"),
        ("unknown_stock_status", "in_warehouse"),
        ("reserved", "in_warehouse"),
        ("reserved", "sold_in_allegro"),
        ("sold", "returned"),
        ("sold_in_ebay", "returned"),
        ("returned", "in_warehouse"),
        ("returned", "written_off"),
        ("sold", "sold"),
    ],
)
def test_documented_transitions_are_not_flagged(before: str, next_status: str) -> None:
    assert after(part(before, 1), part(next_status, 2)).findings == set()


@pytest.mark.parametrize(
    ("before", "next_status"),
    [("sold", "in_warehouse"), ("reserved", "returned"), ("returned", "sold"), ("sold", "sold_in_ebay")],
)
def test_an_undocumented_transition_is_applied_and_flagged(before: str, next_status: str) -> None:
    store = after(part(before, 1), part(next_status, 2))

    assert status(store) == next_status
    assert store.findings == {
        Finding("undocumented_transition", "13", event_id(1), f"{before} became {next_status}")
    }


def test_a_flag_is_withdrawn_when_the_missing_step_arrives_late() -> None:
    store = after(part("sold", 1), part("in_warehouse", 9), part("returned", 5))

    assert status(store) == "in_warehouse"
    assert store.findings == set()


def test_an_undocumented_status_is_stored_and_flagged_and_not_sellable() -> None:
    store = after(part("in_warehouse", 1), part("lent", 1))

    assert status(store) == "lent"
    assert store.findings == {Finding("undocumented_status", "13", event_id(1), "status lent")}


@pytest.mark.parametrize(
    ("payloads", "expected"),
    [
        ([part("sold", 1, external_id="new", id_bridge="old")], "new"),
        ([part("sold", 1, id_bridge="old")], "old"),
        ([part("sold", 1, external_id="a"), part("returned", 2)], "a"),
        ([part("sold", 2, external_id="b"), part("returned", 1, external_id="a")], "b"),
        ([part("written_off", 1, external_id="a"), part("sold", 2, external_id="b")], "b"),
        ([part("sold", 1)], None),
    ],
)
def test_the_merchants_id_is_the_newest_that_was_named(
    payloads: Sequence[Payload], expected: str | None
) -> None:
    assert after(*payloads).rows["13"].external_id == expected


@pytest.mark.parametrize(
    ("payloads", "expected"),
    [
        ([part("in_warehouse", 5), observed("sold", 9)], "sold"),
        ([part("in_warehouse", 10), observed("sold", 9)], "in_warehouse"),
        ([observed("reserved", 9)], "reserved"),
        ([part("in_warehouse", 5), observed("not_listed", 9)], "not_listed"),
        ([part("in_warehouse", 10), observed("not_listed", 9)], "in_warehouse"),
        ([part("in_warehouse", 5), observed("not_listed", 9), observed("in_warehouse", 10)], "in_warehouse"),
        ([part("written_off", 5), observed("not_listed", 9)], "written_off"),
    ],
)
def test_an_observation_counts_from_its_own_instant(payloads: Sequence[Payload], expected: str) -> None:
    assert status(after(*payloads)) == expected


def test_an_observation_that_contradicts_written_off_is_flagged() -> None:
    store = after(part("written_off", 5), observed("in_warehouse", 9))

    assert status(store) == "written_off"
    assert store.findings == {
        Finding("after_written_off", "13", event_id(1), "in_warehouse after written_off")
    }


def test_a_written_off_part_may_be_absent_from_the_list() -> None:
    assert after(observed("not_listed", 9), part("written_off", 5)).findings == set()


def test_changes_before_an_observation_are_unknown_and_not_flagged() -> None:
    """Also if an older event loads the history."""
    assert after(part("sold", 1), observed("in_warehouse", 5)).findings == set()
    assert after(part("sold", 1), observed("in_warehouse", 5), part("reserved", 0)).findings == set()


def test_a_change_after_an_observation_is_checked_like_any_other() -> None:
    store = after(observed("sold", 1), part("in_warehouse", 5))

    assert store.findings == {
        Finding("undocumented_transition", "13", event_id(1), "sold became in_warehouse")
    }


def test_a_repeated_change_with_another_external_id_is_still_the_latest_one() -> None:
    """Its id was used twice, and another change precedes it."""

    async def run(*batches: Sequence[Event[Payload]]) -> Store:
        store = Store(FAMILIES["inventory"])
        for batch in batches:
            await store.apply(batch)
        return store

    low, high = sorted((0, 1), key=event_id)
    returned = claimed(part("returned", 5), low)
    reserved = claimed(part("reserved", 5), high)
    again = claimed(part("reserved", 5, external_id="b"), high)
    between = claimed(part("reserved", 5), low)
    together = asyncio.run(run([returned], [reserved], [again, between]))
    one_by_one = asyncio.run(run([returned], [reserved], [again], [between]))

    assert together.findings == one_by_one.findings
    assert [finding.event_id for finding in together.findings] == [event_id(low)]
