"""The proof that nothing fell through: each accepted event has a place in a stream without gaps.

A stream is one ingest process, or one spool file. Its places are counted per family from 1. Consumers
record what became of each place in the transaction of its effect; a place below the highest one known
that nobody accounts for is an event that was answered 2xx and is nowhere.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from itertools import islice
from secrets import randbits

from consumers.family import Connection
from schemas.envelope import LARGEST, Envelope

# A repeat adds the same places again, which changes nothing; the two counts are of deliveries.
RECORD_PLACES = """
INSERT INTO streams AS known
    (stream, family, seen, retrying, dead, voided, applied, duplicates, last_received_at)
SELECT stream, $2, seen::int8multirange, retrying::int8multirange, dead::int8multirange,
       voided::int8multirange, applied, duplicates, last_received_at
FROM unnest($1::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[],
            $9::timestamptz[])
    AS told (stream, seen, retrying, dead, voided, applied, duplicates, last_received_at)
ORDER BY stream
ON CONFLICT (stream, family) DO UPDATE
SET seen = known.seen + excluded.seen,
    retrying = known.retrying + excluded.retrying - excluded.seen - excluded.dead,
    dead = known.dead + excluded.dead - excluded.seen,
    voided = known.voided + excluded.voided,
    applied = known.applied + excluded.applied,
    duplicates = known.duplicates + excluded.duplicates,
    last_received_at = greatest(known.last_received_at, excluded.last_received_at)
"""


# Some 30 characters each: far below the 128 KiB of a header table.
TOLD_TOGETHER = 200


@dataclass(slots=True)
class Stream:
    """Gives out places, in the order in which events are handed to the broker's connection.

    The broker takes what comes over a connection in that order, so when a process dies, the places
    that never arrived are the last ones.
    """

    number: int = field(default_factory=lambda: randbits(62) + 1)
    _last: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    _unused: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def take(self, family: str) -> int:
        """The next place, from 1. Publish at once: nothing may come in between."""
        self._last[family] += 1
        return self._last[family]

    def give_up(self, family: str, place: int) -> None:
        """No event will be found at this place; the next message of the family is to say so."""
        self._unused[family].add(f"{self.number}:{place}")

    def unused(self, family: str) -> frozenset[str]:
        """Some of the places given up and not told yet: as many as fit well into a header."""
        return frozenset(islice(self._unused[family], TOLD_TOGETHER))

    def told(self, family: str, unused: Iterable[str]) -> None:
        """A message that says which places are unused has arrived."""
        self._unused[family] -= set(unused)


class Fate(Enum):
    """What became of a delivery, as far as its place goes."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    RETRYING = "retrying"
    DEAD = "dead"


@dataclass(slots=True)
class _Row:
    seen: set[int] = field(default_factory=set)
    retrying: set[int] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)
    voided: set[int] = field(default_factory=set)
    applied: int = 0
    duplicates: int = 0
    last_received_at: datetime | None = None

    def add(self, place: int, fate: Fate, received_at: datetime) -> None:
        match fate:
            case Fate.APPLIED:
                self.seen.add(place)
                self.applied += 1
            case Fate.DUPLICATE:
                self.seen.add(place)
                self.duplicates += 1
            case Fate.RETRYING:
                self.retrying.add(place)
            case Fate.DEAD:
                self.dead.add(place)
        self.last_received_at = max(received_at, self.last_received_at or received_at)


async def record(connection: Connection, family: str, fates: Sequence[tuple[Envelope, Fate]]) -> None:
    """Record what became of these deliveries; those without a place are passed over."""
    rows: defaultdict[int, _Row] = defaultdict(_Row)
    for envelope, fate in fates:
        if envelope.stream is not None and envelope.place is not None:
            rows[envelope.stream].add(envelope.place, fate, envelope.received_at)
        if envelope.unused is not None:
            for stream, place in _read_unused(envelope.unused):
                rows[stream].voided.add(place)
    if not rows:
        return
    streams = sorted(rows)
    ordered = [rows[stream] for stream in streams]
    await connection.execute(
        RECORD_PLACES,
        streams,
        family,
        [multirange(row.seen) for row in ordered],
        [multirange(row.retrying) for row in ordered],
        [multirange(row.dead) for row in ordered],
        [multirange(row.voided) for row in ordered],
        [row.applied for row in ordered],
        [row.duplicates for row in ordered],
        [row.last_received_at for row in ordered],
    )


def _read_unused(told: str) -> Iterator[tuple[int, int]]:
    for pair in told.split(","):
        stream, _, place = pair.partition(":")
        if _is_number(stream) and _is_number(place):
            yield int(stream), int(place)


def _is_number(told: str) -> bool:
    """One that Postgres has, too."""
    return told.isdecimal() and len(told) <= len(str(LARGEST)) and int(told) <= LARGEST


def multirange(places: Iterable[int]) -> str:
    """As Postgres reads it: `{[1,4),[7,8)}` for 1, 2, 3 and 7."""
    ranges: list[list[int]] = []
    for place in sorted(places):
        if ranges and ranges[-1][1] == place:
            ranges[-1][1] = place + 1
        else:
            ranges.append([place, place + 1])
    return "{" + ",".join(f"[{begin},{end})" for begin, end in ranges) + "}"
