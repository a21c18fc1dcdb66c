"""`stockhook run`."""

import sys

from worker.cli.context import begin
from worker.observability.resolver import run_loop
from worker.processes.supervisor import run_all


def run() -> None:
    """Run the ingest and all families, until SIGTERM or Ctrl-C."""
    settings = begin("run")
    sys.exit(run_loop(run_all(settings)))
