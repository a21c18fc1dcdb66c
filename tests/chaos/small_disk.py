"""A small disk of its own, to be filled up: a tmpfs, where we may mount one."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class NoSmallDisk(Exception):
    """None can be mounted here. The text says why."""


@dataclass(frozen=True, slots=True)
class SmallDisk:
    folder: Path

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"

    def fill(self) -> None:
        """Leave not a byte."""
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
    """Mounted while the context lasts.

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
        # Lazily: a process that is just being killed may still have a file open.
        _run("umount", "--lazy", str(folder))


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NoSmallDisk(f"there is no {command[0]} here") from None
