"""The table of metrics, from worker/observability/metrics.py."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from worker.observability import metrics

_SUFFIXES = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_sum", "_count"),
    "info": ("_info",),
    "gauge": ("",),
}
_HEAD = "| metric | type | labels | process | meaning |\n| --- | --- | --- | --- | --- |\n"


def exported() -> Iterator[tuple[MetricWrapperBase, str]]:
    """Every metric and the process that exports it, in the order of the module."""
    for value in vars(metrics).values():
        if isinstance(value, MetricWrapperBase):
            registries = [
                process
                for registry, process in ((metrics.INGEST, "ingest"), (metrics.CONSUMER, "consumers"))
                if _holds(registry, value)
            ]
            yield value, "".join(registries) or "every"


def series_names(metric: MetricWrapperBase) -> tuple[str, ...]:
    """The names of its series in PromQL."""
    return tuple(f"{metric._name}{suffix}" for suffix in _SUFFIXES[str(metric._type)])


def metrics_table() -> str:
    return _HEAD + "".join(_row(metric, process) for metric, process in exported())


def _row(metric: MetricWrapperBase, process: str) -> str:
    name = metric._name if metric._type == "histogram" else series_names(metric)[0]
    labels = ", ".join(f"`{label}`" for label in _labels(metric))
    return f"| `{name}` | {metric._type} | {labels} | {process} | {metric._documentation} |\n"


def _labels(metric: MetricWrapperBase) -> tuple[str, ...]:
    if metric is metrics.BUILD:
        return tuple(metrics.BUILD_LABELS)
    return tuple(metric._labelnames)


def _holds(registry: CollectorRegistry, metric: MetricWrapperBase) -> bool:
    return metric in registry._collector_to_names
