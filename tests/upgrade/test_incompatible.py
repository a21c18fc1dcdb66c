"""`make test-upgrade` detects incompatible releases, which are changed copies of this checkout."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.checkout import copy_checkout
from tests.upgrade.release import Release
from tests.upgrade.run import run
from tests.upgrade.world import one_node

pytestmark = pytest.mark.upgrade

PRODUCT = ("worker", "consumers", "schemas")


@dataclass(frozen=True, slots=True)
class Incompatible:
    """Replacements of text in the product's modules; `problem` is in the report."""

    name: str
    texts: Mapping[str, str]
    problem: str
    migration: str = ""


CHANGES = (
    Incompatible(
        name="a column that the old release writes has another name",
        texts={"update_count": "updates_seen"},
        migration="ALTER TABLE returns RENAME COLUMN update_count TO updates_seen;",
        problem="UndefinedColumnError",
    ),
    Incompatible(
        name="a header of the messages in the queues has another name",
        texts={"x-attempt": "x-try"},
        problem="with attempts out of order",
    ),
    Incompatible(
        name="the spool is another file",
        texts={"settings.spool_path,": 'settings.spool_path.with_suffix(".new"),'},
        problem="answered 2xx and not in the event log",
    ),
)


def changed_copy(folder: Path, change: Incompatible) -> Release:
    copy_checkout(folder)
    modules = [module for package in PRODUCT for module in (folder / package).rglob("*.py")]
    for text, other in change.texts.items():
        meant = [module for module in modules if text in module.read_text()]
        assert meant, f"no module has {text}"
        for module in meant:
            module.write_text(module.read_text().replace(text, other))
    if change.migration:
        migration = f"-- migrate:up\n{change.migration}\n\n-- migrate:down\n"
        (folder / "schemas/migrations/9999_incompatible.sql").write_text(migration)
    return Release("changed", folder)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_an_incompatible_release_is_noticed(change: Incompatible, rollback: Release, tmp_path: Path) -> None:
    """Both releases use the new schema only if consumers are replaced one by one."""
    copy = tmp_path / "changed"
    copy.mkdir()
    new = changed_copy(copy, change)
    assert new.runs_from() == copy
    with one_node(tmp_path) as backend:
        report = run(tmp_path, backend, rollback, new, rolls_back=False)

    assert any(change.problem in problem for problem in report.problems), report.problems
