"""`stockhook audit`."""

import sys

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
from worker.tools.audit import (
    PATIENCE_SECONDS,
    Audit,
    as_json,
    as_tables,
)
from worker.tools.audit import audit as run_audit
from worker.tools.status import look_at_ingest


def audit(*, json: Json = False, patience: float = PATIENCE_SECONDS) -> None:
    """Account for each accepted event: applied, duplicate, waiting, dead, or missing.

    And for each change that was committed: published, waiting, or missing. Exits 1 when any is missing;
    of events it names stream and place.

    Parameters
    ----------
    patience
        Seconds in which what is in a consumer's hands is to be settled.
    """
    settings = begin("audit")

    async def ask() -> Audit:
        _, spool = await look_at_ingest(settings.ingest_url)
        spooled = None if spool is None else int(spool["events"])
        async with open_database(settings, "command") as database:
            return await run_audit(
                Broker(settings.amqp_url.get_secret_value(), "command"),
                database,
                settings.delays,
                spooled=spooled,
                patience=patience,
                webhooks=settings.webhook_names,
            )

    found = run_loop(ask())
    if json:
        print_json(as_json(found))
    else:
        show(as_tables(found))
    sys.exit(0 if found.is_well else FAILED)
