"""Who is compared with whom, and with which settings each runs."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from deploy.local.services import DEV, Services
from tests.bench.contestants.task import Task
from worker.amqp.queue_set import main_queue

# Of the environment that `deploy/local/bootstrap bench` makes.
OTHERS_PYTHON = DEV / "venv-bench/bin/python"

OUR_LOG = "event_log"
THEIR_LOG = "bench_inbox"

ONE_TRANSACTION = "one transaction an event (inbox row, guarded upsert), asyncpg pool of 10, uvloop"


@dataclass(frozen=True, slots=True)
class Contestant:
    """`log` is the table in which each event that was applied has one row; None for who applies nothing."""

    name: str
    module: str
    settings: str
    log: str | None = None
    prefetch: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_product(self) -> bool:
        return self.module.startswith("worker")

    def command(
        self, services: Services, families: Sequence[str], **more: object
    ) -> tuple[list[str], dict[str, str]]:
        """What to execute, and the environment that says what to do."""
        if self.is_product:
            return [sys.executable, "-m", *self.module.split(), *families], dict(self.environment)
        task = Task(
            amqp_url=services.amqp_url,
            database_url=services.database_url,
            queues=",".join(map(main_queue, families)),
            prefetch=self.prefetch,
            **more,  # type: ignore[arg-type]  # the names are checked by the call
        )
        return [str(OTHERS_PYTHON), "-m", f"tests.bench.contestants.{self.module}"], task.environment


STOCKHOOK = Contestant(
    "stockhook",
    "worker consume",
    "its settings' defaults, without the change feed, which the others have not",
    OUR_LOG,
    environment={"STOCKHOOK_CHANGES": "false"},
)
TELLING = Contestant("stockhook with its feed", "worker consume", "its settings' defaults", OUR_LOG)

# Each has the prefetch with which it was fastest here.
BARE_AIORMQ = Contestant(
    "bare aiormq", "bare_aiormq", "ack with multiple whatever has arrived, prefetch 1000, uvloop", None, 1000
)
BARE_AIO_PIKA = Contestant("bare aio-pika", "bare_aio_pika", "ack each, prefetch 1000, uvloop", None, 1000)
PLAIN_HANDLER = Contestant(
    "plain handler", "plain_handler", f"aio-pika, {ONE_TRANSACTION}, prefetch 100", THEIR_LOG, 100
)
FASTSTREAM = Contestant(
    "FastStream", "faststream_consumer", f"{ONE_TRANSACTION}, prefetch 20, no injection", THEIR_LOG, 20
)

CONSUMERS = (STOCKHOOK, BARE_AIORMQ, BARE_AIO_PIKA, PLAIN_HANDLER, FASTSTREAM)

INGEST = Contestant("stockhook", "worker ingest", "its settings' defaults")
BARE_PUBLISHER = Contestant(
    "bare publish", "bare_publisher", "aio-pika, confirms, 64 on their way at a time, uvloop", None, 64
)
FASTAPI = Contestant(
    "FastAPI + FastStream", "fastapi_ingest", "uvicorn with httptools and uvloop, confirms, no access log"
)

GATEWAY_SECRET = "bench-gateway-secret-0123456789"
BEHIND_GATEWAY = Contestant(
    "stockhook behind a gateway",
    "worker ingest",
    "its settings' defaults, and a signature of Hookdeck's on each webhook beside the marketplace's secret",
    environment={"STOCKHOOK_GATEWAY": "hookdeck", "STOCKHOOK_GATEWAY_SECRETS": GATEWAY_SECRET},
)

INGESTS = (INGEST, BEHIND_GATEWAY, BARE_PUBLISHER, FASTAPI)
