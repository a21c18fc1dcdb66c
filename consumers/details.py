"""Details of an entity from a marketplace's API: the newest answer wins."""

from dataclasses import Field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, ClassVar, Protocol, TypeVar

import orjson


class Details(Protocol):
    """A frozen dataclass. `enriched_at` is when the request was sent: the answer is at least as new."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def enriched_at(self) -> datetime: ...


class SaveResult(StrEnum):
    SAVED = "saved"
    KNOWN = "equal or newer details are stored"
    NO_ROW = "no such row"


D = TypeVar("D", bound=Details)


def newest(stored: D | None, answer: D) -> D:
    """The newer of two answers. The result depends neither on their order nor on repeats.

    At the same instant the one that sorts later as text wins.
    """
    return answer if stored is None else max(stored, answer, key=_order_key)


def _order_key(details: Details) -> tuple[datetime, bytes]:
    return details.enriched_at, orjson.dumps(details, default=_decimal_text)


def _decimal_text(value: object) -> str:
    assert isinstance(value, Decimal), "orjson encodes the other types itself"
    return format(value, "f")
