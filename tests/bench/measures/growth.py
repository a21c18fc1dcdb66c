"""The same measures with a large event log."""

from tests.bench import backlog
from tests.bench.lineup import STOCKHOOK
from tests.bench.measures.drain import drain_laid
from tests.bench.measures.latency import OURS, WARM_UP, add, latencies, with_ids
from tests.bench.measures.preload import Size, copied, make_template
from tests.bench.plan import Bench
from tests.bench.results import Ratio

SIZES = (Size(0), Size(2_000_000))
QUICK_SIZES = (Size(0), Size(20_000))
RATE = 300
SECONDS, QUICK_SECONDS = 10, 1

DRAIN = "growth, drain parts"
LATENCY = f"growth, latency at {RATE} events/s"


async def growth(bench: Bench) -> None:
    quick = bench.options.is_quick
    sizes = QUICK_SIZES if quick else SIZES
    for number, size in enumerate(sizes):
        bench.show.step("growth: filling", size.name, number, len(sizes))
        await make_template(bench.world, size)
    bench.show.done("growth: filling", len(sizes))
    made = await backlog.make(bench.world, ("inventory",), bench.options.events)
    # These events differ from those of the backlog, which are already applied.
    count = WARM_UP + RATE * (QUICK_SECONDS if quick else SECONDS)
    requests = with_ids(bench.world, count, seed=backlog.SEED + 1)
    for size in bench.turns("growth", sizes):
        async with copied(bench.world, size) as world:
            await world.line.purge(world.queues)
            value = await drain_laid(world, STOCKHOOK, made, size.rows)
            bench.results.add(DRAIN, "events/s", size.name, value.rate, Ratio.THIS_BY_FIRST)
            taken = await latencies(world, OURS, requests, RATE)
            add(bench, LATENCY, size.name, taken.from_answer, Ratio.THIS_BY_FIRST)
