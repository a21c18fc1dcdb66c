"""The catalogue of events, from the schemas, the families, and their effects on the documented examples."""

import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from inspect import getdoc
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from cryptography.fernet import Fernet, MultiFernet
from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo

from consumers.family import Event
from consumers.registry import FAMILIES, FAMILY_OF, AnyFamily
from consumers.returns.decide import Return
from schemas import buyback, fields
from schemas.event_schema import Payload
from schemas.events import event_models, parse, routing_key
from schemas.examples import documented
from schemas.registry import Provider
from worker.intake.intake import body_to_store
from worker.tools.reconcile.ovoko import OurPart, part_observed, return_observed

_TEXT = "text"
_KEY = "text of 1 to 200 characters"
_ID = "id: text of 1 to 200 characters, or a number"
_INSTANT = "instant (RFC 3339), 1970 to 9999; UTC where it has no offset"
_MONEY = "number of at most 24 digits, 8 of them decimals"
_DESCRIPTIONS: tuple[tuple[object, str], ...] = (
    (fields.Text, _TEXT),
    (fields.Key, _KEY),
    (fields.Id, _ID),
    (fields.OptionalId, f"{_ID}, or null"),
    (fields.Instant, _INSTANT),
    (fields.Money, _MONEY),
    (fields.Days, "integer from 0 to 32767"),
    (bool, "boolean"),
    (fields.NullableKey, f"{_KEY}; the word `None` is null"),
)
# A table, and the number of the first array of its rows.
_WRITTEN = re.compile(r"INSERT INTO ([a-z_]+).*?unnest\(\$(\d+)", re.DOTALL)
_ENCRYPTOR = MultiFernet([Fernet(Fernet.generate_key())])
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_OBSERVED = [
    parse(Provider.OVOKO, body)
    for body in (
        part_observed(OurPart("13", "sold", _NOW), None, _NOW),
        return_observed(Return("7", "70"), None, _NOW),
    )
]


def events_reference() -> str:
    """A section for each event type, by marketplace."""
    return "\n".join(_provider(provider) for provider in Provider)


def _provider(provider: Provider) -> str:
    models = event_models(provider).items()
    return f"## {provider}\n" + "".join(_event(provider, name, model) for name, model in models)


def _event(provider: Provider, event_type: str, model: type[BaseModel]) -> str:
    key = routing_key(provider, event_type)
    family = FAMILIES[FAMILY_OF[key]]
    examples = list(_examples(provider, event_type))
    effects = [_effects(family, payload) for payload in examples]
    tables = sorted({table for written, _ in effects for table in written})
    communications = sorted({kind for _, kinds in effects for kind in kinds})
    rule = (getdoc(family.decide) or "").partition("\n")[0]
    lines = [
        f"\n### `{event_type}`\n",
        f"{getdoc(model)}\n",
        f"- Routing key `{key}`, family `{family.name}`, queue `stockhook.{family.name}`",
        f"- Writes {', '.join(f'`{table}`' for table in tables)}. {rule}",
    ]
    if issubclass(model, buyback.BuybackEvent):
        lines.append("- Names its order by `result.order.id` or by `result.collectionId`")
    if communications:
        lines.append(f"- Calls for a communication: {', '.join(f'`{kind}`' for kind in communications)}")
    actions = {
        action.kind for payload in examples for action in family.required_actions(None, _claimed(payload))
    }
    if actions:
        listed = ", ".join(f"`{kind}`" for kind in sorted(actions))
        lines.append(f"- Calls for an action, where the settings say so: {listed}")
    lines += ["", "| field | required | what it is |", "| --- | --- | --- |"]
    lines += [f"| `{path}` | {needed} | {words} |" for path, needed, words in _fields(model)]
    return "\n".join(lines) + "\n"


def _examples(provider: Provider, event_type: str) -> Iterator[Payload]:
    """The documented or observed payloads of a type; of a reminder with a day count, each that matters."""
    for payload in _OBSERVED:
        if isinstance(payload, event_models(provider)[event_type]):
            yield payload
    for example in documented():
        if (example.provider, example.event_type) == (provider, event_type):
            payload = parse(provider, body_to_store(provider, example.body, _ENCRYPTOR))
            yield payload
            result: Any = getattr(payload, "result", None)
            for days in (0, 7) if hasattr(result, "days_after_creation") else ():
                changed = result.model_copy(update={"days_after_creation": days})
                yield payload.model_copy(update={"result": changed})


def _effects(family: AnyFamily, payload: Payload) -> tuple[list[str], list[str]]:
    """The tables that it writes and the communications that it requires, as the first event of its entity."""
    decision = family.decide(None, _claimed(payload))
    written = _Recorder()

    async def save() -> None:
        await family.save(written, [decision.state])

    asyncio.run(save())
    kinds = [str(communication.kind) for communication in decision.communications]
    return [*written.tables, *(["communications"] if kinds else [])], kinds


def _claimed(payload: Payload) -> Event[Payload]:
    return Event(UUID(int=1), _NOW, payload)


class _Recorder:
    """A connection that records which tables are written; each write affects all its rows."""

    def __init__(self) -> None:
        self.tables: list[str] = []

    async def fetch(self, query: str, *args: object) -> list[Any]:
        raise AssertionError("saving reads nothing")

    async def execute(self, query: str, *args: object) -> str:
        written = [table for table, first in _WRITTEN.findall(query) if args[int(first) - 1]]
        assert written, query
        self.tables += written
        rows = args[0]
        assert isinstance(rows, list)
        return f"INSERT 0 {len(rows)}"


def _fields(model: type[BaseModel], before: str = "", needed: str = "yes") -> Iterator[tuple[str, str, str]]:
    """Path, whether it is required, and type with rules, for every leaf field."""
    hints = get_type_hints(model, include_extras=True)
    for name, field in model.model_fields.items():
        names = _names(name, field)
        path = f"{before}{names[0]}"
        also = "".join(f", or named `{alias}`" for alias in names[1:])
        yield from _leaves(hints[name], path, needed if field.is_required() else "", also)


def _leaves(hint: Any, path: str, needed: str, also: str) -> Iterator[tuple[str, str, str]]:
    hint, nullable = _without_null(hint)
    suffix = also + (", or null" if nullable else "")
    description = next((text for known, text in _DESCRIPTIONS if known == hint), None)
    if description is not None:
        yield path, needed, description + suffix
    elif get_origin(hint) is Literal:
        yield path, needed, " or ".join(f"`{value}`" for value in get_args(hint)) + suffix
    elif get_origin(hint) is tuple:
        yield from _leaves(get_args(hint)[0], f"{path}[]", "", also)
    elif get_origin(hint) is Annotated:
        yield from _leaves(get_args(hint)[0], path, needed, also)
    elif isinstance(hint, type) and issubclass(hint, BaseModel):
        if needed:
            yield path, needed, "object"
        yield from _fields(hint, f"{path}.", needed or "in its object")
    else:
        raise TypeError(f"{path}: no description for {hint}")


def _without_null(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) not in (Union, UnionType):
        return hint, False
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    if len(kinds) != 1:
        raise TypeError(f"no description for {hint}")
    return kinds[0], True


def _names(name: str, field: FieldInfo) -> list[str]:
    """The names of the field in a payload."""
    match field.validation_alias or field.alias or name:
        case AliasChoices(choices=choices):
            return [str(choice) for choice in choices]
        case alias:
            return [str(alias)]
