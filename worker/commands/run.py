"""`stockhook run`."""

import sys

from worker.invocation import begin
from worker.resolver import run_loop
from worker.supervisor import run_all


def run() -> None:
    """Run the ingest and all families, until SIGTERM or Ctrl-C."""
    settings = begin("run")
    sys.exit(run_loop(run_all(settings)))
