"""Each decision names its rule, and each rule of each family applies to some event."""

from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest

from consumers.family import Decision, Event
from consumers.registry import FAMILIES
from schemas.event_schema import Payload
from tests.support.events import (
    claimed,
    flat,
    item,
    observed_return,
    order,
    part,
    returned,
    snapshot,
)

FAR = 10**9
OPENED = "order.return.created"
UPDATED = "order.return.updated"
DROP_OFF = "OrderDropOffReminderEvent"
CREATED = "OrderCreatedEvent"
IN_TRANSIT = "CollectionItemInTransitEvent"
RECEIVED = "CollectionItemReceivedEvent"


def implausible(status: str, received: float) -> Event[Any]:
    return claimed(part(status, FAR), f"{status} {received}", received)


Case = tuple[str, str, tuple[Payload | Event[Any], ...]]

CASES: tuple[Case, ...] = (
    ("inventory", "FIRST", (part("sold", 1),)),
    ("inventory", "NEWEST", (part("in_warehouse", 1), part("sold", 2))),
    ("inventory", "OLDER", (part("sold", 2), part("in_warehouse", 1))),
    ("inventory", "REPEATED", (claimed(part("sold", 1), "a"), claimed(part("sold", 1), "a"))),
    ("inventory", "LESS_SELLABLE", (part("in_warehouse", 1), part("sold", 1))),
    ("inventory", "GREATER_ID", (part("sold", 1), part("sold_in_ebay", 1))),
    ("inventory", "WRITTEN_OFF_FINAL", (part("written_off", 1), part("sold", 2))),
    ("inventory", "WRITTEN_OFF_OVERRULES", (part("sold", 2), part("written_off", 1))),
    ("inventory", "IMPLAUSIBLE_NEVER_SELLS", (part("sold", 5), implausible("in_warehouse", 9))),
    ("inventory", "IMPLAUSIBLE_STANDS", (part("in_warehouse", 5), implausible("sold", 9))),
    ("inventory", "PLAUSIBLE_OVERRULES", (implausible("sold", 5), claimed(part("in_warehouse", 9), "b", 9))),
    ("inventory", "PLAUSIBLE_OVERRULES", (implausible("in_warehouse", 5), part("sold", 3))),
    ("inventory", "EXTERNAL_ID", (part("sold", 1), part("sold", 2, external_id="a"))),
    ("orders", "FIRST_CREATION", (order("order.created", 1),)),
    ("orders", "EARLIER_CREATION", (order("order.created", 2), order("order.created", 1))),
    ("orders", "KNOWN_CREATION", (order("order.created", 1), order("order.created", 2))),
    ("orders", "FIRST_CANCELLATION", (order("order.created", 1), order("order.cancelled", 2))),
    ("orders", "EARLIER_CANCELLATION", (order("order.cancelled", 2), order("order.cancelled", 1))),
    ("orders", "KNOWN_CANCELLATION", (order("order.cancelled", 1), order("order.cancelled", 1))),
    ("returns", "FIRST_CREATION", (returned(OPENED, 1),)),
    (
        "returns",
        "EARLIER_CREATION",
        (returned(OPENED, 2), returned(OPENED, 1)),
    ),
    ("returns", "KNOWN_CREATION", (returned(OPENED, 1), returned(OPENED, 2))),
    ("returns", "FIRST_UPDATE", (returned(UPDATED, 1),)),
    ("returns", "NEWER_UPDATE", (returned(UPDATED, 1), returned(UPDATED, 2))),
    ("returns", "OLDER_UPDATE", (returned(UPDATED, 2), returned(UPDATED, 1))),
    ("returns", "OBSERVED", (observed_return(1), observed_return(2))),
    ("returns", "OLDER_OBSERVATION", (observed_return(2), observed_return(1))),
    ("returns", "NOT_LISTED", (observed_return(1), observed_return(2, is_listed=False))),
    ("returns", "LISTED_SINCE", (observed_return(2), observed_return(1, is_listed=False))),
    ("buybacks", "FIRST", (snapshot(RECEIVED, 1),)),
    ("buybacks", "NEW_ITEM", (snapshot(RECEIVED, 1), snapshot(RECEIVED, 2, items=(item(),)))),
    (
        "buybacks",
        "NEW_SHIPMENT",
        (snapshot(RECEIVED, 1), snapshot(RECEIVED, 2, order={"shipments": [{"trackingCode": "T1"}]})),
    ),
    (
        "buybacks",
        "NEW_COLUMN",
        (snapshot(RECEIVED, 1), snapshot(RECEIVED, 2, order={"externalReference": "a"})),
    ),
    ("buybacks", "NEWEST", (snapshot(IN_TRANSIT, 1), snapshot(RECEIVED, 2))),
    ("buybacks", "OLDER", (snapshot(RECEIVED, 2), snapshot(IN_TRANSIT, 1))),
    ("buybacks", "CREATED_YIELDS", (snapshot(RECEIVED, 1), snapshot(CREATED, 2))),
    ("buybacks", "FURTHER_ALONG", (snapshot(IN_TRANSIT, 1), snapshot(RECEIVED, 1))),
    (
        "buybacks",
        "GREATER_TEXT",
        (
            snapshot(RECEIVED, 1, order={"externalReference": "a"}),
            snapshot(RECEIVED, 1, order={"externalReference": "b"}),
        ),
    ),
    ("buybacks", "REPEATED", (snapshot(RECEIVED, 1), snapshot(RECEIVED, 1))),
    ("reminders", "NEW", (flat(DROP_OFF, 1, daysAfterCreation=1),)),
    (
        "reminders",
        "MORE_DAYS",
        (flat(DROP_OFF, 1, daysAfterCreation=1), flat(DROP_OFF, 1, daysAfterCreation=2)),
    ),
    (
        "reminders",
        "NOT_MORE_DAYS",
        (flat(DROP_OFF, 1, daysAfterCreation=2), flat(DROP_OFF, 1, daysAfterCreation=2)),
    ),
)


