"""The plan: faults, their targets and durations, in order. The seed determines all of it."""

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

    # Only of a cluster.
    LEADER = "leader node"
    """The node that leads the most queues."""
    FOLLOWER = "follower node"
    """The node that leads the fewest queues."""
    TWO_NODES = "two nodes"
    ALL_NODES = "all nodes"
    PRIMARY = "primary"
    STANDBY = "standby"
    ALL_PROCESSES = "all processes"


PROCESSES = (Target.INGEST, Target.FIRST_CONSUMER, Target.SECOND_CONSUMER)
NODES = frozenset({Target.LEADER, Target.FOLLOWER, Target.TWO_NODES, Target.ALL_NODES})
PAIR = frozenset({Target.PRIMARY, Target.STANDBY})
SINGLE_SERVICES = (Target.BROKER, Target.POSTGRES)
SERVICES = frozenset({*SINGLE_SERVICES, *NODES, *PAIR})
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
    CUT_BEFORE_FLUSH = "cut before the flush"
    CUT_BEFORE_PUBLISH = "cut before publish"
    CUT_BEFORE_CONFIRM = "cut before confirm"
    MEMORY_ALARM = "memory alarm"
    DISK_ALARM = "disk alarm"
    DISK_FULL = "disk full"
    WRITES_FAIL = "writes fail"

    # Only of a cluster.
    STOPPED = "stopped"
    CUT_OFF = "cut off, packets lost"
    CUT_OFF_RESET = "cut off, connections reset"
    CUT_OFF_FROM_ONE = "cut off from one other node"
    KILLED_WHILE_LAGGING = "killed again while it catches up"
    KILLED_AFTER_COMMIT = "kill -9 after COMMIT"
    KILLED_BEFORE_FLUSH = "kill -9 before the flush"
    READ_ONLY = "read-only"
    ROLLING_RESTART = "rolling restart"


# These end immediately; then the product recovers. (The run starts a killed service again.)
MOMENTARY = frozenset({Kind.KILLED, Kind.RESET, Kind.HALF_OPEN, Kind.ROLLING_RESTART})
PARTITIONS = (Kind.CUT_OFF, Kind.CUT_OFF_RESET, Kind.CUT_OFF_FROM_ONE)

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

# The retry delays of the run are 1, 2 and 3 s: a failure of less than 6 s must not cause dead letters.
RETRY_DELAYS = "1,2,3"
LONGEST_FAILURE = timedelta(seconds=3)

# Longer than the timeout of a heartbeat; one of this many strikes.
LONG = timedelta(seconds=25)
ONE_IN_LONG = 12
# The approximate time until the members of a queue notice that their leader does not respond.
ELECTION = timedelta(seconds=5)


# The end of another fault would end half-open connections too early; a rolling restart waits until every
# queue is complete; and while the broker is away nothing is committed.
ALONE = (Kind.HALF_OPEN, Kind.ROLLING_RESTART, Kind.KILLED_AFTER_COMMIT, Kind.KILLED_BEFORE_FLUSH)

# Share of strikes with a second concurrent fault.
PAIRED = 0.15


@dataclass(frozen=True, slots=True)
class Fault:
    kind: Kind
    target: Target

    def __str__(self) -> str:
        return f"{self.target}: {self.kind}"


@dataclass(frozen=True, slots=True)
class Strike:
    """Concurrent faults. `pause` is the time before them, `lasts` the time until they are healed."""

    number: int
    faults: tuple[Fault, ...]
    lasts: timedelta
    pause: timedelta
    intensity: float
    """From 0 to 1: the probability of each cut, and the degree of slowness."""

    is_paired: bool
    """Combined at random; some faults only make sense together."""

    @property
    def label(self) -> str:
        return " + ".join(map(str, self.faults))

    @property
    def is_survivable(self) -> bool:
        """Whether the cluster survives the fault, so that the product must recover during it."""
        return all(fault in SURVIVABLE for fault in self.faults)

    @property
    def is_momentary(self) -> bool:
        return all(
            fault.kind is Kind.ROLLING_RESTART or (fault.kind in MOMENTARY and fault.target not in SERVICES)
            for fault in self.faults
        )


_KILLS = 4
_SPOOL_FULL = (Fault(Kind.DISK_FULL, Target.SPOOL), Fault(Kind.AWAY, Target.INGEST_TO_BROKER))
_FAILING = Fault(Kind.WRITES_FAIL, Target.POSTGRES)


def deck(*, long: bool, disks: bool) -> list[tuple[Fault, ...]]:
    """Every strike, and kills more than once; `disks` only if small disks can be mounted."""
    kills = [(Fault(Kind.KILLED, target),) for target in (*PROCESSES, *SINGLE_SERVICES)] * _KILLS
    pauses = [(Fault(Kind.PAUSED, target),) for target in (*PROCESSES, *SINGLE_SERVICES)]
    network = [(Fault(kind, target),) for target in NETWORKS for kind in NETWORK_KINDS]
    cuts = [
        (Fault(Kind.CUT_BEFORE_COMMIT, Target.CONSUMERS_TO_POSTGRES),),
        (Fault(Kind.CUT_AFTER_COMMIT, Target.CONSUMERS_TO_POSTGRES),),
        (Fault(Kind.CUT_BEFORE_FLUSH, Target.CONSUMERS_TO_POSTGRES),),
        (Fault(Kind.CUT_BEFORE_PUBLISH, Target.INGEST_TO_BROKER),),
        (Fault(Kind.CUT_BEFORE_CONFIRM, Target.INGEST_TO_BROKER),),
        # A consumer publishes events only after failures, but changes all the time.
        (Fault(Kind.CUT_BEFORE_PUBLISH, Target.CONSUMERS_TO_BROKER), _FAILING),
        (Fault(Kind.CUT_BEFORE_CONFIRM, Target.CONSUMERS_TO_BROKER), _FAILING),
    ]
    others = [
        (Fault(Kind.MEMORY_ALARM, Target.BROKER),),
        (Fault(Kind.DISK_ALARM, Target.BROKER),),
        (_FAILING,),
    ]
    full = [_SPOOL_FULL, (Fault(Kind.DISK_FULL, Target.POSTGRES),)] if disks else []
    # The connections of both consumers: only a longer run waits until each has noticed by itself.
    slow_to_notice = [] if long else [strike for strike in network if strike[0].kind is Kind.HALF_OPEN]
    return [
        strike
        for strike in [*kills, *pauses, *network, *cuts, *others, *full]
        if strike not in slow_to_notice
    ]


