"""`stockhook status`."""

import sys
from typing import Any

from worker.broker import Broker
from worker.invocation import FAILED, Json, begin, open_database, print_json
from worker.resolver import run_loop
from worker.status import look
from worker.terminal import show


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
