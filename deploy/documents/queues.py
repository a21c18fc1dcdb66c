"""The exchanges, queues and bindings, from worker/amqp/topology.py."""

from collections.abc import Mapping

from worker.amqp.queue_set import QueueSet
from worker.amqp.topology import Queue, topology, webhook_topology
from worker.config.settings import Settings


def exchanges_table() -> str:
    rows = [
        f"| `{exchange.name}` | {exchange.type} | {_arguments(exchange.arguments)} |"
        for exchange in topology(Settings().delays).exchanges
    ]
    return "\n".join(["| exchange | type | arguments |", "| --- | --- | --- |", *rows, ""])


def queues_table() -> str:
    """With the default retry delays; one row describes the same queue of every family or subscriber."""
    delays = Settings().delays
    one_family = topology(delays, ["FAMILY"]).queues
    queues = (*one_family, *webhook_topology(QueueSet.of("webhook.NAME", delays), ()).queues)
    return "\n".join(["| queue | arguments |", "| --- | --- |", *map(_queue_row, queues), ""])


def bindings_table() -> str:
    """The bindings by event type; those of the exchange stockhook.return are the queues' own names."""
    rows = [
        f"| `{binding.routing_key}` | `{binding.queue}` |"
        for binding in topology(Settings().delays).bindings
        if binding.exchange == "stockhook.events"
    ]
    return "\n".join(["| routing key | queue |", "| --- | --- |", *rows, ""])


def _queue_row(queue: Queue) -> str:
    arguments = {name: value for name, value in queue.arguments.items() if name != "x-queue-type"}
    return f"| `{queue.name}` | {_arguments(arguments)} |"


def _arguments(arguments: Mapping[str, str | int]) -> str:
    return ", ".join(f"`{name}={_value(value)}`" for name, value in sorted(arguments.items()))


def _value(value: str | int) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
