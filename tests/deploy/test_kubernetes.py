"""deploy/kubernetes: Kubernetes' schemas, and the product's own rules."""

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import ValidationError

from consumers.registry import FAMILIES
from tests.deploy.custom_resources import RabbitmqCluster, ScaledObject, read_custom_resource
from tests.deploy.tools import DEPLOY, documents, tool
from worker.amqp.queue_set import main_queue
from worker.cli.app import app
from worker.config.settings import Settings

KUBERNETES = DEPLOY / "kubernetes"
CUSTOM = [
    KUBERNETES / name
    for name in ("60-keda.yaml", "70-rabbitmq.yaml", "71-postgres.yaml", "80-monitoring.yaml")
]
CORE = sorted(set(KUBERNETES.glob("*.yaml")) - set(CUSTOM))
RESOURCES = [resource for path in CORE for resource in documents(path)]
CUSTOM_RESOURCES = [resource for path in CUSTOM for resource in documents(path)]


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    return [resource for resource in RESOURCES if resource["kind"] in kinds]


def named(kind: str, name: str) -> dict[str, Any]:
    (match,) = [resource for resource in of_kind(kind) if resource["metadata"]["name"] == name]
    return match


WORKLOADS = of_kind("StatefulSet", "Deployment", "Job")
SERVING = of_kind("StatefulSet", "Deployment")
every_workload = pytest.mark.parametrize("workload", WORKLOADS, ids=lambda one: one["metadata"]["name"])
CONSOLE = named("Deployment", "stockhook-console")
every_server = pytest.mark.parametrize("workload", SERVING, ids=lambda one: one["metadata"]["name"])
every_server_with_an_ops_port = pytest.mark.parametrize(
    "workload", [one for one in SERVING if one != CONSOLE], ids=lambda one: one["metadata"]["name"]
)


