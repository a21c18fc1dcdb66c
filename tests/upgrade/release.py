"""Releases of the product on this machine: recorded commits, this checkout, and changed copies of it."""

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from deploy.local.process import Command
from deploy.local.services import CHECKOUT, DEV

FROM_COMMIT = Path(__file__).with_name("from_commit")
ROLLBACK_COMMIT = Path(__file__).with_name("rollback_commit")
EXTRACTED = DEV / "upgrade"
LOCK = "requirements.lock"
# This file is written once the archive is completely unpacked.
COMPLETE = ".complete"
COMMAND_SECONDS = 120


class NoHistory(Exception):
    """The recorded commit is not in this clone. The text has the remedy."""


@dataclass(frozen=True, slots=True)
class Release:
    """The product's code in a folder, and the Python that runs it."""

    name: str
    folder: Path
    python: str = sys.executable

    def has_migration(self, name: str) -> bool:
        return (self.folder / f"schemas/migrations/{name}.sql").exists()

    def environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        return {**environment, "PYTHONPATH": str(self.folder)}

    def command(self, environment: Mapping[str, str], *arguments: str) -> Command:
        """The command line of `stockhook` of this release."""
        return Command(
            (self.python, "-m", "worker", *arguments), self.environment(environment), folder=self.folder
        )

    def run(
        self, environment: Mapping[str, str], *arguments: str, seconds: float = COMMAND_SECONDS
    ) -> "subprocess.CompletedProcess[str]":
        """Run `stockhook` and wait until it ends."""
        return subprocess.run(
            [self.python, "-m", "worker", *arguments],
            env=self.environment(environment),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def runs_from(self) -> Path:
        """The folder from which this release's Python imports the product."""
        result = subprocess.run(
            [self.python, "-c", "import worker; print(worker.__file__)"],
            env=self.environment({}),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=True,
        )
        return Path(result.stdout.strip()).parents[1]


def recorded_commit(file: Path) -> str:
    lines = [line.strip() for line in file.read_text().splitlines()]
    (commit,) = [line for line in lines if line and not line.startswith("#")]
    return commit


def current() -> Release:
    return Release("current", CHECKOUT)


def recorded(file: Path) -> Release:
    """The commit in this file, extracted from git, with a separate environment if its dependencies differ.

    Raises:
        NoHistory
    """
    folder = extracted(recorded_commit(file))
    if (folder / LOCK).read_bytes() == (CHECKOUT / LOCK).read_bytes():
        return Release("recorded", folder)
    # It returns immediately if nothing has changed.
    subprocess.run([folder / "deploy/local/bootstrap"], check=True)
    return Release("recorded", folder, str(folder / ".venv/bin/python"))


def extracted(commit: str, into: Path = EXTRACTED) -> Path:
    """The folder with the files of a commit, which is written once.

    Raises:
        NoHistory
    """
    folder = into / commit
    if (folder / COMPLETE).exists():
        return folder
    git = ("git", "-C", str(CHECKOUT))
    if subprocess.run((*git, "cat-file", "-e", f"{commit}^{{commit}}"), capture_output=True).returncode != 0:
        raise NoHistory(
            f"this clone has no commit {commit}, which tests/upgrade records: run `git fetch --unshallow`"
        )
    archive = subprocess.run((*git, "archive", commit), capture_output=True, check=True).stdout
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    (folder / COMPLETE).touch()
    return folder
