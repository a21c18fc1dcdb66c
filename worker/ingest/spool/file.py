"""The SQLite file of the spool: opens, monitors and repairs it.

A file that turns out to be damaged, at opening or later, is replaced: the entries that any of its pages
still holds are carried over into a new one, and it stays beside it under `<path>.damaged-<UTC time>`.
"""

import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import structlog

from worker.ingest.spool import entries as spool_entries
from worker.ingest.spool.carving import PAGE, carved, is_wal_damaged
from worker.ingest.spool.entries import (
    Damaged,
    Draft,
    Spooled,
    State,
)

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Removing needs space too, for the WAL and to move it into the file. A spool that filled its disk to the
# last byte could never be drained. The WAL has 1 MiB and a transaction of up to about 1.5 MiB at most.
HEADROOM = 4 * 1024 * 1024


class SpoolBroken(Exception):
    """The disk is full or fails, or the path cannot be used. The text is the reason, without an event."""


def make_folder(folder: Path) -> None:
    """Create a folder that only our user can read, because it will contain customer data."""
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


def reason(error: sqlite3.Error | OSError) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror} ({error.filename})" if error.filename else str(error.strerror)
    return str(getattr(error, "sqlite_errorname", type(error).__name__))


# These can only be set before the first table is created.
CHOOSE_PAGES = f"PRAGMA page_size = {PAGE}"
CHOOSE_VACUUM = "PRAGMA auto_vacuum = INCREMENTAL"

USE_WAL = "PRAGMA journal_mode = WAL"
USE_NO_JOURNAL = "PRAGMA journal_mode = OFF"
SYNC_EACH_COMMIT = "PRAGMA synchronous = FULL"
# Without readers each checkpoint is complete, and the next transaction starts the WAL from its beginning.
CHECKPOINT_EARLY = "PRAGMA wal_autocheckpoint = 256"
KEEP_WAL_SMALL = "PRAGMA journal_size_limit = 1048576"
# Removed entries must not be recoverable, neither by the repair nor by other programs.
ERASE_REMOVED = "PRAGMA secure_delete = ON"

CHECK = "PRAGMA quick_check(1)"
SHRINK = "PRAGMA incremental_vacuum"

BEGIN = "BEGIN IMMEDIATE"
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"

# The file and its WAL; the shared memory is created again each time.
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
            raise Damaged from error
        raise
    except UnicodeDecodeError as error:
        # The name of a column.
        raise Damaged from error


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
    # The checksum detects flipped bytes; an error of sqlite3 would quote the text that it cannot decode.
    connection.text_factory = lambda text: text.decode(errors="replace")
    return connection


def _choose(connection: sqlite3.Connection, *choices: str) -> None:
    for choice in choices:
        connection.execute(choice).fetchall()


