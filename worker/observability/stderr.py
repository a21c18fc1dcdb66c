"""Standard error that never blocks: output is queued, and a separate thread writes it.

Standard error may be a pipe that is not read: a write to it then never returns, and blocks the event loop.
The stream that `install` puts in place of `sys.stderr` only queues. The queue is bounded: what does not fit
is dropped and counted.
"""

import atexit
import io
import os
import select
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue

from worker.observability import metrics

# Bytes that may wait to be written.
QUEUE_BYTES = 262_144

# How long the end of a process waits until the queue is written.
DRAIN_SECONDS = 1.0

# What is written at once, at most, to get on where a slow reader makes room bit by bit.
WRITE_BYTES = 65_536


class QueuedStream(io.TextIOBase):
    """A text stream whose writes never wait.

    `on_dropped` is called with the number of lines that were dropped, once writing works again.
    """

    def __init__(self, descriptor: int, on_dropped: Callable[[int], None]) -> None:
        self._descriptor = descriptor
        self.on_dropped = on_dropped
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """Begin with an empty queue. A child has neither the thread nor what its parent is yet to write."""
        # Reentrant: the garbage collector or a signal may write in the middle of a write.
        self._lock = threading.RLock()
        self._all_written = threading.Condition(self._lock)
        self._queue: list[bytes] = []
        self._size = 0
        self._dropped = 0
        self._thread: threading.Thread | None = None
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._is_awake = False

    @property
    def encoding(self) -> str:  # type: ignore[override]  # the base class has an attribute
        return "utf-8"

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        data = text.encode(errors="backslashreplace")
        size = len(data)
        with self._lock:
            if self._size + size > QUEUE_BYTES:
                lines = max(1, data.count(b"\n"))
                self._dropped += lines
                metrics.LOG_LINES_DROPPED.inc(lines)
            else:
                self._queue.append(data)
                self._size += size
                if self._thread is None:
                    self._thread = self._started()
                if not self._is_awake:
                    self._is_awake = True
                    self._wakes.put(None)
        return len(text)

    def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Wait until all is written, but no longer than this."""
        with self._lock:
            self._all_written.wait_for(lambda: not self._size, seconds)

    def _started(self) -> threading.Thread | None:
        thread = threading.Thread(target=self._run, name="standard error", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # Python is about to end: it begins no thread then.
            return None
        return thread

    def _run(self) -> None:
        while True:
            self._wakes.get()
            while lines := self._take_all():
                for together in _groups(lines):
                    self._write_some(together)

    def _take_all(self) -> list[bytes]:
        """All that is queued. If that is nothing, the next write wakes the thread."""
        with self._lock:
            lines, self._queue = self._queue, []
            self._is_awake = bool(lines)
        return lines

    def _write_some(self, data: bytes) -> None:
        is_written = self._write(data)
        with self._lock:
            self._size -= len(data)
            dropped = self._dropped if is_written else 0
            self._dropped -= dropped
            self._all_written.notify_all()
        if dropped:
            self.on_dropped(dropped)

    def _write(self, data: bytes) -> bool:
        """Whether it could be written. The end of a process would wait for the lock of a Python stream."""
        while data:
            try:
                data = data[os.write(self._descriptor, data[:WRITE_BYTES]) :]
            except BlockingIOError:
                # Another process that shares the pipe made it non-blocking.
                select.select([], [self._descriptor], [])
            except OSError:
                # The reader closed the pipe.
                return False
        return True


def _groups(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Whole lines, as many as a pipe takes undivided: other processes may write to the same pipe."""
    together = b""
    for line in lines:
        if together and len(together) + len(line) > select.PIPE_BUF:
            yield together
            together = b""
        together += line
    if together:
        yield together


def install(on_dropped: Callable[[int], None]) -> None:
    """Put such a stream in the place of `sys.stderr`, unless that leads to no file or is one already."""
    if isinstance(sys.stderr, QueuedStream):
        sys.stderr.on_dropped = on_dropped
        return
    try:
        descriptor = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return
    sys.stderr.flush()
    stream = QueuedStream(descriptor, on_dropped)
    sys.stderr = stream
    atexit.register(drain)


def drain() -> None:
    """Before a process ends: wait until its output is written, for a limited time."""
    if isinstance(sys.stderr, QueuedStream):
        sys.stderr.drain()
