"""Which reminder the platform asks for, and the communication it calls for."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from consumers.family import Communication, CommunicationKind, Decision, Event, implausible
from schemas.buyback import DropOffReminder, PickupReminder, SchedulePickupReminder

Reminding = SchedulePickupReminder | PickupReminder | DropOffReminder


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


def identify(payload: Reminding) -> Reminder:
    """The reminder that an event is about, without its days: its key."""
    match payload:
        case SchedulePickupReminder():
            kind = ReminderKind.SCHEDULE_PICKUP
        case PickupReminder():
            kind = ReminderKind.PICKUP
        case DropOffReminder():
            kind = ReminderKind.DROP_OFF
    return Reminder(payload.entity_id, kind, payload.occurred_at)


def decide(known: Reminder | None, event: Event[Reminding]) -> Decision[Reminder]:
    """A reminder is what it is; of two that differ in their days alone the greater number stands.

    Its timestamp, also an implausible one, is part of its key: no reminder stands above another.
    """
    known = known or identify(event.payload)
    days, kind = _days_and_communication(event.payload)
    told = [number for number in (known.days, days) if number is not None]
    communication = Communication(
        event.event_id, kind, known.order_id, event.payload.result.item_id, event.instant
    )
    return Decision(
        replace(known, days=max(told, default=None)),
        findings=implausible(event),
        communications=(communication,),
    )


def _days_and_communication(payload: Reminding) -> tuple[int | None, CommunicationKind]:
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
