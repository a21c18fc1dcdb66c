"""The load of an upgrade: the chaos run's events, mixed with events that fail temporarily."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count, cycle
from uuid import uuid4

import orjson

from schemas import examples
from schemas.examples import Example
from schemas.registry import Provider
from tests.chaos.load import webhooks
from tests.support.fault_sql import fail_rows
from worker.simulator.webhook import Credentials, Webhook

# An entity whose id has this prefix cannot be written while the trigger exists.
FAILING = "failing-"
# The SQLSTATE of their failures, which log lines and dead letters show.
SQLSTATE = "UP001"

# The number of webhooks between two of these.
EVERY = 20

# Each family's table, and the column with the entity's id.
KEY_COLUMNS = {
    "parts": "part_id",
    "orders": "order_id",
    "returns": "return_id",
    "buyback_orders": "order_id",
    "reminders": "order_id",
}
BREAK_WRITES = fail_rows(
    {table: f"NEW.{column} LIKE '{FAILING}%'" for table, column in KEY_COLUMNS.items()}, sqlstate=SQLSTATE
)

_EXAMPLES = {example.name: example for example in examples.documented()}


def examples_of_all(credentials: Credentials) -> Iterator[Webhook]:
    """The documented events, those that are not valid JSON, and one of a type that no family handles."""
    for example in (*_EXAMPLES.values(), *examples.as_printed()):
        yield credentials.webhook(example.provider, example.event_type, example.body)
    yield credentials.webhook(
        Provider.OVOKO, "part.painted", b'{"event_type": "part.painted", "event_id": "1"}'
    )


def mixed(seed: int, credentials: Credentials, fails: Callable[[], bool]) -> Iterator[Webhook]:
    """An endless sequence of events, with failing ones of each family while `fails`."""
    # Reminders are rare: without successful ones, the family's circuit breaker would open.
    planted = cycle((_part, _order, _missed_pickup, _return, _trade_in, _reminder, *[_sound_reminder] * 3))
    for number, webhook in enumerate(webhooks(seed, credentials), 1):
        yield webhook
        if number % EVERY == 0 and fails():
            example, body = next(planted)()
            yield credentials.webhook(example.provider, example.event_type, body)


_numbers = count(1)


def _ovoko(name: str, **data: str) -> tuple[Example, bytes]:
    example = _EXAMPLES[name]
    document = orjson.loads(example.body)
    document["event_id"] = str(uuid4())
    document["timestamp"] = datetime.now(UTC).isoformat()
    document["event_data"] |= data
    return example, orjson.dumps(document)


def _buyback(name: str, order_id: str) -> tuple[Example, bytes]:
    example = _EXAMPLES[name]
    document = orjson.loads(example.body)
    document["result"]["timestamp"] = datetime.now(UTC).isoformat()
    document["result"]["order"]["id"] = order_id
    return example, orjson.dumps(document)


def _failing() -> str:
    return f"{FAILING}{next(_numbers)}"


def _part() -> tuple[Example, bytes]:
    return _ovoko("part.status.changed", part_id=_failing())


def _order() -> tuple[Example, bytes]:
    return _ovoko("order.created", order_id=_failing())


def _return() -> tuple[Example, bytes]:
    return _ovoko("order.return.created", return_id=_failing())


def _trade_in() -> tuple[Example, bytes]:
    return _buyback("OrderCreatedEvent", _failing())


def _reminder() -> tuple[Example, bytes]:
    return _buyback("OrderSchedulePickupReminderEvent", _failing())


def _sound_reminder() -> tuple[Example, bytes]:
    return _buyback("OrderSchedulePickupReminderEvent", f"sound-{next(_numbers)}")


def _missed_pickup() -> tuple[Example, bytes]:
    """An event that is applied; its action waits while the platform fails."""
    return _buyback("CollectionItemPickupMissedEvent", f"pickup-{next(_numbers)}")
