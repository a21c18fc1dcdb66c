"""Decides which reminder the platform requests, and the communication that it requires."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from consumers.family import Communication, CommunicationKind, Decision, Event, implausible
from schemas.buyback import DropOffReminder, PickupReminder, SchedulePickupReminder

ReminderPayload = SchedulePickupReminder | PickupReminder | DropOffReminder


class Rule(StrEnum):
    NEW = "first event of this reminder"
    MORE_DAYS = "the greater number of days wins, and this one is greater"
    NOT_MORE_DAYS = "the greater number of days wins, and an equal or greater one is known"


class ReminderKind(StrEnum):
    SCHEDULE_PICKUP = "schedule_pickup"
    PICKUP = "pickup"
    DROP_OFF = "drop_off"


@dataclass(frozen=True, slots=True)
class Reminder:
    """A reminder's row. `days` counts from the order's creation, or down to the pickup."""

    order_id: str
    kind: ReminderKind
    occurred_at: datetime
    days: int | None = None


def identify(payload: ReminderPayload) -> Reminder:
    """The key of a reminder: the reminder without its days."""
    match payload:
        case SchedulePickupReminder():
            kind = ReminderKind.SCHEDULE_PICKUP
        case PickupReminder():
            kind = ReminderKind.PICKUP
        case DropOffReminder():
            kind = ReminderKind.DROP_OFF
    return Reminder(payload.entity_id, kind, payload.occurred_at)


def decide(known: Reminder | None, event: Event[ReminderPayload]) -> Decision[Reminder]:
    """Of two reminders that differ only in their days, the one with the greater number stands.

    The timestamp, even an implausible one, is part of the key: no reminder replaces another one.
    """
    before = known or identify(event.payload)
    days, kind = _days_and_communication(event.payload)
    after = replace(before, days=max((one for one in (before.days, days) if one is not None), default=None))
    rule = Rule.NEW if known is None else Rule.NOT_MORE_DAYS if after == known else Rule.MORE_DAYS
    communication = Communication(
        event.event_id, kind, after.order_id, event.payload.result.item_id, event.instant
    )
    return Decision(after, (rule,), findings=implausible(event), communications=(communication,))


def _days_and_communication(payload: ReminderPayload) -> tuple[int | None, CommunicationKind]:
    match payload:
        case SchedulePickupReminder(result=result):
            # Day 0 is the first reminder, one hour after the order (source: docs/providers.md).
            is_first = result.days_after_creation == 0
            return result.days_after_creation, (
                CommunicationKind.SCHEDULE_PICKUP_FIRST
                if is_first
                else CommunicationKind.SCHEDULE_PICKUP_SECOND
            )
        case PickupReminder(result=result):
            return result.within_days, CommunicationKind.COLLECTION_DATE_REMINDER
        case DropOffReminder(result=result):
            return result.days_after_creation, CommunicationKind.DROP_OFF_REMINDER
