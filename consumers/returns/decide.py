"""Decides when a return was opened, how often it was updated, and whether the marketplace still lists it."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from consumers.family import Decision, Event, Finding, implausible
from schemas.ovoko import ObservedReturn, ReturnCreated, ReturnObserved, ReturnUpdated

ReturnPayload = ReturnCreated | ReturnUpdated | ReturnObserved

_NEVER = datetime.min.replace(tzinfo=UTC)


class Rule(StrEnum):
    FIRST_CREATION = "first creation of the return"
    EARLIER_CREATION = "the earliest creation wins, and this one is earlier"
    KNOWN_CREATION = "the earliest creation wins, and an equal or earlier one is known"
    FIRST_UPDATE = "first update of the return"
    NEWER_UPDATE = "each update is counted, and the newest one sets the time"
    OLDER_UPDATE = "each update is counted, and an equal or newer one set the time"
    OBSERVED = "the newest observation wins"
    OLDER_OBSERVATION = "the newest observation wins, and a newer one is known"
    NOT_LISTED = "the marketplace no longer lists the return"
    LISTED_SINCE = "the marketplace did not list the return, but a newer event shows it"


@dataclass(frozen=True, slots=True)
class Return:
    """A return's row. `update_count` counts distinct update events.

    `seen_at` is the newest observation that found the return on the marketplace, `gone_at` the newest one
    that did not. Only observations that became events count.
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
        """The newest instant at which the return is known to have existed."""
        instants = (self.opened_at, self.updated_at, self.seen_at)
        return max((at for at in instants if at is not None), default=None)

    @property
    def is_gone(self) -> bool:
        return self.gone_at is not None and self.gone_at > (self.newest or _NEVER)


def decide(known: Return | None, event: Event[ReturnPayload]) -> Decision[Return]:
    """Opened at the earliest creation, updated at the latest update.

    A return belongs to one order: the one under which the newest observation found it. If there is no
    observation and events name different orders, the greater order id stands, so that the order of arrival
    makes no difference.
    """
    payload = event.payload
    data = payload.event_data
    instant = event.instant
    before = known or Return(data.return_id, data.order_id)
    created_at = data.created_at if isinstance(data, ObservedReturn) else None
    findings = implausible(event, created_at)
    if before.order_id != data.order_id:
        findings += (_two_orders(data.return_id),)
    match payload:
        case ReturnCreated():
            after = replace(before, opened_at=_earliest(before.opened_at, instant))
            rule = _rule_of_creation(before.opened_at, instant)
        case ReturnUpdated():
            updated_at = _latest(before.updated_at, instant)
            after = replace(before, updated_at=updated_at, update_count=before.update_count + 1)
            rule = _rule_of_update(before.updated_at, instant)
        case ReturnObserved(event_data=ObservedReturn(is_listed=True)):
            # If the marketplace does not say when it was opened: at the latest when it was observed.
            opened_at = _earliest(before.opened_at, event.bounded(created_at or payload.timestamp))
            after = replace(before, opened_at=opened_at, seen_at=_latest(before.seen_at, instant))
            rule = Rule.OBSERVED if after.seen_at == instant else Rule.OLDER_OBSERVATION
        case ReturnObserved():
            after = replace(before, gone_at=_latest(before.gone_at, instant))
            rule = Rule.NOT_LISTED if after.is_gone else Rule.LISTED_SINCE
    return Decision(replace(after, order_id=_order_id(before, event)), (rule,), findings)


def _rule_of_creation(known: datetime | None, new: datetime) -> Rule:
    if known is None:
        return Rule.FIRST_CREATION
    return Rule.EARLIER_CREATION if new < known else Rule.KNOWN_CREATION


def _rule_of_update(known: datetime | None, new: datetime) -> Rule:
    if known is None:
        return Rule.FIRST_UPDATE
    return Rule.NEWER_UPDATE if new > known else Rule.OLDER_UPDATE


def _order_id(before: Return, event: Event[ReturnPayload]) -> str:
    payload = event.payload
    is_seen = isinstance(payload, ReturnObserved) and payload.event_data.is_listed
    named = (event.instant if is_seen else _NEVER, payload.event_data.order_id)
    return max((before.seen_at or _NEVER, before.order_id), named)[1]


def _earliest(known: datetime | None, new: datetime) -> datetime:
    return min(new, known or new)


def _latest(known: datetime | None, new: datetime) -> datetime:
    return max(new, known or new)


def _two_orders(return_id: str) -> Finding:
    return Finding("return_of_two_orders", return_id, None, "events of the return name different orders")
