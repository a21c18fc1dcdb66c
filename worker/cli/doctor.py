"""`stockhook doctor`: all checks, as a table or as JSON."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table

from worker.cli.context import Json, print_json
from worker.cli.startup import load_context
from worker.cli.terminal import show, styled
from worker.config.check import CheckResult, Level, error
from worker.config.settings import BadSettings
from worker.observability.exit_codes import FAILED, UNAVAILABLE
from worker.observability.resolver import run_loop
from worker.tools.doctor.examination import examine

STYLES = {Level.OK: "green", Level.UNCHECKED: "cyan", Level.WARNING: "yellow", Level.ERROR: "bold red"}


def doctor(*, json: Json = False) -> None:
    """Check broker, database, settings and spool, and show what to do.

    Changes nothing. Exits 1 if something is wrong, 69 if neither broker nor database can be reached, 78 if a
    setting breaks its rule.
    """
    try:
        settings = load_context("doctor")
    except BadSettings as bad:
        if json:
            print_json({"findings": [asdict(error("settings", bad.sentence, "correct them"))]})
        raise
    # The client library logs the end of a connection with a traceback; here it is a result.
    logging.getLogger("aiormq").setLevel(logging.CRITICAL + 1)
    results, is_reached = run_loop(examine(settings))
    if json:
        print_json({"findings": [asdict(finding) for finding in results]})
    else:
        show(as_table(results))
    if not is_reached:
        sys.exit(UNAVAILABLE)
    sys.exit(FAILED if any(finding.level is Level.ERROR for finding in results) else 0)


def as_table(results: Sequence[CheckResult]) -> Table:
    table = Table("", "subject", "what", "remedy")
    for finding in results:
        style = STYLES[finding.level]
        table.add_row(styled(finding.level, style), finding.subject, finding.what, finding.remedy)
    return table
