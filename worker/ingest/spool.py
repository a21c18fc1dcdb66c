"""The durable local spool: where the ingest writes an event while the broker cannot take it.

An SQLite file in WAL mode with `synchronous=FULL`, used by one thread of its own. Whatever waits when
that thread gets free goes into one transaction: one fsync for several events.

Every entry carries a checksum. A file that turns out to be damaged, at opening or later, is replaced: the
entries that any of its pages still holds are carried over into a new one, and it stays beside it under
`<path>.damaged-<UTC time>`.
"""

import asyncio
import fcntl
import os
import secrets
import sqlite3
import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from time import monotonic
from typing import Self, TypeVar

import orjson
import structlog

from worker.broker import Message

log = structlog.get_logger(__name__)

T = TypeVar("T")

STREAM_HEADER = "x-stream"
PLACE_HEADER = "x-place"

# The predecessor may still be finishing its requests.
TAKEN_PATIENCE = timedelta(seconds=8)

# What one transaction takes at most, so that the WAL stays small and the first of many does not wait long.
GROUP_ENTRIES = 256
GROUP_BYTES = 1024 * 1024

# Removing needs space too, for the WAL and to move it into the file. A spool that filled its disk to the
# last byte could never be drained. The WAL has 1 MiB and a transaction of up to about 1.5 MiB at most.
HEADROOM = 4 * 1024 * 1024


class SpoolFull(Exception):
    """The entries have as many bytes as they may."""


class SpoolBroken(Exception):
    """The disk is full or fails, or the path cannot be used. The text says what, and quotes no event."""


class SpoolTaken(Exception):
    """Another process uses this spool."""


class _Damaged(Exception):
    """The file does not hold what was written into it."""


@dataclass(frozen=True, slots=True)
class Spooled:
    """An entry; `message` carries its place in the spool's stream in its headers, if it has one."""

    number: int
    message: Message
    spooled_at: datetime


