"""The metrics of PromQL expressions, and all existing metrics."""

import promql_parser

from deploy.documents.metrics import exported, series_names

# Exported only by newer versions of RabbitMQ than the oldest supported one.
NEWER_THAN_3_10 = {"rabbitmq_alarms_memory_used_watermark", "rabbitmq_alarms_free_disk_space_watermark"}

# Metrics of other software, from its documents: Prometheus, its Python client, RabbitMQ's plugin.
KNOWN_OF_OTHERS = {
    "up",
    "ALERTS",
    "process_start_time_seconds",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "rabbitmq_queue_messages",
    "rabbitmq_queue_messages_ready",
    "rabbitmq_process_resident_memory_bytes",
    "rabbitmq_resident_memory_limit_bytes",
    "rabbitmq_disk_space_available_bytes",
    "rabbitmq_disk_space_available_limit_bytes",
} | NEWER_THAN_3_10

# Grafana replaces these before it queries.
_GRAFANA = {"$__rate_interval": "1m", "$family": "orders"}


def known() -> set[str]:
    """All possible series, without recorded ones."""
    return {name for metric, _ in exported() for name in series_names(metric)} | KNOWN_OF_OTHERS


def queried_series(expression: str) -> set[str]:
    """The series that an expression names.

    Raises:
        ValueError: It is no PromQL.
    """
    for variable, value in _GRAFANA.items():
        expression = expression.replace(variable, value)
    names: set[str] = set()

    def visit(node: object) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            names.add(str(node.name))
        return True

    promql_parser.walk(promql_parser.parse(expression), visit, lambda _: True)
    return names
