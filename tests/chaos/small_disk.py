"""A small disk that a run can fill: a tmpfs, if it may be mounted."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class NoSmallDisk(Exception):
    """A tmpfs cannot be mounted. The text is the reason."""


@dataclass(frozen=True, slots=True)
class SmallDisk:
    folder: Path

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"

    def fill(self) -> None:
        """Fill the disk completely."""
        with self._filler.open("ab", buffering=0) as file:
            block = bytes(1024 * 1024)
            while block:
                try:
                    file.write(block)
                except OSError:
                    block = block[: len(block) // 2]

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk]:
    """Mount a disk while the context is open.

    Raises:
        NoSmallDisk
    """
    folder.mkdir(parents=True)
    if os.geteuid() != 0:
        raise NoSmallDisk("only root may mount a tmpfs")
    mounted = _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "tmpfs", str(folder))
    if mounted.returncode != 0:
        raise NoSmallDisk(mounted.stderr.strip() or "mount failed")
    try:
        yield SmallDisk(folder)
    finally:
        # Unmount lazily: a process that is being killed may still have a file open.
        _run("umount", "--lazy", str(folder))


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NoSmallDisk(f"cannot find {command[0]} here") from None