class Spool:
    """Entries in the order of their arrival, on disk.

    The spool is a stream of its own: a random number, made with the file. Within it each family's entries
    have places from 1 on without a gap, also across restarts. A file whose counters were lost goes on as
    another stream, so that no place is ever given twice.
    """

    def __init__(self, path: Path, max_bytes: int, patience: timedelta = TAKEN_PATIENCE) -> None:
        self._lock = _Lock(Path(f"{path}.lock"), patience)
        self._file = _File(path)
        self._max_bytes = max_bytes
        self._thread = ThreadPoolExecutor(1, "spool")
        self._waiting: deque[_Waiting] = deque()
        self._reserved = 0
        self._writing: asyncio.Task[None] | None = None
        self._not_empty = asyncio.Event()
        self._is_open = False

    async def __aenter__(self) -> Self:
        """Open the file, or make it.

        Raises:
            SpoolTaken: Still so after `patience`.
            SpoolBroken
        """
        try:
            await self._lock.take()
            await self._in_thread(self._file.open)
        except BaseException:
            await self._close()
            raise
        self._is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish what was asked before, and close."""
        self._is_open = False
        while self._writing is not None:
            await asyncio.wait([self._writing])
        await self._close()

    @property
    def depth(self) -> int:
        return self._file.state.depth

    @property
    def size(self) -> int:
        """Bytes of the entries' bodies and headers; the file has more."""
        return self._file.state.size

    @property
    def oldest_at(self) -> datetime | None:
        return self._file.oldest_at

    @property
    def stream(self) -> int:
        return self._file.state.stream

    @property
    def places(self) -> Mapping[str, int]:
        """The last place given in the stream, per family."""
        return self._file.state.places

    @property
    def commits(self) -> int:
        """How many transactions wrote entries: under load fewer than entries."""
        return self._file.commits

    async def put(self, message: Message, family: str | None) -> None:
        """Return once it is on disk; without a family it gets no place.

        Cancelled, or failed with SpoolBroken, it may have been written or not.

        Raises:
            SpoolFull
            SpoolBroken
        """
        self._check_open()
        draft = _draft(message, family)
        if self.size + self._reserved + draft.size > self._max_bytes:
            raise SpoolFull(f"{self.depth} entries have {self.size} of at most {self._max_bytes} bytes")
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reserved += draft.size
        self._waiting.append(_Waiting(draft, written))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(), name="spool")
        await written

    async def oldest(self, limit: int) -> list[Spooled]:
        """Raises: SpoolBroken."""
        self._check_open()
        return await self._in_thread(lambda: self._file.oldest(limit))

    async def remove(self, numbers: Sequence[int]) -> None:
        """Remove what is still there of these.

        Raises:
            SpoolBroken
        """
        self._check_open()
        await self._in_thread(lambda: self._file.remove(numbers))

    async def wait_not_empty(self) -> None:
        await self._not_empty.wait()

    async def _write(self) -> None:
        while self._waiting:
            group, failure = await self._in_thread(self._write_group)
            self._reserved -= sum(waiting.draft.size for waiting in group)
            for waiting in group:
                waiting.answer(failure)
        self._writing = None

    def _write_group(self) -> tuple[list["_Waiting"], Exception | None]:
        """Write what waits by now, in one transaction."""
        group = list(self._next_group())
        try:
            self._file.insert([waiting.draft for waiting in group])
        except Exception as failure:
            # Whatever it is, those who wait for their entries have to hear of it.
            return group, failure
        return group, None

    def _next_group(self) -> Iterator["_Waiting"]:
        size = 0
        for _ in range(min(len(self._waiting), GROUP_ENTRIES)):
            if size > GROUP_BYTES:
                break
            waiting = self._waiting.popleft()
            size += waiting.draft.size
            yield waiting

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Have it done in the spool's thread, to its end also if the caller is cancelled."""
        done = asyncio.get_running_loop().run_in_executor(self._thread, work)
        done.add_done_callback(self._look)
        return await asyncio.shield(done)

    def _look(self, _: object) -> None:
        if self.depth:
            self._not_empty.set()
        else:
            self._not_empty.clear()

    def _check_open(self) -> None:
        if not self._is_open:
            raise SpoolBroken("the spool is not open")

    async def _close(self) -> None:
        await self._in_thread(self._file.close)
        self._thread.shutdown()
        self._lock.release()


@dataclass(frozen=True, slots=True)
class _Draft:
    """An entry that has no number yet, nor a place."""

    spooled_at: str
    family: str | None
    exchange: str
    routing_key: str
    type: str
    headers: str
    body: bytes
    size: int


def _draft(message: Message, family: str | None) -> _Draft:
    own = {STREAM_HEADER, PLACE_HEADER}
    headers = orjson.dumps({name: value for name, value in message.headers.items() if name not in own})
    return _Draft(
        spooled_at=datetime.now(UTC).isoformat(),
        family=family,
        exchange=message.exchange,
        routing_key=message.routing_key,
        type=message.type,
        headers=headers.decode(),
        body=message.body,
        size=len(headers) + len(message.body),
    )


@dataclass(frozen=True, slots=True)
class _Waiting:
    draft: _Draft
    written: asyncio.Future[None]

    def answer(self, failure: Exception | None) -> None:
        if self.written.done():
            return  # whoever asked has been cancelled
        if failure is None:
            self.written.set_result(None)
        else:
            self.written.set_exception(failure)


class _Lock:
    """One process at a time, by an advisory lock on a file beside the spool."""

    def __init__(self, path: Path, patience: timedelta) -> None:
        self._path = path
        self._patience = patience
        self._descriptor: int | None = None

    async def take(self) -> None:
        deadline = monotonic() + self._patience.total_seconds()
        try:
            _make_folder(self._path.parent)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            while not self._is_taken_now():
                if monotonic() > deadline:
                    raise SpoolTaken(f"another process uses the spool ({self._path} is locked)")
                await asyncio.sleep(0.05)
        except OSError as error:
            raise SpoolBroken(_reason(error)) from error

    def _is_taken_now(self) -> bool:
        assert self._descriptor is not None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _make_folder(folder: Path) -> None:
    """Customers' data will be in it, so what we create is for us alone."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)
        _sync(one.parent)


def _sync(path: Path) -> None:
    """A file's name lasts once its folder is on disk too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: sqlite3.Error | OSError) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror} ({error.filename})" if error.filename else str(error.strerror)
    return str(getattr(error, "sqlite_errorname", type(error).__name__))


