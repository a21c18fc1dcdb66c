"""Lock files name packages by version and hash, and no address."""

from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
LOCK_FILES = (*CHECKOUT.glob("*.lock"), *CHECKOUT.glob("deploy/*/package-lock.json"))


def test_the_lock_files_are_located() -> None:
    assert len(LOCK_FILES) >= 6


@pytest.mark.parametrize("file", LOCK_FILES, ids=lambda file: file.name)
def test_a_lock_file_has_no_address(file: Path) -> None:
    assert "://" not in file.read_text()
