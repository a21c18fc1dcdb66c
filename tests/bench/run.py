"""One run of the benchmark, from the services' start to the report."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import uvloop

from tests.bench.broker import Stuck
from tests.bench.figures import TooFewSamples
from tests.bench.lineup import CONSUMERS, INGESTS
from tests.bench.load import NotAccepted
from tests.bench.measures.drain import drain_buyback, drain_mixed, drain_parts
from tests.bench.measures.ingest import ingest
from tests.bench.plan import Bench, Options
from tests.bench.processes import Failed
from tests.bench.report import Report
from tests.bench.results import Results, rows
from tests.bench.show import Show
from tests.bench.targets import TARGETS
from tests.bench.world import services, world

SHORT_LADDER = "1,2,3"
TRUE_LADDER = "7,35,175"

MEASURES: Mapping[str, Callable[[Bench], Awaitable[None]]] = {
    "drain": drain_parts,
    "drain-buyback": drain_buyback,
    "drain-mixed": drain_mixed,
    "ingest": ingest,
}


def measure(chosen: Sequence[str], options: Options, show: Show) -> Report:
    """Take these measures. What was measured before something broke is in the report as well.

    Raises:
        Unavailable: No services of our own.
    """
    results = Results()
    problems: list[str] = []
    with services(show.say) as (started, folder):

        async def take_all() -> None:
            delays = TRUE_LADDER if options.is_full else SHORT_LADDER
            async with world(started, folder, delays) as made:
                bench = Bench(made, options, show, results)
                for name in chosen:
                    try:
                        await MEASURES[name](bench)
                    except (Failed, Stuck, NotAccepted, TooFewSamples, TimeoutError) as problem:
                        problems.append(f"{name}: {type(problem).__name__}: {problem}")
                        show.say(problems[-1])

        uvloop.run(take_all())
    return Report(list(rows(results, TARGETS)), conditions(options), results.notes, problems)


def conditions(options: Options) -> list[tuple[str, str]]:
    return [
        ("rounds", f"{options.rounds}, contestants in turns; ratios are of the same round"),
        *((contestant.name, contestant.settings) for contestant in (*CONSUMERS, *INGESTS)),
    ]