PAGE = 4096

# Only before the first table is made can these be chosen.
CHOOSE_PAGES = f"PRAGMA page_size = {PAGE}"
CHOOSE_VACUUM = "PRAGMA auto_vacuum = INCREMENTAL"

USE_WAL = "PRAGMA journal_mode = WAL"
USE_NO_JOURNAL = "PRAGMA journal_mode = OFF"
SYNC_EACH_COMMIT = "PRAGMA synchronous = FULL"
# Without readers each checkpoint is complete, and the next transaction begins the WAL anew.
CHECKPOINT_EARLY = "PRAGMA wal_autocheckpoint = 256"
KEEP_WAL_SMALL = "PRAGMA journal_size_limit = 1048576"
# What was removed is not to be found again, neither by us in a damaged file nor by anyone else.
ERASE_REMOVED = "PRAGMA secure_delete = ON"

CHECK = "PRAGMA quick_check(1)"
SHRINK = "PRAGMA incremental_vacuum"

BEGIN = "BEGIN IMMEDIATE"
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"

IS_MADE = "SELECT count(*) FROM sqlite_schema"

CREATE_ENTRIES = """
CREATE TABLE entries (
    number INTEGER PRIMARY KEY,
    spooled_at TEXT NOT NULL,
    stream INTEGER,
    family TEXT,
    place INTEGER,
    exchange TEXT NOT NULL,
    routing_key TEXT NOT NULL,
    type TEXT NOT NULL,
    headers TEXT NOT NULL,
    checksum BLOB NOT NULL,
    body BLOB NOT NULL
)
"""
COLUMNS = 11

# One row.
CREATE_STATE = """
CREATE TABLE state (
    stream INTEGER NOT NULL,
    last_number INTEGER NOT NULL,
    depth INTEGER NOT NULL,
    size INTEGER NOT NULL,
    places TEXT NOT NULL,
    checksum BLOB NOT NULL
)
"""

INSERT_STATE = "INSERT INTO state VALUES (?, ?, ?, ?, ?, ?)"

READ_STATE = "SELECT * FROM state"

UPDATE_STATE = """
UPDATE state
SET stream = ?, last_number = ?, depth = ?, size = ?, places = ?, checksum = ?
"""

INSERT = "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

# A damaged file may hold several images of the same page.
CARRY_OVER = "INSERT OR IGNORE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

MEASURE = """
SELECT count(*), coalesce(sum(length(CAST(headers AS BLOB)) + length(body)), 0), coalesce(max(number), 0)
FROM entries
"""

OLDEST = "SELECT * FROM entries ORDER BY number LIMIT ?"

OLDEST_AT = "SELECT spooled_at FROM entries ORDER BY number LIMIT 1"

REMOVE = """
DELETE FROM entries
WHERE number IN (SELECT value FROM json_each(?))
RETURNING length(CAST(headers AS BLOB)) + length(body)
"""

# As sqlite3 gives them: None, int, float, str or bytes.
_Values = Sequence[object]


@dataclass(frozen=True, slots=True)
class _State:
    """What the file knows of itself, changed in the same transaction as its entries."""

    stream: int
    last_number: int = 0
    depth: int = 0
    size: int = 0
    places: Mapping[str, int] = field(default_factory=dict)

    def values(self) -> _Values:
        places = orjson.dumps(self.places).decode()
        fields = (self.stream, self.last_number, self.depth, self.size, places)
        return (*fields, _checksum(fields))


