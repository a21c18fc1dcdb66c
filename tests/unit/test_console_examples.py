"""Tests, pictures and benchmarks of the console open every screen."""

import hashlib
from pathlib import Path

import pytest

from tests import browser
from tests.support.console_examples import EXAMPLES, Ids, addresses
from worker.console.routes import SCREENS

ID = "00000000-0000-4000-8000-000000000001"
IDS = Ids("13", "4555", "77", "o1", event_id=ID, letters=(1, 2), actions=(ID,), jobs=(1,))

# From the package axe-core 4.14.1 of npm.
AXE = {
    "axe-4.14.1.min.js": "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c",
    "LICENSE": "af175b9d96ee93c21a036152e1b905b0b95304d4ae8c2c921c7609100ba8df7e",
    "LICENSE-3RD-PARTY.txt": "4f8563870d0fca38bbc3e00b6f670cb7fa9f380ba9f26a7f7d1184a6b18b1653",
}


@pytest.mark.parametrize("path", [screen.path for screen in SCREENS])
def test_each_screen_has_an_example(path: str) -> None:
    """If this fails: add the screen to EXAMPLES in tests/support/console_examples.py."""
    fixed = path.partition("{")[0]

    assert addresses(path, IDS)
    assert all(address.startswith(fixed) and "{" not in address for address in addresses(path, IDS))


def test_each_example_is_of_a_screen() -> None:
    assert set(EXAMPLES) <= {screen.path for screen in SCREENS}


@pytest.mark.parametrize(("name", "digest"), AXE.items())
def test_the_accessibility_checker_is_unchanged(name: str, digest: str) -> None:
    file = Path(browser.__path__[0]) / "axe" / name

    assert hashlib.sha256(file.read_bytes()).hexdigest() == digest
