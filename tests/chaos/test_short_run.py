"""A short chaos run, always with the same strikes; `python -m tests.chaos` makes longer ones."""

import json
import subprocess
import sys

from deploy.local.services import CHECKOUT

SECONDS = 25
LONGEST_SECONDS = 240


def test_a_short_run_loses_nothing_and_applies_nothing_twice() -> None:
    command = (sys.executable, "-m", "tests.chaos", "--seed", "10", "--minutes", str(SECONDS / 60), "--json")
    process = subprocess.Popen(
        command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        out, error = process.communicate(timeout=LONGEST_SECONDS)
    except subprocess.TimeoutExpired:
        # Asked to, it stops what it has started.
        process.terminate()
        out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error + out
    report = json.loads(out)
    totals = report["totals"]

    assert report["problems"] == []
    assert len(report["strikes"]) >= 3
    assert totals["accepted"] > 500
    assert (totals["lost"], totals["applied_twice"], totals["dead"]) == (0, 0, 0)
    # Subscribers hold what was committed: else there would be problems.
    assert totals["changes_committed"] > 500
    assert totals["changes_published"] >= totals["changes_committed"] <= totals["changes_posted"]
