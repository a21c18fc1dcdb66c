"""The plan: which fault strikes what, how long, one after another. All of it follows from the seed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from random import Random


class Target(StrEnum):
    INGEST = "ingest"
    FIRST_CONSUMER = "consumer 1"
    SECOND_CONSUMER = "consumer 2"
    BROKER = "broker"
    POSTGRES = "postgres"
    SPOOL = "spool"
    INGEST_TO_BROKER = "ingest → broker"
    CONSUMERS_TO_BROKER = "consumers → broker"
    CONSUMERS_TO_POSTGRES = "consumers → postgres"


PROCESSES = (Target.INGEST, Target.FIRST_CONSUMER, Target.SECOND_CONSUMER)
SERVICES = (Target.BROKER, Target.POSTGRES)
NETWORKS = (Target.INGEST_TO_BROKER, Target.CONSUMERS_TO_BROKER, Target.CONSUMERS_TO_POSTGRES)


class Kind(StrEnum):
    KILLED = "kill -9"
    PAUSED = "SIGSTOP"
    SLOW = "slow"
    THROTTLED = "throttled"
    RESET = "reset"
    AWAY = "reset and refused"
    HALF_OPEN = "half-open"
    HELD = "held"
    HELD_TO_SERVER = "held to server"
    HELD_TO_CLIENT = "held to client"
    DROPPED = "dropped"
    DROPPED_TO_SERVER = "dropped to server"
    DROPPED_TO_CLIENT = "dropped to client"
    CUT_BEFORE_COMMIT = "cut before COMMIT"
    CUT_AFTER_COMMIT = "cut after COMMIT"
    CUT_BEFORE_PUBLISH = "cut before publish"
    CUT_BEFORE_CONFIRM = "cut before confirm"
    MEMORY_ALARM = "memory alarm"
    DISK_ALARM = "disk alarm"
    DISK_FULL = "disk full"
    WRITES_FAIL = "writes fail"


# These are over as soon as they have happened: what follows is the product's own recovery. (A service
# that was killed is started again by us.)
MOMENTARY = frozenset({Kind.KILLED, Kind.RESET, Kind.HALF_OPEN})

NETWORK_KINDS = (
    Kind.SLOW,
    Kind.THROTTLED,
    Kind.RESET,
    Kind.AWAY,
    Kind.HALF_OPEN,
    Kind.HELD,
    Kind.HELD_TO_SERVER,
    Kind.HELD_TO_CLIENT,
    Kind.DROPPED,
    Kind.DROPPED_TO_SERVER,
    Kind.DROPPED_TO_CLIENT,
)

# The retry steps of the run are 1, 2 and 3 s: what fails for less than 6 s must not die of it.
RETRY_DELAYS = "1,2,3"
LONGEST_FAILURE = timedelta(seconds=3)

# Longer than a heartbeat's patience; once in so many strikes.
LONG = timedelta(seconds=25)
ONE_IN_LONG = 12


# How many strikes are joined by another one at the same time.
PAIRED = 0.15


@dataclass(frozen=True, slots=True)
class Fault:
    kind: Kind
    target: Target

    def __str__(self) -> str:
        return f"{self.target}: {self.kind}"


@dataclass(frozen=True, slots=True)
class Strike:
    """Faults at the same time. `pause` comes before it, `lasts` until it is healed."""

    number: int
    faults: tuple[Fault, ...]
    lasts: timedelta
    pause: timedelta
    intensity: float
    """From 0 to 1: the probability of each cut, and how slow what is slow is."""

    is_paired: bool
    """By chance; some faults make sense together only."""

    @property
    def label(self) -> str:
        return " + ".join(map(str, self.faults))

    @property
    def is_momentary(self) -> bool:
        return all(fault.kind in MOMENTARY and fault.target not in SERVICES for fault in self.faults)


_KILLS = 4
_SPOOL_FULL = (Fault(Kind.DISK_FULL, Target.SPOOL), Fault(Kind.AWAY, Target.INGEST_TO_BROKER))
_FAILING = Fault(Kind.WRITES_FAIL, Target.POSTGRES)


def deck(*, long: bool, disks: bool) -> list[tuple[Fault, ...]]:
    """Every strike there is, kills more than once; `disks` only where small disks can be had."""
    kills = [(Fault(Kind.KILLED, target),) for target in (*PROCESSES, *SERVICES)] * _KILLS
    pauses = [(Fault(Kind.PAUSED, target),) for target in (*PROCESSES, *SERVICES)]
    network = [(Fault(kind, target),) for target in NETWORKS for kind in NETWORK_KINDS]
    cuts = [
        (Fault(Kind.CUT_BEFORE_COMMIT, Target.CONSUMERS_TO_POSTGRES),),
        (Fault(Kind.CUT_AFTER_COMMIT, Target.CONSUMERS_TO_POSTGRES),),
        (Fault(Kind.CUT_BEFORE_PUBLISH, Target.INGEST_TO_BROKER),),
        (Fault(Kind.CUT_BEFORE_CONFIRM, Target.INGEST_TO_BROKER),),
        # Of events a consumer publishes only what failed; changes are published all the time.
        (Fault(Kind.CUT_BEFORE_PUBLISH, Target.CONSUMERS_TO_BROKER), _FAILING),
        (Fault(Kind.CUT_BEFORE_CONFIRM, Target.CONSUMERS_TO_BROKER), _FAILING),
    ]
    others = [
        (Fault(Kind.MEMORY_ALARM, Target.BROKER),),
        (Fault(Kind.DISK_ALARM, Target.BROKER),),
        (_FAILING,),
    ]
    full = [_SPOOL_FULL, (Fault(Kind.DISK_FULL, Target.POSTGRES),)] if disks else []
    # Both consumers' connections: only a longer run waits until each of them has noticed by itself.
    slow_to_notice = [] if long else [strike for strike in network if strike[0].kind is Kind.HALF_OPEN]
    return [
        strike
        for strike in [*kills, *pauses, *network, *cuts, *others, *full]
        if strike not in slow_to_notice
    ]


def plan(seed: int, *, long: bool, disks: bool) -> Iterator[Strike]:
    """Strikes without end. Every one of the deck comes before any comes again."""
    chance = Random(seed)
    number = 0
    while True:
        cards = deck(long=long, disks=disks)
        chance.shuffle(cards)
        while cards:
            faults = cards.pop()
            companion = _companion(cards, faults) if chance.random() < PAIRED else ()
            faults += companion
            number += 1
            yield Strike(
                number=number,
                faults=faults,
                lasts=_duration(chance, faults, long=long),
                pause=timedelta(seconds=round(chance.uniform(0.2, 1.5), 2)),
                intensity=round(chance.uniform(0.1, 1.0), 2),
                is_paired=bool(companion),
            )


def _companion(cards: list[tuple[Fault, ...]], faults: Sequence[Fault]) -> tuple[Fault, ...]:
    """The next fault that strikes something else, taken off the deck.

    Of one target faults come one by one: a database that is down cannot be made to fail. Half-open
    connections come alone, because healing another fault would end them too soon.
    """
    if not _is_pairable(faults):
        return ()
    taken = {fault.target for fault in faults}
    for place, card in enumerate(cards):
        if _is_pairable(card) and card[0].target not in taken:
            return cards.pop(place)
    return ()


def _is_pairable(faults: Sequence[Fault]) -> bool:
    return len(faults) == 1 and faults[0].kind is not Kind.HALF_OPEN


def _duration(chance: Random, faults: Sequence[Fault], *, long: bool) -> timedelta:
    seconds = round(chance.uniform(1.0, 4.0), 1)
    is_long = chance.randrange(ONE_IN_LONG) == 0
    if any(fault.kind in (Kind.WRITES_FAIL, Kind.DISK_FULL) for fault in faults):
        return min(timedelta(seconds=seconds), LONGEST_FAILURE)
    if long and is_long:
        return LONG
    return timedelta(seconds=seconds)
