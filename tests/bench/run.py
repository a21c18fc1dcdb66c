"""One run of the benchmark, from the services' start to the report."""

import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from deploy.local.services import Services, Unavailable
from tests.bench.conditions import Condition, conditions, other_work
from tests.bench.lineup import OTHERS_PYTHON
from tests.bench.measures.console import console
from tests.bench.measures.drain import drain_buyback, drain_mixed, drain_parts
from tests.bench.measures.feed import feed
from tests.bench.measures.growth import growth
from tests.bench.measures.ingest import ingest
from tests.bench.measures.latency import latency
from tests.bench.measures.memory import memory
from tests.bench.measures.rebuild import rebuild
from tests.bench.measures.retries import retries
from tests.bench.measures.scaling import scaling
from tests.bench.measures.strangers import strangers
from tests.bench.plan import Bench, Options
from tests.bench.report import Report
from tests.bench.results import Results, rows
from tests.bench.show import Show
from tests.bench.targets import TARGETS
from tests.bench.usage import OtherWork
from tests.bench.world import new_folder, services, world

SHORT_DELAYS = "1,2,3"
DELAYS = "7,35,175"

MEASURES: Mapping[str, Callable[[Bench], Awaitable[None]]] = {
    "drain": drain_parts,
    "drain-buyback": drain_buyback,
    "drain-mixed": drain_mixed,
    "ingest": ingest,
    "latency": latency,
    "feed": feed,
    "growth": growth,
    "rebuild": rebuild,
    "memory": memory,
    "strangers": strangers,
    "retries": retries,
    "scaling": scaling,
    "console": console,
}


@dataclass(slots=True)
class Taken:
    """The state of a run."""

    results: Results = field(default_factory=Results)
    conditions: list[Condition] = field(default_factory=list)
    other_work: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    was_interrupted: bool = False

    def report(self) -> Report:
        described = [*self.conditions, ("other work", other_work(self.other_work))]
        return Report(
            list(rows(self.results, TARGETS)), described, self.problems, was_interrupted=self.was_interrupted
        )


def measure(chosen: Sequence[str], options: Options, show: Show) -> Report:
    """Run these measures. Values measured before a failure or Ctrl-C are reported.

    Raises:
        Unavailable: Private services or the alternatives are missing.
    """
    if not OTHERS_PYTHON.exists():
        raise Unavailable("the alternatives are not installed: run `make bench`")
    folder, taken = new_folder(), Taken()
    try:
        with services(folder, show.say) as started:
            try:
                uvloop.run(_measure(started, folder, chosen, options, show, taken))
            except KeyboardInterrupt:
                taken.was_interrupted = True
    finally:
        if options.keep_logs or taken.problems:
            show.say(f"logs are kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return taken.report()


async def _measure(
    started: Services, folder: Path, chosen: Sequence[str], options: Options, show: Show, taken: Taken
) -> None:
    async with world(started, folder, DELAYS if options.is_full else SHORT_DELAYS) as made:
        taken.conditions += await conditions(made, options)
        bench = Bench(made, options, show, taken.results)
        for name in chosen:
            others = OtherWork(lambda: [*made.broker_pids(), *made.postgres_pids()])
            try:
                await MEASURES[name](bench)
            except Exception as problem:
                taken.problems.append(f"{name}: {type(problem).__name__}: {problem}")
                show.say(taken.problems[-1])
            taken.other_work[name] = others.cores()
