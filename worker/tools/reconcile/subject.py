"""What a reconciliation compares: how lists, single entities and our rows are read."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from schemas.registry import Provider
from worker.marketplaces.http import FetchedRow
from worker.tools.reconcile.difference import Difference

Here = TypeVar("Here")
There = TypeVar("There")


@dataclass(frozen=True, slots=True)
class Page(Generic[There]):
    """Entities by their id, and the total number, if the marketplace states it.

    `unreadable` are the reasons why other rows could not be read; `unreadable_fields` counts rows by field.
    """

    entities: dict[str, There]
    total_count: int | None
    unreadable: tuple[str, ...]
    unreadable_fields: Counter[str]


@dataclass(frozen=True, slots=True)
class Subject(Generic[Here, There]):
    """One kind of entity, at the `marketplace` and in our tables.

    `our_ids` returns the next ids, in their order, of rows that the marketplace should list. `observed`
    returns the body of the event for what was seen of an entity at the time of the request.
    """

    marketplace: Provider
    page: Callable[[int, datetime | None], Awaitable[Page[There]]]
    one: Callable[[str], Awaitable[FetchedRow[There]]]
    ours: Callable[[list[str]], Awaitable[dict[str, Here]]]
    our_ids: Callable[[str, datetime | None, int], Awaitable[list[str]]]
    compare: Callable[[Here | None, There | None], Difference | None]
    observed: Callable[[Here | None, There | None, datetime], bytes]
