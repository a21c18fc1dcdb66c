"""What a replay would do against today's rows. Nothing is written or sent."""

from datetime import timedelta

from cryptography.fernet import MultiFernet

from consumers.family import Event
from consumers.registry import FAMILIES
from schemas.clock import TOLERANCE
from schemas.envelope import UNHANDLED
from worker.amqp.tap import Delivery
from worker.dead_letters.message import is_of_webhook
from worker.dead_letters.replay_message import UNHANDLED_ORIGIN, Ready, Unready, prepare
from worker.dead_letters.store import StoredLetter
from worker.observability.errors import safe_summary
from worker.pipeline.decode import InvalidDelivery, decode
from worker.postgres.event_log import logged
from worker.postgres.pool import Database


async def dry_run(database: Database, ready: Ready, tolerance: timedelta = TOLERANCE) -> str:
    """What a replay would do against today's rows, as text. Nothing is written."""
    if is_of_webhook(ready.origin):
        return "posted again"
    if ready.origin == UNHANDLED_ORIGIN:
        return f"{UNHANDLED}: moved to the unhandled events"
    family = FAMILIES[ready.origin]
    message = ready.message
    decoded = decode(family, Delivery(0, message.type, message.headers, message.body, redelivered=False))
    if isinstance(decoded, InvalidDelivery):
        return f"invalid: {decoded.reason}"
    candidate = decoded.candidate
    envelope = candidate.envelope
    event = Event(envelope.event_id, envelope.received_at, candidate.payload, tolerance=tolerance)
    async with database.connection() as connection:
        if await logged(connection, [(envelope.event_id, envelope.content_id)]):
            return "duplicate: it was applied already"
        try:
            states = await family.load(connection, [event], lock=False)
            before = states.get(family.key(event.payload))
            decision = family.decide(before, event)
        except Exception as error:
            return f"fails again: {safe_summary(error)}"
    return "older: it would be logged and change no row" if decision.state == before else "applied"


async def outcome_of(
    database: Database, letter: StoredLetter, encryptor: MultiFernet | None, tolerance: timedelta
) -> str:
    """What a replay of a letter would do against today's rows, as text. Nothing is sent."""
    match prepare(letter, encryptor):
        case Ready() as ready:
            return await dry_run(database, ready, tolerance)
        case Unready(reason):
            return f"cannot be replayed: {reason}"
