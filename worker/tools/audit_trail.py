"""What operators did: `dead_letter_audit` and `operator_audit` together, the newest record first."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from worker.dead_letters.criteria import BadCriterion, instant_of
from worker.postgres.pool import Database

LONGEST_TEXT = 200

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 1, 1, tzinfo=UTC)

LARGEST_ID = 2**63 - 1

# Each table is read backwards in its index by time, from its own bound ($1 and $2; $1 and $3).
SELECT = """
SELECT *
FROM (
    (
        SELECT 'letter' AS source, audit_id, at, who, 'dead_letter.' || action AS action,
            dead_letter_id::text AS subject, reason
        FROM dead_letter_audit
        WHERE (at, audit_id) < ($1::timestamptz, $2::bigint)
            AND at >= $4::timestamptz
            AND ($5::text IS NULL OR strpos(who, $5) > 0)
            AND ($6::text IS NULL OR strpos('dead_letter.' || action, $6) > 0)
            AND ($7::bigint IS NULL OR dead_letter_id = $7)
        ORDER BY at DESC, audit_id DESC
        LIMIT $9
    )
    UNION ALL
    (
        SELECT 'operator', audit_id, at, who, action, subject, reason
        FROM operator_audit
        WHERE (at, audit_id) < ($1::timestamptz, $3::bigint)
            AND at >= $4::timestamptz
            AND ($5::text IS NULL OR strpos(who, $5) > 0)
            AND ($6::text IS NULL OR strpos(action, $6) > 0)
            AND ($8::text IS NULL OR subject = $8)
        ORDER BY at DESC, audit_id DESC
        LIMIT $9
    )
) AS records
ORDER BY at DESC, source, audit_id DESC
LIMIT $9
"""


class BadTrailFilter(ValueError):
    """The text says which filter is wrong and why."""


@dataclass(frozen=True, slots=True)
class Key:
    """The place of a record in the list."""

    at: datetime
    source: str
    audit_id: int

    def __str__(self) -> str:
        microseconds = (self.at - EARLIEST) // timedelta(microseconds=1)
        return f"{microseconds}-{self.source}-{self.audit_id}"

    @classmethod
    def read(cls, text: str) -> Self:
        """Raises: BadTrailFilter."""
        parts = re.fullmatch(r"([0-9]{1,17})-(letter|operator)-([0-9]{1,18})", text)
        if parts is None:
            raise BadTrailFilter("`after` is not a key of a page: begin with the first page")
        return cls(EARLIEST + timedelta(microseconds=int(parts[1])), parts[2], int(parts[3]))


@dataclass(frozen=True, slots=True)
class Record:
    """Who did what, when, to what, and why. `subject` is a dead letter's number, a family, or the like."""

    key: Key
    at: datetime
    who: str
    action: str
    subject: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class TrailFilter:
    """Which records; None matches all. `who` and `action` match a part of the text."""

    who: str | None = None
    action: str | None = None
    subject: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @classmethod
    def read(
        cls,
        who: str | None = None,
        action: str | None = None,
        subject: str | None = None,
        since: str | None = None,
        until: str | None = None,
    ) -> Self:
        """From texts; one that is empty matches all.

        Raises:
            BadTrailFilter
        """
        return cls(
            _text("who", who),
            _text("action", action),
            _text("subject", subject),
            _instant("since", since),
            _instant("until", until),
        )


def _text(name: str, text: str | None) -> str | None:
    text = (text or "").strip()
    if len(text) > LONGEST_TEXT or "\0" in text:
        raise BadTrailFilter(f"{name} has at most {LONGEST_TEXT} characters, and no NUL")
    return text or None


def _instant(name: str, text: str | None) -> datetime | None:
    try:
        return instant_of(text.strip(), datetime.now(UTC)) if text and text.strip() else None
    except BadCriterion as fault:
        raise BadTrailFilter(f"{name} {fault}") from None


async def select(
    database: Database, wanted: TrailFilter, *, after: Key | None = None, limit: int = 100
) -> list[Record]:
    """The newest first, from the one that follows `after`."""
    bound, letter_id, operator_id = _bounds(wanted, after)
    rows: list[Record] = []
    async with database.connection() as connection:
        for row in await connection.fetch(
            SELECT,
            bound,
            letter_id,
            operator_id,
            wanted.since or EARLIEST,
            wanted.who,
            wanted.action,
            _letter(wanted.subject),
            wanted.subject,
            limit,
        ):
            key = Key(row["at"], row["source"], row["audit_id"])
            rows.append(Record(key, row["at"], row["who"], row["action"], row["subject"], row["reason"]))
    return rows


async def all_pages(database: Database, wanted: TrailFilter, size: int) -> AsyncIterator[list[Record]]:
    """Every record, in pages of this size. No connection is in use between two pages."""
    page = await select(database, wanted, limit=size)
    while page:
        yield page
        page = await select(database, wanted, after=page[-1].key, limit=size) if len(page) == size else []


def _bounds(wanted: TrailFilter, after: Key | None) -> tuple[datetime, int, int]:
    """Records are before this instant, or at it and, in each table, below the number.

    Of the records of one instant, those of dead letters are listed first.
    """
    if after is None or (wanted.until is not None and wanted.until <= after.at):
        return wanted.until or LATEST, 0, 0
    if after.source == "letter":
        return after.at, after.audit_id, LARGEST_ID
    return after.at, 0, after.audit_id


def _letter(subject: str | None) -> int | None:
    """The dead letter that is meant; -1, which is none, if the subject is something else."""
    if subject is None:
        return None
    return int(subject) if re.fullmatch(r"[0-9]{1,18}", subject) else -1
