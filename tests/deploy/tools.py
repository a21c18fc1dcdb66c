"""The tools that `make check-deploy` installs, and the files of deploy/."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local.services import CHECKOUT, DEV

DEPLOY = CHECKOUT / "deploy"
TOOLS = DEV / "venv-deploy/bin"


def tool(name: str, *arguments: str | Path, folder: Path = CHECKOUT) -> subprocess.CompletedProcess[str]:
    """Run a tool of the environment; without it the test is skipped with a reason."""
    program = TOOLS / name
    if not program.exists():
        pytest.skip(f"needs {name}, which `make check-deploy` installs")
    return run(program, *arguments, folder=folder)


def system_tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The same for a tool that no registry has."""
    if shutil.which(name) is None:
        pytest.skip(f"needs {name}, which this machine does not have")
    return run(name, *arguments)


def run(
    program: str | Path, *arguments: str | Path, folder: Path = CHECKOUT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def documents(path: Path) -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load_all(path.read_text())
