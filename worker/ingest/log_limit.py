"""Limits log lines that any sender can cause to one per kind and interval."""

from dataclasses import dataclass, field
from time import monotonic

REFUSAL_LOG_SECONDS = 10.0
UNKNOWN_PATH_LOG_SECONDS = 60.0


@dataclass(slots=True)
class LogLimit:
    """`kind` must come from a closed set: each kind is kept in memory, so senders must not choose it."""

    interval_seconds: float
    _logged_at: dict[str, float] = field(default_factory=dict)
    _unlogged: dict[str, int] = field(default_factory=dict)

    def unlogged(self, kind: str = "") -> int | None:
        """None if the line must be left out; otherwise the number of lines left out since the last one."""
        now = monotonic()
        logged_at = self._logged_at.get(kind)
        if logged_at is not None and now - logged_at < self.interval_seconds:
            self._unlogged[kind] = self._unlogged.get(kind, 0) + 1
            return None
        self._logged_at[kind] = now
        return self._unlogged.pop(kind, 0)
