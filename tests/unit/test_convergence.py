"""The final state depends only on the set of logged events, each with its first reception."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import accumulate
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from consumers.family import Event
from consumers.registry import FAMILIES
from schemas.buyback import InspectionResult
from schemas.changes import TYPES, CommunicationState, ReminderState, State, cloud_events, encode
from schemas.event_schema import Payload
from schemas.events import OBSERVATIONS, routing_key_of
from tests.support import events
from tests.support.feed import last_states
from tests.support.memory_store import Store, identity_of

SECONDS = st.integers(0, 4)
# In seconds from the reception; events beyond the tolerance are implausible.
RECEPTIONS = st.integers(-2, 6)
TOLERANCE = timedelta(seconds=1)
PART_STATUSES = (
    "in_warehouse",
    "reserved",
    "sold",
    "sold_in_ebay",
    "sold_in_allegro",
    "returned",
    "written_off",
    "unknown_stock_status",
    "lent",
)
BUYBACK_STATUSES = (None, "None", "Created", "PickupScheduled", "MissedPickUp", "InTransit", "Closed", "Lost")
RETURNS = FAMILIES["returns"].payloads
BUYBACKS = FAMILIES["buybacks"].payloads
INSPECTIONS = [model for model in BUYBACKS if model.model_fields["result"].annotation is InspectionResult]


def wire_type(model: type[BaseModel]) -> str:
    return routing_key_of(model).partition(".")[2]


parts = st.builds(
    events.part,
    st.sampled_from(PART_STATUSES),
    SECONDS,
    st.sampled_from(["13", "14"]),
    st.sampled_from([None, "a", "b", False]),
    st.sampled_from([None, "old", {}]),
)
orders = st.builds(
    events.order,
    st.sampled_from([wire_type(model) for model in FAMILIES["orders"].payloads]),
    SECONDS,
    st.sampled_from(["1", "2"]),
)
returns = st.builds(
    events.returned,
    st.sampled_from([wire_type(model) for model in RETURNS if model not in OBSERVATIONS]),
    SECONDS,
    st.sampled_from(["1", "2"]),
    st.sampled_from(["10", "11"]),
)
items = st.builds(
    events.item,
    st.sampled_from(["i1", "i2"]),
    st.sampled_from(BUYBACK_STATUSES),
    st.sampled_from([100, 110.5]),
    st.sampled_from(["EUR", "USD"]),
    rejectionReasons=st.sampled_from([None, [], ["NonSaleableModel"]]),
)
shipments = st.fixed_dictionaries(
    {"trackingCode": st.sampled_from(["T1", "T2", None]), "carrier": st.sampled_from(["DHL", "UPS", None])}
)
snapshots = st.builds(
    events.snapshot,
    st.sampled_from([wire_type(model) for model in BUYBACKS if model not in INSPECTIONS]),
    SECONDS,
    st.sampled_from(["o1", "o2"]),
    st.sampled_from(BUYBACK_STATUSES),
    st.lists(items, max_size=2).map(tuple),
    st.fixed_dictionaries(
        {
            "externalReference": st.sampled_from([None, "OC1", "OC2", []]),
            "countryOfOrigin": st.sampled_from(["None", "PT", "ES"]),
            "customerInformation": st.sampled_from(
                [
                    None,
                    {"firstName": "A", "customerPaymentDetails": {"sealed": "x", "accountNumberEnding": "1"}},
                ]
            ),
            "shipments": st.lists(shipments, max_size=2),
        }
    ),
    itemId=st.sampled_from([None, "i1", "i3"]),
    shipment=shipments,
)
inspections = st.builds(
    events.flat,
    st.sampled_from([wire_type(model) for model in INSPECTIONS]),
    SECONDS,
    st.sampled_from(["o1", "o2"]),
    itemId=st.sampled_from(["i1", "i2"]),
    rejectionReasons=st.sampled_from([None, ["Stained"]]),
    paymentType=st.sampled_from([None, "Cash", "Credit", {}]),
    items=st.sampled_from([[], [{"id": "other", "status": "Finalized", "model": "M2"}]]),
)
reminders = st.one_of(
    st.builds(
        events.snapshot,
        st.sampled_from(["OrderSchedulePickupReminderEvent", "OrderDropOffReminderEvent"]),
        SECONDS,
        daysAfterCreation=st.sampled_from([0, 2, 7]),
    ),
    st.builds(
        events.snapshot,
        st.just("OrderPickupReminderEvent"),
        SECONDS,
        withinDays=st.sampled_from([None, 1, "x"]),
    ),
)
observed_parts = st.builds(
    events.observed,
    st.sampled_from([*PART_STATUSES, "not_listed"]),
    SECONDS,
    st.sampled_from(["13", "14"]),
    st.sampled_from([None, "a", "b"]),
)
observed_returns = st.builds(
    events.observed_return,
    SECONDS,
    st.sampled_from(["1", "2"]),
    st.sampled_from(["10", "11"]),
    st.booleans(),
    st.one_of(st.none(), SECONDS),
)
PAYLOADS = {
    "inventory": st.one_of(parts, observed_parts),
    "orders": orders,
    "returns": st.one_of(returns, observed_returns),
    "buybacks": st.one_of(snapshots, inspections),
    "reminders": reminders,
}


def apply(family: str, batches: Sequence[Sequence[Event[Any]]]) -> Store:
    async def run() -> Store:
        store = Store(FAMILIES[family])
        for batch in batches:
            await store.apply(batch)
        return store

    return asyncio.run(run())


@pytest.mark.parametrize("is_listed", [True, False])
def test_an_earlier_reception_that_makes_another_stated_instant_implausible_is_a_finding(
    is_listed: bool,
) -> None:
    """The state does not depend on the reception, because the return was opened earlier."""
    opened = events.claimed(events.returned("order.return.created", 0, "1", "10"), 1, 1, TOLERANCE)
    seen = events.claimed(events.observed_return(0, "1", "10", is_listed, 2), 2, 1, TOLERANCE)
    repeat = replace(seen, received_at=events.instant(0))

    repeated = apply("returns", [[opened], [seen], [repeat]])

    assert repeated.findings == apply("returns", [[opened], [repeat]]).findings != set()


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
def test_any_order_repeats_receptions_and_batches_give_the_same_state(
    family: str, data: st.DataObject
) -> None:
    """Repeats have other receptions; the first reception of each event counts."""
    payloads = data.draw(st.lists(PAYLOADS[family], min_size=1, max_size=8))
    # Some ids occur twice with different content: these are different events.
    names = data.draw(st.lists(st.integers(0, 12), min_size=len(payloads), max_size=len(payloads)))
    all_events = [
        events.claimed(
            payload,
            _name(payload, name) if family in ("inventory", "orders", "returns") else number,
            data.draw(RECEPTIONS),
            TOLERANCE,
        )
        for number, (payload, name) in enumerate(zip(payloads, names, strict=True))
    ]
    copied = st.builds(
        lambda event, second: replace(event, received_at=events.instant(second)),
        st.sampled_from(all_events),
        RECEPTIONS,
    )
    repeats = data.draw(st.lists(copied, max_size=4))
    sequence = data.draw(st.permutations([*all_events, *repeats]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sequence)), max_size=4)))
    batches = [sequence[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(sequence)], strict=True)]

    one_by_one = apply(family, [[event] for event in _first_receptions(sequence)])
    otherwise = apply(family, batches)

    assert otherwise.rows == one_by_one.rows
    assert otherwise.findings == one_by_one.findings
    assert otherwise.communications == one_by_one.communications
    assert otherwise.requested == one_by_one.requested
    assert last_changes(otherwise) == {FAMILIES[family].public_state(row) for row in otherwise.rows.values()}


def _first_receptions(copies: Sequence[Event[Any]]) -> list[Event[Any]]:
    """Each event once, with its first reception."""
    first: dict[Any, Event[Any]] = {}
    for copy in sorted(copies, key=lambda one: one.received_at):
        first.setdefault(identity_of(copy), copy)
    return list(first.values())


def _name(payload: Payload, number: int) -> object:
    """Observations have their own ids, which no webhook has."""
    return f"observed {number}" if isinstance(payload, OBSERVATIONS) else number


def test_of_two_findings_under_an_id_that_was_used_twice_one_outlives_the_other() -> None:
    """The event in between explains the first change to `reserved`, but not the second."""
    used = [
        events.claimed(events.part("returned"), 1),
        events.claimed(events.part("reserved", 2), 2),
        events.claimed(events.part("sold", 2), 3),
        events.claimed(events.part("reserved", 3), 2),
        events.claimed(events.part("in_warehouse", 1), 4),
    ]
    for batches in ([[event] for event in used], [used], [used[:4], used[4:]], [used[::-1]]):
        assert [finding.message for finding in apply("inventory", batches).findings] == [
            "sold became reserved"
        ]


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
def test_a_subscriber_that_follows_id_and_sequence_ends_with_the_rows(
    family: str, data: st.DataObject
) -> None:
    """A subscriber receives changes in any order, with repeats."""
    payloads = data.draw(st.lists(PAYLOADS[family], min_size=1, max_size=8))
    # The rows of other writers are between ours.
    steps = data.draw(st.lists(st.integers(1, 10**6), min_size=len(payloads), max_size=len(payloads)))
    store, published = asyncio.run(_published(family, payloads, list(accumulate(steps))))
    repeats = data.draw(st.lists(st.sampled_from(published), max_size=4)) if published else []
    heard = data.draw(st.permutations([*published, *repeats]))

    held = {entity: state for entity, state in last_states(heard).items() if entity[0] != "communication"}
    rows = [FAMILIES[family].public_state(row) for row in store.rows.values()]
    assert sorted(map(str, held.values())) == sorted(map(str, map(as_published, rows)))


async def _published(family: str, payloads: Sequence[Any], rows: Sequence[int]) -> tuple[Store, list[Any]]:
    """The changes of these events, each in the outbox row with this number."""
    store = Store(FAMILIES[family])
    published: list[Any] = []
    for place, (payload, row) in enumerate(zip(payloads, rows, strict=True)):
        before = len(store.changes)
        await store.apply([events.claimed(payload, place)])
        changes = encode(store.changes[before:])
        published += [orjson.loads(one.body) for one in cloud_events(events.event_id(place), row, changes)]
    return store, published


def as_published(state: State) -> Any:
    return orjson.loads(orjson.dumps(state, default=str, option=orjson.OPT_UTC_Z))


def last_changes(store: Store) -> set[Any]:
    """The last published change of each entity."""
    last: dict[Any, Any] = {}
    for change in store.changes:
        state = change.after
        assert change.type in TYPES[type(state)]
        if isinstance(state, CommunicationState):
            continue
        key = (
            (state.order_id, state.kind, state.occurred_at)
            if isinstance(state, ReminderState)
            else change.subject
        )
        assert change.before == last.get(key)
        last[key] = state
    return set(last.values())


def test_a_row_of_an_older_release_becomes_equal_to_a_rebuilt_one() -> None:
    """The older release did not mark implausible timestamps."""
    ahead = events.claimed(events.part("sold", 3_000_000), 1)
    now = events.claimed(events.part("in_warehouse", 5), 2, received=5)

    async def both(old: bool) -> Any:
        store = Store(FAMILIES["inventory"])
        await store.apply([ahead])
        if old:
            [part] = store.rows.values()
            latest = part.latest._replace(occurred_at=ahead.payload.occurred_at)
            store.rows["13"] = replace(part, latest=latest, has_implausible=False)
        await store.apply([now])
        return store.rows["13"], store.rows["13"].has_implausible

    assert asyncio.run(both(old=True)) == asyncio.run(both(old=False))
