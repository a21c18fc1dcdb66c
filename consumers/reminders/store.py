"""The table `reminders`."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from consumers.family import Connection, Event, Family, write
from consumers.reminders.changes import change_type, public_state
from consumers.reminders.decide import Reminder, ReminderKind, Reminding, decide, identify
from consumers.reminders.why import why
from schemas.buyback import DropOffReminder, PickupReminder, SchedulePickupReminder

LOAD_REMINDERS = """
SELECT order_id, kind, occurred_at, days
FROM reminders
JOIN unnest($1::text[], $2::text[], $3::timestamptz[]) AS wanted (order_id, kind, occurred_at)
    USING (order_id, kind, occurred_at)
ORDER BY order_id, kind, occurred_at
FOR UPDATE OF reminders
"""

# Needs no revision: the greater number of days stands, whoever writes last.
SAVE_REMINDERS = """
INSERT INTO reminders AS stored (order_id, kind, occurred_at, days)
SELECT *
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::smallint[])
ON CONFLICT (order_id, kind, occurred_at) DO UPDATE
SET days = greatest(stored.days, excluded.days)
"""


async def load(connection: Connection, events: Sequence[Event[Reminding]]) -> dict[Reminder, Reminder]:
    keys = sorted({_columns(identify(event.payload))[:3] for event in events})
    rows = await connection.fetch(LOAD_REMINDERS, *map(list, zip(*keys, strict=True)))
    reminders = [
        Reminder(row["order_id"], ReminderKind(row["kind"]), row["occurred_at"], row["days"]) for row in rows
    ]
    return {replace(reminder, days=None): reminder for reminder in reminders}


async def save(connection: Connection, reminders: Collection[Reminder]) -> None:
    await write(connection, SAVE_REMINDERS, [_columns(reminder) for reminder in reminders])


def _columns(reminder: Reminder) -> tuple[object, ...]:
    return reminder.order_id, reminder.kind.value, reminder.occurred_at, reminder.days


REMINDERS: Family[Reminding, Reminder, Reminder] = Family(
    name="reminders",
    payloads=(SchedulePickupReminder, PickupReminder, DropOffReminder),
    key=identify,
    load=load,
    decide=decide,
    save=save,
    why=why,
    change_type=change_type,
    public_state=public_state,
)
