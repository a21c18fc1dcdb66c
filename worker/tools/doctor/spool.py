"""Checks of the spool's path, where events wait while the broker is unavailable."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from worker.config.check import (
    CheckResult,
    error,
    ok,
    warning,
)

MOUNTS = Path("/proc/self/mountinfo")

# What each type of file system does to events that were answered 2xx.
UNFIT = {
    "tmpfs": "loses its files when the machine stops",
    "ramfs": "loses its files when the machine stops",
    "overlay": "loses its files with the container",
    "nfs": "does not support SQLite's locks",
    "nfs4": "does not support SQLite's locks",
    "cifs": "does not support SQLite's locks",
    "fuse.sshfs": "does not support SQLite's locks",
}


def check_spool(path: Path, max_bytes: int) -> Iterator[CheckResult]:
    try:
        yield from _check_spool(path, max_bytes)
    except OSError as failure:
        remedy = "see STOCKHOOK_SPOOL_PATH, and the permissions of its folder"
        yield error("spool", f"{path} cannot be checked: {failure.strerror}", remedy)


def _check_spool(path: Path, max_bytes: int) -> Iterator[CheckResult]:
    folder = _nearest_folder(path.absolute().parent)
    spot = path if path.exists() else folder
    if not os.access(spot, os.W_OK):
        yield error(
            "spool",
            f"{spot} cannot be written to by this user",
            "change its owner, or set STOCKHOOK_SPOOL_PATH",
        )
    else:
        yield ok("spool", f"{path} can be written")
    free = shutil.disk_usage(folder).free
    space = f"{free / 1e9:.1f} GB free, and the spool may use {max_bytes / 1e9:.1f} GB"
    if free < max_bytes // 10:
        yield error(
            "spool",
            space,
            "free some space: with a full disk, webhooks are refused while the broker is unavailable",
        )
    elif free < max_bytes:
        yield warning("spool", space, "free some space, or lower STOCKHOOK_SPOOL_MAX_BYTES")
    else:
        yield ok("spool", space)
    kind = file_system(folder, MOUNTS.read_text() if MOUNTS.exists() else "")
    if kind in UNFIT:
        yield warning("spool", f"{folder} is on {kind}, which {UNFIT[kind]}", "use a volume on a disk")
    elif kind is not None:
        yield ok("spool", f"on {kind}")


def _nearest_folder(folder: Path) -> Path:
    while not folder.is_dir():
        folder = folder.parent
    return folder


def file_system(folder: Path, mountinfo: str) -> str | None:
    """The type of the mount with the folder: the deepest one above it, and the last one of these."""
    longest: tuple[int, str] | None = None
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        mounted = Path(before.split()[4].replace("\\040", " "))
        length = len(mounted.parts)
        if folder.resolve().is_relative_to(mounted) and (longest is None or length >= longest[0]):
            longest = (length, after.split()[0])
    return longest[1] if longest else None
