"""What can be reconciled: how its list, its single entities and our rows are read."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Generic, Protocol, TypeVar

from schemas.ovoko_api import MOST_PARTS_ON_A_PAGE, ListedPart, OrderReturn
from worker.database import Database
from worker.ovoko_api.client import OvokoApi
from worker.reconcile.difference import (
    Difference,
    OurPart,
    OurReturn,
    compare_part,
    compare_return,
)

OUR_PARTS = """
SELECT part_id, status, occurred_at
FROM parts
WHERE part_id = ANY($1::text[])
"""

NEXT_PARTS = """
SELECT part_id
FROM parts
WHERE part_id > $1 AND ($2::timestamptz IS NULL OR occurred_at >= $2)
ORDER BY part_id
LIMIT $3
"""

OUR_RETURNS = """
SELECT return_id, order_id, opened_at, updated_at
FROM returns
WHERE return_id = ANY($1::text[])
"""

NEXT_RETURNS = """
SELECT return_id
FROM returns
WHERE return_id > $1 AND ($2::timestamptz IS NULL OR greatest(opened_at, updated_at) >= $2)
ORDER BY return_id
LIMIT $3
"""

Here = TypeVar("Here")
There = TypeVar("There")


@dataclass(frozen=True, slots=True)
class Page(Generic[There]):
    """Entities by their id, and how many the marketplace counts in all, where it says so."""

    entities: dict[str, There]
    total_count: int | None


class Subject(Protocol[Here, There]):
    """One kind of entity, at the marketplace and in our tables."""

    async def page(self, number: int, since: datetime | None) -> Page[There]: ...

    async def one(self, entity_id: str) -> There | None: ...

    async def ours(self, entity_ids: list[str]) -> dict[str, Here]: ...

    async def our_ids(self, after: str, since: datetime | None, most: int) -> list[str]: ...

    def compare(self, here: Here | None, there: There | None) -> Difference | None: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """Ovoko's parts, and the table `parts`."""

    api: OvokoApi
    database: Database

    async def page(self, number: int, since: datetime | None) -> Page[ListedPart]:
        found = await self.api.parts(number, limit=MOST_PARTS_ON_A_PAGE, date_from=_day_before(since))
        return Page({part.part_id: part for part in found.parts}, found.total_count)

    async def one(self, entity_id: str) -> ListedPart | None:
        return await self.api.part(entity_id)

    async def ours(self, entity_ids: list[str]) -> dict[str, OurPart]:
        async with self.database.connection() as connection:
            rows = await connection.fetch(OUR_PARTS, entity_ids)
        return {row["part_id"]: OurPart(**row) for row in rows}

    async def our_ids(self, after: str, since: datetime | None, most: int) -> list[str]:
        async with self.database.connection() as connection:
            return [row["part_id"] for row in await connection.fetch(NEXT_PARTS, after, since, most)]

    def compare(self, here: OurPart | None, there: ListedPart | None) -> Difference | None:
        return compare_part(here, there)


@dataclass(frozen=True, slots=True)
class Returns:
    """Ovoko's returns, and the table `returns`."""

    api: OvokoApi
    database: Database

    async def page(self, number: int, since: datetime | None) -> Page[OrderReturn]:
        found = await self.api.order_returns(number, created_from=_day_before(since))
        return Page({each.return_id: each for each in found}, None)

    async def one(self, entity_id: str) -> OrderReturn | None:
        told = await self.api.order_return(entity_id)
        return None if told is None else told.row

    async def ours(self, entity_ids: list[str]) -> dict[str, OurReturn]:
        async with self.database.connection() as connection:
            rows = await connection.fetch(OUR_RETURNS, entity_ids)
        return {row["return_id"]: OurReturn(**row) for row in rows}

    async def our_ids(self, after: str, since: datetime | None, most: int) -> list[str]:
        async with self.database.connection() as connection:
            return [row["return_id"] for row in await connection.fetch(NEXT_RETURNS, after, since, most)]

    def compare(self, here: OurReturn | None, there: OrderReturn | None) -> Difference | None:
        return compare_return(here, there)


def _day_before(since: datetime | None) -> date | None:
    """The list is asked for by day, and whose midnight counts is not documented."""
    return None if since is None else (since - timedelta(days=1)).date()
