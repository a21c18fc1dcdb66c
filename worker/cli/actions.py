"""`stockhook actions`: requests to marketplaces, and their outcomes."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Literal
from uuid import UUID

from cyclopts import App
from rich.table import Column, Table

from worker.cli import terminal
from worker.cli.context import Json, fail, open_database, print_json
from worker.cli.startup import load_context
from worker.cli.terminal import on_one_line, say
from worker.dead_letters.audit_trail import who
from worker.observability.exit_codes import FAILED
from worker.observability.inert_text import visible
from worker.observability.resolver import run_loop
from worker.outbox import action_changes, action_list
from worker.postgres.pool import Database

actions = App(name="actions", help="Requests to marketplaces, by events and by people.")

ID_WIDTH = 36


@actions.command(name="list")
def list_(
    *,
    state: Literal["due", "doing", "done", "refused", "failed", "unknown"] | None = None,
    kind: str | None = None,
    subject: str | None = None,
    limit: int = 100,
    json: Json = False,
) -> None:
    """List actions, the newest first.

    Parameters
    ----------
    state
        Only this state. An unknown action may have been accepted; only you can repeat it.
    kind
        Only this kind, such as buyback.rerequest_pickup.
    subject
        Only actions about this order, return or part.
    limit
        Maximum number of actions.
    """
    settings = load_context("actions")

    async def read() -> list[dict[str, Any]]:
        async with open_database(settings, "actions") as database, database.connection() as connection:
            return await action_list.select(connection, state, kind, subject, max(1, limit))

    rows = run_loop(read())
    if json:
        print_json(rows)
    else:
        terminal.show(_as_table(rows))


@actions.command
def show(action_id: UUID, /, *, json: Json = False) -> None:
    """Show all that is known about an action. An encrypted request is not shown."""
    settings = load_context("actions")

    async def read() -> dict[str, Any] | None:
        async with open_database(settings, "actions") as database, database.connection() as connection:
            return await action_list.get(connection, action_id)

    action = run_loop(read())
    if action is None:
        fail(FAILED, f"there is no action {action_id}")
    shown = action_changes.shown(action)
    if json:
        print_json(shown)
    else:
        for name, value in shown.items():
            if value is not None:
                say(f"{name:<15} {on_one_line(value)}")
        for url in settings.trace_urls(action_changes.trace_ids(shown)):
            say(f"{'trace':<15} {url}")


@actions.command
def retry(action_id: UUID, /, *, reason: str | None = None, json: Json = False) -> None:
    """Retry an action that was refused, failed, or has an unknown outcome. An action with
    an unknown outcome may then be executed twice.

    Exits 1 if it is done or under way.

    Parameters
    ----------
    reason
        Why, for the record.
    """
    text = visible((reason or "").strip()) or None

    async def retried(database: Database) -> None:
        await action_changes.retry(database, action_id, who(), text, may_repeat=True)

    _change(action_id, "due", retried, json)


@actions.command
def close(action_id: UUID, /, *, reason: str, json: Json = False) -> None:
    """Mark an action as done, because you know that it was done or is not needed.

    Exits 1 if it is done or under way.

    Parameters
    ----------
    reason
        How you know. It is stored as the outcome.
    """

    async def closed(database: Database) -> None:
        await action_changes.close(database, action_id, who(), visible(reason.strip()))

    _change(action_id, "done", closed, json)


def _change(action_id: UUID, state: str, change: Callable[[Database], Awaitable[None]], json: bool) -> None:
    settings = load_context("actions")

    async def run() -> None:
        async with open_database(settings, "actions") as database:
            await change(database)

    run_loop(run())
    if json:
        print_json({"action_id": action_id, "state": state})
    else:
        say(f"{action_id} is {state}")


def _as_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Two columns, which fit a terminal of 80 characters with whole ids for `show` and `retry`."""
    shown = Table(Column("action", min_width=ID_WIDTH, overflow="fold"), Column("outcome", overflow="fold"))
    for row in rows:
        requested_at = f"{row['created_at']:%Y-%m-%d %H:%M:%S}"
        summary = f"{row['state']}, attempt {row['attempts']}, requested {requested_at}"
        shown.add_row(
            f"{row['action_id']}\n{row['kind']}\n{visible(row['subject'])}",
            "\n".join([summary, *map(visible, _outcome_lines(row["outcome"] or {}))]),
            end_section=True,
        )
    return shown


def _outcome_lines(outcome: Mapping[str, Any]) -> Iterator[str]:
    for name, value in outcome.items():
        text = on_one_line(value)
        yield text if name in ("reason", "not_needed") else f"{name.replace('_', ' ')}: {text}"
