"""`stockhook ingest`."""

from worker.cli.startup import load_context, traced
from worker.processes.ingest_process import serve
from worker.processes.supervisor import obey_parent


def ingest() -> None:
    """Receive webhooks and publish them, until SIGTERM or Ctrl-C."""
    obey_parent()
    settings = load_context("ingest")
    with traced(settings, "ingest"):
        serve(settings)
