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
from tests.bench.page import SAVED
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
    all_: Annotated[bool, Parameter(name="--all", negative=())] = False,
    quick: Flag = False,
    full: Flag = False,
    keep: Flag = False,
    save: str = "",
    json_: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Measure the product and its alternatives, in alternating rounds, on private services.

    Absolute figures depend on this machine; ratios of one run are comparable. A missed target is
    reported; a lost event is a failure. By default, the measures of the main table run: drain, drain-buyback,
    drain-mixed, ingest, latency, memory, scaling and hot, in less than 20 minutes on two cores.

    Parameters
    ----------
    only
        These measures, comma-separated: those of the main table, and feed, cluster, growth, rebuild, tracing,
        strangers, retries, console.
    all
        All measures, in about an hour.
    rounds
        Rounds per measure: 2 by default.
    events
        The size of the largest backlog: 40000 by default.
    quick
        A short run that only shows that everything works.
    full
        With the retry delays of 7, 35 and 175 seconds.
    keep
        Keep the logs even if nothing failed.
    save
        Write the results to `docs/benchmarks/NAME.json`; `make docs` shows them on the page.
    json_
        Print JSON. Progress goes to standard error.
    """
    table = [name for name, planned in MEASURES.items() if all_ or planned.in_table]
    chosen = [name.strip() for name in only.split(",") if name.strip()] or table
    if unknown := [name for name in chosen if name not in MEASURES]:
        print(f"no such measure: {', '.join(unknown)}; choose from {', '.join(MEASURES)}", file=sys.stderr)
        return USAGE
    if (rounds or 1) < 1 or (events or FEWEST_EVENTS) < FEWEST_EVENTS:
        print(f"give 1 round or more, and {FEWEST_EVENTS} events or more", file=sys.stderr)
        return USAGE
    options = Options(
        rounds=rounds or (1 if quick else 2),
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
            report = measure({name: MEASURES[name] for name in chosen}, options, show)
    except (Unavailable, StartFailed, DownloadFailed) as error:
        print(error, file=sys.stderr)
        return UNAVAILABLE
    except KeyboardInterrupt:
        return INTERRUPTED
    as_json = json.dumps(report.as_json(), indent=1, ensure_ascii=False)
    if save:
        SAVED.mkdir(exist_ok=True)
        (SAVED / f"{save}.json").write_text(f"{as_json}\n")
    if json_:
        print(as_json)
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
