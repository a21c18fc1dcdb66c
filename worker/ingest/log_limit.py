"""Log lines that anybody can cause: of each kind, one per interval."""

from dataclasses import dataclass, field
from time import monotonic


@dataclass(slots=True)
class LogLimit:
    """`kind` comes from a closed set: one that a sender could choose would be remembered for ever."""

    interval_seconds: float
    _logged_at: dict[str, float] = field(default_factory=dict)
    _unlogged: dict[str, int] = field(default_factory=dict)

    def unlogged(self, kind: str = "") -> int | None:
        """If a line is due, how many of its kind were left out before it; otherwise None."""
        now = monotonic()
        logged_at = self._logged_at.get(kind)
        if logged_at is not None and now - logged_at < self.interval_seconds:
            self._unlogged[kind] = self._unlogged.get(kind, 0) + 1
            return None
        self._logged_at[kind] = now
        return self._unlogged.pop(kind, 0)
