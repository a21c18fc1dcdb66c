"""The topology as a RabbitMQ definitions file, for brokers that load it when they start."""

from typing import Any

from worker.amqp.topology import Arguments, Exchange, Topology


def definitions(topology: Topology, vhost: str) -> dict[str, Any]:
    """The input of `load_definitions` and `rabbitmqctl import_definitions`, without users and passwords."""
    return {
        "vhosts": [{"name": vhost}],
        "exchanges": [exchange_definition(exchange, vhost) for exchange in topology.exchanges],
        "queues": [
            _durable(queue.name, vhost, queue.arguments) | {"auto_delete": False} for queue in topology.queues
        ],
        "bindings": [
            {
                "source": binding.exchange,
                "vhost": vhost,
                "destination": binding.queue,
                "destination_type": "queue",
                "routing_key": binding.routing_key,
                "arguments": {},
            }
            for binding in topology.bindings
        ],
    }


def exchange_definition(exchange: Exchange, vhost: str) -> dict[str, Any]:
    return _durable(exchange.name, vhost, exchange.arguments) | {
        "type": exchange.type,
        "internal": False,
        "auto_delete": False,
    }


def _durable(name: str, vhost: str, arguments: Arguments) -> dict[str, Any]:
    return {"name": name, "vhost": vhost, "durable": True, "arguments": dict(arguments)}
