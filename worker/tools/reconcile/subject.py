"""What can be reconciled: how its list, its single entities and our rows are read."""

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
    """Entities by their id, and how many the marketplace counts in all, where it says so.

    `unreadable` says of each other row why it could not be read; `odd_fields` count rows, by the field.
    """

    entities: dict[str, There]
    total_count: int | None
    unreadable: tuple[str, ...]
    unreadable_fields: Counter[str]


@dataclass(frozen=True, slots=True)
class Subject(Generic[Here, There]):
    """One kind of entity, at the `marketplace` and in our tables.

    `our_ids` come in their order, after one of them: of the rows that the marketplace should list.
    `observed` is the body of the event that says what was seen of an entity when it was asked for.
    """

    marketplace: Provider
    page: Callable[[int, datetime | None], Awaitable[Page[There]]]
    one: Callable[[str], Awaitable[FetchedRow[There]]]
    ours: Callable[[list[str]], Awaitable[dict[str, Here]]]
    our_ids: Callable[[str, datetime | None, int], Awaitable[list[str]]]
    compare: Callable[[Here | None, There | None], Difference | None]
    observed: Callable[[Here | None, There | None, datetime], bytes]
