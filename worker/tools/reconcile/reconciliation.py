"""A reconciliation: read the marketplace's list and our tables, and look again at what seems to differ.

Pages are cut from a list that moves meanwhile: an entity can be on two of them, or slip from one to
another that was read before. So a page shows what is there, never what is missing; what is missing, and
all else that seems to differ, is asked for by its id before it is reported.
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

# What is done now, how much of it, and of how much (None: not known).
Report = Callable[[str, int, int | None], None]


@dataclass(slots=True)
class Listing:
    """What the marketplace's list came to: entities on its pages, and how often one came again.

    `unreadable` rows say what, and whether something is missing, nobody knows: the first ones' reasons are
    kept. `odd_fields` counts rows by a field that could not be read. Both are of the last reading.
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
        """How many at least were on no page that was read."""
        return max(0, (self.total_count or 0) - self.entities - self.unreadable)

    def start_reading(self) -> None:
        self.readings += 1
        self.unreadable = 0
        self.reasons.clear()
        self.unreadable_fields.clear()

    def add_unreadable(self, number: int, page: Page[Any]) -> None:
        """What could not be read of a page."""
        room = MOST_REASONS - len(self.reasons)
        self.reasons += [f"page {number}, {reason}" for reason in page.unreadable[:room]]
        self.unreadable += len(page.unreadable)
        self.unreadable_fields += page.unreadable_fields


@dataclass(frozen=True, slots=True)
class ConfirmedDifference(Generic[There]):
    """A difference that stood when it was looked at again; `observation` is what was seen, as an event."""

    difference: Difference
    there: There | None
    observation: bytes


@dataclass(frozen=True, slots=True)
class Reconciled(Generic[There]):
    """What a reconciliation came to.

    `ours` is how many of our rows were looked up in the list; `unchecked` how many seem to differ and
    were not looked at again; `unanswered` for which the marketplace had no answer, and why.
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
        """Whether nothing else can differ, but what changed since."""
        return not (self.unchecked or self.unanswered or self.listing.slipped or self.listing.unreadable)


async def reconcile(
    subject: Subject[Here, There], *, since: datetime | None, most: int, report: Report
) -> Reconciled[There]:
    """Compare; look again at so many differences at most.

    Raises:
        CallFailed
        DatabaseUnavailable
    """
    began = monotonic()
    with Scratch() as scratch:
        listing = Listing()
        await _read_list(subject, since, scratch, listing, report)
        if listing.slipped:
            # Once more: of the few that slipped, hardly one does so twice.
            await _read_list(subject, since, scratch, listing, report)
        ours = await _read_ours(subject, since, scratch, report)
        second = _SecondCheck[There]()
        doubts = scratch.count_doubts()
        await second.look(subject, scratch, min(doubts, most), report)
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
    """Raises UnexpectedResponse, where the list does not end or is not what it says."""
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
            # A list that does not say how long it is ends so, too.
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
    """What still differs when the marketplace, and then our table, is asked for one entity alone."""

    confirmed: list[ConfirmedDifference[There]] = field(default_factory=list)
    unanswered: dict[str, str] = field(default_factory=dict)

    async def look(self, subject: Subject[Here, There], scratch: Scratch, count: int, report: Report) -> None:
        """Raises CallFailed, where several answers after another are missing, or many rows cannot be read."""
        run = unreadable = 0
        for done, entity_id in enumerate(scratch.doubts(count), start=1):
            report("second look", done, count)
            try:
                fetched = await subject.one(entity_id)
                run = 0
            except UnreadableRow as error:
                run, unreadable = 0, unreadable + 1
                if unreadable >= MOST_REASONS:
                    raise
                self.unanswered[entity_id] = str(error)
                continue
            except CallFailed as error:
                run += 1
                if run >= UNANSWERED_RUN:
                    raise
                self.unanswered[entity_id] = str(error)
                continue
            # Ours last: an event that came meanwhile has settled it.
            here = (await subject.ours([entity_id])).get(entity_id)
            difference = subject.compare(here, fetched.row)
            if difference is not None:
                observation = subject.observed(here, fetched.row, fetched.requested_at)
                self.confirmed.append(ConfirmedDifference(difference, fetched.row, observation))
