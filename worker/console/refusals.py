"""What the ingest refused, from its counters alone: no I/O and no clock."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from worker.console.snapshot import REFUSAL_SERIES, Snapshot
from worker.tools.ops_ports import Labels

RECEIVED, GATEWAY, HTTP, UNKNOWN_PATHS, CONNECTIONS = REFUSAL_SERIES

HOUR = timedelta(hours=1)

# Answers that are no refusals.
TAKEN = ("accepted", "quarantined", "unhandled", "ignored")

MEANINGS = {
    "400": "the request is malformed",
    "401": "the secret or the signature is missing or wrong",
    "404": "the marketplace is disabled, or the path is wrong",
    "405": "the method is not POST",
    "408": "the body did not arrive in time",
    "411": "the length of the body is missing",
    "413": "the body is longer than STOCKHOOK_BODY_LIMIT",
    "415": "the content is compressed or not of a known type",
    "431": "the headers are too long",
    "500": "the ingest failed; its log has the reason",
    "503": "neither the broker nor the spool could store it",
    "busy": "503: too many bodies were in memory",
}

SIGNATURE_MEANINGS = {"absent": "accepted without a signature"}

CONNECTION_MEANINGS = {
    "address": "too many from one address",
    "strangers": "too many that have not authenticated",
    "total": "too many in total",
    "handshake": "the TLS handshake failed",
}

Key = tuple[str, Labels]


class Increases:
    """By how much the counters of all processes grew, step by step, during the last hour.

    A process counts from the first snapshot that it answered on. One that did not answer for a while is
    compared with its last answer. Only what grew is in memory.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[datetime, Mapping[Key, float]]] = {}
        self._steps: deque[tuple[datetime, Counter[Key]]] = deque()
        self.since: datetime | None = None
        """Of the first snapshot."""

    def add(self, snapshot: Snapshot) -> None:
        self.since = self.since or snapshot.at
        grown: Counter[Key] = Counter()
        for process in snapshot.answering:
            counters = {key: value for key, value in process.series.items() if key[0] in REFUSAL_SERIES}
            if process.address in self._last:
                _, before = self._last[process.address]
                for key, value in counters.items():
                    # A counter that fell belongs to a new process.
                    then = before.get(key, 0.0)
                    if increase := value - then if value >= then else value:
                        grown[key] += increase  # type: ignore[assignment]  # the stubs have counts as int
            self._last[process.address] = snapshot.at, counters
        self._steps.append((snapshot.at, grown))
        while snapshot.at - self._steps[0][0] > HOUR:
            self._steps.popleft()
        for address, (at, _) in list(self._last.items()):
            if snapshot.at - at > HOUR:
                del self._last[address]

    def total(self) -> Mapping[Key, float]:
        """During the last hour, or since the console started."""
        sums: Counter[Key] = Counter()
        for _, grown in self._steps:
            sums.update(grown)
        return sums


@dataclass(frozen=True, slots=True)
class Count:
    """`total` since the processes started; `recent` during the last hour; `share` of the recent requests."""

    name: str
    meaning: str
    total: int
    recent: int
    share: float | None = None


@dataclass(frozen=True, slots=True)
class MarketplaceRefusals:
    """`taken` were answered 2xx. Refusals that have not happened are left out."""

    marketplace: str
    taken: int
    taken_recently: int
    refusals: tuple[Count, ...]
    signatures: tuple[Count, ...]
    """Of the gateway: by the rule that the signature broke."""


@dataclass(frozen=True, slots=True)
class Refusals:
    """`marketplaces` and `door` are None if no ingest answers: nothing is known then."""

    at: datetime
    since: datetime | None
    ingests: tuple[str, ...]
    no_answer: tuple[str, ...]
    """Processes that may be an ingest, with the reason of each."""
    marketplaces: tuple[MarketplaceRefusals, ...] | None
    door: tuple[Count, ...] | None
    """Refused before a marketplace was known."""


def refusals(snapshot: Snapshot, increases: Increases) -> Refusals:
    ingests = [process for process in snapshot.answering if process.total(RECEIVED) is not None]
    totals: Counter[Key] = Counter()
    for process in ingests:
        for key, value in process.series.items():
            if key[0] in REFUSAL_SERIES:
                totals[key] += value  # type: ignore[assignment]  # the stubs have counts as int
    recent = increases.total()
    marketplaces = sorted({dict(labels)["provider"] for name, labels in totals if name == RECEIVED})
    since = increases.since
    return Refusals(
        at=snapshot.at,
        since=None if since is None else max(since, snapshot.at - HOUR),
        ingests=tuple(process.address for process in ingests),
        no_answer=tuple(f"{process.address}: {process.reason}" for process in snapshot.silent),
        marketplaces=tuple(_marketplace(name, totals, recent) for name in marketplaces) if ingests else None,
        door=tuple(_door(totals, recent)) if ingests else None,
    )


def _marketplace(name: str, totals: Mapping[Key, float], recent: Mapping[Key, float]) -> MarketplaceRefusals:
    by_result = _by_label(totals, RECEIVED, "result", name)
    recently = _by_label(recent, RECEIVED, "result", name)
    requests = sum(recently.values())
    signatures, signatures_recently = (
        _by_label(counts, GATEWAY, "reason", name) for counts in (totals, recent)
    )
    return MarketplaceRefusals(
        marketplace=name,
        taken=sum(int(by_result.get(result, 0)) for result in TAKEN),
        taken_recently=sum(int(recently.get(result, 0)) for result in TAKEN),
        refusals=tuple(
            replace(count, share=recently.get(count.name, 0) / requests if requests else None)
            for count in _counts(by_result, recently, MEANINGS)
            if count.name not in TAKEN
        ),
        signatures=tuple(_counts(signatures, signatures_recently, SIGNATURE_MEANINGS)),
    )


def _door(totals: Mapping[Key, float], recent: Mapping[Key, float]) -> Iterator[Count]:
    kinds = (
        (HTTP, "status", "HTTP {}", MEANINGS),
        (CONNECTIONS, "reason", "connection: {}", CONNECTION_MEANINGS),
    )
    for series, label, name, meanings in kinds:
        counts = _counts(_by_label(totals, series, label), _by_label(recent, series, label), meanings)
        yield from (replace(count, name=name.format(count.name)) for count in counts)
    key = UNKNOWN_PATHS, frozenset[tuple[str, str]]()
    if total := totals.get(key, 0):
        meaning_of_path = "a path under /webhooks that belongs to no marketplace"
        yield Count("unknown path", meaning_of_path, int(total), int(recent.get(key, 0)))


def _counts(
    totals: Mapping[str, float], recently: Mapping[str, float], meanings: Mapping[str, str]
) -> Iterator[Count]:
    """Of what has happened, by its name."""
    for name, total in sorted(totals.items()):
        if total:
            yield Count(name, meanings.get(name, ""), int(total), int(recently.get(name, 0)))


def _by_label(
    counts: Mapping[Key, float], series: str, label: str, marketplace: str | None = None
) -> dict[str, float]:
    sums: dict[str, float] = {}
    for (name, labels), value in counts.items():
        given = dict(labels)
        if name == series and (marketplace is None or given.get("provider") == marketplace):
            sums[given[label]] = sums.get(given[label], 0.0) + value
    return sums
