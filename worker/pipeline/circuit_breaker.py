"""Keeps a whole queue from moving to its retry queues when everything fails for one reason."""

from dataclasses import dataclass

# After this many consecutive failures of different messages, the messages are not the cause.
THRESHOLD = 10
LONGEST_PAUSE_SECONDS = 30.0


@dataclass(slots=True)
class CircuitBreaker:
    """Closed: batches as usual. Open: one message at a time, after growing pauses, until one succeeds."""

    failures: int = 0

    @property
    def is_open(self) -> bool:
        return self.failures >= THRESHOLD

    @property
    def pause_seconds(self) -> float:
        """Before the next probe: 1 s, then twice as long each time, 30 s at most."""
        if not self.is_open:
            return 0.0
        return min(2.0 ** min(self.failures - THRESHOLD, 10), LONGEST_PAUSE_SECONDS)

    def succeeded(self) -> None:
        self.failures = 0

    def failed(self) -> None:
        self.failures += 1
