"""The import contracts include packages that do not exist yet."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

CONTRACTS = (
    "only worker.amqp imports the AMQP client",
    "only worker.postgres imports the Postgres driver",
    "only worker.cli knows commands and tables",
    "only clients of APIs and operator tools import httpx",
    "only worker.console imports the web framework",
    "nothing in production imports the simulator",
)


def broken_contracts(root: Path) -> set[str]:
    linted = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert "Contracts: " in linted.stdout, linted.stdout + linted.stderr
    return set(re.findall(r"^(.+) BROKEN\b", linted.stdout, re.MULTILINE))


def test_a_new_package_is_included_in_the_contracts(tmp_path: Path) -> None:
    for package in ("worker", "consumers", "schemas"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    contracts = (ROOT / "pyproject.toml").read_text()
    layer = '    "processes | console",\n'
    assert layer in contracts
    (tmp_path / "pyproject.toml").write_text(contracts.replace(layer, f'    "portal",\n{layer}'))
    portal = tmp_path / "worker" / "portal"
    portal.mkdir()
    (portal / "__init__.py").write_text("")
    assert broken_contracts(tmp_path) == set()

    (portal / "page.py").write_text(
        "import aiormq\nimport asyncpg\nimport httpx\nimport rich\nimport starlette\n\n"
        "import worker.simulator.server\n"
    )

    assert broken_contracts(tmp_path) == set(CONTRACTS)
