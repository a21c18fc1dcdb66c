"""CPU time and memory of processes during a measurement, sampled from /proc."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

from tests.bench.processes import cpu_seconds, machine_cpu_seconds, resident_bytes

LOOK_SECONDS = 0.25

# All processes, including unrelated ones.
MACHINE = "the whole machine"

Pids = Callable[[], Sequence[int]]


@dataclass(slots=True)
class CpuUsage:
    """Samples of the CPU seconds of each group of processes."""

    groups: Mapping[str, Pids]
    _seen: list[tuple[float, dict[str, float]]] = field(default_factory=list)

    def look(self) -> None:
        """Call it often; it takes a few samples per second."""
        now = monotonic()
        if not self._seen or now - self._seen[-1][0] >= LOOK_SECONDS:
            used = {name: cpu_seconds(pids()) for name, pids in self.groups.items()}
            self._seen.append((now, {**used, MACHINE: machine_cpu_seconds()}))

    def shares(self, begin: float, end: float) -> dict[str, float]:
        """Shares of one core, from about `begin` to about `end`; empty if the interval has no samples."""
        within = [seen for seen in self._seen if begin <= seen[0] <= end]
        if len(within) < 2:
            return {}
        (first, used), (last, used_then) = within[0], within[-1]
        return {name: (used_then[name] - used[name]) / (last - first) for name in used}


@dataclass(slots=True)
class CpuCost:
    """CPU seconds, user and system, of each group of processes since its creation."""

    groups: Mapping[str, Pids]
    _before: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        self._before = self._seconds()

    def seconds(self) -> dict[str, float]:
        return {name: used - self._before[name] for name, used in self._seconds().items()}

    def _seconds(self) -> dict[str, float]:
        return {name: cpu_seconds(pids()) for name, pids in self.groups.items()}


@dataclass(slots=True)
class OtherWork:
    """The CPU usage of unrelated processes. `ours` are the services, which keep running."""

    ours: Pids
    _began: float = field(init=False)
    _others: float = field(init=False)

    def __post_init__(self) -> None:
        self._began, self._others = monotonic(), self._seconds()

    def cores(self) -> float:
        """Cores used by other processes since creation. Call it when only the services still run."""
        return max(0.0, (self._seconds() - self._others) / (monotonic() - self._began))

    def _seconds(self) -> float:
        return machine_cpu_seconds() - cpu_seconds([os.getpid(), *self.ours()])


@dataclass(slots=True)
class PeakMemory:
    pids: Pids
    bytes: int = 0
    _looked: float = 0.0

    def look(self) -> None:
        """Call it often; it takes a few samples per second."""
        now = monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self.bytes = max(self.bytes, resident_bytes(self.pids()))
