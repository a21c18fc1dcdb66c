"""Requests to marketplaces: the list with its filters, one action, and what operators do to it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from worker.actions.registry import KINDS
from worker.console.access import Refused
from worker.console.addresses import with_query
from worker.console.contract import Console, Done, NotThere, Parameters, Request
from worker.console.form import optional_reason, required_reason
from worker.console.sentences import as_sentence
from worker.observability.inert_text import json_text
from worker.outbox import action_changes, action_list
from worker.outbox import actions as table
from worker.outbox.action_changes import NotChanged
from worker.postgres.pool import Connection

PATH = "/actions"

PAGE = 50

# What a page with a filter by kind searches; the next page searches further.
MOST_SEARCHED = 2_000

# More are shown as "1,000 or more".
MOST_COUNTED = 1_000

LONGEST_FILTER = 200


@dataclass(frozen=True, slots=True)
class Count:
    """`is_more` if there may be more than `actions`."""

    state: str
    actions: int
    is_more: bool
    oldest_at: datetime | None


@dataclass(frozen=True, slots=True)
class ActionsScreen:
    """`next_path` is None on the last page.

    `searched_until` is not None if the search reached its bound before the page was full.
    """

    counts: tuple[Count, ...]
    state: str
    kind: str
    subject: str
    kinds: tuple[str, ...]
    actions: list[dict[str, Any]]
    first_path: str | None
    next_path: str | None
    searched_until: datetime | None


@dataclass(frozen=True, slots=True)
class ActionScreen:
    """All that is known about an action; the request of an encrypted one is None.

    `traces` has the ids of its recorded traces. `may_repeat` if a retry may execute it twice.
    """

    action: dict[str, Any]
    request_text: str | None
    may_change: bool
    may_repeat: bool
    traces: dict[str, str]


async def view(console: Console, parameters: Parameters) -> ActionsScreen:
    """Raises: Refused, for a filter that cannot be read."""
    state = _filter(parameters, "state")
    if state and state not in table.STATES:
        raise Refused(400, f"There is no state {state}. The states are {', '.join(table.STATES)}.")
    kind, subject = _filter(parameters, "kind"), _filter(parameters, "subject")
    async with console.database.connection() as connection:
        counts = await action_list.counts(connection, MOST_COUNTED)
        after = await _position(connection, parameters.get("after", ""))
        searched = await action_list.newest(
            connection,
            after,
            # Without a filter by kind, or by state below a subject, each row that is read is shown.
            MOST_SEARCHED if kind or (subject and state) else PAGE + 1,
            states=[state] if state else table.STATES,
            subject=subject or None,
        )
        matching = [one for one in searched if kind in ("", one.kind) and state in ("", one.state)]
        page = matching[:PAGE]
        actions = await action_list.listed(connection, [one.action_id for one in page])
    is_full = len(matching) > PAGE
    is_bounded = not is_full and len(searched) == MOST_SEARCHED
    last = page[-1] if is_full else searched[-1] if is_bounded else None
    filters = {"state": state, "kind": kind, "subject": subject}
    return ActionsScreen(
        counts=tuple(
            Count(state, one.actions, one.actions == MOST_COUNTED, one.oldest_at)
            for state, one in counts.items()
        ),
        state=state,
        kind=kind,
        subject=subject,
        kinds=tuple(sorted({*KINDS, *([kind] if kind else [])})),
        actions=actions,
        first_path=with_query(PATH, filters) if after is not None else None,
        next_path=None if last is None else with_query(PATH, {**filters, "after": str(last.action_id)}),
        searched_until=searched[-1].created_at if is_bounded else None,
    )


async def one(console: Console, parameters: Parameters) -> ActionScreen:
    """Raises: NotThere."""
    action_id = _id(parameters["action_id"])
    async with console.database.connection() as connection:
        action = await action_list.get(connection, action_id)
    if action is None:
        raise NotThere(f"There is no action {action_id}.")
    shown, state = action_changes.shown(action), action["state"]
    return ActionScreen(
        shown,
        None if shown["request"] is None else json_text(shown["request"], indent=True),
        may_change=state != "done",
        may_repeat=state in ("unknown", "doing"),
        traces=action_changes.trace_ids(shown),
    )


async def retry(console: Console, request: Request) -> Done:
    """Raises: Refused."""
    action_id = _id(request.parameters["action_id"])
    may_repeat = request.form.get("may_repeat") == "yes"
    reason = optional_reason(request.form)
    try:
        await action_changes.retry(
            console.database, action_id, request.user.name, reason, may_repeat=may_repeat
        )
    except NotChanged as error:
        raise Refused(409, as_sentence(str(error))) from error
    return Done("The action is due again.", f"{PATH}/{action_id}")


async def close(console: Console, request: Request) -> Done:
    """Raises: Refused."""
    action_id = _id(request.parameters["action_id"])
    reason = required_reason(request.form)
    try:
        await action_changes.close(console.database, action_id, request.user.name, reason)
    except NotChanged as error:
        raise Refused(409, as_sentence(str(error))) from error
    return Done("The action is closed: it counts as done.", f"{PATH}/{action_id}")


def _filter(parameters: Parameters, name: str) -> str:
    """Raises: Refused."""
    text = parameters.get(name, "").strip()
    if len(text) > LONGEST_FILTER:
        raise Refused(400, f"The filter {name} has {LONGEST_FILTER} characters at most.")
    if "\0" in text:
        raise Refused(400, f"The filter {name} has a character that no action has.")
    return text


async def _position(connection: Connection, after: str) -> action_list.Position | None:
    """Raises: Refused."""
    if not after:
        return None
    try:
        (action,) = await action_list.listed(connection, [UUID(after)])
    except ValueError:
        raise Refused(400, "The page after this action cannot be shown: there is no such action.") from None
    return action_list.Position(action["action_id"], action["created_at"], action["state"], action["kind"])


def _id(text: str) -> UUID:
    """Raises: NotThere."""
    try:
        return UUID(text)
    except ValueError:
        raise NotThere("There is no such action.") from None
