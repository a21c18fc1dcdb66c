"""The contract between a kind of action and the machinery that performs it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar

from pydantic import BaseModel

from consumers.family import Connection
from worker.config.settings import BadSettings, Settings
from worker.marketplaces.clients import Clients
from worker.marketplaces.http import (
    CallFailed,
    InvalidRequest,
    Refused,
    Unauthorized,
    Unavailable,
)
from worker.observability.errors import safe_summary
from worker.postgres.pool import Database

R = TypeVar("R", bound=BaseModel)
R_co = TypeVar("R_co", bound=BaseModel, covariant=True)


@dataclass(frozen=True, slots=True)
class Done:
    """`said` goes into the table: nothing about a customer."""

    details: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class NotNeeded:
    """What it was called for is no longer so."""

    reason: str


@dataclass(frozen=True, slots=True)
class Denied:
    """The marketplace refused it, or never could do it: the same again would be refused again."""

    reason: str


@dataclass(frozen=True, slots=True)
class OutcomeUnknown:
    """It may have been taken, and must not be repeated."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """It was surely not taken, or may be repeated: retried after `retry_after` at the soonest."""

    reason: str
    retry_after: timedelta | None = None


Performed = Done | NotNeeded | Denied
Outcome = Performed | OutcomeUnknown | Failed


class Attempt(Protocol[R_co]):
    """One attempt at an action."""

    @property
    def request(self) -> R_co: ...

    @property
    def clients(self) -> Clients: ...

    @property
    def database(self) -> Database: ...

    async def mark_started(self, is_needed: Callable[[Connection], Awaitable[bool]] | None = None) -> bool:
        """To be awaited right before a request that must not be repeated.

        From then on the action counts as under way: whoever finds it so after a crash marks it as
        unknown. What `is_needed` asks of the database is true for as long as nobody else begins another
        action of the subject; where it says no, nothing is begun and the answer is False.

        Raises:
            StartedElsewhere
            DatabaseUnavailable
        """
        ...


@dataclass(frozen=True, slots=True)
class Kind(Generic[R]):
    """`perform` asks the marketplace once; what it raises is judged by `outcome_of`.

    Events call for it where `is_enabled` says so of the settings. A private request is stored encrypted.
    """

    name: str
    request: type[R]
    perform: Callable[[Attempt[R]], Awaitable[Performed]]
    is_enabled: Callable[[Settings], bool] = lambda _settings: False
    is_private: bool = False


# Each kind has a request of its own; here they only stand side by side.
AnyKind = Kind[Any]


def outcome_of(error: Exception, *, has_started: bool) -> Denied | OutcomeUnknown | Failed:
    """What an attempt came to that ended with this error; `has_started` as `Attempt.mark_started` has it.

    error                      | begun   | not begun
    our credentials not taken  | failed  | failed
    4xx (not 408, 425, 429)    | denied  | denied
    certainly not taken        | failed  | failed
    may have been taken        | doubt   | failed: such kinds may be repeated
    anything else, our bugs    | doubt   | failed
    """
    match error:
        case Unauthorized():
            # Whoever repairs them finds it in a retry queue, or among the failed.
            return Failed(str(error))
        case Refused() | InvalidRequest():
            return Denied(str(error))
        case CallFailed(outcome_unknown=outcome_unknown) if not (has_started and outcome_unknown):
            return Failed(str(error), error.retry_after if isinstance(error, Unavailable) else None)
        case CallFailed():
            return OutcomeUnknown(str(error))
        case BadSettings():
            return Failed(str(error))
        case _:
            reason = safe_summary(error)
            return OutcomeUnknown(reason) if has_started else Failed(reason)