def decisions(family: str, events: tuple[Payload | Event[Any], ...]) -> list[Decision[Any]]:
    made: list[Decision[Any]] = []
    for number, event in enumerate(events):
        before = made[-1].state if made else None
        if not isinstance(event, Event):
            event = claimed(event, number)
        made.append(FAMILIES[family].decide(before, event))
    return made


@pytest.mark.parametrize(
    ("family", "rule", "events"), CASES, ids=[f"{family} {rule}" for family, rule, _ in CASES]
)
def test_a_decision_names_its_rule(family: str, rule: str, events: tuple[Payload | Event[Any], ...]) -> None:
    assert rule in [one.name for one in decisions(family, events)[-1].rules]


def test_each_rule_of_each_family_has_a_case() -> None:
    covered: defaultdict[str, set[str]] = defaultdict(set)
    rules = {}
    for family, rule, events in CASES:
        covered[family].add(rule)
        rules[family] = type(decisions(family, events)[-1].rules[0])

    assert covered == {family: {rule.name for rule in rules[family]} for family in FAMILIES}


@pytest.mark.parametrize("later", ["sold", "in_warehouse", "written_off", "reserved"])
@pytest.mark.parametrize("second", [1, 2])
def test_a_part_without_its_history_is_decided_by_the_same_rule(later: str, second: int) -> None:
    inventory = FAMILIES["inventory"]
    (first,) = decisions("inventory", (part("reserved", 1, external_id="a"),))
    event = claimed(part(later, second, external_id="b"), "later")

    with_history = inventory.decide(first.state, event)
    without = inventory.decide(replace(first.state, known=None, nearby=first.state.nearby), event)

    assert (without.state, without.rules) == (with_history.state, with_history.rules)
