"""All that a deployment needs on its broker, by its settings."""

from worker.settings import Settings
from worker.topology import Topology, topology, webhook_topology


def expected_topology(settings: Settings) -> Topology:
    """The families' and the subscribers'."""
    ours = topology(settings.delays)
    others = [
        webhook_topology(settings.delays, subscriber.lane, subscriber.routing_keys)
        for subscriber in settings.subscribers
    ]
    return Topology(
        exchanges=ours.exchanges,
        queues=(*ours.queues, *(queue for other in others for queue in other.queues)),
        bindings=(*ours.bindings, *(binding for other in others for binding in other.bindings)),
    )
