"""The durable local spool: the ingest writes events to it while the broker is unavailable.

An SQLite file in WAL mode with `synchronous=FULL`, used by one separate thread. All entries that wait when
the thread becomes free are written in one transaction: one fsync for several events.
"""

import asyncio
import fcntl
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Self, TypeVar

from worker.amqp.channel import Message
from worker.ingest.spool.entries import Draft, Spooled, draft_of
from worker.ingest.spool.file import (
    SpoolBroken,
    SpoolFile,
    make_folder,
    reason,
)
from worker.observability.errors import StockhookError
from worker.observability.exit_codes import TEMPORARY

__all__ = ["Spool", "SpoolBroken", "SpoolFull", "SpoolTaken", "Spooled"]

T = TypeVar("T")

# The previous process may still finish its requests.
LOCK_TIMEOUT = timedelta(seconds=8)

# The limits of one transaction, so that the WAL stays small and the first entry does not wait long.
GROUP_ENTRIES = 256
GROUP_BYTES = 1024 * 1024


class SpoolFull(Exception):
    """The entries have reached the maximum size."""


class SpoolTaken(StockhookError):
    """Another process uses this spool."""

    exit_code = TEMPORARY


class Spool:
    """Entries in the order of their arrival, on disk.

    The spool is a source of its own: a random number, made with the file. It numbers each family's entries
    from 1 without gaps, also across restarts. A file whose counters were lost goes on as another source, so
    that no sequence number is ever used twice.
    """

    def __init__(self, path: Path, max_bytes: int, lock_timeout: timedelta = LOCK_TIMEOUT) -> None:
        self._lock = _Lock(Path(f"{path}.lock"), lock_timeout)
        self._file = SpoolFile(path)
        self._folder = path.parent
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
            SpoolTaken: The lock is still held after `lock_timeout`.
            SpoolBroken
        """
        try:
            await self._lock.acquire()
            await self._in_thread(self._file.open)
        except BaseException:
            await self._close()
            raise
        self._is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish the pending writes, and close."""
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
    def max_bytes(self) -> int:
        """The maximum of `size`."""
        return self._max_bytes

    @property
    def disk_free(self) -> int:
        """Free bytes of the file system."""
        return shutil.disk_usage(self._folder).free

    @property
    def oldest_at(self) -> datetime | None:
        return self._file.oldest_at

    @property
    def source(self) -> int:
        return self._file.state.source

    @property
    def last_numbers(self) -> Mapping[str, int]:
        """The last sequence number, per family."""
        return self._file.state.last_numbers

    @property
    def commits(self) -> int:
        """The number of transactions that wrote entries, which is less than the entries under load."""
        return self._file.commits

    async def put(self, message: Message, family: str | None) -> None:
        """Return once it is on disk; without a family it gets no sequence number.

        After cancellation or SpoolBroken, the entry may have been written or not.

        Raises:
            SpoolFull
            SpoolBroken
        """
        self._check_open()
        draft = draft_of(message, family)
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
        """Remove these entries if they still exist.

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
        """Write all waiting entries in one transaction."""
        group = list(self._next_group())
        try:
            self._file.insert([waiting.draft for waiting in group])
        except Exception as failure:
            # The callers that wait for their entries receive the error.
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
        """Run in the spool's thread, to the end even if the caller is cancelled."""
        done = asyncio.get_running_loop().run_in_executor(self._thread, work)
        done.add_done_callback(self._note_depth)
        return await asyncio.shield(done)

    def _note_depth(self, _: object) -> None:
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
class _Waiting:
    draft: Draft
    written: asyncio.Future[None]

    def answer(self, failure: Exception | None) -> None:
        if self.written.done():
            return  # the caller was cancelled
        if failure is None:
            self.written.set_result(None)
        else:
            self.written.set_exception(failure)


class _Lock:
    """One process at a time, by an advisory lock on a file beside the spool."""

    def __init__(self, path: Path, lock_timeout: timedelta) -> None:
        self._path = path
        self._timeout = lock_timeout
        self._descriptor: int | None = None

    async def acquire(self) -> None:
        deadline = monotonic() + self._timeout.total_seconds()
        try:
            make_folder(self._path.parent)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            while not self._try_lock():
                if monotonic() > deadline:
                    raise SpoolTaken(
                        f"another process uses the spool ({self._path} is locked): stop it, or set "
                        "STOCKHOOK_SPOOL_PATH"
                    )
                await asyncio.sleep(0.05)
        except OSError as error:
            raise SpoolBroken(reason(error)) from error

    def _try_lock(self) -> bool:
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
