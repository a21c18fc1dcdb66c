"""The body of a dead letter as a person reads it: without customer data, or revealed. Pure."""

from cryptography.fernet import MultiFernet

from schemas.events import read_json
from schemas.registry import Provider
from worker.dead_letters import edit as editing
from worker.dead_letters.json_repair import Repair, fault, repair
from worker.dead_letters.message import is_of_webhook
from worker.dead_letters.redaction import CHANGE, masked, pretty, shape_of
from worker.dead_letters.store import StoredLetter
from worker.intake.encryption import NoUsableKey
from worker.marketplaces.shape import Shape


def shown_body(
    letter: StoredLetter, encryptor: MultiFernet | None, *, reveal: bool
) -> tuple[str, Repair | None]:
    """The body as text, and the repair that makes it JSON."""
    try:
        body = editing.readable(letter, encryptor)
    except NoUsableKey as error:
        return f"<{len(letter.body)} bytes, encrypted: {error}>", None
    proposal = repair(body)
    text = _revealed(body, proposal) if reveal else _masked(letter, body, proposal)
    return text, proposal


def _revealed(body: bytes, proposal: Repair | None) -> str:
    text = body.decode(errors="backslashreplace")
    try:
        return pretty(read_json(body)) if proposal is None else text
    except ValueError:
        return text


def _masked(letter: StoredLetter, body: bytes, proposal: Repair | None) -> str:
    try:
        shown = masked(body if proposal is None else proposal.body, _shape(letter))
    except ValueError:
        return f"<{len(body)} bytes, no JSON: {fault(body)}>"
    return f"(with the proposed repair)\n{shown}" if proposal else shown


def _shape(letter: StoredLetter) -> Shape:
    if is_of_webhook(letter.origin):
        return CHANGE
    return shape_of(None if letter.provider is None else Provider(letter.provider))