def pod_of(workload: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = workload["spec"]["template"]["spec"]
    return pod


def container_of(workload: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod_of(workload)["containers"]
    typed: dict[str, Any] = container
    return typed


def test_they_fit_the_schemas_of_kubernetes() -> None:
    result = tool("kubernetes-validate", "--strict", *CORE)

    assert result.returncode == 0, result.stdout + result.stderr


def test_a_misspelt_field_is_detected(tmp_path: Path) -> None:
    ingest = deepcopy(named("StatefulSet", "stockhook-ingest"))
    container = container_of(ingest)
    container["livenessProb"] = container.pop("livenessProbe")
    path = tmp_path / "ingest.json"
    path.write_text(json.dumps(ingest))
    result = tool("kubernetes-validate", "--strict", path)

    assert result.returncode != 0
    assert "livenessProb" in result.stdout + result.stderr


@pytest.mark.parametrize(
    "resource", CUSTOM_RESOURCES, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}"
)
def test_operators_resources_have_the_fields_that_operators_know(resource: dict[str, Any]) -> None:
    read_custom_resource.validate_python(resource)
    misspelt = {**resource, "spec": {**resource["spec"], "replica": 3}}
    with pytest.raises(ValidationError):
        read_custom_resource.validate_python(misspelt)


@every_workload
def test_pods_may_do_little(workload: dict[str, Any]) -> None:
    pod, container = pod_of(workload), container_of(workload)

    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "fsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"requests", "limits"} <= set(container["resources"])


def pod_templates(part: object) -> Iterator[dict[str, Any]]:
    """Every specification of a pod in a resource, at any depth."""
    if isinstance(part, dict):
        if "containers" in part:
            yield part
        for inner in part.values():
            yield from pod_templates(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from pod_templates(inner)


def test_no_pod_gets_the_variables_that_kubernetes_makes_of_service_names() -> None:
    """A Service `stockhook-ingest` would set STOCKHOOK_INGEST_PORT to `tcp://…`."""
    templates = list(pod_templates([*RESOURCES, *CUSTOM_RESOURCES]))

    assert len(templates) >= len(WORKLOADS)
    assert [pod for pod in templates if pod.get("enableServiceLinks") is not False] == []


@every_workload
def test_their_arguments_are_commands_and_their_secrets_settings(workload: dict[str, Any]) -> None:
    pod, container = pod_of(workload), container_of(workload)
    (secret_name,) = [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume]
    keys = named("Secret", secret_name)["stringData"]

    assert container["args"][0] in app
    assert set(container["args"][1:]) <= set(FAMILIES)
    assert {key.removeprefix("stockhook_") for key in keys} <= set(Settings.model_fields)


def test_each_process_has_a_user_that_the_grants_know() -> None:
    known = {
        one["user"] for one in json.loads((DEPLOY / "rabbitmq/permissions.json").read_text())["permissions"]
    }
    roles = (DEPLOY / "postgres/roles.sql").read_text()
    for secret in of_kind("Secret"):
        urls = {key: value for key, value in secret["stringData"].items() if key.endswith("_url")}
        for key, url in urls.items():
            user = urlsplit(url).username
            assert user in known if "amqp" in key else f"CREATE ROLE {user} LOGIN" in roles, (secret, user)


@every_server
def test_a_pod_has_time_for_in_flight_deliveries(workload: dict[str, Any]) -> None:
    grace = float(named("ConfigMap", "stockhook")["data"]["STOCKHOOK_SHUTDOWN_GRACE"])
    before = container_of(workload).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)

    assert pod_of(workload)["terminationGracePeriodSeconds"] >= before + grace + 20


def probes_of(container: dict[str, Any]) -> dict[str, Any]:
    return {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("liveness", "readiness", "startup")}


@every_server_with_an_ops_port
def test_probes_use_the_ops_port_and_liveness_checks_no_dependency(workload: dict[str, Any]) -> None:
    container = container_of(workload)
    probes = probes_of(container)

    assert probes == {
        "liveness": {"path": "/livez", "port": "ops"},
        "readiness": {"path": "/readyz", "port": "ops"},
        "startup": {"path": "/livez", "port": "ops"},
    }
    assert {"name": "ops", "containerPort": 9090} in container["ports"]


@every_server
def test_a_disruption_takes_one_pod_at_most_and_can_take_place(workload: dict[str, Any]) -> None:
    budget = named("PodDisruptionBudget", workload["metadata"]["name"])["spec"]

    assert budget == {"maxUnavailable": 1, "selector": workload["spec"]["selector"]}
    selected = workload["spec"]["selector"]["matchLabels"].items()
    assert selected <= workload["spec"]["template"]["metadata"]["labels"].items()


def test_a_spool_outlives_its_pod() -> None:
    ingest = named("StatefulSet", "stockhook-ingest")["spec"]
    (claim,) = ingest["volumeClaimTemplates"]
    (mount,) = [
        mount
        for mount in container_of({"spec": ingest})["volumeMounts"]
        if mount["name"] == claim["metadata"]["name"]
    ]

    assert ingest["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert mount["mountPath"] == "/var/lib/stockhook"
    assert "STOCKHOOK_SPOOL_PATH=/var/lib/stockhook/" in (DEPLOY / "Dockerfile").read_text()


def test_families_scale_by_their_own_queue_and_never_by_a_retry_queue() -> None:
    scalers = [read_custom_resource.validate_python(resource) for resource in CUSTOM_RESOURCES]
    scaled = {
        one.spec.scale_target_ref.name: [trigger.metadata.queue_name for trigger in one.spec.triggers]
        for one in scalers
        if isinstance(one, ScaledObject)
    }

    assert scaled == {f"stockhook-consumer-{family}": [main_queue(family)] for family in FAMILIES}


def test_the_cluster_has_the_settings_that_a_broker_was_booted_with() -> None:
    def lines(text: str) -> list[str]:
        return [line for line in text.splitlines() if line and not line.startswith("#")]

    (cluster,) = [
        one
        for one in map(read_custom_resource.validate_python, CUSTOM_RESOURCES)
        if isinstance(one, RabbitmqCluster)
    ]
    tested = (DEPLOY / "rabbitmq/stockhook.conf").read_text()

    assert lines(cluster.spec.rabbitmq.additional_config) == [*lines(tested), "default_vhost = stockhook"]


def test_pod_monitors_have_the_job_names_that_the_alerts_go_by() -> None:
    (prometheus,) = documents(DEPLOY / "prometheus/prometheus.yml")
    jobs = {
        relabeling["replacement"]
        for resource in CUSTOM_RESOURCES
        if resource["kind"] == "PodMonitor"
        for endpoint in resource["spec"]["podMetricsEndpoints"]
        for relabeling in endpoint["relabelings"]
    }

    assert jobs == {job["job_name"] for job in prometheus["scrape_configs"]}


def test_network_policies_close_everything_except_required_connections() -> None:
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind("NetworkPolicy")}

    def components(name: str) -> list[str]:
        (expression,) = policies[name]["podSelector"]["matchExpressions"]
        values: list[str] = expression["values"]
        return values

    def ports(name: str, direction: str) -> set[int]:
        return {port["port"] for rule in policies[name][direction] for port in rule["ports"]}

    assert policies["stockhook-nothing"] == {
        "podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "stockhook"}},
        "policyTypes": ["Ingress", "Egress"],
    }
    assert components("stockhook-webhooks") == ["ingest"]
    assert components("stockhook-users") == ["console"]
    assert components("stockhook-to-broker") == ["ingest", "consumer", "console", "topology"]
    assert components("stockhook-to-database") == ["consumer", "console", "migrate", "retain"]
    assert components("stockhook-to-ops-ports") == ["console"]
    assert components("stockhook-to-marketplaces") == ["consumer"]
    assert components("stockhook-to-collector") == ["ingest", "consumer", "console"]
    assert ports("stockhook-webhooks", "ingress") == {8080}
    assert ports("stockhook-users", "ingress") == {8081}
    assert ports("stockhook-metrics", "ingress") == {9090}
    assert ports("stockhook-to-ops-ports", "egress") == {9090}
    assert ports("stockhook-to-broker", "egress") == {5671}
    assert ports("stockhook-to-database", "egress") == {5432}
    assert ports("stockhook-to-marketplaces", "egress") == {443}
    assert ports("stockhook-to-collector", "egress") == {4318}


def variables_of(container: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container["env"]}


def test_the_console_is_one_pod_that_its_service_and_probes_reach_over_tls() -> None:
    container = container_of(CONSOLE)
    variables = variables_of(container)
    (port,) = named("Service", "stockhook-console")["spec"]["ports"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}

    assert (CONSOLE["spec"]["replicas"], CONSOLE["spec"]["strategy"]) == (1, {"type": "Recreate"})
    assert container["ports"] == [
        {"name": "https", "containerPort": Settings.model_fields["console_port"].default}
    ]
    assert (port["port"], port["targetPort"]) == (443, "https")
    assert list(probes_of(container).values()) == [{"path": "/livez", "port": "https", "scheme": "HTTPS"}] * 3
    for name in ("CERTIFICATE", "KEY"):
        assert str(Path(variables[f"STOCKHOOK_CONSOLE_{name}_FILE"]).parent) in mounts
    assert "stockhook-console.stockhook.svc" in variables["STOCKHOOK_CONSOLE_HOSTS"]


def test_the_console_reads_the_ops_port_of_every_pod() -> None:
    """A headless Service has the address of each pod; a pod that is not ready is of interest too."""
    urls = variables_of(container_of(CONSOLE))["STOCKHOOK_CONSOLE_OPS_URLS"].split(",")
    labels = []
    for url in map(urlsplit, urls):
        assert url.hostname is not None
        name, namespace, kind = url.hostname.split(".")
        spec = named("Service", name)["spec"]
        labels.append(spec["selector"]["app.kubernetes.io/component"])
        assert (namespace, kind, url.port) == ("stockhook", "svc", 9090)
        assert (spec["clusterIP"], spec["publishNotReadyAddresses"]) == ("None", True)

    assert labels == ["ingest", "consumer"]


def test_the_sample_account_of_the_console_is_refused() -> None:
    users = named("Secret", "stockhook-console")["stringData"]["stockhook_console_users"]

    with pytest.raises(ValidationError, match="entry 1 has no hash of a password"):
        Settings(console_users=users)


def test_only_the_console_may_use_its_user() -> None:
    """Its broker user and its role have rights of their own."""
    names = {
        secret["metadata"]["name"]: {
            urlsplit(url).username for key, url in secret["stringData"].items() if key.endswith("_url")
        }
        for secret in of_kind("Secret")
    }

    assert names.pop("stockhook-console") == {"stockhook_console"}
    assert "stockhook_console" not in set().union(*names.values())
