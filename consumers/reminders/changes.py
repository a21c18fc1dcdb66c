"""The changes of a reminder that are published to subscribers."""

from consumers.reminders.decide import Reminder
from schemas.changes import ReminderState


def change_type(before: Reminder | None, after: Reminder) -> str:
    return f"reminder.{after.kind}"


def public_state(reminder: Reminder) -> ReminderState:
    return ReminderState(reminder.order_id, reminder.kind, reminder.occurred_at, reminder.days)
