"""Proof that no accepted event is lost: each has a sequence number, and the numbers have no gaps.

A source is one ingest process or one spool file. It numbers its events per family, from 1. Consumers record
the disposition of each number in the transaction of its effect. A number below the highest known one without
a disposition is an event that was answered 2xx and cannot be found.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from itertools import islice
from operator import itemgetter
from secrets import randbits

from schemas.envelope import LARGEST, Envelope

# Each takes some 30 characters: this many stay far below the 128 KiB of a header table.
VOIDS_PER_MESSAGE = 200


@dataclass(slots=True)
class EventSequence:
    """Numbers the events of one source, in the order in which they are handed to the broker's connection.

    The broker receives the messages of a connection in that order, so when a process dies, the numbers that
    never arrived are the last ones.
    """

    source: int = field(default_factory=lambda: randbits(62) + 1)
    _last: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    _voids: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def next(self, family: str) -> int:
        """The family's next number, from 1. Publish the event at once, before any other step."""
        self._last[family] += 1
        return self._last[family]

    def void(self, family: str, number: int) -> None:
        """Record that no event has this number; a later message of the family says so."""
        self._voids[family].add(f"{self.source}:{number}")

    def voids(self, family: str) -> frozenset[str]:
        """Voided numbers that no message has delivered yet, as many as fit into a header."""
        return frozenset(islice(self._voids[family], VOIDS_PER_MESSAGE))

    def acknowledge_voids(self, family: str, voids: Iterable[str]) -> None:
        """Forget voided numbers that a confirmed or spooled message names."""
        self._voids[family] -= set(voids)


class Disposition(Enum):
    """The outcome of a delivery, as far as its sequence number is concerned."""

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

    def add(self, number: int, disposition: Disposition, received_at: datetime) -> None:
        match disposition:
            case Disposition.APPLIED:
                self.seen.add(number)
                self.applied += 1
            case Disposition.DUPLICATE:
                self.seen.add(number)
                self.duplicates += 1
            case Disposition.RETRYING:
                self.retrying.add(number)
            case Disposition.DEAD:
                self.dead.add(number)
        self.last_received_at = max(received_at, self.last_received_at or received_at)


def number_rows(dispositions: Iterable[tuple[Envelope, Disposition]]) -> list[tuple[object, ...]]:
    """The rows that record the dispositions of deliveries, one per source, for `event_sequences`.

    Deliveries without a sequence number are skipped.
    """
    rows: defaultdict[int, _Row] = defaultdict(_Row)
    for envelope, disposition in dispositions:
        if envelope.source is not None and envelope.sequence_number is not None:
            rows[envelope.source].add(envelope.sequence_number, disposition, envelope.received_at)
        if envelope.voided is not None:
            for source, number in _read_voids(envelope.voided):
                rows[source].voided.add(number)
    return [
        (
            source,
            multirange(row.seen),
            multirange(row.retrying),
            multirange(row.dead),
            multirange(row.voided),
            row.applied,
            row.duplicates,
            row.last_received_at,
        )
        for source, row in sorted(rows.items(), key=itemgetter(0))
    ]


def _read_voids(header: str) -> Iterator[tuple[int, int]]:
    for pair in header.split(","):
        source, _, number = pair.partition(":")
        if _is_number(source) and _is_number(number):
            yield int(source), int(number)


def _is_number(text: str) -> bool:
    """Whether Postgres can store it, too."""
    return text.isdecimal() and len(text) <= len(str(LARGEST)) and int(text) <= LARGEST


def multirange(numbers: Iterable[int]) -> str:
    """As Postgres reads it: `{[1,4),[7,8)}` for 1, 2, 3 and 7."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number:
            ranges[-1][1] = number + 1
        else:
            ranges.append([number, number + 1])
    return "{" + ",".join(f"[{begin},{end})" for begin, end in ranges) + "}"
