"""The documented events as the ingest publishes them, and the changes that they cause."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import UUID

from cryptography.fernet import Fernet, MultiFernet

from consumers.effects import communication_change, state_changes
from consumers.family import Event
from consumers.registry import FAMILIES, FAMILY_OF
from schemas.changes import TYPES, Change, Published, State, cloud_events, encode
from schemas.envelope import Envelope
from schemas.events import parse, routing_key
from schemas.examples import documented
from worker.amqp.channel import Message
from worker.intake.intake import Accepted, accept, accept_observed
from worker.tools.reconcile.observations import observed_examples

RECEIVED_AT = datetime(2026, 1, 1, tzinfo=UTC)
_BATCH_ID = UUID("00000000-0000-4000-8000-000000000001")
_SEQUENCE = 42

# A ciphertext differs each time.
_CIPHERTEXT = "gAAAAA…"
_FERNET_PREFIX = "gAAAAA"


@cache
def event_messages() -> tuple[Message, ...]:
    """A message for each documented event, as the ingest publishes it, and for each kind of observation."""
    return tuple(_event_messages())


def _event_messages() -> Iterator[Message]:
    encryptor = MultiFernet([Fernet(Fernet.generate_key())])
    for example in documented():
        accepted = accept(example.provider, example.body, RECEIVED_AT, encryptor=encryptor, is_authentic=True)
        assert isinstance(accepted, Accepted)
        yield accepted.message
    for provider, body in observed_examples(RECEIVED_AT):
        yield accept_observed(provider, body, RECEIVED_AT).message


def payload_of(message: Message) -> Any:
    """The body, with the same text in place of each ciphertext."""
    return _without_ciphertexts(json.loads(message.body))


def _without_ciphertexts(value: Any) -> Any:
    match value:
        case dict():
            return {name: _without_ciphertexts(member) for name, member in value.items()}
        case list():
            return [_without_ciphertexts(element) for element in value]
        case str() if value.startswith(_FERNET_PREFIX):
            return _CIPHERTEXT
        case _:
            return value


@cache
def change_examples() -> dict[str, Published]:
    """An example of each type in the change feed, by its name without the prefix.

    Those that a documented event causes are what Stockhook publishes for it. In the others, only the word
    in which the types differ is another one.
    """
    caused: dict[str, Change] = {}
    for change in _caused():
        caused.setdefault(change.type, change)
    examples = {}
    for state, types in TYPES.items():
        known = [change for change in caused.values() if isinstance(change.after, state)]
        if not known:
            raise LookupError(f"no documented event leads to a {state.__name__}: add an example of one")
        for name in types:
            change = caused.get(name) or _as_type(known[-1], name)
            (examples[name],) = cloud_events(_BATCH_ID, _SEQUENCE, encode([change]))
    return examples


def _caused() -> Iterator[Change]:
    """The changes of all documented events, in the order in which they happened."""
    by_family: dict[str, list[Event[Any]]] = {}
    for message in event_messages():
        envelope = Envelope.from_headers(message.headers)
        payload = parse(envelope.provider, message.body)
        event = Event(envelope.event_id, envelope.received_at, payload, envelope.content_id)
        by_family.setdefault(FAMILY_OF[routing_key(envelope.provider, envelope.event_type)], []).append(event)
    for name, events in by_family.items():
        yield from _changes(name, sorted(events, key=FAMILIES[name].order_key))


def _changes(name: str, events: Iterable[Event[Any]]) -> Iterator[Change]:
    family = FAMILIES[name]
    states: dict[Any, Any] = {}
    for event in events:
        key = family.key(event.payload)
        before = states.get(key)
        decision = family.decide(before, event)
        states[key] = decision.state
        if decision.state != before:
            yield from state_changes(family, event, before, decision.state)
        yield from map(communication_change, decision.communications)


def _as_type(change: Change, name: str) -> Change:
    word = name.rpartition(".")[2]
    after: Any = change.after
    names = {field.name for field in fields(after)}
    changed: State = after
    for field in names & {"status", "kind"}:
        changed = replace(after, **{field: word}) if word != "updated" else after
    is_communication = name.startswith("communication.")
    return replace(change, type=name, before=None if is_communication else after, after=changed)
