"""Events per second during the rebuild of a projection from the event log."""

import json

from tests.bench.measures.preload import Size, copied, make_templates
from tests.bench.plan import Bench
from tests.bench.processes import Failed
from tests.bench.results import Ratio
from tests.bench.world import World

FAMILY = "inventory"
SIZES = (Size(100_000), Size(1_000_000))
QUICK_SIZES = (Size(5_000), Size(20_000))


async def rebuild(bench: Bench) -> None:
    """The live tables agree with the log, as in normal operation."""
    sizes = QUICK_SIZES if bench.options.is_quick else SIZES
    await make_templates(bench, "rebuild: filling", sizes, FAMILY)
    for size in bench.turns("rebuild", sizes):
        async with copied(bench.world, size) as world:
            value = await _rate(world, size)
            bench.results.add("rebuild of parts", "events/s", size.name, value, Ratio.NONE)


async def _rate(world: World, size: Size) -> float:
    report = json.loads(await world.finished("rebuild", FAMILY, "--json"))
    if report["events"] != size.rows or report["differences"]:
        raise Failed(f"rebuild: {report['events']} events, {len(report['differences'])} rows differ")
    return float(report["events"] / report["seconds"])
