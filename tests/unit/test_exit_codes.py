"""Expected failures: one sentence and a documented exit code."""

import pytest

from worker.amqp.errors import BrokerRefused, BrokerUnavailable, TopologyMismatch
from worker.cli.context import WrongUsage
from worker.cli.errors import exit_with
from worker.config.settings import BadSettings
from worker.ingest.spool.spool import SpoolTaken
from worker.observability.exit_codes import FAILED, MISCONFIGURED, TEMPORARY, UNAVAILABLE, USAGE
from worker.postgres.pool import DatabaseUnavailable, TransactionConflict
from worker.tools.rebuild.shadow import RebuildFailed


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (WrongUsage("give --all"), USAGE, "give --all"),
        (BadSettings("a port"), MISCONFIGURED, "a port"),
        (TopologyMismatch("queue q is missing"), MISCONFIGURED, "queue q is missing"),
        (BrokerRefused("403", "correct it"), MISCONFIGURED, "the broker refused: 403: correct it"),
        (BrokerUnavailable("x"), UNAVAILABLE, "cannot reach the broker (x): see STOCKHOOK_AMQP_URL"),
        (DatabaseUnavailable("x"), UNAVAILABLE, "cannot reach the database (x): see STOCKHOOK_DATABASE_URL"),
        (TransactionConflict("a value"), FAILED, "it failed: TransactionConflict"),
        (SpoolTaken("in use"), TEMPORARY, "in use"),
        (RebuildFailed("in use"), FAILED, "in use"),
        (
            FileNotFoundError(2, "No such file", "x"),
            FAILED,
            "the operating system refused: No such file ('x')",
        ),
    ],
)
def test_an_expected_failure_is_one_sentence_and_its_exit_code(
    error: Exception, code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        exit_with(error)

    said = capsys.readouterr().err
    assert exit_.value.code == code
    assert said.startswith(f"stockhook: {sentence}")
    assert said.count("\n") == 1


def test_an_unexpected_error_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_with(ZeroDivisionError())