def _checksum(fields: _Values, body: bytes = b"") -> bytes:
    return blake2b(orjson.dumps(fields) + body, digest_size=16).digest()


def _fits(entry: _Values) -> bool:
    """Whether these are the values that were written; a damaged page may give values of any type."""
    *fields, checksum, body = entry
    return isinstance(body, bytes) and _is_intact(fields, checksum, body)


def _is_intact(fields: _Values, checksum: object, body: bytes = b"") -> bool:
    try:
        return _checksum(fields, body) == checksum
    except TypeError:
        return False


def _placed(drafts: Sequence[_Draft], state: _State) -> tuple[_State, list[_Values]]:
    """The entries of these drafts, numbered on from a state, and the state after them."""
    places = dict(state.places)
    entries: list[_Values] = []
    for number, draft in enumerate(drafts, start=state.last_number + 1):
        stream, place = None, None
        if draft.family is not None:
            stream = state.stream
            place = places[draft.family] = places.get(draft.family, 0) + 1
        target = (draft.exchange, draft.routing_key, draft.type, draft.headers)
        fields = (number, draft.spooled_at, stream, draft.family, place, *target)
        entries.append((*fields, _checksum(fields, draft.body), draft.body))
    depth = state.depth + len(drafts)
    size = state.size + sum(draft.size for draft in drafts)
    return _State(state.stream, state.last_number + len(drafts), depth, size, places), entries


def _spooled(
    entry: tuple[int, str, int | None, str, int | None, str, str, str, str, bytes, bytes],
) -> Spooled:
    number, spooled_at, stream, _, place, exchange, routing_key, kind, headers, _, body = entry
    stamps = {} if place is None else {STREAM_HEADER: stream, PLACE_HEADER: place}
    message = Message(exchange, routing_key, kind, orjson.loads(headers) | stamps, body)
    return Spooled(number, message, datetime.fromisoformat(spooled_at))


# The file and what SQLite keeps beside it; the shared memory is made anew each time.
PARTS = ("", "-wal", "-journal")

# We have just opened the file for writing, so only a flipped byte in its header can forbid it; what really
# is read-only has an extended code or fails otherwise.
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY}
# A missing table, or a format that SQLite does not know.
_DAMAGE_AT_OPENING = _DAMAGE | {sqlite3.SQLITE_ERROR}


@contextmanager
def _noticing_damage(codes: set[int]) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", None)
        # An extended code (SQLITE_CORRUPT_INDEX, …) has its plain one in the low byte.
        if code is not None and (code in codes or code & 0xFF == sqlite3.SQLITE_CORRUPT):
            raise _Damaged from error
        raise
    except UnicodeDecodeError as error:
        # The name of a column.
        raise _Damaged from error


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute(BEGIN)
    try:
        yield
        connection.execute(COMMIT)
    except BaseException:
        if connection.in_transaction:
            connection.execute(ROLLBACK)
        raise


def _connection(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=1, isolation_level=None)
    # A flipped byte is for the checksum to notice; sqlite3 itself would quote the text it cannot decode.
    connection.text_factory = lambda text: text.decode(errors="replace")
    return connection


def _choose(connection: sqlite3.Connection, *choices: str) -> None:
    for choice in choices:
        connection.execute(choice).fetchall()


def _create(connection: sqlite3.Connection, state: _State) -> None:
    connection.execute(CREATE_ENTRIES)
    connection.execute(CREATE_STATE)
    connection.execute(INSERT_STATE, state.values())


