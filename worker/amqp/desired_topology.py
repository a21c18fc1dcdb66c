"""Everything that a deployment needs on its broker, according to its settings."""

from collections.abc import Iterable

from consumers.registry import FAMILIES
from worker.amqp.queue_set import QueueSet
from worker.amqp.topology import Topology, topology, webhook_topology
from worker.config.settings import Settings


def expected_topology(settings: Settings, families: Iterable[str] = FAMILIES) -> Topology:
    ours = topology(settings.delays, families)
    others = [
        webhook_topology(QueueSet.of(subscriber.origin, settings.delays), subscriber.routing_keys)
        for subscriber in settings.subscribers
    ]
    return Topology(
        exchanges=ours.exchanges,
        queues=(*ours.queues, *(queue for other in others for queue in other.queues)),
        bindings=(*ours.bindings, *(binding for other in others for binding in other.bindings)),
        unwanted=tuple(binding for other in others for binding in other.unwanted),
    )
