"""`stockhook consume`."""

from typing import Annotated

from cyclopts import Parameter

from consumers.registry import FAMILIES
from worker.cli.context import fail
from worker.cli.startup import load_context, traced
from worker.marketplaces.clients import check_proxies
from worker.observability.exit_codes import USAGE
from worker.observability.resolver import run_loop
from worker.processes.consumer_process import consume as run_consumers
from worker.processes.supervisor import obey_parent

_FAMILIES = f"Any of {', '.join(FAMILIES)}; all of them if none is given."


def consume(*families: Annotated[str, Parameter(help=_FAMILIES)]) -> None:
    """Apply the events of these families, until SIGTERM or Ctrl-C."""
    unknown_families = [name for name in families if name not in FAMILIES]
    if unknown_families:
        fail(
            USAGE, f"no such family: {', '.join(unknown_families)}; known families are {', '.join(FAMILIES)}"
        )
    obey_parent()
    settings = load_context("consume")
    check_proxies(settings)
    with traced(settings, "consumer"):
        run_loop(run_consumers(settings, families or tuple(FAMILIES)))
