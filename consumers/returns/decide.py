"""When a return was opened, how often it was updated since, and whether the marketplace still knows it."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from consumers.family import Decision, Event, Finding, implausible
from schemas.ovoko import ObservedReturn, ReturnCreated, ReturnObserved, ReturnUpdated

ReturnPayload = ReturnCreated | ReturnUpdated | ReturnObserved

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Return:
    """A return's row. `update_count` counts distinct update events.

    `seen_at` is when the marketplace last showed it, `gone_at` when it last knew nothing of it: of those
    times that it was asked and something came of it.
    """

    return_id: str
    order_id: str
    opened_at: datetime | None = None
    updated_at: datetime | None = None
    update_count: int = 0
    revision: int = 0
    seen_at: datetime | None = None
    gone_at: datetime | None = None

    @property
    def newest(self) -> datetime | None:
        """The newest sign of it."""
        signs = (self.opened_at, self.updated_at, self.seen_at)
        return max((at for at in signs if at is not None), default=None)

    @property
    def is_gone(self) -> bool:
        return self.gone_at is not None and self.gone_at > (self.newest or _NEVER)


def decide(known: Return | None, event: Event[ReturnPayload]) -> Decision[Return]:
    """Opened at the earliest creation, updated at the latest update.

    A return belongs to one order: the one under which it was last seen in the marketplace's list. Where
    events alone name it and disagree, the greater order id stands, so that the order of arrival makes no
    difference.
    """
    payload = event.payload
    data = payload.event_data
    known = known or Return(data.return_id, data.order_id)
    created_at = data.created_at if isinstance(data, ObservedReturn) else None
    findings = implausible(event, created_at)
    if known.order_id != data.order_id:
        findings += (_two_orders(data.return_id),)
    match payload:
        case ReturnCreated():
            after = replace(known, opened_at=_earliest(known.opened_at, event.instant))
        case ReturnUpdated():
            updated_at = _latest(known.updated_at, event.instant)
            after = replace(known, updated_at=updated_at, update_count=known.update_count + 1)
        case ReturnObserved(event_data=ObservedReturn(is_listed=True)):
            # Where it does not say when, it was opened when it was seen at the latest.
            opened_at = _earliest(known.opened_at, event.bounded(created_at or payload.timestamp))
            after = replace(known, opened_at=opened_at, seen_at=_latest(known.seen_at, event.instant))
        case ReturnObserved():
            after = replace(known, gone_at=_latest(known.gone_at, event.instant))
    return Decision(replace(after, order_id=_order_id(known, event)), findings)


def _order_id(known: Return, event: Event[ReturnPayload]) -> str:
    payload = event.payload
    is_seen = isinstance(payload, ReturnObserved) and payload.event_data.is_listed
    told = (event.instant if is_seen else _NEVER, payload.event_data.order_id)
    return max((known.seen_at or _NEVER, known.order_id), told)[1]


def _earliest(known: datetime | None, told: datetime) -> datetime:
    return min(told, known or told)


def _latest(known: datetime | None, told: datetime) -> datetime:
    return max(told, known or told)


def _two_orders(return_id: str) -> Finding:
    return Finding("return_of_two_orders", return_id, None, "its events name different orders")
