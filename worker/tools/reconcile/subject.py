"""What can be reconciled: how its list, its single entities and our rows are read."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from typing import Generic, TypeVar

from consumers.returns.decide import Return
from schemas.ovoko_api import MOST_PARTS_ON_A_PAGE, Entity, ListedPart, OrderReturn, Rows
from worker.marketplaces.ovoko.client import OvokoApi, Told
from worker.postgres.pool import Database
from worker.tools.reconcile.difference import (
    Difference,
    OurPart,
    compare_part,
    compare_return,
)
from worker.tools.reconcile.observation import part_observed, return_observed

OUR_PARTS = """
SELECT part_id, status, occurred_at,
    EXISTS (
        SELECT
        FROM findings
        WHERE family = 'inventory'
            AND entity_id = part_id
            AND kind = 'implausible_timestamp'
            AND findings.event_id = parts.event_id
    ) AS is_implausible
FROM parts
WHERE part_id = ANY($1::text[])
"""

# Those that the marketplace should list.
NEXT_PARTS = """
SELECT part_id
FROM parts
WHERE part_id > $1 AND ($2::timestamptz IS NULL OR occurred_at >= $2)
    AND status NOT IN ('written_off', 'not_listed')
ORDER BY part_id
LIMIT $3
"""

OUR_RETURNS = """
SELECT return_id, order_id, opened_at, updated_at, seen_at, gone_at
FROM returns
WHERE return_id = ANY($1::text[])
"""

NEXT_RETURNS = """
SELECT return_id
FROM returns
WHERE return_id > $1 AND ($2::timestamptz IS NULL OR greatest(opened_at, updated_at, seen_at) >= $2)
    AND (gone_at IS NULL OR gone_at <= greatest(opened_at, updated_at, seen_at))
ORDER BY return_id
LIMIT $3
"""

Here = TypeVar("Here")
There = TypeVar("There")
Listed = TypeVar("Listed", bound=Entity)


@dataclass(frozen=True, slots=True)
class Page(Generic[There]):
    """Entities by their id, and how many the marketplace counts in all, where it says so.

    `unreadable` says of each other row why it could not be read; `odd_fields` count rows, by the field.
    """

    entities: dict[str, There]
    total_count: int | None
    unreadable: tuple[str, ...]
    odd_fields: Counter[str]


@dataclass(frozen=True, slots=True)
class Subject(Generic[Here, There]):
    """One kind of entity, at the marketplace and in our tables.

    `our_ids` come in their order, after one of them: of the rows that the marketplace should list.
    `observed` is the body of the event that says what was seen of an entity when it was asked for.
    """

    page: Callable[[int, datetime | None], Awaitable[Page[There]]]
    one: Callable[[str], Awaitable[Told[There]]]
    ours: Callable[[list[str]], Awaitable[dict[str, Here]]]
    our_ids: Callable[[str, datetime | None, int], Awaitable[list[str]]]
    compare: Callable[[Here | None, There | None], Difference | None]
    observed: Callable[[Here | None, There | None, datetime], bytes]


def parts(api: OvokoApi, database: Database) -> Subject[OurPart, ListedPart]:
    """Ovoko's parts, and the table `parts`."""

    async def page(number: int, since: datetime | None) -> Page[ListedPart]:
        found, total = await api.parts(number, limit=MOST_PARTS_ON_A_PAGE, date_from=_day_before(since))
        return _page(found, total)

    return Subject(
        page=page,
        one=api.part,
        ours=partial(_read_rows, database, OUR_PARTS, OurPart),
        our_ids=partial(_read_ids, database, NEXT_PARTS),
        compare=compare_part,
        observed=part_observed,
    )


def returns(api: OvokoApi, database: Database) -> Subject[Return, OrderReturn]:
    """Ovoko's returns, and the table `returns`."""

    async def page(number: int, since: datetime | None) -> Page[OrderReturn]:
        return _page(await api.order_returns(number, created_from=_day_before(since)), None)

    return Subject(
        page=page,
        one=api.order_return,
        ours=partial(_read_rows, database, OUR_RETURNS, Return),
        our_ids=partial(_read_ids, database, NEXT_RETURNS),
        compare=compare_return,
        observed=return_observed,
    )


def _page(found: Rows[Listed], total_count: int | None) -> Page[Listed]:
    entities = {row.entity_id: row for row in found.read}
    return Page(entities, total_count, found.unreadable, found.odd_fields)


async def _read_rows(
    database: Database, statement: str, row: Callable[..., Here], entity_ids: list[str]
) -> dict[str, Here]:
    """By their id, which is the first column."""
    async with database.connection() as connection:
        return {found[0]: row(**found) for found in await connection.fetch(statement, entity_ids)}


async def _read_ids(
    database: Database, statement: str, after: str, since: datetime | None, most: int
) -> list[str]:
    async with database.connection() as connection:
        return [found[0] for found in await connection.fetch(statement, after, since, most)]


def _day_before(since: datetime | None) -> date | None:
    """The list is asked for by day, and whose midnight counts is not documented."""
    return None if since is None else (since - timedelta(days=1)).date()