class _File:
    """The SQLite file. Used by one thread; `state`, `oldest_at` and `commits` may be read by any."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._is_known = False
        self.state = _State(stream=0)
        self.oldest_at: datetime | None = None
        self.commits = 0

    def open(self) -> None:
        """Raises: SpoolBroken."""
        self._read_ahead()
        self._guarded(self._check)

    def _read_ahead(self) -> None:
        """Have the file in memory: from a cold disk the check, page by page, would take far longer.

        Not while SQLite has it open: closing a second descriptor of a file drops the process's locks.
        """
        # What hinders it hinders opening too, and is told there.
        with suppress(OSError), self._path.open("rb") as file:
            while file.read(1 << 20):
                pass

    def close(self) -> None:
        if self._connection is not None:
            # Closing writes the WAL into the file; where that fails, the next opening does it.
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def insert(self, drafts: Sequence[_Draft]) -> None:
        """Write all of them, or none.

        Raises:
            SpoolBroken
        """

        def insert(connection: sqlite3.Connection) -> None:
            self._check_space()
            state, entries = _placed(drafts, self.state)
            with _transaction(connection):
                connection.executemany(INSERT, entries)
                connection.execute(UPDATE_STATE, state.values())
            self.state = state
            self.oldest_at = self.oldest_at or datetime.fromisoformat(drafts[0].spooled_at)
            self.commits += 1

        self._guarded(insert)

    def oldest(self, limit: int) -> list[Spooled]:
        """Raises: SpoolBroken."""

        def oldest(connection: sqlite3.Connection) -> list[Spooled]:
            entries = connection.execute(OLDEST, (limit,)).fetchall()
            if not all(map(_fits, entries)):
                raise _Damaged
            return [_spooled(entry) for entry in entries]

        return self._guarded(oldest)

    def remove(self, numbers: Sequence[int]) -> None:
        """Raises: SpoolBroken."""

        def remove(connection: sqlite3.Connection) -> None:
            try:
                self._remove(connection, numbers)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_FULL or len(numbers) < 2:
                    raise
                # Little space may do for few of them, and each makes some.
                middle = len(numbers) // 2
                self.remove(numbers[:middle])
                self.remove(numbers[middle:])

        self._guarded(remove)

    def _remove(self, connection: sqlite3.Connection, numbers: Sequence[int]) -> None:
        with _transaction(connection):
            removed = connection.execute(REMOVE, (orjson.dumps(numbers).decode(),)).fetchall()
            depth = self.state.depth - len(removed)
            size = self.state.size - sum(bytes_ for (bytes_,) in removed)
            state = replace(self.state, depth=depth, size=size)
            connection.execute(UPDATE_STATE, state.values())
        self.state = state
        self.oldest_at = self._read_oldest_at(connection)
        if removed and not depth:
            # Nothing has to be moved now, so giving the space back is cheap. On a full disk it may
            # fail, which is no failure of removing: the next time it is empty will do.
            with suppress(sqlite3.OperationalError):
                connection.executescript(SHRINK)

    def _guarded(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do it, if need be once more after the file was mended.

        After a failure the file is opened anew, which reads what it really holds: whether a commit that
        failed is in it only the file knows.
        """
        try:
            try:
                with _noticing_damage(_DAMAGE):
                    return work(self._opened())
            except _Damaged:
                self._mend()
                return work(self._opened())
        except _Damaged as error:
            self.close()
            raise SpoolBroken("damaged again while it was mended") from error
        except (sqlite3.Error, OSError) as error:
            # A full disk fails the writes that come before a commit: there it is certain, and frequent.
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_FULL:
                self.close()
            raise SpoolBroken(_reason(error)) from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is not None and not self._is_in_place():
            self.close()
        if self._connection is None:
            self._connection = self._open()
        return self._connection

    def _check_space(self) -> None:
        disk = os.statvfs(self._path)
        if disk.f_bavail * disk.f_frsize < HEADROOM:
            raise SpoolBroken(f"the disk has less than {HEADROOM >> 20} MiB left")

    def _is_in_place(self) -> bool:
        """Somebody may have moved the file away, or deleted it: what is written to it now would be lost."""
        try:
            return self._path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def _open(self) -> sqlite3.Connection:
        self._is_known = False
        if self._mended.exists():
            self._swap()
        self._make_file()
        # SQLite would take less than a page for an empty file.
        if 0 < self._path.stat().st_size < PAGE or _is_wal_damaged(self._path):
            raise _Damaged
        connection = _connection(self._path)
        try:
            with _noticing_damage(_DAMAGE_AT_OPENING):
                self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _make_file(self) -> None:
        _make_folder(self._path.parent)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
            self._inode = os.fstat(descriptor).st_ino
        finally:
            os.close(descriptor)
        _sync(self._path.parent)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        if self._path.stat().st_size == 0:
            # Not otherwise: this writes, and a disk that takes no more should still be read from.
            _choose(connection, CHOOSE_PAGES, CHOOSE_VACUUM)
        _choose(connection, USE_WAL, SYNC_EACH_COMMIT, CHECKPOINT_EARLY, KEEP_WAL_SMALL, ERASE_REMOVED)
        if connection.execute(IS_MADE).fetchone() == (0,):
            with _transaction(connection):
                # Should the old file have vanished under us, its numbers are still in somebody's hands.
                _create(connection, _State(_new_stream(), self.state.last_number))
        self.state = self._read_state(connection)
        self._is_known = True
        self.oldest_at = self._read_oldest_at(connection)

    def _read_state(self, connection: sqlite3.Connection) -> _State:
        values = connection.execute(READ_STATE).fetchone()
        if values is None or not _is_intact(values[:-1], values[-1]):
            raise _Damaged
        stream, last_number, depth, size, places, _ = values
        return _State(stream, last_number, depth, size, orjson.loads(places))

    def _read_oldest_at(self, connection: sqlite3.Connection) -> datetime | None:
        row = connection.execute(OLDEST_AT).fetchone()
        try:
            return None if row is None else datetime.fromisoformat(row[0])
        except (TypeError, ValueError) as error:
            raise _Damaged from error

    def _check(self, connection: sqlite3.Connection) -> None:
        if connection.execute(CHECK).fetchone() != ("ok",):
            raise _Damaged

    @property
    def _mended(self) -> Path:
        return Path(f"{self._path}.mended")

    def _mend(self) -> None:
        """Carry over what can be read into a new file, and put that in the place of the damaged one."""
        known = self.state if self._is_known else None
        self.close()
        unfinished = Path(f"{self._path}.mending")
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=0o600)
        with closing(_connection(unfinished)) as connection:
            state = self._carry_over(connection, known)
        _sync(unfinished)
        # From here on a crash cannot undo it: the next opening finishes the swap.
        unfinished.replace(self._mended)
        _sync(self._path.parent)
        aside = self._swap()
        lost = "unknown" if known is None else max(0, known.depth - state.depth)
        log.error("spool.damaged", kept_as=str(aside), entries_carried_over=state.depth, entries_lost=lost)

    def _carry_over(self, connection: sqlite3.Connection, known: _State | None) -> _State:
        # The new file counts only once it is complete, so it needs no journal.
        _choose(connection, CHOOSE_PAGES, CHOOSE_VACUUM, USE_NO_JOURNAL)
        # Where the counters cannot be trusted, another stream begins: no place may be given twice.
        state = known or _State(_new_stream(), self.state.last_number)
        with _transaction(connection):
            _create(connection, state)
            connection.executemany(CARRY_OVER, _carved(self._path))
            depth, size, last_number = connection.execute(MEASURE).fetchone()
            last_number = max(last_number, state.last_number)
            state = replace(state, last_number=last_number, depth=depth, size=size)
            connection.execute(UPDATE_STATE, state.values())
        return state

    def _swap(self) -> Path:
        """Put the mended file in the damaged one's place; after a crash in the middle this goes on."""
        made_at = datetime.fromtimestamp(self._mended.stat().st_mtime, UTC)
        aside = Path(f"{self._path}.damaged-{made_at:%Y%m%dT%H%M%S.%fZ}")
        for part in PARTS:
            # The WAL especially must not stay: SQLite would play it into the new file.
            with suppress(FileNotFoundError):
                os.replace(f"{self._path}{part}", f"{aside}{part}")
        Path(f"{self._path}-shm").unlink(missing_ok=True)
        self._mended.replace(self._path)
        _sync(self._path.parent)
        return aside


