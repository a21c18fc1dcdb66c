"""The README's walk-through, as it stands there: an event is broken, found, repaired, replayed, and right."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.test_dead_letters import KEEPING, kept
from tests.support.stack import Stack, until

README = Path(__file__).parents[2] / "README.md"
COMMANDS = re.compile(r"<!-- walk-through.*?-->\n```sh\n(.*?)```\n<!-- end of walk-through -->", re.DOTALL)

# Every command is to succeed. The list is waited for as a person would, by looking at it again.
AS_TYPED = """
set -euo pipefail
stockhook() {{ "{python}" -m worker "$@"; }}
{commands}
"""


def typed(commands: str, number: str) -> str:
    commands = commands.replace(".venv/bin/stockhook", "stockhook").replace(". .dev/env\n", "")
    return AS_TYPED.format(python=sys.executable, commands=commands.replace("ID=1 ", f"ID={number} "))


def run(stack: Stack, script: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **stack.environment, "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        ["bash", "-c", script],
        env=environment,
        cwd=README.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_the_walk_through_of_the_readme_ends_with_the_return_in_its_table(stack: Stack) -> None:
    stack.environment |= KEEPING
    await stack.started("run")
    [commands] = COMMANDS.findall(README.read_text())
    breaking, repairing = commands.split(".venv/bin/stockhook dead list", 1)
    broken = run(stack, typed(breaking, ""))
    [letter] = await kept(stack, 1)
    found = run(stack, typed(f".venv/bin/stockhook dead list{repairing}", str(letter["dead_letter_id"])))

    assert broken.returncode == 0, broken.stderr
    assert '"accepted"' in broken.stdout
    assert found.returncode == 0, found.stdout + found.stderr
    for words in ("not JSON", "a comma is put in", "repaired", f"{letter['dead_letter_id']} applied"):
        assert words in found.stdout
    assert "replayed 1: applied 1, came back 0" in found.stdout

    async def there() -> bool:
        return await stack.count("returns") == 1

    await until(there, "the return is there")
