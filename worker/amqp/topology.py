"""Every exchange, queue and binding, as data. Deployments rely on the names."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from consumers.registry import FAMILIES, FAMILY_OF
from schemas.changes import PREFIX, TYPES
from worker.amqp.queue_set import QueueSet

EVENTS = "stockhook.events"
RETURN = "stockhook.return"
CHANGES = "stockhook.changes"
QUARANTINE = "stockhook.quarantine"

# Requests to marketplaces have the queues of a family.
ACTIONS = "actions"

# Has no bindings: a message to it is returned, which shows that the broker accepts messages.
PROBE = "stockhook.probe"

# The last resort against poison messages, after worker/postgres/poison.py. It is also the default of
# RabbitMQ 4; older versions have none.
DELIVERY_LIMIT = 20

Arguments = dict[str, str | int]


@dataclass(frozen=True, slots=True)
class Exchange:
    name: str
    type: Literal["topic", "direct", "fanout"]
    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable quorum queue."""

    name: str
    arguments: Arguments


@dataclass(frozen=True, slots=True)
class Binding:
    exchange: str
    queue: str
    routing_key: str


@dataclass(frozen=True, slots=True)
class Topology:
    """`unwanted` are bindings that older settings may have left."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]
    unwanted: tuple[Binding, ...] = ()


def route_to(queue: str) -> tuple[str, str]:
    """The exchange and the routing key that lead only to this queue."""
    return (QUARANTINE, "") if queue == QUARANTINE else (RETURN, queue)


def quarantine_key(provider: str) -> str:
    """A key without a binding, so that the alternate exchange routes the message to the quarantine."""
    return f"quarantine.{provider}"


def topology(delays: Sequence[timedelta], families: Iterable[str] = FAMILIES) -> Topology:
    """Everything that Stockhook needs on a broker, without subscribers.

    The queues of a family are bound to the return exchange by their names. Retry queues use it to requeue,
    and consumers use it to publish retry copies and dead letters.
    """
    sets = {family: QueueSet.of(family, delays) for family in families}
    actions = actions_topology(QueueSet.of(ACTIONS, delays)).queues
    returning = [*(queue for queue_set in sets.values() for queue in _queues(queue_set)), *actions]
    quarantine = _queue(QUARANTINE, {})
    return Topology(
        exchanges=(
            Exchange(EVENTS, "topic", {"alternate-exchange": QUARANTINE}),
            Exchange(RETURN, "direct"),
            Exchange(QUARANTINE, "fanout"),
            Exchange(PROBE, "direct"),
            Exchange(CHANGES, "topic"),
        ),
        queues=(*returning, quarantine),
        bindings=(
            *(
                Binding(EVENTS, sets[family].main, routing_key)
                for routing_key, family in FAMILY_OF.items()
                if family in sets
            ),
            *(Binding(RETURN, queue.name, queue.name) for queue in returning),
            Binding(QUARANTINE, QUARANTINE, ""),
        ),
    )


def actions_topology(queue_set: QueueSet) -> Topology:
    """The topology of actions: the queues of a family. One process performs them; the others stand by."""
    first, *others = _queues(queue_set)
    queues = (_with_single_active_consumer(first), *others)
    return Topology(
        exchanges=(Exchange(RETURN, "direct"),),
        queues=queues,
        bindings=tuple(Binding(RETURN, queue.name, queue.name) for queue in queues),
    )


def webhook_topology(queue_set: QueueSet, routing_keys: Iterable[str]) -> Topology:
    """The topology of one subscriber over HTTP: the queues of a family, named after its origin.

    One process at a time delivers, so that changes keep their order. A broker does not list bindings over
    AMQP, so all common patterns that this subscriber does not use are unwanted.
    """
    wanted = set(routing_keys)
    first, *others = _queues(queue_set)
    queues = (_with_single_active_consumer(first), *others)
    return Topology(
        exchanges=(Exchange(CHANGES, "topic"), Exchange(RETURN, "direct")),
        queues=queues,
        bindings=(
            *(Binding(CHANGES, first.name, routing_key) for routing_key in sorted(wanted)),
            *(Binding(RETURN, queue.name, queue.name) for queue in queues),
        ),
        unwanted=tuple(
            Binding(CHANGES, first.name, routing_key) for routing_key in sorted({*_usual_keys()} - wanted)
        ),
    )


def _usual_keys() -> Iterator[str]:
    """The common patterns: each type, all types of each kind, and everything."""
    yield f"{PREFIX}#"
    for types in TYPES.values():
        kind = types[0].partition(".")[0]
        yield from (f"{PREFIX}{name}" for name in (*types, f"{kind}.*", f"{kind}.#"))


def _queues(queue_set: QueueSet) -> list[Queue]:
    return [
        _queue(queue_set.main, {"x-delivery-limit": DELIVERY_LIMIT, **_dead_lettering_to(queue_set.dead)}),
        *(
            _queue(
                retry.name,
                {
                    "x-message-ttl": int(retry.delay.total_seconds() * 1000),
                    **_dead_lettering_to(queue_set.main),
                },
            )
            for retry in queue_set.retries
        ),
        _queue(queue_set.dead, {}),
    ]


def _with_single_active_consumer(queue: Queue) -> Queue:
    return Queue(queue.name, {**queue.arguments, "x-single-active-consumer": True})


def _queue(name: str, arguments: Arguments) -> Queue:
    return Queue(name, {"x-queue-type": "quorum", **arguments})


def _dead_lettering_to(queue: str) -> Arguments:
    # Without reject-publish the broker silently falls back to at-most-once dead-lettering.
    return {
        "x-dead-letter-exchange": RETURN,
        "x-dead-letter-routing-key": queue,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
