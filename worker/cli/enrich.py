"""`stockhook enrich`: request from a marketplace's API what its events leave out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from uuid import uuid4

from schemas.actions import (
    PART_DETAILS,
    RETURN_DETAILS,
    Action,
    ActionRequest,
    PartDetailsRequest,
    ReturnDetailsRequest,
)
from worker.cli.context import Flag, Json, open_database, print_json
from worker.cli.startup import load_context
from worker.cli.terminal import say
from worker.observability.errors import StockhookError
from worker.observability.resolver import run_loop
from worker.outbox import actions as table
from worker.postgres.pool import Database

What = Literal["parts", "returns"]

# Without ids, what was never enriched.
PARTS = """
SELECT part_id AS entity_id, EXISTS (
    SELECT
    FROM actions
    WHERE kind = 'ovoko.part_details' AND subject = part_id AND state IN ('due', 'doing')
) AS is_due
FROM parts
WHERE part_id = ANY($1::text[]) OR ($1 IS NULL AND enriched_at IS NULL)
ORDER BY part_id
"""

RETURNS = """
SELECT return_id AS entity_id, EXISTS (
    SELECT
    FROM actions
    WHERE kind = 'ovoko.return_details' AND subject = return_id AND state IN ('due', 'doing')
) AS is_due
FROM returns
WHERE return_id = ANY($1::text[]) OR ($1 IS NULL AND enriched_at IS NULL)
ORDER BY return_id
"""

AT_ONCE = 1_000


class NotFound(StockhookError):
    """No row has one of the ids."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What can be requested, and how."""

    kind: str
    rows: str
    request: Callable[[str], ActionRequest]

    def action(self, entity_id: str) -> Action:
        """A new action, whatever an event requested before."""
        key = f"{self.kind}:{entity_id}:{uuid4()}"
        return Action(self.kind, key, entity_id, self.request(entity_id), event_id=None)


SUBJECTS: dict[What, Subject] = {
    "parts": Subject(PART_DETAILS, PARTS, lambda part_id: PartDetailsRequest(part_id=part_id)),
    "returns": Subject(RETURN_DETAILS, RETURNS, lambda return_id: ReturnDetailsRequest(return_id=return_id)),
}


@dataclass(frozen=True, slots=True)
class Requested:
    """How many were requested now, and how many had been before and are not answered yet."""

    now: int
    before: int


def enrich(
    marketplace: Literal["ovoko"],
    what: What,
    /,
    *ids: str,
    dry_run: Flag = False,
    json: Json = False,
) -> None:
    """Request the details that a marketplace's events lack from its API.

    Events cause these requests once the consumers have credentials for the API. Use this command for events
    that came before, and for values that changed since, such as a price, which no event contains.

    It only writes actions; consumers call the API, at most STOCKHOOK_OVOKO_CALLS_PER_SECOND times per second.

    Parameters
    ----------
    marketplace
        The marketplace.
    what
        parts: name, price and codes. returns: amounts and items.
    ids
        Request these; without ids, all that were never enriched. Exits 1 if an id has no row.
    dry_run
        Only print how many would be requested.
    """
    settings = load_context("enrich")
    subject = SUBJECTS[what]

    async def work() -> Requested:
        async with open_database(settings, "enrich", 1, no_timeouts=True) as database:
            return await _request(database, subject, ids, dry_run=dry_run)

    requested = run_loop(work())
    if json:
        print_json({"requested": requested.now, "requested_before": requested.before, "dry_run": dry_run})
        return
    verb = "would be" if dry_run else "were"
    say(f"{requested.now} {what} {verb} requested; {requested.before} wait for an earlier request")
    if requested.now and not dry_run:
        say(f"to follow them: `stockhook actions list --kind {subject.kind}`")


async def _request(database: Database, subject: Subject, ids: tuple[str, ...], *, dry_run: bool) -> Requested:
    """Raises: NotFound, DatabaseUnavailable."""
    async with database.transaction() as connection:
        rows = await connection.fetch(subject.rows, list(ids) or None)
        missing = [entity_id for entity_id in ids if entity_id not in {row["entity_id"] for row in rows}]
        if missing:
            raise NotFound(f"no row for {', '.join(missing)}; nothing was requested")
        wanted = [row["entity_id"] for row in rows if not row["is_due"]]
        for start in range(0, 0 if dry_run else len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            await table.enqueue_all(connection, [subject.action(entity_id) for entity_id in some])
    return Requested(len(wanted), len(rows) - len(wanted))
