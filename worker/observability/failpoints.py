"""Points at which a test can kill this process, to show that nothing is lost.

`STOCKHOOK_CRASH_AT=committed:3` ends the process, as kill -9 does, when it comes to that point for the
third time. Without the variable, a failpoint only looks into an empty table.
"""

import os
import signal
from collections.abc import Iterator

VARIABLE = "STOCKHOOK_CRASH_AT"

POINTS = (
    "received",
    "claimed",
    "saved",
    "committed",
    "flushed",
    "retry_published",
    "change_taken",
    "change_published",
    "change_delivered",
    "acked",
    "action_published",
    "action_started",
    "action_performed",
    "action_settled",
    "dead_letter_stored",
    "unhandled_published",
    "replay_started",
    "replay_published",
    "letters_discarded",
    "accepted",
    "published",
    "spooled",
    "drained",
)


def _countdowns() -> Iterator[tuple[str, int]]:
    for order in filter(None, os.environ.get(VARIABLE, "").split(",")):
        point, _, number = order.partition(":")
        if point not in POINTS:
            raise ValueError(f"{VARIABLE}: no such point: {point}")
        yield point, int(number or 1)


_left = dict(_countdowns())


def failpoint(point: str) -> None:
    """Kill this process, if the environment requests it."""
    if point not in _left:
        return
    _left[point] -= 1
    if _left[point] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
