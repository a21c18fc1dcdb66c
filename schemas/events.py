"""From the bytes of a body to a typed event, and the names by which events are routed."""

from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, TypeVar

import jiter
from pydantic import BaseModel, ValidationError

from schemas.event_schema import Payload
from schemas.registry import SCHEMAS, Provider
from schemas.tolerance import validated
from schemas.validation import rule_names

M = TypeVar("M", bound=BaseModel)

# Far more than any id, amount or timestamp has, and few enough to convert a number at once:
# int(Decimal("1e999999999")) does not end.
MOST_DIGITS = 100
_TOO_LARGE: int = 10**MOST_DIGITS

# An error names this many broken rules.
MOST_NAMED = 20

_MODELS = {
    provider: schema.by_type(schema.webhooks + schema.observations) for provider, schema in SCHEMAS.items()
}

# Observations of a marketplace's lists: we publish them, and refuse webhooks of these types.
OBSERVATIONS = tuple(model for schema in SCHEMAS.values() for model in schema.observations)

# As spelled on the wire. The whole prefix is reserved: no marketplace has a type that begins with it.
RESERVED_PREFIX = "stockhook."
OBSERVED_TYPES = frozenset(
    event_type for schema in SCHEMAS.values() for event_type in schema.by_type(schema.observations)
)


class InvalidEvent(Exception):
    """The body is no JSON or breaks its schema. Its text names fields and rules, never a value."""


def event_models(provider: Provider) -> dict[str, type[Payload]]:
    """The models of a provider's webhooks and of our observations there, by event type."""
    return _MODELS[provider]


def webhook_models(provider: Provider) -> dict[str, type[Payload]]:
    """Each documented event type of a provider, as spelled on the wire, with its model."""
    schema = SCHEMAS[provider]
    return schema.by_type(schema.webhooks)


def routing_key(provider: Provider, event_type: str) -> str:
    """`<provider>.<event type>`: the routing key of an event, and its type on the queue."""
    return f"{provider}.{event_type}"


def routing_key_of(model: type[Payload]) -> str:
    return next(
        routing_key(provider, event_type)
        for provider in Provider
        for event_type, candidate in event_models(provider).items()
        if candidate is model
    )


def read_json(body: bytes) -> Any:
    """Parse foreign JSON, exactly: integers as int, other numbers as Decimal.

    Raises:
        ValueError: No JSON (RFC 8259), a lone surrogate, over 200 levels deep, or a number that takes over
            100 digits to write out.
    """
    document = _read(body)
    _refuse_long_numbers(document)
    return document


def _refuse_long_numbers(document: object) -> None:
    pending: list[Iterable[Any]] = [(document,)]
    while pending:
        for value in pending.pop():
            kind = type(value)
            # Most values are text.
            if kind is str:
                continue
            if kind is dict:
                pending.append(value.values())
            elif kind is list:
                pending.append(value)
            elif _is_too_long(value):
                raise ValueError("a number with too many digits")


def _read(body: bytes) -> Any:
    return jiter.from_json(body, allow_inf_nan=False, float_mode="decimal")


def _is_too_long(value: object) -> bool:
    if isinstance(value, int):
        return abs(value) >= _TOO_LARGE
    if isinstance(value, Decimal):
        _, digits, exponent = value.as_tuple()
        assert isinstance(exponent, int), "it is neither infinite nor NaN"
        return len(digits) > MOST_DIGITS or abs(exponent) > MOST_DIGITS
    return False


def _with_long_numbers_as_text(value: Any) -> Any:
    """A text is never converted to a number of so many digits, and as an id it is what it was logged as."""
    if isinstance(value, dict):
        return {name: _with_long_numbers_as_text(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_with_long_numbers_as_text(element) for element in value]
    return str(value) if _is_too_long(value) else value


def read_model(model: type[M], body: bytes) -> M:
    """Validate foreign JSON in pydantic's JSON mode, in which a strict model takes strings for dates.

    Raises:
        ValidationError: Some member breaks a rule.
        ValueError: As read_json.
    """
    read_json(body)
    return model.model_validate_json(body)


def parse(provider: Provider, body: bytes) -> Payload:
    """Read an event from the bytes that were received. An unreadable optional field counts as absent.

    Raises:
        InvalidEvent: With every field that breaks a rule, and the rule.
    """
    return _parse(provider, body, read_json)


def parse_logged(provider: Provider, body: bytes) -> Payload:
    """Read an event from the log: an earlier release applied it, perhaps with a number of too many digits.

    Raises:
        InvalidEvent: As parse.
    """
    return _parse(provider, body, lambda logged: _with_long_numbers_as_text(_read(logged)))


def _parse(provider: Provider, body: bytes, read: Callable[[bytes], Any]) -> Payload:
    schema = SCHEMAS[provider]
    try:
        event = schema.unwrap(read(body))
    except ValueError:
        raise InvalidEvent("body: not JSON") from None
    event_type = event.get(schema.type_member) if isinstance(event, dict) else None
    model = _MODELS[provider].get(event_type) if isinstance(event_type, str) else None
    if model is None:
        raise InvalidEvent("event: unknown type")
    try:
        payload, unreadable = validated(model.model_validate, event)
    except ValidationError as error:
        raise InvalidEvent(rule_names(error, "event", MOST_NAMED)) from None
    payload.note_unreadable_fields(unreadable)
    return payload
