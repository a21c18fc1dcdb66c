"""`stockhook unhandled`: list event types that no family handled, and replay those handled since."""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import structlog
from cyclopts import App, Parameter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from schemas.events import read_json
from schemas.registry import Provider
from schemas.trace_context import TRACE_IDS, recorded_trace
from worker.amqp.connection import Broker
from worker.amqp.errors import Unroutable
from worker.cli.context import Flag, Json, WrongUsage, open_database, print_json
from worker.cli.dead_letter_views import short
from worker.cli.startup import load_context, traced
from worker.cli.terminal import console, say, table_of_texts
from worker.cli.terminal import show as show_on_terminal
from worker.config.settings import Settings
from worker.dead_letters import unhandled_store as store
from worker.dead_letters.audit_trail import who
from worker.dead_letters.redaction import pretty
from worker.dead_letters.refusal import CommandRefused
from worker.dead_letters.unhandled_replay import UnhandledReplay, UnhandledTally, dry_run_counts
from worker.dead_letters.unhandled_store import Unhandled, UnhandledSelection
from worker.intake.intake import unhandled_body
from worker.observability.exit_codes import FAILED
from worker.observability.inert_text import visible
from worker.observability.resolver import run_loop

log = structlog.get_logger(__name__)

unhandled = App(name="unhandled", help="See which event types no family handles, and replay their events.")

Types = Annotated[tuple[str, ...], Parameter(name="--type", negative_iterable=(), show_default=False)]
Marketplaces = Annotated[tuple[Provider, ...], Parameter(name="--marketplace", negative_iterable=())]


@unhandled.command(name="list")
def list_(
    *,
    type: Types = (),
    marketplace: Marketplaces = (),
    events: Flag = False,
    limit: int = 100,
    json: Json = False,
) -> None:
    """List the types of unhandled events with their counts, the most frequent first; no body is shown.

    Parameters
    ----------
    type
        Only this event type, as the marketplace spells it; may be given several times.
    marketplace
        Only this marketplace.
    events
        List single events, the oldest first.
    limit
        Maximum number of lines.
    """
    selection = _selection(type, marketplace)
    settings = load_context("unhandled")
    run_loop((_list_events if events else _list_types)(settings, selection, max(1, limit), json))


async def _list_types(settings: Settings, selection: UnhandledSelection, limit: int, json: bool) -> None:
    async with open_database(settings, "unhandled") as database, database.connection() as connection:
        types = await store.count_by_type(connection, selection)
    if json:
        print_json([one.as_json() for one in types[:limit]])
        return
    table = table_of_texts(
        "events",
        "type",
        (
            (
                f"{one.events:,}",
                f"{one.provider} {one.type}",
                f"{short(one.first_at)} to {short(one.last_at)}",
                *([f"taken by {one.family}"] if one.family else []),
            )
            for one in types[:limit]
        ),
    )
    table.columns[0].justify = "right"
    show_on_terminal(table)
    say(f"{_counted(sum(one.events for one in types), 'event')} of {_counted(len(types), 'type')}")
    if any(one.family for one in types):
        say("to replay the events that a family handles now: stockhook unhandled replay --all")


async def _list_events(settings: Settings, selection: UnhandledSelection, limit: int, json: bool) -> None:
    async with open_database(settings, "unhandled") as database, database.connection() as connection:
        events = await store.select(connection, selection, limit=limit)
        total, _ = await store.extent(connection, selection)
    if json:
        print_json([_as_json(event) for event in events])
        return
    table = table_of_texts(
        "id",
        "event",
        (
            (
                str(event.unhandled_event_id),
                f"{event.provider} {event.type}",
                str(event.event_id),
                f"received {short(event.received_at)}, {len(event.body):,} bytes",
            )
            for event in events
        ),
    )
    show_on_terminal(table)
    say(f"{len(events):,} of {total:,}")


@unhandled.command
def show(unhandled_event_id: int, /, *, reveal: Flag = False, json: Json = False) -> None:
    """Show what is known of an unhandled event; its body only with --reveal.

    The body may contain personal data anywhere, since its type is not documented: there is no redacted view.

    Parameters
    ----------
    reveal
        Show the body as it was received. The log records who did so.
    """
    settings = load_context("unhandled")
    run_loop(_show(settings, unhandled_event_id, reveal, json))


async def _show(settings: Settings, unhandled_event_id: int, reveal: bool, json: bool) -> None:
    async with open_database(settings, "unhandled") as database, database.connection() as connection:
        event = await store.get(connection, unhandled_event_id)
    if event is None:
        raise CommandRefused(f"there is no unhandled event {unhandled_event_id}")
    body = None
    if reveal:
        body = _readable(event, settings)
        log.warning("unhandled_event.revealed", unhandled_event=unhandled_event_id, who=who())
    if json:
        print_json(_as_json(event) | ({} if body is None else {"body": body}))
        return
    for name, value in _as_json(event).items():
        say(f"{name:<20} {value}")
    for url in settings.trace_urls(_traces(event)):
        say(f"{'trace':<20} {url}")
    say(f"{'body':<20} {'--reveal shows it' if body is None else ''}".rstrip())
    if body is not None:
        say(body, keep="\n\t")


