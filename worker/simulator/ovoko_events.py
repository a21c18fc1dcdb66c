"""Generated parts of Ovoko, and orders with their returns."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from random import Random

import orjson

from schemas.registry import Provider
from worker.simulator.lifecycle import (
    GeneratedEvent,
    Life,
    Step,
    drawn,
    happens,
    later,
    new_id,
)

_ENDS = ""

# The next statuses of each status, with weights. Some changes are undocumented.
_NEXT: dict[str, tuple[tuple[str, float], ...]] = {
    "in_warehouse": (
        ("reserved", 25),
        ("sold", 25),
        ("sold_in_ebay", 18),
        ("sold_in_allegro", 14),
        ("unknown_stock_status", 6),
        ("written_off", 4),
        (_ENDS, 8),
    ),
    "reserved": (
        ("in_warehouse", 24),
        ("sold", 45),
        ("sold_in_ebay", 12),
        ("sold_in_allegro", 10),
        ("written_off", 3),
        ("returned", 2),  # undocumented
        (_ENDS, 4),
    ),
    "sold": (("returned", 22), ("in_warehouse", 4), ("reserved", 1), (_ENDS, 73)),
    "sold_in_ebay": (("returned", 25), ("in_warehouse", 3), (_ENDS, 72)),
    "sold_in_allegro": (("returned", 20), ("unknown_stock_status", 5), (_ENDS, 75)),
    "returned": (("in_warehouse", 64), ("written_off", 26), ("sold", 2), (_ENDS, 8)),
    "unknown_stock_status": (
        ("in_warehouse", 45),
        ("sold_in_allegro", 40),
        ("written_off", 5),
        (_ENDS, 10),
    ),
    "written_off": (("in_warehouse", 4), (_ENDS, 96)),  # arrives too late
}
_MEAN_STAY = timedelta(days=3)

# Share of changes within the same second as the previous one: Ovoko's timestamps are then equal.
_SAME_SECOND = 0.06


def part_life(rng: Random, at: datetime, part_id: int) -> Life:
    """The events of a part: its listing, sales and returns, up to its final status."""
    names = _merchants_names(rng, part_id)
    status = "in_warehouse"
    while status != _ENDS:
        data = {"part_id": str(part_id), "status": status, **names}
        yield Step(at, _event(rng, "part.status.changed", at, data))
        if not happens(rng, _SAME_SECOND):
            at += later(rng, _MEAN_STAY)
        status = drawn(rng, _NEXT[status])


def order_life(rng: Random, at: datetime, order_id: int) -> Life:
    """The events of an order; some are cancelled, others have returns."""
    data = {"order_id": str(order_id)}
    yield Step(at, _event(rng, "order.created", at, data))
    if happens(rng, 0.15):
        at += later(rng, timedelta(hours=9))
        yield Step(at, _event(rng, "order.cancelled", at, data))
    elif happens(rng, 0.4):
        at += later(rng, timedelta(days=5))
        yield from _return_life(rng, at, order_id)


def _return_life(rng: Random, at: datetime, order_id: int) -> Life:
    data = {"return_id": str(rng.randrange(10**6, 10**9)), "order_id": str(order_id)}
    yield Step(at, _event(rng, "order.return.created", at, data))
    while happens(rng, 0.45):
        at += later(rng, timedelta(days=1))
        yield Step(at, _event(rng, "order.return.updated", at, data))


def _merchants_names(rng: Random, part_id: int) -> dict[str, str | None]:
    """The merchant's id: under both names, under one of them, or absent."""
    name = f"SKU-{part_id:X}"
    return drawn(
        rng,
        (
            ({"id_bridge": name, "external_id": name}, 45),
            ({"external_id": name}, 20),
            ({"id_bridge": name, "external_id": None}, 25),
            ({"id_bridge": None, "external_id": None}, 10),
        ),
    )


def _event(rng: Random, event_type: str, at: datetime, data: Mapping[str, str | None]) -> GeneratedEvent:
    return event(new_id(rng), event_type, at, data, is_wrapped=happens(rng, 0.05))


def event(
    event_id: str, event_type: str, at: datetime, data: Mapping[str, str | None], *, is_wrapped: bool = False
) -> GeneratedEvent:
    """An event in Ovoko's format, with whole seconds of its local time."""
    occurred_at = at.replace(microsecond=0)
    document: dict[str, object] = {
        "event_id": event_id,
        "event_type": event_type,
        "timestamp": occurred_at.astimezone(_local_time(at)).isoformat(),
        "event_data": data,
    }
    if is_wrapped:
        document = {"event": document}
    body = orjson.dumps(document, option=orjson.OPT_INDENT_2)
    return GeneratedEvent(Provider.OVOKO, event_type, occurred_at, body)


def _local_time(at: datetime) -> timezone:
    """Approximately the time of Vilnius: summer time from April to October."""
    return timezone(timedelta(hours=3 if 4 <= at.month <= 10 else 2))


def numbers(rng: Random) -> Iterator[int]:
    """Consecutive ids, from a start that other seeds are unlikely to reach."""
    number = rng.randrange(10**8, 10**12)
    while True:
        number += rng.randrange(1, 40)
        yield number
