"""One run of the benchmark, from the services' start to the report."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import uvloop

from deploy.local.services import Services, Unavailable
from tests.bench.conditions import Condition, conditions, durations, other_work
from tests.bench.lineup import OTHERS_PYTHON
from tests.bench.measures.cluster import cluster
from tests.bench.measures.console import console
from tests.bench.measures.drain import drain_buyback, drain_mixed, drain_parts
from tests.bench.measures.feed import feed
from tests.bench.measures.growth import growth
from tests.bench.measures.hot import hot
from tests.bench.measures.ingest import ingest
from tests.bench.measures.latency import latency
from tests.bench.measures.memory import memory
from tests.bench.measures.rebuild import rebuild
from tests.bench.measures.retries import retries
from tests.bench.measures.scaling import scaling
from tests.bench.measures.strangers import strangers
from tests.bench.measures.tracing import tracing
from tests.bench.plan import Bench, NotAvailable, Options, Planned, describe, minutes
from tests.bench.report import Report
from tests.bench.results import Results, rows
from tests.bench.show import Show
from tests.bench.targets import TARGETS
from tests.bench.usage import OtherWork
from tests.bench.world import new_folder, services, world

SHORT_DELAYS = "1,2,3"
DELAYS = "7,35,175"

MEASURES: Mapping[str, Planned] = {
    "drain": Planned(drain_parts, before=12, per_round=85, in_table=True),
    "drain-buyback": Planned(drain_buyback, before=6, per_round=45, in_table=True),
    "drain-mixed": Planned(drain_mixed, before=8, per_round=60, in_table=True),
    "ingest": Planned(ingest, before=8, per_round=30, in_table=True),
    "latency": Planned(latency, before=5, per_round=150, in_table=True),
    "memory": Planned(memory, before=10, per_round=40, in_table=True),
    "scaling": Planned(scaling, before=15, per_round=75, in_table=True),
    "hot": Planned(hot, before=12, per_round=40, in_table=True),
    "feed": Planned(feed, before=2, per_round=30),
    "cluster": Planned(cluster, before=60, per_round=30),
    "growth": Planned(growth, before=75, per_round=50),
    "rebuild": Planned(rebuild, before=155, per_round=95),
    "tracing": Planned(tracing, before=20, per_round=30),
    "strangers": Planned(strangers, before=5, per_round=200),
    "retries": Planned(retries, before=0, per_round=60),
    "console": Planned(console, before=80, per_round=125),
}


@dataclass(slots=True)
class Taken:
    """The state of a run."""

    results: Results = field(default_factory=Results)
    conditions: list[Condition] = field(default_factory=list)
    other_work: dict[str, float] = field(default_factory=dict)
    durations: dict[str, float] = field(default_factory=dict)
    not_available: list[Condition] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    was_interrupted: bool = False

    def report(self) -> Report:
        described = [
            *self.conditions,
            *self.not_available,
            ("cores used by other processes", other_work(self.other_work)),
            ("durations", durations(self.durations)),
        ]
        judged = list(rows(self.results, TARGETS, os.cpu_count() or 1))
        return Report(judged, described, self.problems, was_interrupted=self.was_interrupted)


def measure(plan: Mapping[str, Planned], options: Options, show: Show) -> Report:
    """Announce and run these measures. Values measured before a failure or Ctrl-C are reported.

    Raises:
        Unavailable: Private services or the alternatives are missing.
    """
    if not OTHERS_PYTHON.exists():
        raise Unavailable("the alternatives are not installed: run `make bench`")
    for line in describe(plan, options):
        show.say(line)
    folder, taken = new_folder(), Taken()
    try:
        with services(folder, show.say) as started:
            try:
                uvloop.run(_measure(started, folder, plan, options, show, taken))
            except KeyboardInterrupt:
                taken.was_interrupted = True
    finally:
        if options.keep_logs or taken.problems:
            show.say(f"logs are kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return taken.report()


async def _measure(
    started: Services,
    folder: Path,
    plan: Mapping[str, Planned],
    options: Options,
    show: Show,
    taken: Taken,
) -> None:
    async with world(started, folder, DELAYS if options.is_full else SHORT_DELAYS) as made:
        taken.conditions += await conditions(made, options)
        bench = Bench(made, options, show, taken.results)
        began = monotonic()
        for name, planned in plan.items():
            others, at = OtherWork(lambda: [*made.broker_pids(), *made.postgres_pids()]), monotonic()
            try:
                await planned.run(bench)
            except NotAvailable as missing:
                taken.not_available.append((f"not measured: {name}", str(missing)))
                show.say(f"{name} is not measured: {missing}")
            except Exception as problem:
                taken.problems.append(f"{name}: {type(problem).__name__}: {problem}")
                show.say(taken.problems[-1])
            taken.other_work[name] = others.cores()
            taken.durations[name] = monotonic() - at
            show.say(f"{name}: {minutes(taken.durations[name])}; so far {minutes(monotonic() - began)}")