def _readable(event: Unhandled, settings: Settings) -> str:
    """Raises: NoUsableKey."""
    body = unhandled_body(Provider(event.provider), event.body, settings.encryptor)
    try:
        return pretty(read_json(body))
    except ValueError:
        return body.decode(errors="backslashreplace")


def _as_json(event: Unhandled) -> dict[str, Any]:
    """All but the body."""
    return {
        "unhandled_event_id": event.unhandled_event_id,
        "marketplace": event.provider,
        "type": event.type,
        "event_id": event.event_id,
        "received_at": event.received_at,
        "bytes": len(event.body),
        "taken_by": store.family_of(event.provider, event.type),
        **_traces(event),
    }


def _traces(event: Unhandled) -> dict[str, str]:
    """Its trace, if that is recorded."""
    trace_id = recorded_trace(event.traceparent)
    return {} if trace_id is None else {TRACE_IDS[0]: trace_id}


@unhandled.command(name="replay")
def replay_(
    *,
    type: Types = (),
    marketplace: Marketplaces = (),
    all: Flag = False,
    dry_run: Flag = False,
    rate: float = 200.0,
    json: Json = False,
) -> None:
    """Send events of types that this release takes to their families, as if they came now.

    They keep their original reception time, and get the event ids that they would get now. Each is removed
    once the broker has confirmed it; to continue after an interruption, repeat the command. Exits 1 if any
    event stays.

    Parameters
    ----------
    type
        Events of this type, as the marketplace spells it; may be given several times.
    marketplace
        Only of this marketplace.
    all
        Events of all types that this release takes.
    dry_run
        Show what the events would do against today's rows; send nothing.
    rate
        Maximum number of events per second.
    """
    if bool(type) == all:
        raise WrongUsage("no events are selected: give --type or --all")
    if not 0 < rate <= 10_000:
        raise WrongUsage(f"--rate must be more than 0, at most 10000 (given: {rate:g})")
    selection = _selection(_handled(type, marketplace), marketplace)
    settings = load_context("unhandled")
    if dry_run:
        run_loop(_print_dry_run(settings, selection, json))
    else:
        with traced(settings, "replay"):
            code = run_loop(_replay(settings, selection, rate, json))
        sys.exit(code)


def _handled(types: Sequence[str], marketplaces: Sequence[Provider]) -> tuple[str, ...]:
    """The types given, or all that a family handles.

    Raises:
        CommandRefused: No family handles one of them.
    """
    handled = store.handled_types(marketplaces or tuple(Provider))
    unhandled_types = sorted(visible(one)[:200] for one in set(types) - handled)
    if unhandled_types:
        raise CommandRefused(
            f"no family of this release takes {', '.join(unhandled_types)}: nothing was replayed; "
            "`stockhook unhandled list` shows which types a family handles"
        )
    return tuple(types) or tuple(sorted(handled))


async def _print_dry_run(settings: Settings, selection: UnhandledSelection, json: bool) -> None:
    async with open_database(settings, "unhandled") as database:
        counts = await dry_run_counts(database, settings.encryptor, selection)
    if json:
        print_json(
            [
                {"type": name, "would_be": would_be, "events": events}
                for (name, would_be), events in counts.items()
            ]
        )
        return
    for (name, would_be), events in sorted(counts.items()):
        say(f"{events:>8,} {name}: {would_be}")
    say(f"{_counted(counts.total(), 'event')}; nothing was sent")


async def _replay(settings: Settings, selection: UnhandledSelection, rate: float, json: bool) -> int:
    """The exit code.

    Raises:
        CommandRefused
    """
    bar = Progress(
        TextColumn("replayed"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    async with open_database(settings, "unhandled") as database:
        broker = Broker(settings.amqp_url.get_secret_value(), "replay")
        run = UnhandledReplay(broker, database, settings.encryptor, rate)
        with bar:
            task = bar.add_task("")
            run.on_progress = lambda tally: bar.update(task, total=tally.total, completed=tally.published)
            try:
                tally = await run.run(selection)
            except Unroutable:
                raise CommandRefused("a queue is missing: `stockhook topology` declares it") from None
    _print_tally(tally, json)
    return FAILED if tally.left else 0


def _print_tally(tally: UnhandledTally, json: bool) -> None:
    if json:
        left = [
            {"type": name, "reason": reason, "events": events}
            for (name, reason), events in tally.left.items()
        ]
        print_json({"selected": tally.total, "replayed": tally.published, "left": left})
        return
    say(f"replayed {tally.published:,} of {_counted(tally.total, 'event')}")
    for (name, reason), events in sorted(tally.left.items()):
        say(f"{_counted(events, 'event')} of {name} stay: {reason}")


def _selection(types: Sequence[str], marketplaces: Sequence[Provider]) -> UnhandledSelection:
    return UnhandledSelection(tuple(marketplaces) or None, tuple(types) or None)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
