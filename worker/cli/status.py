"""`stockhook status`."""

import sys
from typing import Any

from worker.amqp.connection import Broker
from worker.cli.context import (
    FAILED,
    Json,
    begin,
    open_database,
    print_json,
)
from worker.cli.terminal import show
from worker.observability.resolver import run_loop
from worker.tools.status import look


def status(*, json: Json = False) -> None:
    """Show broker, database, queues with their retry steps, and rows.

    Exits 1 when broker or database cannot be reached.
    """
    settings = begin("status")

    async def ask() -> Any:
        async with open_database(settings, "command") as database:
            return await look(
                Broker(settings.amqp_url.get_secret_value(), "command"),
                database,
                settings.delays,
                settings.ingest_url,
                settings.webhook_names,
            )

    found = run_loop(ask())
    if json:
        print_json(found.as_json())
    else:
        show(found.as_tables())
    sys.exit(0 if found.is_well else FAILED)
