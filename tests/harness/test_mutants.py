"""Each planted bug changes source text that occurs once, and its test exists."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.table import TABLE, Mutant

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", TABLE, ids=lambda mutant: mutant.name)
def test_a_mutant_can_be_planted(mutant: Mutant) -> None:
    assert (CHECKOUT / mutant.file).read_text().count(mutant.original) == 1
    assert mutant.planted != mutant.original


def test_the_test_of_each_mutant_exists_with_its_parameters() -> None:
    tests = sorted({mutant.test for mutant in TABLE})
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *tests],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert collected.returncode == 0, collected.stderr
