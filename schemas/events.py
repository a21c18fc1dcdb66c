"""From the bytes of a body to a typed event, and the names by which events are routed."""

from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypeVar, get_args

import jiter
from pydantic import BaseModel, TypeAdapter, ValidationError

from schemas import buyback, ovoko
from schemas.tolerance import validated


class Provider(StrEnum):
    OVOKO = "ovoko"
    BUYBACK = "buyback"


Payload = ovoko.OvokoEvent | buyback.BuybackEvent

M = TypeVar("M", bound=BaseModel)

# Far more than any id, amount or timestamp has, and few enough to convert a number at once:
# int(Decimal("1e999999999")) does not end.
MOST_DIGITS = 100
_TOO_LARGE: int = 10**MOST_DIGITS

_DISCRIMINATORS = {Provider.OVOKO: "event_type", Provider.BUYBACK: "type"}
_UNIONS = {Provider.OVOKO: ovoko.Event, Provider.BUYBACK: buyback.Event}

# What we saw in a marketplace's lists: published by ourselves, and refused where a webhook says it.
OBSERVATIONS = get_args(ovoko.Observation)
_ADAPTERS: dict[Provider, TypeAdapter[Payload]] = {
    Provider.OVOKO: TypeAdapter(ovoko.Event),
    Provider.BUYBACK: TypeAdapter(buyback.Event),
}


class InvalidEvent(Exception):
    """The body is no JSON or breaks its schema. Its text names fields and rules, never a value."""


def event_models(provider: Provider) -> dict[str, type[BaseModel]]:
    """Each event type about a provider's things, with its model: what it sends, and what we saw there."""
    union, _ = get_args(_UNIONS[provider])
    discriminator = _DISCRIMINATORS[provider]
    return {get_args(model.model_fields[discriminator].annotation)[0]: model for model in get_args(union)}


def webhook_models(provider: Provider) -> dict[str, type[BaseModel]]:
    """Each documented event type of a provider, as spelled on the wire, with its model."""
    return {name: model for name, model in event_models(provider).items() if model not in OBSERVATIONS}


# As spelled on the wire. The whole prefix is reserved: no marketplace has a type that begins with it.
RESERVED_PREFIX = "stockhook."
OBSERVED_TYPES = frozenset(event_models(Provider.OVOKO).keys() - webhook_models(Provider.OVOKO).keys())


def routing_key(provider: Provider, event_type: str) -> str:
    """`<provider>.<event type>`: the routing key of an event, and its type on the queue."""
    return f"{provider}.{event_type}"


def routing_key_of(model: type[BaseModel]) -> str:
    """The routing key of the one event type that this model describes."""
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
    pending = [document]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list):
            pending += value
        elif _is_too_long(value):
            raise ValueError("a number with too many digits")
    return document


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


def unwrapped(document: Any) -> Any:
    """Ovoko sends events flat, and wrapped as `{"event": {…}}`."""
    match document:
        case {"event": dict() as event} if "event_type" not in document:
            return event
        case _:
            return document


def parse(provider: Provider, body: bytes) -> Payload:
    """Read an event from the bytes that were received. An odd optional field counts as absent.

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
    try:
        document = read(body)
    except ValueError:
        raise InvalidEvent("body: not JSON") from None
    try:
        # The first step of an error's place is the event type that the union was narrowed to.
        payload, odd = validated(_ADAPTERS[provider].validate_python, unwrapped(document), tag_length=1)
    except ValidationError as error:
        raise InvalidEvent(_broken_rules(error)) from None
    payload.note_odd_fields(odd)
    return payload


def _broken_rules(error: ValidationError) -> str:
    # pydantic's own messages can quote the input: only the place and the name of the rule are safe.
    # The first step of each place is the event type that the union was narrowed to.
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        f"{'.'.join(str(step) for step in detail['loc'][1:]) or 'event'}: {detail['type']}"
        for detail in details[:20]
    )
