"""Generated marketplaces: the same seed gives the same events, byte for byte."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from random import Random

from schemas.registry import Provider
from worker.simulator.buyback_lifecycle import buyback_life
from worker.simulator.lifecycle import (
    BEGINNING,
    GeneratedEvent,
    Life,
    drawn,
    later,
)
from worker.simulator.ovoko_events import numbers, order_life, part_life

# The simulated marketplaces.
PROVIDERS = (Provider.OVOKO, Provider.BUYBACK)

# The weights of new lives. Lives differ in length; these weights result in about 70 % changes of parts,
# 10 % orders, 5 % returns, 15 % buyback.
_LIVES = (("part", 92), ("order", 35), ("buyback", 7))
_MEAN_BETWEEN_BIRTHS = timedelta(minutes=50)

# The largest displacement of an event, or distance to its repeat.
WINDOW = 100


def events(seed: int) -> Iterator[GeneratedEvent]:
    """An endless sequence of events of these marketplaces, in the order of sending."""
    rng = Random(seed)
    part_ids, order_ids = numbers(rng), numbers(rng)
    alive: list[tuple[datetime, int, GeneratedEvent, Life]] = []
    born = BEGINNING
    for number in count():
        while alive and alive[0][0] <= born:
            _, same_number, event, life = heappop(alive)
            yield event
            _await_next(alive, same_number, life)
        match drawn(rng, _LIVES):
            case "part":
                _await_next(alive, number, part_life(rng, born, next(part_ids)))
            case "order":
                _await_next(alive, number, order_life(rng, born, next(order_ids)))
            case _:
                _await_next(alive, number, buyback_life(rng, born))
        born += later(rng, _MEAN_BETWEEN_BIRTHS)


def _await_next(alive: list[tuple[datetime, int, GeneratedEvent, Life]], number: int, life: Life) -> None:
    """Queue the next event of a life by its instant; of equal ones, that of the older life is first."""
    for step in life:
        heappush(alive, (step.at, number, step.event, life))
        return


def scrambled(
    events: Iterable[GeneratedEvent], *, duplicates: float, shuffle: bool, seed: int
) -> Iterator[GeneratedEvent]:
    """The events in the order of an unreliable network.

    Each is repeated with the probability `duplicates`, at most WINDOW events later; with `shuffle`
    each is delayed by up to WINDOW events. None is lost.
    """
    rng = Random(seed)
    under_way: list[tuple[float, int, GeneratedEvent]] = []
    numbers = count()
    for place, event in enumerate(events):
        due = place + (rng.random() * WINDOW if shuffle else 0.0)
        heappush(under_way, (due, next(numbers), event))
        if rng.random() < duplicates:
            heappush(under_way, (due + rng.random() * WINDOW, next(numbers), event))
        while under_way and under_way[0][0] <= place:
            yield heappop(under_way)[2]
    while under_way:
        yield heappop(under_way)[2]
