"""`stockhook details`: have a marketplace asked, or asked again, for what its events leave out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from uuid import uuid4

from schemas.actions import (
    PART_DETAILS,
    RETURN_DETAILS,
    Action,
    ActionRequest,
    PartWanted,
    ReturnWanted,
)
from worker.cli.context import Flag, Json, load_context, open_database, print_json
from worker.cli.terminal import say
from worker.observability.errors import StockhookError
from worker.observability.resolver import run_loop
from worker.outbox import actions as table
from worker.postgres.pool import Database

What = Literal["parts", "returns"]

# Without ids, what has no details yet.
PARTS = """
SELECT part_id AS entity_id, EXISTS (
    SELECT
    FROM actions
    WHERE kind = 'ovoko.part_details' AND subject = part_id AND state IN ('due', 'doing')
) AS is_due
FROM parts
WHERE part_id = ANY($1::text[]) OR ($1 IS NULL AND details_at IS NULL)
ORDER BY part_id
"""

RETURNS = """
SELECT return_id AS entity_id, EXISTS (
    SELECT
    FROM actions
    WHERE kind = 'ovoko.return_details' AND subject = return_id AND state IN ('due', 'doing')
) AS is_due
FROM returns
WHERE return_id = ANY($1::text[]) OR ($1 IS NULL AND details_at IS NULL)
ORDER BY return_id
"""

AT_ONCE = 1_000


class NotHere(StockhookError):
    """There is no row of it."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What can be asked for, and how."""

    kind: str
    rows: str
    request: Callable[[str], ActionRequest]

    def action(self, entity_id: str) -> Action:
        """One of its own, whatever an event has asked for before."""
        key = f"{self.kind}:{entity_id}:{uuid4()}"
        return Action(self.kind, key, entity_id, self.request(entity_id), event_id=None)


SUBJECTS: dict[What, Subject] = {
    "parts": Subject(PART_DETAILS, PARTS, lambda part_id: PartWanted(part_id=part_id)),
    "returns": Subject(RETURN_DETAILS, RETURNS, lambda return_id: ReturnWanted(return_id=return_id)),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """How many are asked for now, and how many had been and are still to be answered."""

    now: int
    before: int


def details(
    marketplace: Literal["ovoko"],
    what: What,
    /,
    *ids: str,
    dry_run: Flag = False,
    json: Json = False,
) -> None:
    """Have a marketplace asked for what its events leave out.

    Events ask by themselves once the consumers have the credentials of its API. This is for what came
    before that, and for what has changed there since: a price, for example, of which no event tells.

    It only asks; consumers call the marketplace, at the pace of STOCKHOOK_OVOKO_CALLS_PER_SECOND.

    Parameters
    ----------
    marketplace
        Whom to ask.
    what
        parts: name, price and codes. returns: sums and items.
    ids
        These, whatever is known of them; without, all that have no details. Exits 1 where one is not here.
    dry_run
        Say how many would be asked for.
    """
    settings = load_context("details")
    subject = SUBJECTS[what]

    async def work() -> Asked:
        async with open_database(settings, "details", 1, no_timeouts=True) as database:
            return await _ask(database, subject, ids, dry_run=dry_run)

    asked = run_loop(work())
    if json:
        print_json({"asked": asked.now, "asked_before": asked.before, "dry_run": dry_run})
        return
    verb = "would be" if dry_run else "are"
    say(f"{asked.now} {what} {verb} asked for; {asked.before} had been, and still are")
    if asked.now and not dry_run:
        say(f"what becomes of them: `stockhook actions list --kind {subject.kind}`")


async def _ask(database: Database, subject: Subject, ids: tuple[str, ...], *, dry_run: bool) -> Asked:
    """Raises: NotHere, DatabaseUnavailable."""
    async with database.transaction() as connection:
        rows = await connection.fetch(subject.rows, list(ids) or None)
        missing = [entity_id for entity_id in ids if entity_id not in {row["entity_id"] for row in rows}]
        if missing:
            raise NotHere(f"not here: {', '.join(missing)}; nothing was asked for")
        wanted = [row["entity_id"] for row in rows if not row["is_due"]]
        for start in range(0, 0 if dry_run else len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            await table.ask(connection, [subject.action(entity_id) for entity_id in some])
    return Asked(len(wanted), len(rows) - len(wanted))
