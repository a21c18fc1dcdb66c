"""From recorded commits to this checkout, back, and forward again, under load: `make test-upgrade`."""

from pathlib import Path

import pytest

from tests.upgrade.release import Release, current
from tests.upgrade.run import STOPS_CONSUMERS, run
from tests.upgrade.world import one_node, three_nodes

pytestmark = pytest.mark.upgrade


def test_each_release_runs_its_own_code(old: Release, rollback: Release) -> None:
    releases = (old, rollback, current())
    assert all(release.runs_from() == release.folder for release in releases)
    assert len({release.folder for release in releases}) == 3


def test_an_upgrade_with_consumers_stopped_for_the_migration_loses_nothing(
    old: Release, tmp_path: Path
) -> None:
    assert not old.has_migration(STOPS_CONSUMERS)
    with one_node(tmp_path) as backend:
        report = run(tmp_path, backend, old, current(), rolls_back=False)
    print(*report.lines(), sep="\n")

    assert report.problems == []
    assert report.totals.lost == report.totals.applied_twice == 0


def test_an_upgrade_and_its_rollback_lose_nothing(rollback: Release, tmp_path: Path) -> None:
    assert rollback.has_migration(STOPS_CONSUMERS)
    with one_node(tmp_path) as backend:
        report = run(tmp_path, backend, rollback, current())
    print(*report.lines(), sep="\n")

    assert report.problems == []
    assert report.totals.lost == report.totals.applied_twice == 0


def test_an_upgrade_on_a_cluster_and_a_restart_of_everything_lose_nothing(
    old: Release, tmp_path: Path
) -> None:
    """An old release that supports only one host uses the first node."""
    with three_nodes(tmp_path) as backend:
        report = run(tmp_path, backend, old, current(), rolls_back=False)
    print(*report.lines(), sep="\n")

    assert report.problems == []
    assert report.totals.lost == report.totals.applied_twice == 0
