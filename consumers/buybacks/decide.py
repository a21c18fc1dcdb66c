"""A trade-in order with its items and shipments, from any of its events in any order."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal
from functools import reduce

from consumers.buybacks import status
from consumers.buybacks.record import Record, instant_of, stamp
from consumers.buybacks.statement import Buyback, Statement, Told, state
from consumers.family import Communication, CommunicationKind, Decision, Event, Finding, implausible
from schemas.buyback import (
    ItemFinalized,
    ItemReceived,
    OrderCreated,
    PaymentDetailsCreated,
    PickupMissed,
    QualityCheckFailed,
)

# Source: docs/providers.md, "Use this event to trigger the … communication".
_CALLS_FOR: dict[type[Buyback], CommunicationKind] = {
    PickupMissed: CommunicationKind.MISSED_COLLECTION,
    ItemReceived: CommunicationKind.ITEM_RECEIVED,
    QualityCheckFailed: CommunicationKind.QUALITY_CHECK_FAILED,
    ItemFinalized: CommunicationKind.ITEM_APPROVED,
    PaymentDetailsCreated: CommunicationKind.PAYMENT_DETAILS_RECEIVED,
}

NOTHING = Record()

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
    instant = instant_of(event.instant)
    statuses = _statuses(told)
    rank = max(map(status.rank, statuses), default=0)
    told_at = stamp(instant, rank, settled=type(payload) is not OrderCreated)

    def merged(record: Record, said: Told) -> Record:
        return record.merged(said, told_at, _status_at(instant, said))

    def merged_all(records: Mapping[str, Record], said: Mapping[str, Told]) -> Mapping[str, Record]:
        return {**records, **{key: merged(records.get(key, NOTHING), one) for key, one in said.items()}}

    after = BuybackOrder(
        known.order_id,
        order=merged(known.order, {**told.order, "occurred_at": event.instant}),
        items=merged_all(known.items, told.items),
        shipments=merged_all(known.shipments, told.shipments),
        revision=known.revision,
    )
    findings = tuple(_findings(event, told, statuses))
    return Decision(after, findings=findings, communications=_communications(event))


def _status_at(instant: str, told: Told) -> str:
    """Where a status is told: `created` yields whatever event prints it."""
    said = told.get("status")
    return stamp(instant, status.rank(said), settled=said != status.CREATED) if isinstance(said, str) else ""


def _statuses(told: Statement) -> list[str]:
    said = (values.get("status") for values in (told.order, *told.items.values()))
    return [one for one in said if isinstance(one, str)]


def _findings(event: Event[Buyback], told: Statement, statuses: Collection[str]) -> Iterator[Finding]:
    order_id = event.payload.entity_id
    yield from implausible(event)
    odd = sorted({said for said in statuses if not status.is_documented(said)})
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
    return (Communication(event.event_id, kind, payload.entity_id, item_id, event.instant),)
