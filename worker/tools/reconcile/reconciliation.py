"""A reconciliation: read the marketplace's list and our tables, and check possible differences again.

The list changes while its pages are read: an entity can be on two pages, or move to a page that was read
before. So pages show which entities exist, but not which are missing. Every possible difference is requested
by its id before it is reported.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Generic, TypeVar

from worker.marketplaces.http import CallFailed, UnexpectedResponse, UnreadableRow
from worker.tools.reconcile.difference import Difference
from worker.tools.reconcile.scratch import Scratch
from worker.tools.reconcile.subject import Page, Subject

MOST_PAGES = 100_000
FRUITLESS_PAGES = 3
UNANSWERED_RUN = 3
MOST_REASONS = 100
OUR_IDS = 1_000

Here = TypeVar("Here")
There = TypeVar("There")

# The current step, its progress, and its total (None: not known).
Report = Callable[[str, int, int | None], None]


@dataclass(slots=True)
class Listing:
    """What was read from the marketplace's list: its entities, and how many were repeated.

    `unreadable` counts rows that could not be read, and `reasons` are those of the first ones.
    `unreadable_fields` counts rows by a field that could not be read. All are of the last reading.
    """

    pages: int = 0
    entities: int = 0
    repeated: int = 0
    readings: int = 0
    total_count: int | None = None
    unreadable: int = 0
    reasons: list[str] = field(default_factory=list)
    unreadable_fields: Counter[str] = field(default_factory=Counter)

    @property
    def slipped(self) -> int:
        """The minimum number of entities that were on no page."""
        return max(0, (self.total_count or 0) - self.entities - self.unreadable)

    def start_reading(self) -> None:
        self.readings += 1
        self.unreadable = 0
        self.reasons.clear()
        self.unreadable_fields.clear()

    def add_unreadable(self, number: int, page: Page[Any]) -> None:
        room = MOST_REASONS - len(self.reasons)
        self.reasons += [f"page {number}, {reason}" for reason in page.unreadable[:room]]
        self.unreadable += len(page.unreadable)
        self.unreadable_fields += page.unreadable_fields


@dataclass(frozen=True, slots=True)
class ConfirmedDifference(Generic[There]):
    """A difference that was confirmed by a second check; `observation` is the body of its event."""

    difference: Difference
    there: There | None
    observation: bytes


@dataclass(frozen=True, slots=True)
class Reconciled(Generic[There]):
    """The result of a reconciliation.

    `ours` is the number of our rows that were compared, `unchecked` the number of possible differences that
    were not checked again. `unanswered` are ids without an answer, with the reason.
    """

    listing: Listing
    ours: int
    doubts: int
    unchecked: int
    confirmed: tuple[ConfirmedDifference[There], ...]
    unanswered: dict[str, str]
    ended_at: datetime
    seconds: float

    @property
    def differences(self) -> list[Difference]:
        return [one.difference for one in self.confirmed]

    @property
    def drift(self) -> list[ConfirmedDifference[There]]:
        return [one for one in self.confirmed if not one.difference.is_under_way(self.ended_at)]

    @property
    def is_conclusive(self) -> bool:
        """Whether all differences are known, except for later changes."""
        return not (self.unchecked or self.unanswered or self.listing.slipped or self.listing.unreadable)


async def reconcile(
    subject: Subject[Here, There], *, since: datetime | None, most: int, report: Report
) -> Reconciled[There]:
    """Compare, and check at most `most` differences again.

    Raises:
        CallFailed
        DatabaseUnavailable
    """
    began = monotonic()
    with Scratch() as scratch:
        listing = Listing()
        await _read_list(subject, since, scratch, listing, report)
        if listing.slipped:
            # Once more: an entity rarely moves between pages in both readings.
            await _read_list(subject, since, scratch, listing, report)
        ours = await _read_ours(subject, since, scratch, report)
        second = _SecondCheck[There]()
        doubts = scratch.count_doubts()
        await second.run(subject, scratch, min(doubts, most), report)
    return Reconciled(
        listing,
        ours,
        doubts,
        max(0, doubts - most),
        tuple(sorted(second.confirmed, key=lambda one: (one.difference.kind.rank, one.difference.entity_id))),
        second.unanswered,
        datetime.now(UTC),
        monotonic() - began,
    )


async def _read_list(
    subject: Subject[Here, There],
    since: datetime | None,
    scratch: Scratch,
    listing: Listing,
    report: Report,
) -> None:
    """Raises: UnexpectedResponse, if the list does not end or contradicts itself."""
    fruitless = on_pages = 0
    listing.start_reading()
    for number in range(1, MOST_PAGES + 1):
        page = await subject.page(number, since)
        ours = await subject.ours(list(page.entities))
        compared = {
            entity_id: subject.compare(ours.get(entity_id), there)
            for entity_id, there in page.entities.items()
        }
        listed_before = scratch.note_listed(
            {entity_id: None if one is None else one.kind for entity_id, one in compared.items()}
        )
        fresh = len(compared) - listed_before
        on_page = len(compared) + len(page.unreadable)
        on_pages += on_page
        listing.add_unreadable(number, page)
        listing.pages += 1
        listing.entities += fresh
        listing.repeated += listed_before if listing.readings == 1 else 0
        listing.total_count = page.total_count
        report("list", min(on_pages, listing.entities), page.total_count)
        if not on_page or (page.total_count is not None and on_pages >= page.total_count):
            break
        fruitless = 0 if fresh or listing.readings > 1 else fruitless + 1
        if fruitless and page.total_count is None:
            # This is also the end of a list without a total count.
            break
        if fruitless >= FRUITLESS_PAGES:
            raise UnexpectedResponse(f"page {number} of the list shows nothing new, as those before it")
    else:
        raise UnexpectedResponse(f"the list does not end after {MOST_PAGES:,} pages")
    if listing.total_count and not on_pages:
        raise UnexpectedResponse(f"the list says that it holds {listing.total_count:,}, and shows none")


async def _read_ours(
    subject: Subject[Here, There], since: datetime | None, scratch: Scratch, report: Report
) -> int:
    count, after = 0, ""
    while entity_ids := await subject.our_ids(after, since, OUR_IDS):
        scratch.doubt_unlisted(entity_ids)
        count += len(entity_ids)
        after = entity_ids[-1]
        report("our rows", count, None)
    return count


@dataclass(slots=True)
class _SecondCheck(Generic[There]):
    """Checks entities one by one: first the marketplace, then our table."""

    confirmed: list[ConfirmedDifference[There]] = field(default_factory=list)
    unanswered: dict[str, str] = field(default_factory=dict)

    async def run(self, subject: Subject[Here, There], scratch: Scratch, count: int, report: Report) -> None:
        """Raises: CallFailed, if several consecutive answers are missing, or many rows cannot be read."""
        missing = unreadable = 0
        for done, entity_id in enumerate(scratch.doubts(count), start=1):
            report("second check", done, count)
            try:
                fetched = await subject.one(entity_id)
                missing = 0
            except UnreadableRow as error:
                missing, unreadable = 0, unreadable + 1
                if unreadable >= MOST_REASONS:
                    raise
                self.unanswered[entity_id] = str(error)
                continue
            except CallFailed as error:
                missing += 1
                if missing >= UNANSWERED_RUN:
                    raise
                self.unanswered[entity_id] = str(error)
                continue
            # Our row is read last: an event that arrived in the meantime counts.
            here = (await subject.ours([entity_id])).get(entity_id)
            difference = subject.compare(here, fetched.row)
            if difference is not None:
                observation = subject.observed(here, fetched.row, fetched.requested_at)
                self.confirmed.append(ConfirmedDifference(difference, fetched.row, observation))
