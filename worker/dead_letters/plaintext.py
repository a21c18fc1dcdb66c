"""Decrypted bodies in files: in memory where there is a tmpfs, and removed however the process ends.

The kernel releases a lock when its process ends, also by kill -9. So a folder of ours without a lock was left
by a killed run, and the next run removes it.
"""

import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from worker.dead_letters.refusal import CommandRefused

PREFIX = "stockhook-plaintext-"

REMEDY = "set XDG_RUNTIME_DIR to a folder in memory (tmpfs)"

# Signals that end a process by default.
_ENDINGS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)

_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that only we can read. It is removed when the context ends, also by a signal.

    Raises:
        CommandRefused: There is no place for it.
    """
    folder, lock = _made()
    try:
        yield folder
    finally:
        try:
            shutil.rmtree(folder)
        except BaseException:
            # A signal came meanwhile; `signals_as_exits` ignores any further one.
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            os.close(lock)


@contextmanager
def signals_as_exits(*ignored: signal.Signals) -> Iterator[None]:
    """While this lasts, a signal that ends the process raises SystemExit, so that contexts are left."""

    def leave(number: int, _frame: FrameType | None) -> None:
        for each in _ENDINGS:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, _stay if number in ignored else leave) for number in _ENDINGS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stay(_number: int, _frame: FrameType | None) -> None:
    """Not SIG_IGN, which a program that we start would inherit."""


def remove_leftovers() -> None:
    """Remove the folders of killed runs; folders of other users and of live runs stay."""
    for place in _places():
        with suppress(OSError):
            for entry in os.scandir(place):
                if entry.name.startswith(PREFIX):
                    _remove_if_left(Path(entry.path))


def _remove_if_left(folder: Path) -> None:
    with suppress(OSError):
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(lock).st_uid != os.geteuid():
                return
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # It follows no symbolic link.
            shutil.rmtree(folder)
        finally:
            os.close(lock)


def _made() -> tuple[Path, int]:
    """Raises: CommandRefused."""
    places = _places()
    if not places:
        raise CommandRefused(f"there is no folder for temporary files that can be written to: {REMEDY}")
    try:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=places[0]))
            if (lock := _locked(folder)) is not None:
                return folder, lock
    except OSError as error:
        raise CommandRefused(
            f"cannot make a private folder in {places[0]}: {error.strerror}; {REMEDY}"
        ) from None


def _locked(folder: Path) -> int | None:
    """The lock of a folder that was just made; None if another run removed it first.

    Raises:
        OSError: It cannot be locked, and is removed.
    """
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), folder.stat()):
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
    except (BlockingIOError, FileNotFoundError):
        return None
    except OSError:
        folder.rmdir()
        raise
    return None


def _places() -> list[Path]:
    """Where temporary files may be, those in memory first."""
    given = (os.environ.get("XDG_RUNTIME_DIR"), "/dev/shm", tempfile.gettempdir())
    places = [Path(place) for place in given if place and os.access(place, os.W_OK | os.X_OK)]
    return sorted(dict.fromkeys(places), key=lambda place: not _is_in_memory(place))


def _is_in_memory(place: Path) -> bool:
    """Whether the file system of a folder keeps its files in memory; False if unknown."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text()
    except OSError:
        return False
    types_by_mount = {}
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        types_by_mount[before.split()[4]] = after.split()[0]
    parents = (str(parent) for parent in (place.resolve(), *place.resolve().parents))
    return (
        next((types_by_mount[parent] for parent in parents if parent in types_by_mount), None) in _IN_MEMORY
    )