def _new_stream() -> int:
    return secrets.randbelow(2**62 - 1) + 1


# SQLite's file formats: https://www.sqlite.org/fileformat2.html, and its section 4 on the WAL.

WAL_HEADER = 32
FRAME_HEADER = 24
FRAME = FRAME_HEADER + PAGE
# In this one the words that are summed up are big-endian, in the one below it little-endian.
WAL_MAGIC = 0x377F0683


def _is_wal_damaged(path: Path) -> bool:
    """Whether a commit stands in the WAL behind a place where SQLite stops reading it.

    SQLite takes the first frame that does not fit for the end, and drops what follows: right for a write
    that was cut off, but a flipped bit would cost every entry after it. The last frame of a transaction
    is written last, so one that is there means that those before it once were, too.
    """
    try:
        wal = Path(f"{path}-wal").read_bytes()
    except FileNotFoundError:
        return False
    if len(wal) < WAL_HEADER + FRAME:
        return False
    if path.stat().st_size == 0:
        return True  # SQLite would delete the WAL
    sums = _sums(wal[: WAL_HEADER - 8], wal, (0, 0))
    intact = wal[WAL_HEADER - 8 : WAL_HEADER] == struct.pack(">II", *sums)
    if not intact:
        return True
    for at in range(WAL_HEADER, len(wal) - FRAME + 1, FRAME):
        if wal[at + 8 : at + 16] != wal[16:24]:
            intact = False  # left over from before the WAL was begun anew, or damaged
            continue
        if intact:
            sums = _sums(wal[at : at + 8] + wal[at + FRAME_HEADER : at + FRAME], wal, sums)
            intact = wal[at + 16 : at + FRAME_HEADER] == struct.pack(">II", *sums)
        if not intact and wal[at + 4 : at + 8] != bytes(4):
            return True
    return False


