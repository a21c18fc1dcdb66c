"""The verdict of an upgrade on log lines, and the extraction of releases from git."""

import json
from pathlib import Path

import pytest

from tests.upgrade import verdict
from tests.upgrade.load import SQLSTATE
from tests.upgrade.release import FROM_COMMIT, NoHistory, extracted, recorded_commit
from tests.upgrade.verdict import Attempts

UNKNOWN_COMMIT = "0" * 40


def failed(attempt: int, reason: str = f"UnknownPostgresError [{SQLSTATE}] in x.py:write") -> verdict.Line:
    return {
        "event": "delivery.failed",
        "level": "warning",
        "event_id": "e1",
        "attempt": attempt,
        "reason": reason,
        "timestamp": f"2026-03-01T12:00:0{attempt}Z",
    }


@pytest.mark.parametrize("numbers", [(1,), (1, 2, 3, 4), (1, 1, 2), (1, 2, 2)])
def test_attempts_in_their_order_are_orderly(numbers: tuple[int, ...]) -> None:
    assert verdict.disorderly([Attempts("e1", numbers)]) == []


@pytest.mark.parametrize("numbers", [(2,), (1, 3), (1, 2, 1), (2, 1)])
def test_attempts_that_start_again_or_skip_one_are_not(numbers: tuple[int, ...]) -> None:
    (problem,) = verdict.disorderly([Attempts("e1", numbers)])

    assert str(numbers) in problem


def test_a_failure_that_the_test_did_not_cause_is_a_problem() -> None:
    (problem,) = verdict.unexpected_failures([failed(1), failed(2, "UndefinedColumnError [42703]")])

    assert problem.startswith("1 unexpected failures")
    assert "UndefinedColumnError" in problem


def test_a_line_of_level_error_is_a_problem() -> None:
    (problem,) = verdict.unexpected_failures([{"event": "spool.damaged", "level": "error", "timestamp": ""}])

    assert "spool.damaged" in problem


def test_log_lines_of_several_processes_are_in_the_order_of_their_time(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(json.dumps(failed(2)) + "\n")
    (tmp_path / "b.log").write_text(json.dumps(failed(1)) + "\n" + json.dumps(failed(3)) + "\n")

    (attempts,) = verdict.attempts(verdict.Logs(tmp_path).lines())

    assert attempts == Attempts("e1", (1, 2, 3))


def test_a_log_line_that_is_incomplete_is_read_once_it_is_complete(tmp_path: Path) -> None:
    logs = verdict.Logs(tmp_path)
    first, second = json.dumps(failed(1)), json.dumps(failed(2))
    with (tmp_path / "a.log").open("w") as log:
        log.write(first + "\n" + second[:20])
        log.flush()
        assert logs.lines() == [failed(1)]
        log.write(second[20:] + "\n")
    assert logs.lines() == [failed(1), failed(2)]


def test_lines_that_are_written_while_the_logs_are_read_are_left_out(tmp_path: Path) -> None:
    later = {**failed(1), "timestamp": "2999-03-01T12:00:00Z"}
    (tmp_path / "a.log").write_text(json.dumps(later) + "\n")

    assert verdict.Logs(tmp_path).lines() == []


def test_an_event_is_applied_at_the_attempt_after_its_last_failure() -> None:
    failures = [Attempts("e1", (1, 2))]

    assert verdict.spent_attempts(failures, {"e1": 3, "e2": 1}, frozenset()) == []
    assert verdict.spent_attempts(failures, {"e1": 1, "e2": 1}, frozenset({"e1"})) == []
    (problem,) = verdict.spent_attempts(failures, {"e1": 4, "e2": 2}, frozenset())
    assert "e1 at attempt 4 instead of 3; e2 at attempt 2 instead of 1" in problem


def test_a_commit_that_the_clone_lacks_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(NoHistory, match=f"no commit {UNKNOWN_COMMIT}, .*git fetch --unshallow"):
        extracted(UNKNOWN_COMMIT, tmp_path)


def test_the_recorded_commit_is_taken_out_of_git_once(tmp_path: Path) -> None:
    try:
        folder = extracted(recorded_commit(FROM_COMMIT), tmp_path)
    except NoHistory as why:
        pytest.skip(str(why))
    (folder / "README.md").unlink()

    assert (folder / "worker/__main__.py").is_file()
    assert folder.is_relative_to(tmp_path)
    assert extracted(recorded_commit(FROM_COMMIT), tmp_path) == folder
    assert not (folder / "README.md").exists()
