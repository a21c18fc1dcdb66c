"""JSON schemas of the states in the change feed, from their dataclasses."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, get_args, get_type_hints

from worker.tools.asyncapi.document import Json, object_schema, schema_ref

_SCALARS: Mapping[type, Callable[[], Json]] = {
    str: lambda: {"type": "string"},
    int: lambda: {"type": "integer"},
    bool: lambda: {"type": "boolean"},
    datetime: lambda: {"type": "string", "format": "date-time"},
    Decimal: lambda: {
        "type": "string",
        "pattern": r"^-?[0-9]+(\.[0-9]+)?(E[+-]?[0-9]+)?$",
        "description": "A decimal number",
    },
}


def state_schemas(state: type[Any]) -> dict[str, Json]:
    """The schemas of a state and of the dataclasses in it, by name."""
    schemas: dict[str, Json] = {}
    _add(state, schemas)
    return schemas


def _add(state: type[Any], schemas: dict[str, Json]) -> None:
    hints = get_type_hints(state)
    members = {field.name: _schema(hints[field.name], schemas) for field in fields(state)}
    schemas[state.__name__] = object_schema(members, members, **_description(state))


def _description(state: type[Any]) -> Json:
    """The docstring, unless it is the one that a dataclass has by default."""
    text = state.__doc__ or ""
    return {} if text.startswith(f"{state.__name__}(") else {"description": " ".join(text.split())}


def _schema(hint: Any, schemas: dict[str, Json]) -> Json:
    if hint in _SCALARS:
        return _SCALARS[hint]()
    inner = get_args(hint)
    if type(None) in inner:
        (known,) = (each for each in inner if each is not type(None))
        return {"oneOf": [_schema(known, schemas), {"type": "null"}]}
    if len(inner) == 2 and inner[1] is Ellipsis and is_dataclass(inner[0]):
        assert isinstance(inner[0], type)
        _add(inner[0], schemas)
        return {"type": "array", "items": schema_ref(inner[0].__name__)}
    raise TypeError(f"no schema for {hint}")
