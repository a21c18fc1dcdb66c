"""Limits attempts to sign in, per address and per name, in bounded memory."""

from collections import OrderedDict
from dataclasses import dataclass

# So many attempts at once, then one in so many seconds.
BURST = 10
SECONDS_PER_ATTEMPT = 30.0

MOST_KEYS = 4096


@dataclass(slots=True)
class _Bucket:
    attempts: float
    at: float


class Throttle:
    """A bucket of attempts per key, which fills again with time. A full one needs no memory."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def wait_seconds(self, key: str, now: float) -> float:
        """Until the next attempt is allowed; 0 if it is allowed now."""
        return max(0.0, (1.0 - self._attempts(key, now)) * SECONDS_PER_ATTEMPT)

    def spend(self, key: str, now: float) -> None:
        """Before the password is checked, so that attempts at the same time count as well."""
        self._buckets[key] = _Bucket(max(0.0, self._attempts(key, now) - 1.0), now)
        self._buckets.move_to_end(key)
        while len(self._buckets) > MOST_KEYS:
            # The one that has filled for longest.
            self._buckets.popitem(last=False)

    def forget(self, key: str) -> None:
        """After a success."""
        self._buckets.pop(key, None)

    def _attempts(self, key: str, now: float) -> float:
        bucket = self._buckets.get(key)
        if bucket is None:
            return float(BURST)
        return min(float(BURST), bucket.attempts + (now - bucket.at) / SECONDS_PER_ATTEMPT)