# The cluster continues: a majority of nodes run and reach each other, and the others' clients are
# disconnected.
# Nodes notice lost packets after a minute (net_ticktime): this partition ends earlier.
_NODE_LOST = [
    Fault(kind, target)
    for target in (Target.LEADER, Target.FOLLOWER)
    for kind in (Kind.KILLED, Kind.STOPPED, Kind.PAUSED, Kind.CUT_OFF_RESET)
]
# The standby is promoted immediately.
_FAILOVERS = [
    Fault(kind, Target.PRIMARY)
    for kind in (
        Kind.KILLED,
        Kind.STOPPED,
        Kind.READ_ONLY,
        Kind.KILLED_AFTER_COMMIT,
        Kind.KILLED_BEFORE_FLUSH,
    )
]
SURVIVABLE = frozenset([*_NODE_LOST, *_FAILOVERS, *(Fault(Kind.KILLED, target) for target in PROCESSES)])


def cluster_deck(*, partitions: bool) -> list[tuple[Fault, ...]]:
    """Every strike at a cluster and a pair; `partitions` only if packets can be filtered."""
    outages = [
        Fault(Kind.KILLED_WHILE_LAGGING, Target.FOLLOWER),
        *(
            Fault(kind, target)
            for target in (Target.TWO_NODES, Target.ALL_NODES)
            for kind in (Kind.KILLED, Kind.STOPPED, Kind.PAUSED)
        ),
        Fault(Kind.CUT_OFF, Target.LEADER),
        Fault(Kind.CUT_OFF, Target.FOLLOWER),
        Fault(Kind.CUT_OFF_FROM_ONE, Target.LEADER),
        Fault(Kind.CUT_OFF, Target.ALL_NODES),
        Fault(Kind.CUT_OFF_RESET, Target.ALL_NODES),
        # Nothing is committed without the standby.
        Fault(Kind.KILLED, Target.STANDBY),
        Fault(Kind.PAUSED, Target.STANDBY),
        *(Fault(Kind.KILLED, target) for target in PROCESSES),
        *(Fault(Kind.ROLLING_RESTART, target) for target in (Target.ALL_NODES, Target.ALL_PROCESSES)),
    ]
    faults = [*_NODE_LOST, *_FAILOVERS, *outages]
    return [(fault,) for fault in faults if partitions or fault.kind not in PARTITIONS]


def brief_cluster_deck(*, partitions: bool) -> list[tuple[Fault, ...]]:
    """The main faults of a cluster, for a run in a test."""
    faults = [Fault(Kind.KILLED, Target.LEADER), Fault(Kind.KILLED_BEFORE_FLUSH, Target.PRIMARY)]
    if partitions:
        faults.append(Fault(Kind.CUT_OFF_RESET, Target.LEADER))
    return [(fault,) for fault in faults]


def plan(seed: int, whole: Sequence[tuple[Fault, ...]], *, long: bool) -> Iterator[Strike]:
    """An endless sequence of strikes. Each one of the deck occurs before any is repeated."""
    rng = Random(seed)
    number = 0
    while True:
        cards = list(whole)
        rng.shuffle(cards)
        while cards:
            faults = cards.pop()
            companion = _companion(cards, faults) if rng.random() < PAIRED else ()
            faults += companion
            number += 1
            yield Strike(
                number=number,
                faults=faults,
                lasts=_duration(rng, faults, long=long),
                pause=timedelta(seconds=round(rng.uniform(0.2, 1.5), 2)),
                intensity=round(rng.uniform(0.1, 1.0), 2),
                is_paired=bool(companion),
            )


def _companion(cards: list[tuple[Fault, ...]], faults: Sequence[Fault]) -> tuple[Fault, ...]:
    """Remove the next fault of another target from the deck.

    Faults of one target are never concurrent: a database that is down cannot fail writes.
    """
    if not _is_pairable(faults):
        return ()
    taken = {_group(fault.target) for fault in faults}
    for place, card in enumerate(cards):
        if _is_pairable(card) and _group(card[0].target) not in taken:
            return cards.pop(place)
    return ()


def _group(target: Target) -> frozenset[Target]:
    return next((group for group in (NODES, PAIR) if target in group), frozenset({target}))


def _is_pairable(faults: Sequence[Fault]) -> bool:
    return len(faults) == 1 and faults[0].kind not in ALONE


def _duration(rng: Random, faults: Sequence[Fault], *, long: bool) -> timedelta:
    seconds = round(rng.uniform(1.0, 4.0), 1)
    is_long = rng.randrange(ONE_IN_LONG) == 0
    if any(fault.kind in (Kind.WRITES_FAIL, Kind.DISK_FULL) for fault in faults):
        return min(timedelta(seconds=seconds), LONGEST_FAILURE)
    if long and is_long:
        return LONG
    if any(fault.target in (*NODES, *PAIR) for fault in faults):
        return ELECTION + timedelta(seconds=seconds)
    return timedelta(seconds=seconds)
