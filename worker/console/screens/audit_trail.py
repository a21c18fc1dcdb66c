"""The audit trail: who did what, when, to what, and why; also as CSV."""

import csv
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from io import StringIO
from urllib.parse import quote, urlencode

from consumers.registry import FAMILIES
from worker.console.access import Refused
from worker.console.contract import Console, Parameters
from worker.observability.inert_text import visible
from worker.postgres.errors import QueryCanceledError
from worker.tools.audit_trail import (
    BadTrailFilter,
    Key,
    Record,
    TrailFilter,
    all_pages,
    select,
)

PAGE = 50
EXPORT_PAGE = 1000

TOO_LONG = "The search took too long: narrow it with since, until or subject."

COLUMNS = ("at", "who", "action", "subject", "reason")

# A spreadsheet calculates a cell that begins with one of these; some also accept the wide forms.
FORMULA_BEGINS = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"


@dataclass(frozen=True, slots=True)
class Filters:
    """As they are in the URL."""

    who: str = ""
    action: str = ""
    subject: str = ""
    since: str = ""
    until: str = ""


@dataclass(frozen=True, slots=True)
class RecordView:
    """`path` is the page of the subject, if it has one."""

    at: datetime
    who: str
    action: str
    subject: str
    reason: str | None
    path: str | None


@dataclass(frozen=True, slots=True)
class AuditTrail:
    """`records` is None if there is a `fault`; `next` is the key of the next page."""

    filters: Filters
    query: str
    records: list[RecordView] | None
    next: str | None
    is_first: bool
    fault: str | None


async def view(console: Console, parameters: Parameters) -> AuditTrail:
    """One page. Reads both indexes by time from the page's key on."""
    filters, after = _filters(parameters), parameters.get("after", "")
    query = urlencode({name: value for name, value in asdict(filters).items() if value})
    try:
        wanted, key = TrailFilter.read(**asdict(filters)), Key.read(after) if after else None
        records = await select(console.database, wanted, after=key, limit=PAGE + 1)
    except BadTrailFilter as fault:
        return AuditTrail(filters, query, None, None, not after, f"{fault}.")
    except QueryCanceledError:
        return AuditTrail(filters, query, None, None, not after, TOO_LONG)
    shown = records[:PAGE]
    following = str(shown[-1].key) if len(records) > PAGE else None
    return AuditTrail(filters, query, [_shown(record) for record in shown], following, not after, None)


async def lines(console: Console, parameters: Parameters) -> AsyncIterator[str]:
    """Every record that matches, as CSV with a line of names.

    Raises:
        Refused
    """
    try:
        wanted = TrailFilter.read(**asdict(_filters(parameters)))
    except BadTrailFilter as fault:
        raise Refused(400, f"{fault}.") from None
    pages = all_pages(console.database, wanted, EXPORT_PAGE)
    try:
        # Before the names, so that a failure is an answer of its own.
        first: list[Record] = await anext(pages, [])
    except QueryCanceledError:
        raise Refused(503, TOO_LONG) from None
    yield csv_text([COLUMNS, *map(_cells, first)])
    async for page in pages:
        yield csv_text(map(_cells, page))


def _filters(parameters: Parameters) -> Filters:
    return Filters(*(parameters.get(name, "") for name in Filters.__slots__))


def _shown(record: Record) -> RecordView:
    return RecordView(
        record.at,
        record.who,
        record.action,
        record.subject,
        record.reason,
        page_of(record.action, record.subject),
    )


def page_of(action: str, subject: str) -> str | None:
    """Of what it was done to; None if it has none."""
    match action.partition(".")[0]:
        case "dead_letter":
            return f"/dead-letters/{quote(subject, safe='')}"
        case "family" if subject in FAMILIES:
            return f"/families/{subject}"
        case "job" if subject.removeprefix("job ").isdecimal():
            return f"/jobs/{subject.removeprefix('job ')}"
        case "action":
            return f"/actions/{quote(subject, safe='')}"
        case "webhook":
            return f"/changes#subscriber-{quote(subject, safe='')}"
        case _:
            return None


def _cells(record: Record) -> tuple[str, ...]:
    return record.at.isoformat(), record.who, record.action, record.subject, record.reason or ""


def csv_text(rows: Iterable[Iterable[str]]) -> str:
    """Rows as RFC 4180 has them."""
    text = StringIO()
    csv.writer(text).writerows([cell(value) for value in row] for row in rows)
    return text.getvalue()


def cell(text: str) -> str:
    """Text that no spreadsheet calculates."""
    return f"'{visible(text)}" if text[:1] and text[0] in FORMULA_BEGINS else visible(text)
