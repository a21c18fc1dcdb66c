"""Dead letters: groups of failures, and the letters that match the filters."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from worker.console.contract import Console, Parameters
from worker.console.letter_filters import (
    ALL,
    STATES,
    BadFilter,
    given,
    number_of,
    selection_of,
)
from worker.console.screens.jobs import JobLine, recent
from worker.dead_letters import search, store
from worker.dead_letters.criteria import ORIGINS
from worker.dead_letters.search import Selection
from worker.dead_letters.store import State
from worker.postgres.errors import QueryCanceledError

LETTERS_PER_PAGE = 50
MOST_GROUPS = 200

# A count and groups end at this many letters.
MOST_COUNTED = 20_000

# Handled letters have no index that fits all filters: a search reads the newest ones.
SEARCHED = 25_000
OPEN_STATES = (State.WAITING, State.REPLAYING)

GROUPS, LIST = "groups", "list"

TOO_SLOW = "The search took too long: narrow it, for example to an origin or a time."


@dataclass(frozen=True, slots=True)
class DeadLettersScreen:
    """`query` has the filters of this page, and `jobs_query` those of a job for all letters that match.

    `fault` is what is wrong with a filter, and nothing was searched then.

    `matched` is None if nothing was searched; `is_more` says that there are more than it. `searched_after` is
    the id after which a search of handled letters began.
    """

    at: datetime
    shown: str
    filters: dict[str, str]
    query: str
    jobs_query: str
    fault: str | None
    origins: tuple[str, ...]
    states: tuple[str, ...]
    matched: int | None
    is_more: bool
    searched_after: int
    groups: list[dict[str, Any]]
    letters: list[Mapping[str, Any]]
    is_first_page: bool
    next_after: int | None
    can_act: bool
    jobs: list[JobLine]


async def view(console: Console, parameters: Parameters) -> DeadLettersScreen:
    now = datetime.now(UTC)
    filters = given(parameters)
    shown = parameters.get("view", LIST if filters or "after" in parameters else GROUPS)
    fault: str | None = None
    result = _Result()
    selection = Selection()
    async with console.database.connection() as connection:
        jobs = await recent(connection, limit=5)
    try:
        if shown not in (GROUPS, LIST):
            shown = LIST
            raise BadFilter(f"The view must be {GROUPS} or {LIST}.")
        selection = selection_of(filters, now)
        after = number_of(parameters.get("after", "0"), "The id after which the page begins")
        result = await _searched(console, selection, after, shown)
    except BadFilter as error:
        fault = str(error)
    except QueryCanceledError:
        fault = TOO_SLOW
    return DeadLettersScreen(
        at=now,
        shown=shown,
        filters=filters,
        query=urlencode(filters),
        jobs_query=urlencode({name: text for name, text in filters.items() if name != "state"} or {ALL: "1"}),
        fault=fault,
        origins=(*ORIGINS, *(subscriber.origin for subscriber in console.settings.subscribers)),
        states=STATES,
        matched=result.matched,
        is_more=result.matched is not None and result.matched >= MOST_COUNTED,
        searched_after=result.searched_after,
        groups=result.groups,
        letters=result.letters[:LETTERS_PER_PAGE],
        is_first_page="after" not in parameters,
        next_after=(
            result.letters[LETTERS_PER_PAGE - 1]["dead_letter_id"]
            if len(result.letters) > LETTERS_PER_PAGE
            else None
        ),
        can_act=fault is None and selection.states == (State.WAITING,),
        jobs=jobs,
    )


@dataclass(frozen=True, slots=True)
class _Result:
    matched: int | None = None
    groups: list[dict[str, Any]] = field(default_factory=list)
    letters: list[Mapping[str, Any]] = field(default_factory=list)
    searched_after: int = 0


async def _searched(console: Console, selection: Selection, after: int, shown: str) -> _Result:
    async with search.searching(console.database) as connection:
        is_open = selection.states is not None and set(selection.states) <= {*OPEN_STATES}
        is_indexed = is_open or selection.ids is not None or selection.fingerprint is not None
        start = 0 if is_indexed else max(0, await store.last_id(connection) - SEARCHED)
        matched = await search.count_at_most(connection, selection, after=start, limit=MOST_COUNTED)
        if shown == GROUPS:
            groups = await search.groups_at_most(
                connection, selection, after=start, letters=MOST_COUNTED, limit=MOST_GROUPS
            )
            return _Result(matched, groups, [], start)
        letters = await search.summaries(
            connection, selection, after=max(start, after), limit=LETTERS_PER_PAGE + 1
        )
        return _Result(matched, [], [dict(letter) for letter in letters], start)
