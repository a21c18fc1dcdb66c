"""One attempt at an action: read its request, call the marketplace, classify the result."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from cryptography.fernet import MultiFernet
from pydantic import ValidationError

from consumers.family import Connection
from schemas.validation import broken_rules
from worker.actions.types import AnyKind, Outcome, outcome_of
from worker.intake.encryption import NoUsableKey, decrypted
from worker.marketplaces.clients import Clients
from worker.observability.failpoints import failpoint
from worker.outbox import actions as table
from worker.outbox.actions import ClaimedAction, StartedElsewhere
from worker.postgres.failures import DatabaseUnavailable, TransactionConflict
from worker.postgres.pool import Database

# Far longer than an attempt takes: every call has its own deadline and few repetitions.
ATTEMPT_SECONDS = 300.0


class UnreadableRequest(Exception):
    """A request cannot be decrypted, or breaks its schema. The text names fields, not values."""


@dataclass(slots=True)
class Attempt:
    """What the `perform` of a kind receives; see `worker.actions.types.Attempt`."""

    action_id: UUID
    subject: str
    request: Any
    clients: Clients
    database: Database
    has_started: bool = False

    async def mark_started(self, is_needed: Callable[[Connection], Awaitable[bool]] | None = None) -> bool:
        async with self.database.transaction() as connection:
            await table.lock_subject(connection, self.subject)
            if is_needed is not None and not await is_needed(connection):
                return False
            await table.mark_started(connection, self.action_id)
        self.has_started = True
        failpoint("action_started")
        return True


def read_request(kind: AnyKind, claimed: ClaimedAction, encryptor: MultiFernet | None) -> Any:
    """The request of an action, as its kind defines it.

    Raises:
        UnreadableRequest
    """
    try:
        body = decrypted(claimed.request, encryptor) if claimed.is_encrypted else claimed.request
        return kind.request.model_validate_json(body)
    except NoUsableKey as error:
        raise UnreadableRequest(str(error)) from error
    except ValidationError as error:
        fields = "; ".join(broken.path for broken in broken_rules(error))
        raise UnreadableRequest(f"the request cannot be read: {fields}") from None


async def perform(kind: AnyKind, attempt: Attempt) -> Outcome:
    """Call the marketplace once.

    Raises:
        DatabaseUnavailable, TransactionConflict, StartedElsewhere: Before the action began; try again.
    """
    try:
        async with asyncio.timeout(ATTEMPT_SECONDS):
            outcome: Outcome = await kind.perform(attempt)
    except (DatabaseUnavailable, TransactionConflict, StartedElsewhere) as error:
        if attempt.has_started:
            return outcome_of(error, has_started=True)
        raise
    except Exception as error:
        outcome = outcome_of(error, has_started=attempt.has_started)
    failpoint("action_performed")
    return outcome
