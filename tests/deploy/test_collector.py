"""deploy/opentelemetry: the sample has settings that exist, and attributes that spans have."""

from collections.abc import Iterator
from typing import Any

import yaml

from deploy.local.services import CHECKOUT

SAMPLE = CHECKOUT / "deploy/opentelemetry/collector.yaml"

# Settings of these components, by config.go and README.md in the repositories of the collector, release
# 0.144. It has more, which the sample does not use.
COMPONENTS: dict[str, dict[str, set[str]]] = {
    "receivers": {"otlp": {"protocols.http.endpoint", "protocols.grpc.endpoint"}},
    "processors": {
        "memory_limiter": {"check_interval", "limit_mib", "spike_limit_mib", "limit_percentage"},
        "tail_sampling": {
            "decision_wait",
            "num_traces",
            "expected_new_traces_per_sec",
            "decision_cache.sampled_cache_size",
            "decision_cache.non_sampled_cache_size",
            "policies",
        },
        "batch": {"timeout", "send_batch_size", "send_batch_max_size"},
    },
    "exporters": {"otlp_grpc": {"endpoint", "compression", "headers", "tls.insecure", "tls.ca_file"}},
}
POLICIES = {
    "status_code": {"status_codes"},
    "numeric_attribute": {"key", "min_value", "max_value", "invert_match"},
    "boolean_attribute": {"key", "value", "invert_match"},
    "latency": {"threshold_ms", "upper_threshold_ms"},
    "probabilistic": {"sampling_percentage", "hash_salt"},
}


def paths(settings: Any, prefix: str = "") -> Iterator[str]:
    """The settings that have a value, as paths with dots; a list counts as a value."""
    if not isinstance(settings, dict):
        yield prefix
        return
    for name, value in settings.items():
        yield from paths(value, f"{prefix}.{name}" if prefix else name)


def test_the_collector_has_only_components_and_settings_that_exist() -> None:
    config = yaml.safe_load(SAMPLE.read_text())
    tail_sampling = config["processors"]["tail_sampling"]

    assert config.keys() == {*COMPONENTS, "service"}
    for kind, components in COMPONENTS.items():
        assert config[kind].keys() == components.keys()
        for name, known in components.items():
            assert set(paths(config[kind][name])) <= known, name
    for policy in tail_sampling["policies"]:
        assert policy.keys() == {"name", "type", policy["type"]}
        assert policy[policy["type"]].keys() <= POLICIES[policy["type"]]
    # By the documentation of the cache.
    assert tail_sampling["decision_cache"]["sampled_cache_size"] >= 10 * tail_sampling["num_traces"]


def test_the_collector_stores_failures_retries_and_replays_by_attributes_that_spans_have() -> None:
    config = yaml.safe_load(SAMPLE.read_text())
    policies = config["processors"]["tail_sampling"]["policies"]
    attributes = [policy[policy["type"]]["key"] for policy in policies if "key" in policy[policy["type"]]]
    sources = "".join(path.read_text() for path in (CHECKOUT / "worker").rglob("*.py"))
    (pipeline,) = config["service"]["pipelines"].values()

    assert policies[0] == {
        "name": "failures",
        "type": "status_code",
        "status_code": {"status_codes": ["ERROR"]},
    }
    assert len(attributes) == 3
    assert all(f'"{attribute}"' in sources for attribute in attributes)
    assert all(set(pipeline[kind]) == set(config[kind]) for kind in ("receivers", "processors", "exporters"))
