"""The contract between the kinds of actions and the executor."""

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
    CallRefused,
    CredentialsRefused,
    InvalidRequest,
    Unavailable,
)
from worker.observability.errors import safe_summary
from worker.postgres.pool import Database

R = TypeVar("R", bound=BaseModel)
R_co = TypeVar("R_co", bound=BaseModel, covariant=True)


@dataclass(frozen=True, slots=True)
class Done:
    """`details` are stored, and contain no customer data."""

    details: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class NotNeeded:
    """The reason for the action no longer applies."""

    reason: str


@dataclass(frozen=True, slots=True)
class Denied:
    """The marketplace refused the request, and would refuse it again."""

    reason: str


@dataclass(frozen=True, slots=True)
class OutcomeUnknown:
    """The request may have been accepted, and must not be repeated."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The request was not accepted, or may be repeated: it is retried, not before `retry_after`."""

    reason: str
    retry_after: timedelta | None = None


Performed = Done | NotNeeded | Denied
Outcome = Performed | OutcomeUnknown | Failed


class Attempt(Protocol[R_co]):
    @property
    def request(self) -> R_co: ...

    @property
    def clients(self) -> Clients: ...

    @property
    def database(self) -> Database: ...

    async def mark_started(self, is_needed: Callable[[Connection], Awaitable[bool]] | None = None) -> bool:
        """Await this immediately before a request that must not be repeated.

        From then on the action is under way: if it is found in this state after a crash, its outcome is
        unknown. The result of `is_needed` holds until another action of the subject is marked as started.
        If it is False, this action is not marked as started, and False is returned.

        Raises:
            StartedElsewhere
            DatabaseUnavailable
        """
        ...


@dataclass(frozen=True, slots=True)
class Kind(Generic[R]):
    """`perform` calls the marketplace once; `outcome_of` classifies its errors.

    Events enqueue the action if `is_enabled` returns True for the settings. A private request is stored
    encrypted.
    """

    name: str
    request: type[R]
    perform: Callable[[Attempt[R]], Awaitable[Performed]]
    is_enabled: Callable[[Settings], bool] = lambda _settings: False
    is_private: bool = False


# Each kind has its own request type.
AnyKind = Kind[Any]


def outcome_of(error: Exception, *, has_started: bool) -> Denied | OutcomeUnknown | Failed:
    """The outcome of an attempt that raised this error; `has_started` is set by `Attempt.mark_started`.

    error                      | started | not started
    our credentials refused    | failed  | failed
    4xx (not 408, 425, 429)    | denied  | denied
    certainly not accepted     | failed  | failed
    may have been accepted     | unknown | failed: such kinds may be repeated
    anything else, our bugs    | unknown | failed
    """
    match error:
        case CredentialsRefused():
            # Retried, so that it succeeds once the credentials are corrected.
            return Failed(str(error))
        case CallRefused() | InvalidRequest():
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
