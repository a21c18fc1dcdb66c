"""Schemas of custom resources, with the fields that deploy/kubernetes uses.

The source are the operators' documents. Misspelt and misplaced fields are rejected.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.alias_generators import to_camel


class Resource(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, frozen=True)


class Metadata(Resource):
    name: str
    namespace: Literal["stockhook"]


class Quantities(Resource):
    cpu: str | None = None
    memory: str


class Resources(Resource):
    requests: Quantities
    limits: Quantities


class Selector(Resource):
    match_labels: dict[str, str]


class SecretTargetRef(Resource):
    parameter: Literal["host", "tls", "ca"]
    name: str
    key: str


class TriggerAuthenticationSpec(Resource):
    secret_target_ref: list[SecretTargetRef]


class TriggerAuthentication(Resource):
    api_version: Literal["keda.sh/v1alpha1"]
    kind: Literal["TriggerAuthentication"]
    metadata: Metadata
    spec: TriggerAuthenticationSpec


class RabbitmqTrigger(Resource):
    """KEDA takes all values as strings."""

    protocol: Literal["amqp", "http"]
    queue_name: str
    mode: Literal["QueueLength", "MessageRate"]
    value: Annotated[str, Field(pattern=r"^\d+$")]


class Name(Resource):
    name: str


class Trigger(Resource):
    type: Literal["rabbitmq"]
    metadata: RabbitmqTrigger
    authentication_ref: Name


class Fallback(Resource):
    failure_threshold: int
    replicas: int


class ScaleDown(Resource):
    stabilization_window_seconds: Annotated[int, Field(ge=0, le=3600)]


class Behavior(Resource):
    scale_down: ScaleDown


class AutoscalerConfig(Resource):
    behavior: Behavior


class Advanced(Resource):
    horizontal_pod_autoscaler_config: AutoscalerConfig


class ScaledObjectSpec(Resource):
    scale_target_ref: Name
    min_replica_count: Annotated[int, Field(ge=1)]
    max_replica_count: int
    polling_interval: int
    cooldown_period: int
    fallback: Fallback
    advanced: Advanced
    triggers: list[Trigger]


class ScaledObject(Resource):
    api_version: Literal["keda.sh/v1alpha1"]
    kind: Literal["ScaledObject"]
    metadata: Metadata
    spec: ScaledObjectSpec


class Persistence(Resource):
    storage: str


class Rabbitmq(Resource):
    additional_config: str


class PodAffinityTerm(Resource):
    topology_key: str
    label_selector: Selector


class PodAntiAffinity(Resource):
    required_during_scheduling_ignored_during_execution: list[PodAffinityTerm]


class Affinity(Resource):
    pod_anti_affinity: PodAntiAffinity


class Tls(Resource):
    secret_name: str
    ca_secret_name: str


class RabbitmqClusterSpec(Resource):
    tls: Tls
    replicas: Literal[3, 5]
    image: str
    persistence: Persistence
    resources: Resources
    rabbitmq: Rabbitmq
    affinity: Affinity


class RabbitmqCluster(Resource):
    api_version: Literal["rabbitmq.com/v1beta1"]
    kind: Literal["RabbitmqCluster"]
    metadata: Metadata
    spec: RabbitmqClusterSpec


class Initdb(Resource):
    database: str
    owner: str


class Bootstrap(Resource):
    initdb: Initdb


class Synchronous(Resource):
    method: Literal["any", "first"]
    number: Annotated[int, Field(ge=1)]
    data_durability: Literal["required", "preferred"]


class Postgresql(Resource):
    synchronous: Synchronous
    parameters: dict[str, str]


class Storage(Resource):
    size: str


class ClusterSpec(Resource):
    instances: Annotated[int, Field(ge=2)]
    bootstrap: Bootstrap
    postgresql: Postgresql
    storage: Storage
    resources: Resources


class Cluster(Resource):
    api_version: Literal["postgresql.cnpg.io/v1"]
    kind: Literal["Cluster"]
    metadata: Metadata
    spec: ClusterSpec


class Relabeling(Resource):
    target_label: str
    replacement: str


class PodMetricsEndpoint(Resource):
    port: str
    path: str
    interval: str
    relabelings: list[Relabeling]


class PodMonitorSpec(Resource):
    selector: Selector
    pod_metrics_endpoints: list[PodMetricsEndpoint]


class PodMonitor(Resource):
    api_version: Literal["monitoring.coreos.com/v1"]
    kind: Literal["PodMonitor"]
    metadata: Metadata
    spec: PodMonitorSpec


CustomResource = Annotated[
    TriggerAuthentication | ScaledObject | RabbitmqCluster | Cluster | PodMonitor,
    Field(discriminator="kind"),
]

read_custom_resource: TypeAdapter[CustomResource] = TypeAdapter(CustomResource)
