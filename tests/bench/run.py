"""One run of the benchmark, from the services' start to the report."""

import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import uvloop

from deploy.local.services import Services, Unavailable
from tests.bench.conditions import conditions
from tests.bench.lineup import OTHERS_PYTHON
from tests.bench.measures.drain import drain_buyback, drain_mixed, drain_parts
from tests.bench.measures.growth import growth
from tests.bench.measures.ingest import ingest
from tests.bench.measures.ladder import ladder
from tests.bench.measures.latency import latency
from tests.bench.measures.memory import memory
from tests.bench.measures.scaling import scaling
from tests.bench.plan import Bench, Options
from tests.bench.report import Report
from tests.bench.results import rows
from tests.bench.show import Show
from tests.bench.targets import TARGETS
from tests.bench.usage import OtherWork
from tests.bench.world import new_folder, services, world

SHORT_LADDER = "1,2,3"
TRUE_LADDER = "7,35,175"

MEASURES: Mapping[str, Callable[[Bench], Awaitable[None]]] = {
    "drain": drain_parts,
    "drain-buyback": drain_buyback,
    "drain-mixed": drain_mixed,
    "ingest": ingest,
    "latency": latency,
    "growth": growth,
    "memory": memory,
    "ladder": ladder,
    "scaling": scaling,
}


def measure(chosen: Sequence[str], options: Options, show: Show) -> Report:
    """Take these measures. What was measured before something broke is in the report as well.

    Raises:
        Unavailable: No services of our own, or nothing to compare with.
    """
    if not OTHERS_PYTHON.exists():
        raise Unavailable("what is compared with is not installed: `make bench` does it")
    folder = new_folder()
    keep = True
    try:
        with services(folder, show.say) as started:
            report = uvloop.run(_measure(started, folder, chosen, options, show))
        keep = options.keep_logs or bool(report.problems)
        return report
    finally:
        if keep:
            show.say(f"logs are kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


async def _measure(
    started: Services, folder: Path, chosen: Sequence[str], options: Options, show: Show
) -> Report:
    problems: list[str] = []
    other_work: dict[str, float] = {}
    async with world(started, folder, TRUE_LADDER if options.is_full else SHORT_LADDER) as made:
        bench = Bench(made, options, show)
        for name in chosen:
            others = OtherWork(lambda: [*made.broker_pids(), *made.postgres_pids()])
            try:
                await MEASURES[name](bench)
            except Exception as problem:
                problems.append(f"{name}: {type(problem).__name__}: {problem}")
                show.say(problems[-1])
            other_work[name] = others.cores()
        described = await conditions(made, options, other_work)
    return Report(list(rows(bench.results, TARGETS)), described, problems)
