"""Known limits of versions of RabbitMQ."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from worker.config.check import (
    CheckResult,
    Level,
    ok,
    warning,
)

Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Limit:
    """Applies to versions from `since` on, and below `below`."""

    since: Version
    below: Version
    level: Level
    what: str
    remedy: str


# From the release notes and issues of RabbitMQ.
LIMITS = (
    Limit(
        (0, 0, 0),
        (3, 10, 0),
        Level.ERROR,
        "has no at-least-once dead-lettering: a retry queue can lose events",
        "use 3.10 or newer",
    ),
    Limit(
        (3, 10, 0),
        (3, 10, 20),
        Level.WARNING,
        "at-least-once dead-lettering can leak memory",
        "use 3.10.20 or newer",
    ),
    Limit(
        (3, 11, 0),
        (3, 11, 20),
        Level.WARNING,
        "at-least-once dead-lettering can leak memory",
        "use 3.11.20 or newer",
    ),
    Limit(
        (3, 13, 0),
        (3, 13, 3),
        Level.WARNING,
        "has faults in its x-death headers (rabbitmq-server #11159, #10709, #11331)",
        "use 3.13.3 or newer",
    ),
    Limit(
        (4, 2, 6),
        (4, 2, 7),
        Level.WARNING,
        "shows queues only to users that may configure them (#16085)",
        "use 4.2.7 or newer",
    ),
    Limit(
        (4, 3, 0),
        (4, 3, 5),
        Level.WARNING,
        "quorum queues can fail to recover from an unclean stop, and a single active consumer can hang "
        "for good (#17317)",
        "use 4.3.5 or newer, or 4.2",
    ),
)


def check_version(text: str) -> Iterator[CheckResult]:
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    if match is None:
        yield warning("broker version", f"{text!r} is not a known version", "use RabbitMQ 3.10 or newer")
        return
    version = (int(match[1]), int(match[2]), int(match[3]))
    limits = [
        CheckResult(limit.level, "broker version", f"{text} {limit.what}", limit.remedy)
        for limit in LIMITS
        if limit.since <= version < limit.below
    ]
    yield from limits or [ok("broker version", text)]
