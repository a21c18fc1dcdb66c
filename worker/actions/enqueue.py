"""Enqueues an action that a person requests."""

from dataclasses import dataclass
from uuid import UUID, uuid4

from schemas.actions import ActionRequest
from worker.actions.registry import KINDS
from worker.config.settings import PREFIX, BadSettings, Settings
from worker.observability.errors import StockhookError
from worker.outbox import actions as table
from worker.postgres.pool import Database


class KeyTaken(StockhookError):
    """Another action has this key. The text names it."""


@dataclass(frozen=True, slots=True)
class Enqueued:
    """`is_new` is False if the action was requested before, with the same key."""

    action_id: UUID
    key: str
    state: str
    is_new: bool


async def enqueue(
    settings: Settings, database: Database, kind: str, subject: str, request: ActionRequest, key: str | None
) -> Enqueued:
    """Write an action to the table; a private request is encrypted. Without a key, a random one is used.

    Raises:
        BadSettings: The request is private, and no encryption key is set.
        KeyTaken
        DatabaseUnavailable
    """
    key = key or f"{kind}:{uuid4()}"
    body = request.model_dump_json().encode()
    is_private = KINDS[kind].is_private
    if is_private:
        body = _encrypted(settings, body)
    async with database.transaction() as connection:
        action_id = await table.enqueue(connection, kind, key, subject, body, is_encrypted=is_private)
        if action_id is not None:
            return Enqueued(action_id, key, "due", is_new=True)
        existing = await table.get_by_key(connection, key)
    assert existing is not None, "no action is ever deleted"
    if (existing["kind"], existing["subject"]) != (kind, subject):
        raise KeyTaken(f"the key {key} is that of {existing['kind']} for {existing['subject']}")
    return Enqueued(existing["action_id"], key, existing["state"], is_new=False)


def _encrypted(settings: Settings, body: bytes) -> bytes:
    encryptor = settings.encryptor
    if encryptor is None:
        raise BadSettings(
            f"{PREFIX}SEALING_KEYS is not set: set it, because this request must be stored encrypted"
        )
    return encryptor.encrypt(body)
