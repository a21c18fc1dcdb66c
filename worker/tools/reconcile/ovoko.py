"""Ovoko's parts and returns for a reconciliation: its lists, our rows, and the observations."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from typing import TypeVar

import orjson

from consumers.inventory.status import IN_WAREHOUSE, WRITTEN_OFF
from consumers.returns.decide import Return
from schemas.ovoko import NOT_LISTED
from schemas.ovoko_api import MOST_PARTS_ON_A_PAGE, Entity, ListedPart, OrderReturn, Rows
from schemas.registry import Provider
from worker.marketplaces.ovoko.client import OvokoApi
from worker.postgres.pool import Database
from worker.tools.reconcile.difference import Difference, Kind
from worker.tools.reconcile.subject import Page, Subject

# Events that happen during the request must win over the observation. Ovoko's clock has whole seconds, and
# may differ slightly from ours.
MARGIN = timedelta(seconds=2)

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

# The parts that the marketplace should list.
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
Listed = TypeVar("Listed", bound=Entity)


@dataclass(frozen=True, slots=True)
class OurPart:
    """`is_implausible`: its status comes from an implausible timestamp."""

    part_id: str
    status: str
    occurred_at: datetime
    is_implausible: bool = False

    @property
    def changed_at(self) -> datetime | None:
        """When the row changed; None if an implausible timestamp makes it sellable: do not wait."""
        return None if self.is_implausible and self.status == IN_WAREHOUSE else self.occurred_at


def compare_part(here: OurPart | None, there: ListedPart | None) -> Difference | None:
    """Compare the statuses. A part that is written off may be missing there."""
    match here, there:
        case None, ListedPart():
            return _only_there(there.part_id, there.status_text, there.updated_at)
        case OurPart(status=status), None if status not in (WRITTEN_OFF, NOT_LISTED):
            return _only_here(here.part_id, "status", status, here.changed_at)
        case OurPart(status=status), ListedPart() if not there.agrees_with(status):
            return Difference(
                entity_id=here.part_id,
                kind=Kind.DIFFERENT,
                column="status",
                here=status,
                there=there.status_text,
                here_at=here.changed_at,
                there_at=there.updated_at,
            )
        case _:
            return None


def compare_return(here: Return | None, there: OrderReturn | None) -> Difference | None:
    """Compare the order, whether the creation is known, and whether the return is listed."""
    match here, there:
        case None, OrderReturn():
            return _only_there(there.return_id, there.status, there.created_at)
        case Return(is_gone=False), None:
            return _only_here(here.return_id, "order_id", here.order_id, here.newest)
        case Return(order_id=order_id), OrderReturn() if order_id != there.order_id:
            return _different(here, there, "order_id", order_id, there.order_id)
        case Return(opened_at=None), OrderReturn():
            return _different(here, there, "opened_at", None, _text(there.created_at))
        case Return(is_gone=True), OrderReturn():
            return _different(here, there, "gone_at", _text(here.gone_at), None)
        case _:
            return None


def _only_there(entity_id: str, status: str, at: datetime | None) -> Difference:
    return Difference(entity_id, Kind.ONLY_THERE, "status", None, status, None, at)


def _only_here(entity_id: str, column: str, value: str, at: datetime | None) -> Difference:
    return Difference(entity_id, Kind.ONLY_HERE, column, value, None, at, None)


def _different(
    here: Return, there: OrderReturn, column: str, ours: str | None, theirs: str | None
) -> Difference:
    return Difference(here.return_id, Kind.DIFFERENT, column, ours, theirs, here.newest, there.created_at)


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def seen_at(requested_at: datetime) -> datetime:
    """The instant of an observation: later events win over it. `requested_at` is by our clock."""
    return (requested_at - MARGIN).replace(microsecond=0)


def part_observed(here: OurPart | None, there: ListedPart | None, requested_at: datetime) -> bytes:
    entity = there or here
    assert entity is not None, "one of both exists"
    return _body(
        "stockhook.observed.part",
        requested_at,
        {
            "part_id": entity.part_id,
            "status": NOT_LISTED if there is None else there.webhook_status,
            "external_id": None if there is None else there.merchants_id,
        },
    )


def return_observed(here: Return | None, there: OrderReturn | None, requested_at: datetime) -> bytes:
    """The observation of a return that exists here or there; the marketplace's order id counts."""
    entity = there or here
    assert entity is not None, "one of both exists"
    return _body(
        "stockhook.observed.return",
        requested_at,
        {
            "return_id": entity.return_id,
            "order_id": entity.order_id,
            "is_listed": there is not None,
            "created_at": None if there is None else there.created_at,
        },
    )


def _body(event_type: str, requested_at: datetime, seen: dict[str, object]) -> bytes:
    return orjson.dumps(
        {"event_type": event_type, "timestamp": seen_at(requested_at), "event_data": seen},
        option=orjson.OPT_UTC_Z,
    )


def parts(api: OvokoApi, database: Database) -> Subject[OurPart, ListedPart]:
    async def page(number: int, since: datetime | None) -> Page[ListedPart]:
        rows, total = await api.parts(number, limit=MOST_PARTS_ON_A_PAGE, date_from=_day_before(since))
        return _page(rows, total)

    return Subject(
        marketplace=Provider.OVOKO,
        page=page,
        one=api.part,
        ours=partial(_read_rows, database, OUR_PARTS, OurPart),
        our_ids=partial(_read_ids, database, NEXT_PARTS),
        compare=compare_part,
        observed=part_observed,
    )


def returns(api: OvokoApi, database: Database) -> Subject[Return, OrderReturn]:
    async def page(number: int, since: datetime | None) -> Page[OrderReturn]:
        return _page(await api.order_returns(number, created_from=_day_before(since)), None)

    return Subject(
        marketplace=Provider.OVOKO,
        page=page,
        one=api.order_return,
        ours=partial(_read_rows, database, OUR_RETURNS, Return),
        our_ids=partial(_read_ids, database, NEXT_RETURNS),
        compare=compare_return,
        observed=return_observed,
    )


def _page(rows: Rows[Listed], total_count: int | None) -> Page[Listed]:
    entities = {row.entity_id: row for row in rows.read}
    return Page(entities, total_count, rows.unreadable, rows.unreadable_fields)


async def _read_rows(
    database: Database, statement: str, row: Callable[..., Here], entity_ids: list[str]
) -> dict[str, Here]:
    """Rows by their id, which is the first column."""
    async with database.connection() as connection:
        return {record[0]: row(**record) for record in await connection.fetch(statement, entity_ids)}


async def _read_ids(
    database: Database, statement: str, after: str, since: datetime | None, most: int
) -> list[str]:
    async with database.connection() as connection:
        return [record[0] for record in await connection.fetch(statement, after, since, most)]


def _day_before(since: datetime | None) -> date | None:
    """The list is requested by day, and the time zone is not documented."""
    return None if since is None else (since - timedelta(days=1)).date()