def _sums(data: bytes, wal: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    """The WAL's running checksum, continued over some words."""
    order = ">" if wal[:4] == struct.pack(">I", WAL_MAGIC) else "<"
    first, second = sums
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for one, other in zip(words, words, strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second


def _carved(path: Path) -> Iterator[_Values]:
    """Every entry whose checksum fits, wherever in the file or in its WAL a page holds it.

    It reads pages, not tables, so damage costs what stood on the page and nothing that is reached over
    it. An entry that was removed shortly before may come back, which only repeats its event.
    """
    with _Pages(path) as pages:
        for page in pages.images():
            for cell in _cells(page):
                for read in (pages.newest, pages.checkpointed):
                    entry = cell.entry(read)
                    if entry is not None and _fits(entry):
                        yield entry
                        break


class _Pages:
    """The pages of a file and its WAL, as far as the disk gives them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        self._file = os.open(self._path, os.O_RDONLY)
        try:
            self._wal = os.open(f"{self._path}-wal", os.O_RDONLY)
        except FileNotFoundError:
            self._wal = os.open(os.devnull, os.O_RDONLY)
        self._frames = dict(self._in_wal())
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        os.close(self._wal)

    def images(self) -> Iterator[bytes]:
        """Every page in every version, the WAL's first."""
        for _, at in self._in_wal():
            yield _read(self._wal, at, PAGE)
        for at in range(0, os.fstat(self._file).st_size, PAGE):
            yield _read(self._file, at, PAGE)

    def _in_wal(self) -> Iterator[tuple[int, int]]:
        """The number of each page in the WAL, and where it is; the newest version comes last."""
        # What has other salts than the header is left over from before the last complete checkpoint;
        # should the header be damaged, the first frame has the same.
        salts = {_read(self._wal, at, 8) for at in (16, WAL_HEADER + 8)}
        for at in range(WAL_HEADER, os.fstat(self._wal).st_size, FRAME):
            header = _read(self._wal, at, FRAME_HEADER)
            if header[8:16] in salts:
                yield int.from_bytes(header[:4]), at + FRAME_HEADER

    def newest(self, number: int) -> bytes:
        frame = self._frames.get(number)
        return self.checkpointed(number) if frame is None else _read(self._wal, frame, PAGE)

    def checkpointed(self, number: int) -> bytes:
        return _read(self._file, (number - 1) * PAGE, PAGE)


def _read(descriptor: int, at: int, size: int) -> bytes:
    """What is there; nothing where the disk fails."""
    try:
        return os.pread(descriptor, size, at)
    except (OSError, OverflowError):
        return b""


# What of an entry's payload stays on its own page, and the least that does if the rest overflows.
LOCAL_MOST = PAGE - 35
LOCAL_LEAST = (PAGE - 12) * 32 // 255 - 23

_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


@dataclass(frozen=True, slots=True)
class _Cell:
    """What looks like an entry's cell on a leaf page: its columns' types, and where its bytes are."""

    number: int
    types: tuple[int, ...]
    header: int
    length: int
    local: bytes
    overflow: int

    def entry(self, read: Callable[[int], bytes]) -> _Values | None:
        payload = self._payload(read)
        if len(payload) < self.length:
            return None
        values: list[object] = []
        at = self.header
        for kind in self.types:
            size = _width(kind)
            values.append(_value(kind, payload[at : at + size]))
            at += size
        # The primary key stands outside the record.
        return [self.number, *values[1:]]

    def _payload(self, read: Callable[[int], bytes]) -> bytes:
        chunks = [self.local]
        missing = self.length - len(self.local)
        following = self.overflow
        while missing > 0 and following:
            page = read(following)
            if len(page) < PAGE:
                break
            chunks.append(page[4 : 4 + missing])
            missing -= len(chunks[-1])
            following = int.from_bytes(page[:4])
        return b"".join(chunks)


def _cells(page: bytes) -> Iterator[_Cell]:
    """Whatever on a page could be an entry; the page's own kind and count are not relied on."""
    for at in range(8, len(page) - 1, 2):
        pointer = int.from_bytes(page[at : at + 2])
        if pointer == 0:
            return
        if not at + 2 <= pointer < len(page):
            continue
        with suppress(IndexError):
            cell = _cell(page, pointer)
            if cell is not None:
                yield cell


def _cell(page: bytes, at: int) -> _Cell | None:
    """Raises: IndexError: The page ends before the cell does."""
    length, at = _varint(page, at)
    number, start = _varint(page, at)
    header, at = _varint(page, start)
    types: list[int] = []
    while at < start + header and len(types) < COLUMNS:
        kind, at = _varint(page, at)
        types.append(kind)
    # Only what adds up is worth following to other pages.
    if len(types) != COLUMNS or at != start + header or header + sum(map(_width, types)) != length:
        return None
    local = _local(length)
    end = start + local
    overflow = 0 if local == length else int.from_bytes(page[end : end + 4])
    return _Cell(number, tuple(types), header, length, page[start:end], overflow)


def _local(length: int) -> int:
    if length <= LOCAL_MOST:
        return length
    kept = LOCAL_LEAST + (length - LOCAL_LEAST) % (PAGE - 4)
    return kept if kept <= LOCAL_MOST else LOCAL_LEAST


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for position in range(at, at + 8):
        byte = data[position]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, position + 1
    return value << 8 | data[at + 8], at + 9


def _width(kind: int) -> int:
    """Bytes of a value of a serial type."""
    return (kind - 12) // 2 if kind >= 12 else _INTEGER_BYTES.get(kind, 0)


def _value(kind: int, data: bytes) -> object:
    match kind:
        case 0:
            return None
        case 8 | 9:
            return kind - 8
        case _ if kind < 12:
            return int.from_bytes(data, signed=True)
        case _ if kind % 2:
            return data.decode(errors="replace")
        case _:
            return data
