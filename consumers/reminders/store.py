"""The table `reminders`."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import get_args

from consumers.family import CommunicationKind, Connection, Event, Family, Table, write
from consumers.reminders.changes import change_type, public_state
from consumers.reminders.decide import Reminder, ReminderKind, ReminderPayload, decide, identify

LOAD_REMINDERS = """
SELECT order_id, kind, occurred_at, days
FROM reminders
JOIN unnest($1::text[], $2::text[], $3::timestamptz[]) AS wanted (order_id, kind, occurred_at)
    USING (order_id, kind, occurred_at)
ORDER BY order_id, kind, occurred_at
"""

LOCK_REMINDERS = LOAD_REMINDERS + "FOR UPDATE OF reminders"

# Needs no revision: the greater number of days stands, whichever transaction writes last.
SAVE_REMINDERS = """
INSERT INTO reminders AS stored (order_id, kind, occurred_at, days)
SELECT *
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::smallint[])
ON CONFLICT (order_id, kind, occurred_at) DO UPDATE
SET days = greatest(stored.days, excluded.days)
"""


async def load(
    connection: Connection, events: Sequence[Event[ReminderPayload]], *, lock: bool
) -> dict[Reminder, Reminder]:
    keys = sorted({_columns(identify(event.payload))[:3] for event in events})
    statement = LOCK_REMINDERS if lock else LOAD_REMINDERS
    rows = await connection.fetch(statement, *map(list, zip(*keys, strict=True)))
    reminders = [
        Reminder(row["order_id"], ReminderKind(row["kind"]), row["occurred_at"], row["days"]) for row in rows
    ]
    return {replace(reminder, days=None): reminder for reminder in reminders}


async def save(connection: Connection, reminders: Collection[Reminder]) -> None:
    await write(connection, SAVE_REMINDERS, [_columns(reminder) for reminder in reminders])


def _columns(reminder: Reminder) -> tuple[object, ...]:
    return reminder.order_id, reminder.kind.value, reminder.occurred_at, reminder.days


REMINDERS: Family[ReminderPayload, Reminder, Reminder] = Family(
    name="reminders",
    entity="reminder",
    payloads=get_args(ReminderPayload),
    tables=(Table("reminders", key=("order_id", "kind", "occurred_at"), entity="order_id"),),
    key=identify,
    load=load,
    decide=decide,
    save=save,
    change_type=change_type,
    public_state=public_state,
    communications=(
        CommunicationKind.COLLECTION_DATE_REMINDER,
        CommunicationKind.SCHEDULE_PICKUP_FIRST,
        CommunicationKind.SCHEDULE_PICKUP_SECOND,
        CommunicationKind.DROP_OFF_REMINDER,
    ),
)
