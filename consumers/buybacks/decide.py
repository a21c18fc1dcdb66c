"""A trade-in order with its items and shipments, from any of its events in any order."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Context, Decimal
from functools import reduce

from consumers.buybacks import status
from consumers.buybacks.record import Record, Value, stamp
from consumers.buybacks.statement import Buyback, Statement, Told, state
from consumers.family import Communication, CommunicationKind, Decision, Event, Finding
from schemas.buyback import (
    ItemFinalized,
    ItemReceived,
    OrderCreated,
    PaymentDetailsCreated,
    PickupMissed,
    QualityCheckFailed,
)

# Source: seeds/002, "Use this event to trigger the … communication".
_CALLS_FOR: dict[type[Buyback], CommunicationKind] = {
    PickupMissed: CommunicationKind.MISSED_COLLECTION,
    ItemReceived: CommunicationKind.ITEM_RECEIVED,
    QualityCheckFailed: CommunicationKind.QUALITY_CHECK_FAILED,
    ItemFinalized: CommunicationKind.ITEM_APPROVED,
    PaymentDetailsCreated: CommunicationKind.PAYMENT_DETAILS_RECEIVED,
}

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
        """Currency and sum of the items' totals; nothing where they differ in currency."""
        priced = [item.values for item in self.items.values() if "total_amount" in item.values]
        currencies = {values.get("currency") for values in priced}
        if len(currencies) != 1:
            return None, None
        amounts = [amount for values in priced if isinstance(amount := values["total_amount"], Decimal)]
        currency = currencies.pop()
        return str(currency) if currency else None, reduce(_EXACT.add, amounts)


def decide(known: BuybackOrder | None, event: Event[Buyback]) -> Decision[BuybackOrder]:
    """Column by column the newest value stands; what came with `created` yields to all else."""
    payload = event.payload
    told = state(payload)
    known = known or BuybackOrder(payload.entity_id)
    settled = not isinstance(payload, OrderCreated)
    rank = max(map(status.rank, _statuses(told)), default=0)
    told_at = stamp(payload.occurred_at, rank, settled=settled)
    order = {**told.order, "occurred_at": payload.occurred_at}

    after = replace(
        known,
        order=_merged(known.order, payload, order, told_at),
        items=_merged_all(known.items, payload, told.items, told_at),
        shipments=_merged_all(known.shipments, payload, told.shipments, told_at),
    )
    return Decision(after, findings=tuple(_findings(event, told)), communications=_communications(event))


def _merged_all(
    records: Mapping[str, Record], payload: Buyback, told: Mapping[str, Told], told_at: str
) -> Mapping[str, Record]:
    merged = {
        key: _merged(records.get(key, Record()), payload, values, told_at) for key, values in told.items()
    }
    return {**records, **merged}


def _merged(record: Record, payload: Buyback, told: Told, told_at: str) -> Record:
    """A status has a stamp of its own: `created` yields whatever event prints it."""
    values: dict[str, Value | None] = dict(told)
    said = values.pop("status", None)
    if isinstance(said, str):
        said_at = stamp(payload.occurred_at, status.rank(said), settled=said != status.CREATED)
        record = record.merged(said_at, {"status": said})
    return record.merged(told_at, values)


def _statuses(told: Statement) -> Iterator[str]:
    for values in (told.order, *told.items.values()):
        if isinstance(said := values.get("status"), str):
            yield said


def _findings(event: Event[Buyback], told: Statement) -> Iterator[Finding]:
    order_id = event.payload.entity_id
    odd = sorted({said for said in _statuses(told) if not status.is_documented(said)})
    if odd:
        yield Finding("undocumented_status", order_id, event.event_id, f"status {', '.join(odd)}")
    if told.stray_item_id:
        words = f"item {told.stray_item_id} is not in the event's own snapshot"
        yield Finding("item_outside_snapshot", order_id, event.event_id, words)
    if len({values["currency"] for values in told.items.values() if values.get("currency")}) > 1:
        yield Finding("mixed_currencies", order_id, event.event_id, "items in several currencies")


def _communications(event: Event[Buyback]) -> tuple[Communication, ...]:
    payload = event.payload
    kind = _CALLS_FOR.get(type(payload))
    if kind is None:
        return ()
    item_id = payload.result.item_id
    return (Communication(event.event_id, kind, payload.entity_id, item_id, payload.occurred_at),)
