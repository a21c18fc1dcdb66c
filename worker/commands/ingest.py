"""`stockhook ingest`."""

from worker.ingest.process import serve
from worker.invocation import begin
from worker.supervisor import obey_parent


def ingest() -> None:
    """Take webhooks in and publish them, until SIGTERM or Ctrl-C."""
    obey_parent()
    serve(begin("ingest"))
