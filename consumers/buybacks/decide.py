"""Decides the state of a buyback order, its items and its shipments, from its events in any order."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal
from functools import reduce

from consumers.buybacks import status
from consumers.buybacks.lww import Columns, Record, instant_of, stamp
from consumers.buybacks.normalize import Buyback, NormalizedEvent, normalize
from consumers.buybacks.rules import Rule
from consumers.family import Communication, CommunicationKind, Decision, Event, Finding, implausible
from schemas.buyback import (
    ItemFinalized,
    ItemReceived,
    OrderCreated,
    PaymentDetailsCreated,
    PickupMissed,
    QualityCheckFailed,
)

# Source: docs/providers.md#life-of-an-order
COMMUNICATION_OF: dict[type[Buyback], CommunicationKind] = {
    PickupMissed: CommunicationKind.MISSED_COLLECTION,
    ItemReceived: CommunicationKind.ITEM_RECEIVED,
    QualityCheckFailed: CommunicationKind.QUALITY_CHECK_FAILED,
    ItemFinalized: CommunicationKind.ITEM_APPROVED,
    PaymentDetailsCreated: CommunicationKind.PAYMENT_DETAILS_RECEIVED,
}

EMPTY = Record()

_RULES = tuple(Rule)

# Amounts have up to 24 digits: sums of them must not be rounded to the default 28.
_EXACT = Context(prec=60)


@dataclass(frozen=True, slots=True)
class BuybackOrder:
    """An order's row, its items by id, its shipments by tracking code."""

    order_id: str
    order: Record = field(default_factory=Record)
    items: Mapping[str, Record] = field(default_factory=dict)
    shipments: Mapping[str, Record] = field(default_factory=dict)
    revision: int = 0

    @property
    def total(self) -> tuple[str | None, Decimal | None]:
        """The currency and the sum of the items' totals, unless their currencies differ."""
        priced = [item.values for item in self.items.values() if "total_amount" in item.values]
        currencies = {values.get("currency") for values in priced}
        if len(currencies) != 1:
            return None, None
        amounts = [amount for values in priced if isinstance(amount := values["total_amount"], Decimal)]
        currency = currencies.pop()
        return str(currency) if currency else None, reduce(_EXACT.add, amounts)


def decide(known: BuybackOrder | None, event: Event[Buyback]) -> Decision[BuybackOrder]:
    """Column by column the newest value stands; the created event yields to every other event."""
    payload = event.payload
    stated = normalize(payload)
    before = known or BuybackOrder(payload.entity_id)
    happened_at = event.instant
    instant = instant_of(happened_at)
    statuses = _statuses(stated)
    rank = max(map(status.rank, statuses), default=0)
    event_stamp = stamp(instant, rank, settled=type(payload) is not OrderCreated)
    rules: set[Rule] = set()

    def merged(record: Record | None, columns: Columns, first: Rule) -> Record:
        before = EMPTY if record is None else record
        after, merge_rules = before.merged(columns, event_stamp, _status_stamp(instant, columns))
        rules.update({first} if record is None else merge_rules)
        return after

    after = BuybackOrder(
        before.order_id,
        order=merged(before.order, {**stated.order, "occurred_at": happened_at}, Rule.FIRST),
        items={
            **before.items,
            **{
                item_id: merged(before.items.get(item_id), columns, Rule.NEW_ITEM)
                for item_id, columns in stated.items.items()
            },
        },
        shipments={
            **before.shipments,
            **{
                tracking_code: merged(before.shipments.get(tracking_code), columns, Rule.NEW_SHIPMENT)
                for tracking_code, columns in stated.shipments.items()
            },
        },
        revision=before.revision,
    )
    findings = tuple(_findings(event, stated, statuses))
    return Decision(
        after,
        (Rule.FIRST,) if known is None else tuple(rule for rule in _RULES if rule in rules),
        findings=findings,
        communications=_communications(event),
    )


def _status_stamp(instant: str, columns: Columns) -> str:
    """The stamp of a status: the status `created` yields to every other one, whatever event prints it."""
    value = columns.get("status")
    if not isinstance(value, str):
        return ""
    return stamp(instant, status.rank(value), settled=value != status.CREATED)


def _statuses(stated: NormalizedEvent) -> list[str]:
    values = (columns.get("status") for columns in (stated.order, *stated.items.values()))
    return [value for value in values if isinstance(value, str)]


def _findings(event: Event[Buyback], stated: NormalizedEvent, statuses: Collection[str]) -> Iterator[Finding]:
    order_id = event.payload.entity_id
    yield from implausible(event)
    undocumented = sorted({value for value in statuses if not status.is_documented(value)})
    if undocumented:
        yield Finding("undocumented_status", order_id, event.event_id, f"status {', '.join(undocumented)}")
    if stated.stray_item_id:
        message = f"item {stated.stray_item_id} is missing in the event's own snapshot"
        yield Finding("item_outside_snapshot", order_id, event.event_id, message)
    currencies = {columns["currency"] for columns in stated.items.values() if columns.get("currency")}
    if len(currencies) > 1:
        yield Finding("mixed_currencies", order_id, event.event_id, "items have different currencies")


def _communications(event: Event[Buyback]) -> tuple[Communication, ...]:
    payload = event.payload
    kind = COMMUNICATION_OF.get(type(payload))
    if kind is None:
        return ()
    item_id = payload.result.item_id
    return (Communication(event.event_id, kind, payload.entity_id, item_id, event.instant),)