class SpoolFile:
    """The SQLite file. Used by one thread; `state`, `oldest_at` and `commits` may be read by any."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._is_state_known = False
        self.state = State(source=0)
        self.oldest_at: datetime | None = None
        self.commits = 0

    def open(self) -> None:
        """Raises: SpoolBroken."""
        self._read_ahead()
        self._guarded(self._check)

    def _read_ahead(self) -> None:
        """Load the file into memory, because the check reads single pages, which is slow on a cold disk.

        Not while SQLite has it open: closing a second descriptor of a file drops the process's locks.
        """
        # An error here is also raised and reported by opening the file.
        with suppress(OSError), self._path.open("rb") as file:
            while file.read(1 << 20):
                pass

    def close(self) -> None:
        if self._connection is not None:
            # Closing writes the WAL into the file; if that fails, the next opening does it.
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def insert(self, drafts: Sequence[Draft]) -> None:
        """Write all of them, or none.

        Raises:
            SpoolBroken
        """

        def insert(connection: sqlite3.Connection) -> None:
            self._check_space()
            with _transaction(connection):
                state = spool_entries.insert(connection, drafts, self.state)
            self.state = state
            self.oldest_at = self.oldest_at or datetime.fromisoformat(drafts[0].spooled_at)
            self.commits += 1

        self._guarded(insert)

    def oldest(self, limit: int) -> list[Spooled]:
        """Raises: SpoolBroken."""
        return self._guarded(lambda connection: spool_entries.read_oldest(connection, limit))

    def remove(self, numbers: Sequence[int]) -> None:
        """Raises: SpoolBroken."""

        def remove(connection: sqlite3.Connection) -> None:
            try:
                self._remove(connection, numbers)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_FULL or len(numbers) < 2:
                    raise
                # Little space suffices for few entries, and each removal frees some.
                middle = len(numbers) // 2
                self.remove(numbers[:middle])
                self.remove(numbers[middle:])

        self._guarded(remove)

    def _remove(self, connection: sqlite3.Connection, numbers: Sequence[int]) -> None:
        with _transaction(connection):
            state = spool_entries.remove(connection, numbers, self.state)
        is_emptied = state.depth == 0 < self.state.depth
        self.state = state
        self.oldest_at = spool_entries.read_oldest_at(connection)
        if is_emptied:
            # Nothing has to be moved now, so giving the space back is cheap. On a full disk it may
            # fail, which is no failure of removing: the next time it is empty will do.
            with suppress(sqlite3.OperationalError):
                connection.executescript(SHRINK)

    def _guarded(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work`, and once more if the file had to be repaired.

        After a failure it opens the file again, since only the file shows whether it has the failed commit.
        """
        try:
            try:
                with _noticing_damage(_DAMAGE):
                    return work(self._opened())
            except Damaged:
                self._repair()
                return work(self._opened())
        except Damaged as error:
            self.close()
            raise SpoolBroken("damaged again while it was repaired") from error
        except (sqlite3.Error, OSError) as error:
            # A full disk fails writes before the commit, so that the outcome is certain; this is frequent.
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_FULL:
                self.close()
            raise SpoolBroken(reason(error)) from error

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
        """Whether the path still is this file. If it was moved or deleted, writes to it would be lost."""
        try:
            return self._path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def _open(self) -> sqlite3.Connection:
        self._is_state_known = False
        if self._repaired.exists():
            self._swap()
        self._make_file()
        # SQLite would take less than a page for an empty file.
        if 0 < self._path.stat().st_size < PAGE or is_wal_damaged(self._path):
            raise Damaged
        connection = _connection(self._path)
        try:
            with _noticing_damage(_DAMAGE_AT_OPENING):
                self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _make_file(self) -> None:
        make_folder(self._path.parent)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
            self._inode = os.fstat(descriptor).st_ino
        finally:
            os.close(descriptor)
        _sync(self._path.parent)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        if self._path.stat().st_size == 0:
            # Only then, because this writes, and a full disk should still be readable.
            _choose(connection, CHOOSE_PAGES, CHOOSE_VACUUM)
        _choose(connection, USE_WAL, SYNC_EACH_COMMIT, CHECKPOINT_EARLY, KEEP_WAL_SMALL, ERASE_REMOVED)
        if not spool_entries.has_tables(connection):
            with _transaction(connection):
                spool_entries.create_tables(connection, self._new_state())
        self.state = spool_entries.read_state(connection)
        self._is_state_known = True
        self.oldest_at = spool_entries.read_oldest_at(connection)

    def _new_state(self) -> State:
        """Another source, so that no sequence number is used twice; messages may still carry the old ones."""
        return State(secrets.randbelow(2**62 - 1) + 1, self.state.last_number)

    def _check(self, connection: sqlite3.Connection) -> None:
        if connection.execute(CHECK).fetchone() != ("ok",):
            raise Damaged

    @property
    def _repaired(self) -> Path:
        return Path(f"{self._path}.mended")

    def _repair(self) -> None:
        """Copy readable entries into a new file, and replace the damaged one with it."""
        state_before = self.state if self._is_state_known else None
        self.close()
        unfinished = Path(f"{self._path}.mending")
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=0o600)
        with closing(_connection(unfinished)) as connection:
            # If the counters are damaged, a new source begins.
            state = self._carry_over(connection, state_before or self._new_state())
        _sync(unfinished)
        # After this a crash cannot undo the repair: the next opening finishes the swap.
        unfinished.replace(self._repaired)
        _sync(self._path.parent)
        aside = self._swap()
        lost = "unknown" if state_before is None else max(0, state_before.depth - state.depth)
        log.error("spool.damaged", moved_to=str(aside), entries_carried_over=state.depth, entries_lost=lost)

    def _carry_over(self, connection: sqlite3.Connection, state: State) -> State:
        # The new file counts only once it is complete, so it needs no journal.
        _choose(connection, CHOOSE_PAGES, CHOOSE_VACUUM, USE_NO_JOURNAL)
        with _transaction(connection):
            spool_entries.create_tables(connection, state)
            return spool_entries.carry_over(connection, carved(self._path), state)

    def _swap(self) -> Path:
        """Replace the damaged file with the repaired one; after a crash, a second call completes it."""
        made_at = datetime.fromtimestamp(self._repaired.stat().st_mtime, UTC)
        aside = Path(f"{self._path}.damaged-{made_at:%Y%m%dT%H%M%S.%fZ}")
        for part in PARTS:
            # The WAL must not stay: SQLite would apply it to the new file.
            with suppress(FileNotFoundError):
                os.replace(f"{self._path}{part}", f"{aside}{part}")
        Path(f"{self._path}-shm").unlink(missing_ok=True)
        self._repaired.replace(self._path)
        _sync(self._path.parent)
        return aside
