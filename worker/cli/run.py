"""`stockhook run`."""

import sys

from worker.cli.startup import load_context
from worker.observability.resolver import run_loop
from worker.processes.supervisor import run_all


def run() -> None:
    """Run the ingest and all families, until SIGTERM or Ctrl-C."""
    settings = load_context("run")
    sys.exit(run_loop(run_all(settings)))
