"""Each planted bug changes source text that occurs once, and its test exists."""

from pathlib import Path

import pytest

from tests.mutants.table import TABLE, Mutant

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", TABLE, ids=lambda mutant: mutant.name)
def test_a_mutant_can_be_planted(mutant: Mutant) -> None:
    file, _, name = mutant.test.partition("::")
    function = name.partition("[")[0]

    assert (CHECKOUT / mutant.file).read_text().count(mutant.original) == 1
    assert mutant.planted != mutant.original
    assert f"def {function}" in (CHECKOUT / file).read_text()
