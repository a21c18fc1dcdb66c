"""`stockhook dead`: find dead letters, understand them, mend them, replay or discard them."""

import os
import pwd
import re
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import orjson
import structlog
import uvloop
from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from consumers.registry import FAMILIES
from schemas.events import read_json
from worker.broker import Broker
from worker.channel import Unroutable
from worker.database import Database
from worker.dead import editing, replay, store
from worker.dead.letter import QUARANTINE_LANE
from worker.dead.masking import masked, pretty
from worker.dead.mending import Mend, fault, mend
from worker.dead.store import Action, Kept, Selection, State
from worker.ingest.sealing import CannotUnseal
from worker.logs import configure
from worker.settings import Settings, read_settings

log = structlog.get_logger(__name__)

T = TypeVar("T")

FAILED = 1
USAGE = 2

# A terminal is to take no orders from a body.
_UNPRINTABLE = re.compile(r"[^\S \n\t]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")

LANES = (*FAMILIES, QUARANTINE_LANE)

Flag = Annotated[bool, Parameter(negative=())]
Json = Annotated[bool, Parameter(name="--json", help="Print JSON.", negative=())]

dead = App(name="dead", help="Find dead letters, understand them, mend them, replay or discard them.")


class WrongUsage(Exception):
    """The options do not fit together. The text says which."""


class Refused(Exception):
    """It cannot be done to this letter. The text says why."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters."""

    family: Annotated[str | None, Parameter(name=("--family", "--lane"))] = None
    "Of this family, or of the quarantine."
    reason: Annotated[str | None, Parameter(name="--reason")] = None
    "Those whose reason contains this."
    fingerprint: str | None = None
    "Those that failed in this way: the group that `dead list --group` shows."
    type: str | None = None
    "Of this event type, as the marketplace spells it."
    entity: str | None = None
    "About this part, order or return."
    since: str | None = None
    "That arrived at this time or later: ISO 8601, or `30m`, `12h`, `7d` ago."
    until: str | None = None
    "That arrived before this time."

    def selection(self, states: tuple[State, ...] | None) -> Selection:
        """Raises: WrongUsage."""
        if self.family is not None and self.family not in LANES:
            raise WrongUsage(f"no such family: {self.family}; there are {', '.join(LANES)}")
        return Selection(
            lane=self.family,
            reason=self.reason,
            fingerprint=self.fingerprint,
            type=self.type,
            entity=self.entity,
            since=_instant("--since", self.since),
            until=_instant("--until", self.until),
            states=states,
        )

    @property
    def is_empty(self) -> bool:
        return self == Filter()


ANY = Filter()


@dead.command(name="list")
def list_(
    filter: Filter = ANY,
    *,
    state: Literal["waiting", "replaying", "replayed", "discarded", "any"] = "waiting",
    group: Flag = False,
    limit: int = 100,
    json: Json = False,
) -> None:
    """List dead letters, the oldest first; no customer data is shown.

    Parameters
    ----------
    state
        Waiting for somebody, by default.
    group
        One line for each kind of failure.
    limit
        So many at most.
    """
    with _in_words():
        states = None if state == "any" else (State(state),)
        selection = filter.selection(states)
        _run(_list_groups(selection, json) if group else _list(selection, limit, json))


async def _list(selection: Selection, limit: int, json: bool) -> None:
    async with _database() as database, database.connection() as connection:
        letters = await store.select(connection, selection, limit=max(1, limit))
        total = await store.count(connection, selection)
    if json:
        _print_json([_as_json(letter) for letter in letters])
        return
    table = Table("id", "lane", "type", "entity", "attempts", "arrived", "fingerprint", "reason")
    for letter in letters:
        table.add_row(
            str(letter.dead_letter_id),
            letter.lane,
            letter.type or "?",
            letter.entity_id or "",
            str(letter.attempts),
            _short(letter.arrived_at),
            letter.fingerprint,
            letter.reason + (f" (came back from {letter.replay_of})" if letter.replay_of else ""),
        )
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print(f"{len(letters):,} of {total:,}")


async def _list_groups(selection: Selection, json: bool) -> None:
    async with _database() as database, database.connection() as connection:
        rows = await connection.fetch(store.GROUP_LETTERS, *selection.arguments())
    if json:
        _print_json([dict(row) for row in rows])
        return
    table = Table("fingerprint", "letters", "lane", "types", "first", "last", "reason")
    for row in rows:
        table.add_row(
            row["fingerprint"],
            f"{row['letters']:,}",
            row["lane"],
            ", ".join(row["types"]),
            _short(row["first_at"]),
            _short(row["last_at"]),
            row["reason"],
        )
    Console(highlight=False, markup=False).print(table)


