"""Decides whether an order stands or was cancelled."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from consumers.family import Decision, Event, implausible
from schemas.ovoko import OrderCancelled, OrderCreated

OrderPayload = OrderCreated | OrderCancelled


class Rule(StrEnum):
    FIRST_CREATION = "first creation of the order"
    EARLIER_CREATION = "the earliest creation wins, and this one is earlier"
    KNOWN_CREATION = "the earliest creation wins, and an equal or earlier one is known"
    FIRST_CANCELLATION = "first cancellation of the order"
    EARLIER_CANCELLATION = "the earliest cancellation wins, and this one is earlier"
    KNOWN_CANCELLATION = "the earliest cancellation wins, and an equal or earlier one is known"


_CREATION = (Rule.FIRST_CREATION, Rule.EARLIER_CREATION, Rule.KNOWN_CREATION)
_CANCELLATION = (Rule.FIRST_CANCELLATION, Rule.EARLIER_CANCELLATION, Rule.KNOWN_CANCELLATION)


@dataclass(frozen=True, slots=True)
class Order:
    """An order's row. It is cancelled once a cancellation is known, even if no creation is."""

    order_id: str
    created_at: datetime | None = None
    cancelled_at: datetime | None = None
    revision: int = 0


def decide(order: Order | None, event: Event[OrderPayload]) -> Decision[Order]:
    """Both timestamps are the earliest that events state; the reception replaces an implausible one."""
    payload = event.payload
    order = order or Order(payload.event_data.order_id)
    match payload:
        case OrderCreated():
            created_at, rule = _earliest(order.created_at, event.instant, _CREATION)
            after = replace(order, created_at=created_at)
        case OrderCancelled():
            cancelled_at, rule = _earliest(order.cancelled_at, event.instant, _CANCELLATION)
            after = replace(order, cancelled_at=cancelled_at)
    return Decision(after, (rule,), findings=implausible(event))


def _earliest(known: datetime | None, new: datetime, rules: tuple[Rule, Rule, Rule]) -> tuple[datetime, Rule]:
    """The earlier instant, and the rule: for the first instant, for an earlier one, for any other."""
    first, earlier, otherwise = rules
    if known is None:
        return new, first
    return (new, earlier) if new < known else (known, otherwise)
