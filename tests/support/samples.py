"""The metrics of a process, by name and labels."""

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from tests.support.stack import Stack

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(stack: Stack, port: int) -> Samples:
    """Every sample of a process."""
    text = (await stack.ops(port, "/metrics")).text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    """None if there is no such sample."""
    return samples.get((name, frozenset(labels.items())))
