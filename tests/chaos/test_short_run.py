"""Short chaos runs with fixed strikes; `python -m tests.chaos` makes longer ones."""

import json
import subprocess
import sys
from typing import Any

import pytest

from deploy.local.services import CHECKOUT
from tests.chaos.__main__ import UNAVAILABLE

SECONDS = 35
LONGEST_SECONDS = 240
LONGEST_CLUSTER_SECONDS = 900


def run_chaos(*arguments: str, longest_seconds: float) -> dict[str, Any]:
    """Run with these arguments, expect exit code 0, and return the report."""
    command = (sys.executable, "-m", "tests.chaos", *arguments, "--json")
    process = subprocess.Popen(
        command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        out, error = process.communicate(timeout=longest_seconds)
    except subprocess.TimeoutExpired:
        # On SIGTERM it stops its processes.
        process.terminate()
        out, error = process.communicate(timeout=60)
    if process.returncode == UNAVAILABLE:
        pytest.skip(f"needs private services: {error.strip()}")
    report: dict[str, Any] = json.loads(out) if out else {"problems": ["no report"]}
    # The problems first: what prints the failure may cut the rest.
    assert report["problems"] == [], "\n".join([*report["problems"], error])
    assert process.returncode == 0, error
    totals = report["totals"]
    assert (totals["lost"], totals["applied_twice"], totals["dead"]) == (0, 0, 0)
    # A subscriber with other state than the committed one would be a problem in the report.
    assert totals["changes_published"] >= totals["changes_committed"] <= totals["changes_posted"]
    return report


def test_a_short_run_loses_nothing_and_applies_nothing_twice() -> None:
    report = run_chaos("--seed", "10", "--minutes", str(SECONDS / 60), longest_seconds=LONGEST_SECONDS)

    assert len(report["strikes"]) >= 2
    assert report["totals"]["accepted"] > 500
    assert report["totals"]["changes_committed"] > 500


@pytest.mark.cluster
def test_a_cluster_that_loses_its_leader_and_its_primary_loses_nothing_and_spends_no_attempt() -> None:
    arguments = ("--cluster", "3", "--brief", "--seed", "10", "--rate", "30")
    report = run_chaos(*arguments, longest_seconds=LONGEST_CLUSTER_SECONDS)

    struck = {fault for strike in report["strikes"] for fault in strike["faults"]}
    partition = "leader node: cut off, connections reset"
    assert {"leader node: kill -9", "primary: kill -9 before the flush"} == struck - {partition}
    assert partition in struck or any("no partition" in note for note in report["notes"])
    assert report["totals"]["attempts_spent"] == 0
    assert report["totals"]["accepted"] > 300