@dead.command
def show(dead_letter_id: int, /, *, reveal: Flag = False, json: Json = False) -> None:
    """Show all that is known of a dead letter, its body without customer data.

    Parameters
    ----------
    reveal
        Show the body as it is; who did so is logged, and noted beside the letter.
    """
    with _in_words():
        _run(_show(dead_letter_id, reveal, json))


async def _show(dead_letter_id: int, reveal: bool, json: bool) -> None:
    settings = _settings()
    async with _database() as database:
        letter = await _letter(database, dead_letter_id)
        body, proposal = _shown_body(letter, settings, reveal)
        if reveal:
            async with database.transaction() as connection:
                await store.note(connection, [dead_letter_id], _who(), Action.REVEALED, None)
            log.warning("dead_letter.revealed", dead_letter=dead_letter_id, who=_who())
        async with database.connection() as connection:
            actions = await connection.fetch(store.ACTIONS, dead_letter_id)
    history = [dict(row) for row in actions]
    if json:
        mends = list(proposal.edits) if proposal else []
        _print_json({**_as_json(letter), "mend": mends, "history": history, "body": body})
        return
    for name, value in _as_json(letter).items():
        if value is not None:
            print(f"{name:<16} {_in_a_line(value)}")
    for row in history:
        words = f": {row['reason']}" if row["reason"] else ""
        print(f"{row['action']:<16} {_short(row['at'])} by {row['who']}{words}")
    if proposal:
        print(f"mend             {'; '.join(proposal.edits)}")
        print(f"                 to accept it: stockhook dead mend {dead_letter_id} --accept")
    print("body" if reveal else "body, without customer data (--reveal shows it)")
    print(body)


def _shown_body(letter: Kept, settings: Settings, reveal: bool) -> tuple[str, Mend | None]:
    """The body in words, and the mend that would make JSON of it."""
    try:
        body = editing.readable(letter, settings.sealer)
    except CannotUnseal as error:
        return f"<{len(letter.body)} bytes, sealed: {error}>", None
    proposal = mend(body)
    if reveal:
        text = _UNPRINTABLE.sub("�", body.decode(errors="backslashreplace"))
        try:
            return (pretty(read_json(body)) if proposal is None else text), proposal
        except ValueError:
            return text, proposal
    try:
        shown = masked(body if proposal is None else proposal.body)
        return (f"(as it would be when mended)\n{shown}" if proposal else shown), proposal
    except ValueError:
        return f"<{len(body)} bytes, no JSON: {fault(body)}>", None


@dead.command(name="mend")
def mend_(dead_letter_id: int, /, *, accept: Flag = False, json: Json = False) -> None:
    """Propose the smallest mend of a body that is no JSON: a comma, a byte order mark.

    Exits 1 where there is none.

    Parameters
    ----------
    accept
        Mend it; the body as it came is kept.
    """
    with _in_words():
        _run(_mend(dead_letter_id, accept, json))


async def _mend(dead_letter_id: int, accept: bool, json: bool) -> None:
    settings = _settings()
    async with _database() as database:
        letter = await _letter(database, dead_letter_id)
        body = editing.readable(letter, settings.sealer)
        proposal = mend(body)
        if proposal is None:
            raise Refused(f"no mend of ours makes a difference: {_state_of(body)}")
        if accept:
            await _change(database, letter, proposal.body, settings, Action.MENDED, "; ".join(proposal.edits))
    if json:
        _print_json({"dead_letter_id": dead_letter_id, "edits": proposal.edits, "accepted": accept})
        return
    for edit in proposal.edits:
        print(edit)
    print("mended" if accept else f"to accept it: stockhook dead mend {dead_letter_id} --accept")


def _state_of(body: bytes) -> str:
    try:
        read_json(body)
    except ValueError:
        return fault(body)
    return "it is JSON"


@dead.command
def edit(dead_letter_id: int, /, *, reason: str | None = None) -> None:
    """Open the body in $VISUAL or $EDITOR, check it against its schema, keep it beside the original.

    It is shown with its customer data, which is noted, as is the edit.

    Parameters
    ----------
    reason
        Why, for the record.
    """
    with _in_words():
        _run(_edit(dead_letter_id, reason))


async def _edit(dead_letter_id: int, reason: str | None) -> None:
    settings = _settings()
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not command:
        raise WrongUsage("set EDITOR: it opens the body")
    async with _database() as database:
        letter = await _letter(database, dead_letter_id)
        if letter.state != State.WAITING:
            raise Refused(f"it is {letter.state}, no longer waiting")
        body = editing.readable(letter, settings.sealer)
        async with database.transaction() as connection:
            await store.note(connection, [dead_letter_id], _who(), Action.REVEALED, "to edit it")
        log.warning("dead_letter.revealed", dead_letter=dead_letter_id, who=_who())
        edited = _in_editor(command, body)
        if edited == body:
            print("nothing was changed")
            return
        await _change(database, letter, edited, settings, Action.EDITED, reason)
    print("edited")


