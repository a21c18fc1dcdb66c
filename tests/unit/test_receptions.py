"""Timestamps that are later than their reception: their effect, and the events that overrule them."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from consumers.family import Event, Finding
from consumers.registry import FAMILIES
from tests.support.events import (
    claimed,
    event_id,
    instant,
    observed,
    observed_return,
    order,
    part,
    returned,
    snapshot,
)
from tests.support.memory_store import Store

FAR = 10**9
HOUR = 3600


def after(family: str, *batches: Event[Any] | Sequence[Event[Any]]) -> Store:
    async def run() -> Store:
        store = Store(FAMILIES[family])
        for batch in batches:
            await store.apply([batch] if isinstance(batch, Event) else batch)
        return store

    return asyncio.run(run())


def status(*batches: Event[Any] | Sequence[Event[Any]]) -> str:
    return str(after("inventory", *batches).rows["13"].latest.status)


def status_event(status: str, second: float, received: float, **more: Any) -> Event[Any]:
    return claimed(part(status, second, **more), f"{status} {second}", received)


def test_an_implausible_in_warehouse_never_makes_a_part_sellable_against_plausible_events() -> None:
    far = status_event("in_warehouse", FAR, 10)

    assert status(far, status_event("sold", 11, 11)) == "sold"
    assert status(status_event("sold", 5, 5), far) == "sold"
    assert status(status_event("sold", 5, 12), far) == "sold"
    assert status(status_event("sold", FAR + 5, 5), far) == "sold"


def test_an_implausible_sold_stands_until_an_event_is_received_later() -> None:
    far = status_event("sold", FAR, 10)

    assert status(status_event("in_warehouse", 9, 9), far) == "sold"
    assert (
        status(status_event("in_warehouse", 9, 9), far, status_event("in_warehouse", 8, 11)) == "in_warehouse"
    )
    assert status(status_event("in_warehouse", 9, 9), far, status_event("reserved", 8, 11)) == "reserved"
    assert status(status_event("reserved", 9, 9), far, status_event("in_warehouse", 8, 11)) == "reserved"
    assert status(far, status_event("returned", 11, 12)) == "returned"


def test_an_observation_overrules_an_implausible_sold() -> None:
    seen = claimed(observed("in_warehouse", 8), "seen", 11)

    assert status(status_event("in_warehouse", 5, 5), status_event("sold", FAR, 10), seen) == "in_warehouse"


@pytest.mark.parametrize("received", [5, 20])
def test_written_off_is_final_with_any_timestamp(received: float) -> None:
    assert (
        status(status_event("written_off", FAR, received), status_event("in_warehouse", 10, 10))
        == "written_off"
    )


def test_an_hour_ahead_is_plausible_and_more_is_not() -> None:
    sold = status_event("sold", 20, 20)

    assert status(status_event("in_warehouse", 10 + HOUR, 10), sold) == "in_warehouse"
    assert status(status_event("in_warehouse", 11 + HOUR, 10), sold) == "sold"


def test_an_implausible_instant_is_a_finding_and_the_status_counts_from_its_reception() -> None:
    store = after("inventory", status_event("sold", FAR, 10, external_id="a"))

    assert store.findings == {
        Finding(
            "implausible_timestamp",
            "13",
            event_id(f"sold {FAR}"),
            f"the timestamp {instant(FAR).isoformat()} is later than the reception",
        )
    }
    assert store.rows["13"].latest.occurred_at == store.rows["13"].external_id_at == instant(10)
    assert [change.occurred_at for change in store.changes] == [instant(10)]


def test_the_merchants_id_of_an_implausible_event_yields_to_a_newer_one() -> None:
    store = after(
        "inventory",
        status_event("sold", FAR, 10, external_id="far"),
        status_event("sold", 11, 11, external_id="new"),
    )

    assert store.rows["13"].external_id == "new"


def test_an_earlier_reception_of_a_copy_corrects_the_decision() -> None:
    """The timestamp was plausible when the later copy was received."""
    far, sold = part("in_warehouse", 2 * HOUR), status_event("sold", 5, 5)
    late, early = (claimed(far, "far", received) for received in (2 * HOUR, 6))
    for batches in (
        [late, sold, early],
        [late, sold, late, early, late],
        [[late, sold, early]],
        [early, sold],
    ):
        store = after("inventory", *batches)

        assert store.rows["13"].latest.status == "sold"
        assert {finding.kind for finding in store.findings} == {"implausible_timestamp"}
    assert status(late, sold) == "in_warehouse"


def test_an_earlier_reception_of_a_plausible_copy_counts_beside_an_implausible_event() -> None:
    here, far = part("in_warehouse", 5), status_event("sold", FAR, 10)
    late, early = (claimed(here, "here", received) for received in (11, 9))

    assert status(far, late) == "in_warehouse"
    assert status(far, late, early) == status(far, early) == status(early, far, late) == "sold"


def test_in_no_family_an_implausible_timestamp_sticks() -> None:
    orders = after("orders", claimed(order("order.created", FAR), 1, 10)).rows["4555"]
    returns = after(
        "returns",
        claimed(returned("order.return.updated", FAR), 1, 10),
        claimed(returned("order.return.updated", 20), 2, 20),
    ).rows["77"]
    buybacks = after(
        "buybacks",
        claimed(snapshot("CollectionItemInTransitEvent", FAR), 1, 10),
        claimed(snapshot("CollectionItemReceivedEvent", 20), 2, 20),
    ).rows["o1"]

    assert orders.created_at == instant(10)
    assert returns.updated_at == instant(20)
    assert buybacks.order.values["status"] == "processing"
    assert buybacks.order.values["occurred_at"] == instant(20)


def test_a_return_is_not_opened_after_it_was_seen() -> None:
    store = after("returns", claimed(observed_return(5, created=FAR), 1, 6))

    assert store.rows["77"].opened_at == instant(6)
    assert {finding.kind for finding in store.findings} == {"implausible_timestamp"}


def test_a_communication_is_due_when_an_implausible_event_was_received_first() -> None:
    missed = snapshot("CollectionItemPickupMissedEvent", FAR)
    store = after("buybacks", claimed(missed, 1, 10), claimed(missed, 1, 8))
    reminded = after(
        "reminders", claimed(snapshot("OrderDropOffReminderEvent", FAR, daysAfterCreation=1), 1, 9)
    )

    assert [call.occurred_at for call in store.communications] == [instant(8)]
    assert [call.occurred_at for call in reminded.communications] == [instant(9)]


@pytest.mark.parametrize(
    ("before", "event", "rule"),
    [
        (status_event("sold", 5, 5), status_event("in_warehouse", FAR, 9), "never makes a part sellable"),
        (
            status_event("in_warehouse", 5, 5),
            status_event("sold", FAR, 9),
            "stands until a plausible one is received later",
        ),
        (
            status_event("sold", FAR, 5),
            status_event("in_warehouse", 9, 9),
            "a plausible status overrules",
        ),
        (status_event("in_warehouse", FAR, 5), status_event("written_off", 3, 3), "written_off is final"),
    ],
)
def test_the_rule_is_named(before: Event[Any], event: Event[Any], rule: str) -> None:
    part = FAMILIES["inventory"].decide(None, before).state

    (applied,) = FAMILIES["inventory"].decide(part, event).rules

    assert rule in applied
