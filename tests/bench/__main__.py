"""`python -m tests.bench`: exit 0 after a complete run, 1 after a failure, 69 without services."""

import json
import os
import signal
import sys
from typing import Annotated

from cyclopts import Parameter, run
from rich.console import Console

from deploy.local.packages import DownloadFailed
from deploy.local.process import StartFailed
from deploy.local.services import Unavailable
from tests.bench.plan import Options
from tests.bench.run import MEASURES, measure
from tests.bench.show import Show
from worker.config.settings import PREFIX

FAILED = 1
USAGE = 2
UNAVAILABLE = 69
INTERRUPTED = 130

EVENTS, QUICK_EVENTS, FEWEST_EVENTS = 40_000, 2_000, 500

# The width of a file or a pipe is unknown; rich would use 80.
NARROWEST = 110

Flag = Annotated[bool, Parameter(negative=())]


def main(
    *,
    only: str = "",
    rounds: int | None = None,
    events: int | None = None,
    quick: Flag = False,
    full: Flag = False,
    keep: Flag = False,
    json_: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Measure the product and its alternatives, in alternating rounds, on private services.

    Absolute figures depend on this machine; ratios of one run are comparable. A missed target is
    reported; a lost event is a failure. A complete run takes about an hour.

    Parameters
    ----------
    only
        These measures, comma-separated: drain, drain-buyback, drain-mixed, ingest, latency, feed, growth,
        rebuild, memory, strangers, retries, scaling, console.
    rounds
        Rounds per measure: 3 by default.
    events
        The size of the largest backlog: 40000 by default.
    quick
        A short run that only shows that everything works.
    full
        With the retry delays of 7, 35 and 175 seconds.
    keep
        Keep the logs even if nothing failed.
    json_
        Print JSON. Progress goes to standard error.
    """
    chosen = [name.strip() for name in only.split(",") if name.strip()] or list(MEASURES)
    if unknown := [name for name in chosen if name not in MEASURES]:
        print(f"no such measure: {', '.join(unknown)}; choose from {', '.join(MEASURES)}", file=sys.stderr)
        return USAGE
    if (rounds or 1) < 1 or (events or FEWEST_EVENTS) < FEWEST_EVENTS:
        print(f"give 1 round or more, and {FEWEST_EVENTS} events or more", file=sys.stderr)
        return USAGE
    options = Options(
        rounds=rounds or (1 if quick else 3),
        events=events or (QUICK_EVENTS if quick else EVENTS),
        is_quick=quick,
        is_full=full,
        keep_logs=keep,
    )
    # The environment must not change the services and settings of a run.
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with Show(Console(stderr=True, highlight=False)) as show:
            report = measure(chosen, options, show)
    except (Unavailable, StartFailed, DownloadFailed) as error:
        print(error, file=sys.stderr)
        return UNAVAILABLE
    except KeyboardInterrupt:
        return INTERRUPTED
    if json_:
        print(json.dumps(report.as_json(), indent=1))
    else:
        console = Console(highlight=False)
        console.width = max(console.width, NARROWEST)
        console.print(report.as_tables())
    if report.was_interrupted:
        return INTERRUPTED
    return FAILED if report.problems else 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(run(main))