def _in_editor(command: str, body: bytes) -> bytes:
    """The file is ours alone, and gone when the editor is."""
    with tempfile.TemporaryDirectory(prefix="stockhook-") as folder:
        file = Path(folder, "event.json")
        file.touch(mode=0o600)
        file.write_bytes(body)
        try:
            code = subprocess.run([*shlex.split(command), str(file)], check=False).returncode
        except OSError as error:
            raise Refused(f"cannot start {command}: {error.strerror}") from None
        if code:
            raise Refused(f"the editor ended with {code}: nothing was changed")
        edited = file.read_bytes()
    # Editors end the last line.
    return edited if body.endswith(b"\n") else edited.removesuffix(b"\n")


async def _change(
    database: Database, letter: Kept, body: bytes, settings: Settings, action: Action, reason: str | None
) -> None:
    """Raises: Refused."""
    if letter.state != State.WAITING:
        raise Refused(f"it is {letter.state}, no longer waiting")
    match editing.checked(letter, body, settings.sealer):
        case editing.Broken(why):
            raise Refused(f"nothing was changed: {why}")
        case editing.Fits() as fits:
            pass
    async with database.transaction() as connection:
        changed = await connection.fetch(
            store.CHANGE_BODY, letter.dead_letter_id, fits.body, letter.body, fits.type, fits.entity_id
        )
        if not changed:
            raise Refused("somebody else changed it meanwhile")
        await store.note(connection, [letter.dead_letter_id], _who(), action, reason)


@dead.command
def discard(*dead_letter_ids: int, reason: str, json: Json = False) -> None:
    """Set dead letters aside for good; they stay in the table.

    Parameters
    ----------
    reason
        Why, for the record.
    """
    with _in_words():
        if not dead_letter_ids or not reason.strip():
            raise WrongUsage("name the dead letters, and a reason")
        _run(_discard(dead_letter_ids, reason, json))


async def _discard(ids: Sequence[int], reason: str, json: bool) -> None:
    async with _database() as database, database.transaction() as connection:
        rows = await connection.fetch(store.DISCARD, list(ids))
        discarded = sorted(row["dead_letter_id"] for row in rows)
        await store.note(connection, discarded, _who(), Action.DISCARDED, reason)
    left = sorted(set(ids) - set(discarded))
    if json:
        _print_json({"discarded": discarded, "left": left})
    else:
        print(f"discarded {len(discarded):,}")
    if left:
        raise Refused(f"not waiting, or not there: {', '.join(map(str, left))}")


@dead.command(name="replay")
def replay_(
    *dead_letter_ids: int,
    filter: Filter = ANY,
    all: Flag = False,
    dry_run: Flag = False,
    rate: float = 50.0,
    why: str | None = None,
    json: Json = False,
) -> None:
    """Send dead letters to their family again, as first attempts; what is applied already stays applied.

    Begun and interrupted, the same command goes on where it was. It stops by itself when most of it
    fails again. Exits 1 then, or when any came back or could not be sent.

    Parameters
    ----------
    dead_letter_ids
        These; or those of a filter.
    all
        All that wait.
    dry_run
        Say what each would do against today's rows; send nothing.
    rate
        So many a second at most.
    why
        Why, for the record.
    """
    with _in_words():
        if not dead_letter_ids and filter.is_empty and not all:
            raise WrongUsage("which ones? Name ids, or a filter such as --fingerprint, or --all")
        if not 0 < rate <= 10_000:
            raise WrongUsage(f"--rate must be more than 0, at most 10000 (given: {rate:g})")
        selection = replace(
            filter.selection((State.WAITING, State.REPLAYING)), ids=tuple(dead_letter_ids) or None
        )
        code = _run(_forecast(selection, json) if dry_run else _replay(selection, rate, why, json))
    sys.exit(code)


async def _forecast(selection: Selection, json: bool) -> int:
    settings = _settings()
    told: list[dict[str, object]] = []
    after = 0
    async with _database() as database:
        while True:
            async with database.connection() as connection:
                letters = await store.select(connection, selection, after=after, limit=100)
            if not letters:
                break
            after = letters[-1].dead_letter_id
            for letter in letters:
                words = await _would(database, letter, settings)
                told.append(
                    {"dead_letter_id": letter.dead_letter_id, "event_id": letter.event_id, "would_be": words}
                )
    if json:
        _print_json(told)
    else:
        for row in told:
            print(f"{row['dead_letter_id']:>8} {row['would_be']}")
        print(f"{len(told):,} dead letters; nothing was sent")
    return 0


