"""The body of a dead letter as a person reads and changes it, and as it is stored again. Pure."""

import re
from collections import Counter
from dataclasses import dataclass

from cryptography.fernet import MultiFernet

from schemas.envelope import Envelope
from schemas.events import InvalidEvent, parse
from schemas.registry import Provider
from worker.dead_letters.message import QUARANTINE_ORIGIN, entity_in
from worker.dead_letters.store import StoredLetter, provenance_of
from worker.intake.encryption import NoUsableKey, decrypted, is_encrypted_whole
from worker.intake.intake import accept_again, body_to_store
from worker.marketplaces.registry import MARKETPLACES


@dataclass(frozen=True, slots=True)
class Fits:
    """A body as it is stored: without its token, and with its private members encrypted."""

    body: bytes
    type: str
    entity_id: str | None


@dataclass(frozen=True, slots=True)
class Broken:
    """`reason` names fields and rules, never a value."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotAText:
    """A body that no form can carry unchanged. `reason` quotes nothing from it."""

    reason: str


def readable(letter: StoredLetter, encryptor: MultiFernet | None) -> bytes:
    """The body as it was received, except for token and private members; decrypted if it is encrypted whole.

    Raises:
        NoUsableKey
    """
    has_private_data = letter.provider is not None and MARKETPLACES[Provider(letter.provider)].private
    if has_private_data and is_encrypted_whole(letter.body):
        return decrypted(letter.body, encryptor)
    return letter.body


# What a text field of a form changes on its way: a browser replaces these.
_LINE_END = re.compile(r"\r\n|\r|\n")


def form_text(body: bytes) -> str | NotAText:
    """A body as the content of a text field; `from_form` reads it again."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        return NotAText(f"byte {error.start} is no UTF-8")
    if "\0" in text:
        return NotAText("it holds a NUL character")
    return _LINE_END.sub("\n", text)


def from_form(text: str, body: bytes) -> bytes:
    """What a person made of a body in a text field. A body that was not edited keeps its bytes.

    A browser sends each line end as CR LF, whatever it was: an edited body gets the usual one of the body.
    """
    edited = _LINE_END.sub("\n", text)
    if edited == form_text(body):
        return body
    stored = body.decode(errors="replace")
    line_ends = Counter(_LINE_END.findall(stored))
    usual = line_ends.most_common(1)[0][0] if line_ends else "\n"
    return edited.replace("\n", usual).encode(errors="surrogatepass")


def checked(letter: StoredLetter, body: bytes, encryptor: MultiFernet | None) -> Fits | Broken:
    if letter.provider is None:
        return Broken("its headers do not say which marketplace it is from")
    provider = Provider(letter.provider)
    try:
        stored_body = body_to_store(provider, body, encryptor)
        again = accept_again(provider, stored_body, letter.arrived_at, encryptor, provenance_of(letter))
        if again.family is None:
            return Broken(again.reason or "no family handles it")
        if letter.origin not in (again.family, QUARANTINE_ORIGIN):
            return Broken(f"it would be of the family {again.family}")
        parse(provider, stored_body)
    except (InvalidEvent, NoUsableKey) as error:
        return Broken(str(error))
    except ValueError:
        return Broken("body: not JSON")
    envelope = Envelope.from_headers(again.message.headers)
    return Fits(stored_body, envelope.event_type, entity_in(provider, stored_body))
