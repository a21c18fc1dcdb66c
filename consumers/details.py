"""What a marketplace tells about an entity when it is asked: its newest answer wins."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Protocol, TypeVar

import orjson


class Details(Protocol):
    """A frozen dataclass. `enriched_at` is when the question was sent: what it tells is no older."""

    @property
    def enriched_at(self) -> datetime: ...


class Kept(StrEnum):
    """What became of an answer."""

    SAVED = "saved"
    KNOWN = "as new or newer is known"
    NO_ROW = "no such row"


D = TypeVar("D", bound=Details)


def newest(known: D | None, told: D) -> D:
    """A join: of any answers, in any order and however often, the same one is left.

    At the same instant the one that sorts later as text stands, so that the order makes no difference.
    """
    return told if known is None else max(known, told, key=_place)


def _place(details: Details) -> tuple[datetime, bytes]:
    return details.enriched_at, orjson.dumps(details, default=_written_out)


def _written_out(value: object) -> str:
    assert isinstance(value, Decimal), "the rest orjson knows"
    return format(value, "f")
