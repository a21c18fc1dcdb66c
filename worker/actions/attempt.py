"""One attempt at an action: read its request, call the marketplace, judge the result."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from cryptography.fernet import MultiFernet
from pydantic import ValidationError

from consumers.family import Connection
from worker.actions.types import AnyKind, Outcome, outcome_of
from worker.intake.encryption import CannotDecrypt, decrypted
from worker.marketplaces.clients import Clients
from worker.observability.failpoints import failpoint
from worker.outbox import actions as table
from worker.outbox.actions import BegunElsewhere, Taken
from worker.postgres.pool import Database, DatabaseUnavailable, TransactionConflict

# Far above what an attempt takes: every call has a deadline of its own, and is repeated a few times at most.
ATTEMPT_SECONDS = 300.0


class UnreadableRequest(Exception):
    """A request cannot be decrypted, or breaks its schema. The text names fields, and no value."""


@dataclass(slots=True)
class Attempt:
    """What the `perform` of a kind receives; see `worker.actions.types.Attempt`."""

    action_id: UUID
    subject: str
    request: Any
    clients: Clients
    database: Database
    has_begun: bool = False

    async def begin(self, is_needed: Callable[[Connection], Awaitable[bool]] | None = None) -> bool:
        async with self.database.transaction() as connection:
            await table.lock_subject(connection, self.subject)
            if is_needed is not None and not await is_needed(connection):
                return False
            await table.begin(connection, self.action_id)
        self.has_begun = True
        failpoint("action_begun")
        return True


def read_request(kind: AnyKind, taken: Taken, encryptor: MultiFernet | None) -> Any:
    """The request of an action, as its kind defines it.

    Raises:
        UnreadableRequest
    """
    try:
        body = decrypted(taken.request, encryptor) if taken.is_encrypted else taken.request
        return kind.request.model_validate_json(body)
    except CannotDecrypt as error:
        raise UnreadableRequest(str(error)) from error
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        fields = "; ".join(".".join(map(str, each["loc"])) for each in errors)
        raise UnreadableRequest(f"its request is unreadable: {fields}") from None


async def perform(kind: AnyKind, attempt: Attempt) -> Outcome:
    """Call the marketplace once.

    Raises:
        DatabaseUnavailable, TransactionConflict, BegunElsewhere: Before the action began; try again.
    """
    try:
        async with asyncio.timeout(ATTEMPT_SECONDS):
            outcome: Outcome = await kind.perform(attempt)
    except (DatabaseUnavailable, TransactionConflict, BegunElsewhere) as error:
        if attempt.has_begun:
            return outcome_of(error, has_begun=True)
        raise
    except Exception as error:
        outcome = outcome_of(error, has_begun=attempt.has_begun)
    failpoint("action_performed")
    return outcome
