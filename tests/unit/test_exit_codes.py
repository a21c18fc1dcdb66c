"""Expected failures: one sentence and a documented exit code."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.amqp.errors import BrokerRefused, BrokerUnavailable, TopologyMismatch
from worker.cli.context import WrongUsage
from worker.cli.errors import exit_with
from worker.config.database_url import UnsupportedParameter
from worker.config.settings import BadSettings
from worker.ingest.spool.spool import SpoolTaken
from worker.observability.exit_codes import FAILED, MISCONFIGURED, TEMPORARY, UNAVAILABLE, USAGE
from worker.postgres.failures import DatabaseUnavailable, TransactionConflict
from worker.tools.rebuild.shadow import RebuildFailed


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (WrongUsage("give --all"), USAGE, "give --all"),
        (BadSettings("a port"), MISCONFIGURED, "a port"),
        (UnsupportedParameter("has a port"), MISCONFIGURED, "STOCKHOOK_DATABASE_URL has a port"),
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


# The pool finds the first in READ_ONLY; a validation of the settings reports the second;
# `worker.amqp.errors.translating` catches every error; `worker.amqp.subscription.SESSION_ENDS` has the last.
CAUGHT_OTHERWISE = {"AcceptsNoWrites", "BadKey", "ChannelLost", "Nacked", "SwitchedOff"}


def test_an_exception_outside_the_root_is_caught_by_its_name() -> None:
    nodes = [node for tree in trees() for node in ast.walk(tree)]
    bases = {node.name: set(map(ast.unparse, node.bases)) for node in nodes if isinstance(node, ast.ClassDef)}
    caught = {name for node in nodes for name in caught_by(node)}

    def ancestors(name: str) -> set[str]:
        return {name}.union(*(ancestors(base) for base in bases.get(name, ())))

    outside = {name: ancestors(name) for name in bases if not name.startswith("_")}
    outside = {
        name: above
        for name, above in outside.items()
        if above & {"Exception", "ValueError"} and "StockhookError" not in above
    }

    assert {name for name, above in outside.items() if not above & caught} == CAUGHT_OTHERWISE


def trees() -> Iterator[ast.Module]:
    for package in ("worker", "consumers", "schemas"):
        for path in Path(package).rglob("*.py"):
            yield ast.parse(path.read_text())


def caught_by(node: ast.AST) -> set[str]:
    """The classes of ours that an `except` or a `suppress` names."""
    match node:
        case ast.ExceptHandler(type=ast.expr() as type_):
            named: list[ast.expr] = [type_]
        case ast.Call(func=ast.Name(id="suppress"), args=named):
            pass
        case _:
            return set()
    names = {one.id for part in named for one in ast.walk(part) if isinstance(one, ast.Name)}
    return names - {"Exception", "ValueError"}
