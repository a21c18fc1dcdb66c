"""How the deliveries of a batch end."""

import asyncio
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Applied:
    """The effect of the event is committed."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The event was applied before."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """No later attempt can succeed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """This attempt failed while the database was available."""

    error: Exception


Outcome = Applied | Duplicate | Invalid | Failed


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of each delivery of a batch, in their order, and counts of what its events caused.

    `stale` events changed no row; `implausible` is the number of findings about implausible timestamps.
    Until `durable` is done, a crash of the database can undo the batch; None if nothing was committed.
    """

    outcomes: tuple[Outcome, ...]
    stale: int = 0
    findings: int = 0
    implausible: int = 0
    durable: asyncio.Future[None] | None = field(default=None, compare=False)


class BatchFailed(Exception):
    """The batch cannot be applied as a whole; which of its events failed is not known."""