async def _would(database: Database, letter: Kept, settings: Settings) -> str:
    match replay.prepare(letter, settings.sealer):
        case replay.Ready() as ready:
            return await replay.forecast(database, ready)
        case replay.Unready(reason):
            return f"cannot be replayed: {reason}"


async def _replay(selection: Selection, rate: float, why: str | None, json: bool) -> int:
    settings = _settings()
    bar = Progress(
        TextColumn("{task.fields[words]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    async with _database(3) as database:
        broker = Broker(settings.amqp_url.get_secret_value(), "replay")
        run = replay.Replay(
            broker, database, settings.sealer, settings.delays, rate=rate, who=_who(), reason=why
        )
        with bar:
            task = bar.add_task("", words="")
            run.on_progress = lambda tally: bar.update(
                task, total=tally.total, completed=tally.replayed, words=_progress(tally)
            )
            try:
                tally = await run.run(selection)
            except replay.AnotherRuns:
                raise Refused("another replay is running: wait for its end") from None
            except Unroutable:
                raise Refused("a family's queue is missing: `stockhook topology` declares it") from None
    if json:
        _print_json(
            {
                "selected": tally.total,
                "replayed": tally.replayed,
                "applied": tally.applied,
                "came_back": tally.came_back,
                "under_way": tally.under_way,
                "not_replayed": [{"dead_letter_id": number, "reason": why} for number, why in tally.unready],
                "stopped": tally.stopped,
            }
        )
    else:
        print(f"{_progress(tally)}, of {tally.total:,}")
        for number, reason in tally.unready:
            print(f"{number} was not replayed: {reason}")
    if tally.stopped:
        print(f"stockhook: stopped: {tally.stopped}", file=sys.stderr)
    return FAILED if tally.stopped or tally.came_back or tally.unready else 0


def _progress(tally: replay.Tally) -> str:
    return (
        f"replayed {tally.replayed:,}: applied {tally.applied:,}, came back {tally.came_back:,}, "
        f"under way {tally.under_way:,}"
    )


async def _letter(database: Database, dead_letter_id: int) -> Kept:
    """Raises: Refused."""
    async with database.connection() as connection:
        found = await store.select(connection, Selection(ids=(dead_letter_id,), states=None))
    if not found:
        raise Refused(f"there is no dead letter {dead_letter_id}")
    return found[0]


def _as_json(letter: Kept) -> dict[str, Any]:
    """All but the bodies."""
    return {
        "dead_letter_id": letter.dead_letter_id,
        "state": letter.state,
        "lane": letter.lane,
        "provider": letter.provider,
        "type": letter.type or None,
        "event_id": letter.event_id,
        "entity_id": letter.entity_id,
        "reason": letter.reason,
        "exception": letter.exception,
        "fingerprint": letter.fingerprint,
        "attempts": letter.attempts,
        "received_at": letter.received_at,
        "first_failed_at": letter.first_failed_at,
        "last_failed_at": letter.last_failed_at,
        "arrived_at": letter.arrived_at,
        "bytes": len(letter.body),
        "is_changed": letter.original_body is not None,
        "replayed_as": letter.replayed_as,
        "replay_of": letter.replay_of,
        "headers": dict(letter.headers),
    }


def _instant(option: str, told: str | None) -> datetime | None:
    if told is None:
        return None
    if ago := re.fullmatch(r"(\d{1,6})([mhd])", told):
        unit = {"m": "minutes", "h": "hours", "d": "days"}[ago[2]]
        return datetime.now(UTC) - timedelta(**{unit: int(ago[1])})
    try:
        instant = datetime.fromisoformat(told)
    except ValueError:
        raise WrongUsage(
            f"{option} must be a time such as 2026-03-01T12:00:00Z, or 12h (given: {told!r})"
        ) from None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _in_a_line(value: object) -> str:
    match value:
        case dict():
            return orjson.dumps(value).decode()
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case _:
            return str(value)


def _short(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _who() -> str:
    """By the process, not by the environment, which anybody may set."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


def _print_json(value: object) -> None:
    print(orjson.dumps(value, default=str).decode())


def _settings() -> Settings:
    settings = read_settings()
    configure(settings.log_format, settings.log_level, "dead")
    return settings


@asynccontextmanager
async def _database(size: int = 2) -> AsyncIterator[Database]:
    database = Database(_settings().database_url.get_secret_value(), size, "stockhook/dead")
    try:
        yield database
    finally:
        await database.close()


def _run(work: Coroutine[Any, Any, T]) -> T:
    return uvloop.run(work)


@contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except WrongUsage as error:
        _fail(USAGE, str(error))
    except (Refused, CannotUnseal) as error:
        _fail(FAILED, str(error))


def _fail(code: int, words: str) -> NoReturn:
    print(f"stockhook: {words}", file=sys.stderr)
    sys.exit(code)
