"""The contestants and their settings."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from deploy.local.services import DEV, Services
from tests.bench.contestants.task import Task
from worker.amqp.queue_set import main_queue

# In the environment that `deploy/local/bootstrap bench` creates.
OTHERS_PYTHON = DEV / "venv-bench/bin/python"

OUR_LOG = "event_log"
THEIR_LOG = "bench_inbox"

ONE_TRANSACTION = "one transaction per event (inbox row, guarded upsert), asyncpg pool of 10, uvloop"


@dataclass(frozen=True, slots=True)
class Contestant:
    """`log` is the table with one row per applied event; None for a contestant that applies none.

    `uses_product`: it runs with the product's packages, because it imports the product.
    """

    name: str
    module: str
    settings: str
    log: str | None = None
    prefetch: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    uses_product: bool = False

    @property
    def is_product(self) -> bool:
        return self.module.startswith("worker")

    @property
    def publishes_changes(self) -> bool:
        return self.log == OUR_LOG and self.environment.get("STOCKHOOK_CHANGES") != "false"

    def with_settings(self, environment: Mapping[str, str]) -> Self:
        return replace(self, environment={**self.environment, **environment})

    def command(
        self, services: Services, families: Sequence[str], **more: object
    ) -> tuple[list[str], dict[str, str]]:
        """The arguments and the environment of the process."""
        if self.is_product:
            return [sys.executable, "-m", *self.module.split(), *families], dict(self.environment)
        task = Task(
            amqp_url=services.amqp_url,
            database_url=services.database_url,
            queues=",".join(map(main_queue, families)),
            prefetch=self.prefetch,
            **more,  # type: ignore[arg-type]  # the names are checked by the call
        )
        python = sys.executable if self.uses_product else str(OTHERS_PYTHON)
        return [python, "-m", f"tests.bench.contestants.{self.module}"], task.environment


STOCKHOOK = Contestant(
    "stockhook",
    "worker consume",
    "default settings: with the change feed, which the others lack, without a subscriber",
    OUR_LOG,
)
WITHOUT_FEED = Contestant(
    "stockhook without its feed",
    "worker consume",
    "STOCKHOOK_CHANGES=false",
    OUR_LOG,
    environment={"STOCKHOOK_CHANGES": "false"},
)

# Each has the prefetch with which it was fastest in tests.
BARE_AIORMQ = Contestant(
    "bare aiormq", "bare_aiormq", "ack all received messages with multiple, prefetch 1000, uvloop", None, 1000
)
BARE_AIO_PIKA = Contestant("bare aio-pika", "bare_aio_pika", "ack each, prefetch 1000, uvloop", None, 1000)
PLAIN_HANDLER = Contestant(
    "plain handler", "plain_handler", f"aio-pika, {ONE_TRANSACTION}, prefetch 100", THEIR_LOG, 100
)
FASTSTREAM = Contestant(
    "FastStream", "faststream_consumer", f"{ONE_TRANSACTION}, prefetch 20, no injection", THEIR_LOG, 20
)

CONSUMERS = (STOCKHOOK, BARE_AIORMQ, BARE_AIO_PIKA, PLAIN_HANDLER, FASTSTREAM)

INGEST = Contestant("stockhook", "worker ingest", "default settings")
BARE_PUBLISHER = Contestant(
    "bare publish", "bare_publisher", "aio-pika, confirms, 64 in flight, uvloop", None, 64
)
ANSWERING = Contestant(
    "only answers",
    "answering",
    "the server of stockhook's ingest with its default settings; each request is answered 200 at once",
    uses_product=True,
)
FASTAPI = Contestant(
    "FastAPI + FastStream", "fastapi_ingest", "uvicorn with httptools and uvloop, confirms, no access log"
)

GATEWAY_SECRET = "bench-gateway-secret-0123456789"
BEHIND_GATEWAY = Contestant(
    "stockhook behind a gateway",
    "worker ingest",
    "default settings, and a signature of Hookdeck on each webhook in addition to the marketplace's secret",
    environment={"STOCKHOOK_GATEWAY": "hookdeck", "STOCKHOOK_GATEWAY_SECRETS": GATEWAY_SECRET},
)

INGESTS = (INGEST, BEHIND_GATEWAY, ANSWERING, BARE_PUBLISHER, FASTAPI)

UNTRACED = replace(STOCKHOOK, name="without traces")
_TRACED = {**STOCKHOOK.environment, "STOCKHOOK_TRACING": "true"}
ONE_PER_CENT = Contestant(
    "1 % recorded",
    "worker consume",
    "STOCKHOOK_TRACING, OTEL_TRACES_SAMPLER_ARG=0.01, a collector on the same machine",
    OUR_LOG,
    environment={
        **_TRACED,
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.01",
    },
)
ALL_RECORDED = Contestant(
    "100 % recorded",
    "worker consume",
    "STOCKHOOK_TRACING, and a collector on the same machine",
    OUR_LOG,
    environment=_TRACED,
)
TRACED = (UNTRACED, ONE_PER_CENT, ALL_RECORDED)

CONSOLE = Contestant("console", "worker console", "default settings, beside an ingest and consumers at rest")
