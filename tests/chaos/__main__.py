"""`python -m tests.chaos --seed 1 --minutes 5`: exit 0 if every promise held, else 1."""

import asyncio
import json
import os
import signal
import sys
from typing import Annotated, Literal

from cyclopts import Parameter, run
from rich.console import Console

from deploy.local.packages import DownloadFailed
from deploy.local.process import StartFailed
from deploy.local.services import Unavailable
from tests.chaos.run import run as run_chaos
from tests.chaos.world import Options
from worker.config.settings import PREFIX

UNAVAILABLE = 69
INTERRUPTED = 130
# The width of a report in a file.
COLUMNS = 140

Flag = Annotated[bool, Parameter(negative=())]


def main(
    *,
    seed: int = 1,
    minutes: float = 5.0,
    rate: float = 50.0,
    cluster: Literal[1, 3] = 1,
    brief: Flag = False,
    json_: Annotated[bool, Parameter(name="--json", negative=())] = False,
    keep: Flag = False,
) -> int:
    """Inject random faults under load, then check every promise.

    Parameters
    ----------
    seed
        Determines the events, and the order and time of faults.
    minutes
        Duration of the faults; afterwards the run waits until all queues are empty and compares.
    rate
        Events per second.
    cluster
        With 3: three broker nodes, and Postgres as a primary with a synchronous standby. They are killed,
        stopped, paused, partitioned (as root), failed over and restarted one after another. Faults of the
        network between them and our processes, failing writes and full disks belong to the run with 1.
    brief
        With --cluster 3: the main faults once each, instead of --minutes.
    json_
        Print JSON at the end. Progress goes to standard error.
    keep
        Keep the logs even if nothing failed.
    """
    # The environment must not change the services and settings of a run.
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    signal.signal(signal.SIGTERM, _interrupt)
    progress = Console(stderr=True, highlight=False)

    def say(line: str) -> None:
        progress.print(line, markup=False, soft_wrap=True)

    try:
        report = run_chaos(Options(seed, minutes * 60, rate, keep, cluster, brief), say)
    except (Unavailable, StartFailed, DownloadFailed) as error:
        print(error, file=sys.stderr)
        return UNAVAILABLE
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED
    if json_:
        print(json.dumps(report.as_json()))
    else:
        output = Console(highlight=False)
        if not output.is_terminal:
            output.width = COLUMNS
        output.print(report.as_tables())
    return 1 if report.problems else 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(run(main))
