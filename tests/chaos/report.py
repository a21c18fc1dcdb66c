"""The results of a run, as a table or JSON."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from tests.chaos.faults import Strike
from tests.chaos.pulse import Recovery

TWO_AT_ONCE = "two at once"


@dataclass(frozen=True, slots=True)
class Struck:
    """An injected strike. `at` is in seconds from the beginning of the run."""

    strike: Strike
    at: float
    recovery: Recovery
    silence: float
    """The longest time without an answer of 2xx, from the strike until the recovery."""
    stall: float
    """The longest time without an applied event of a busy family, over the same time."""

    @property
    def row(self) -> str:
        return TWO_AT_ONCE if self.strike.is_paired else self.strike.label


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts of distinct events; `requests` and `answers_2xx` count requests.

    Committed changes count once, and received ones each time.
    """

    sent: int = 0
    requests: int = 0
    answers_2xx: int = 0
    accepted: int = 0
    lost: int = 0
    applied: int = 0
    applied_twice: int = 0
    applied_unanswered: int = 0
    attempts_spent: int = 0
    given_up: int = 0
    dead: int = 0
    quarantined: int = 0
    changes_committed: int = 0
    changes_published: int = 0
    changes_posted: int = 0


@dataclass(slots=True)
class Report:
    seed: int
    seconds: float = 0.0
    struck: list[Struck] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    answers: dict[str, int] = field(default_factory=dict)
    latencies: dict[str, float | None] = field(default_factory=dict)
    """Quantiles of the seconds from a request's due time to its answer, including those during faults."""
    ends: dict[str, dict[int, int]] = field(default_factory=dict)
    """How often each process ended by itself, by exit code."""
    quiet_after: float | None = None
    """Seconds from the end of the last fault until all queues were empty."""
    problems: list[str] = field(default_factory=list)
    """Broken promises. The run fails if there are any."""
    notes: list[str] = field(default_factory=list)
    folder: str | None = None
    """The folder of the logs, if they were kept."""

    @property
    def kills(self) -> int:
        return sum("kill -9" in str(fault) for struck in self.struck for fault in struck.strike.faults)

    def as_json(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "ok": not self.problems,
            "problems": self.problems,
            "notes": self.notes,
            "totals": {name: getattr(self.totals, name) for name in Totals.__dataclass_fields__},
            "kills": self.kills,
            "answers": self.answers,
            "latencies": _rounded(self.latencies),
            "process_ends": self.ends,
            "quiet_after_seconds": self.quiet_after,
            "faults": {
                row: {
                    "count": len(several),
                    "from": _start(several),
                    **{sign: _summary(several, sign) for sign in ("answered", "applied", "ready")},
                    "longest_silence": round(max(struck.silence for struck in several), 2),
                    "longest_stall": round(max(struck.stall for struck in several), 2),
                }
                for row, several in self._by_row().items()
            },
            "strikes": [_struck_as_json(struck) for struck in self.struck],
            "folder": self.folder,
        }

    def as_tables(self) -> RenderableType:
        faults = Table("fault", "count", "from", title="Seconds to a sign of life: median / longest")
        for sign in ("answered 200", "applied", "all ready", "longest without 200", "without applied"):
            faults.add_column(sign, justify="right")
        for row, several in self._by_row().items():
            cells = (_cell(several, sign) for sign in ("answered", "applied", "ready"))
            longest = (
                f"{max(seconds):.2f}"
                for seconds in zip(*((struck.silence, struck.stall) for struck in several), strict=True)
            )
            faults.add_row(row, str(len(several)), _start(several), *cells, *longest)
        totals = Table("events", "")
        totals.columns[1].justify = "right"
        for name in Totals.__dataclass_fields__:
            totals.add_row(name.replace("_", " "), f"{getattr(self.totals, name):,}")
        after = self.quiet_after
        quiet = "never" if after is None else f"{after:.1f} s after the end of the last fault"
        lines = [
            f"seed {self.seed}, {self.seconds:.0f} s, {len(self.struck)} strikes, {self.kills} kills",
            f"all queues were empty: {quiet}",
            f"answers: {self.answers}",
            f"seconds to an answer: {_rounded(self.latencies)}",
            f"processes that ended, by exit code: {self.ends}",
            *(f"note: {note}" for note in self.notes),
            *(f"PROBLEM: {problem}" for problem in self.problems),
            "FAILED"
            if self.problems
            else "nothing lost, nothing applied twice, no dead letter, all changes received in order",
        ]
        if self.folder is not None:
            lines.append(f"logs: {self.folder}")
        return Group(faults, totals, *lines)

    def _by_row(self) -> dict[str, list[Struck]]:
        rows: defaultdict[str, list[Struck]] = defaultdict(list)
        for struck in sorted(self.struck, key=lambda struck: (struck.strike.is_paired, struck.row)):
            rows[struck.row].append(struck)
        return rows


def _start(several: Sequence[Struck]) -> str:
    """The instant from which the recovery is measured."""
    starts = {"strike" if struck.strike.is_survivable else "healing" for struck in several}
    return " or ".join(sorted(starts))


def _summary(several: Sequence[Struck], sign: str) -> dict[str, float | int | None]:
    durations = (getattr(struck.recovery, sign) for struck in several)
    seconds = [value for value in durations if value is not None]
    return {
        "median": round(median(seconds), 2) if seconds else None,
        "max": round(max(seconds), 2) if seconds else None,
        "never": len(several) - len(seconds),
    }


def _cell(several: Sequence[Struck], sign: str) -> str:
    summary = _summary(several, sign)
    if summary["median"] is None:
        return "never"
    never = f" ({summary['never']} never)" if summary["never"] else ""
    return f"{summary['median']:.2f} / {summary['max']:.2f}{never}"


def _struck_as_json(struck: Struck) -> dict[str, Any]:
    recovery = struck.recovery
    return {
        "number": struck.strike.number,
        "faults": list(map(str, struck.strike.faults)),
        "at": round(struck.at, 2),
        "lasts": struck.strike.lasts.total_seconds(),
        "answered": recovery.answered,
        "applied": recovery.applied,
        "ready": recovery.ready,
        "longest_silence": round(struck.silence, 2),
        "longest_stall": round(struck.stall, 2),
    }


def _rounded(latencies: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if seconds is None else round(seconds, 3) for name, seconds in latencies.items()}
