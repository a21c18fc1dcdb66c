"""How lines look, our own and those of libraries."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import logging
import structlog
from worker.observability.logging import configure
configure({log_format!r}, "info", "test")
log = structlog.get_logger("ours")
foreign = logging.getLogger("foreign")
{statements}
log.info("went.on")
"""


def written(statements: str, log_format: str = "json") -> str:
    program = PROGRAM.format(log_format=log_format, statements=statements)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=60, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.decode()


def lines(statements: str) -> list[dict[str, Any]]:
    """The lines without the last one, each without its timestamp."""
    *logged, last = (json.loads(line) for line in written(statements).splitlines())
    assert last["event"] == "went.on"
    assert all(line.pop("timestamp").endswith("Z") for line in logged)
    return logged


def test_lines_of_libraries_look_like_our_own() -> None:
    ours, theirs, unusual = lines(
        """
structlog.contextvars.bind_contextvars(trace_id="5ba1")
log.warning("it.happened")
foreign.warning("it.%s", "happened")
foreign.log(logging.WARNING + 5, "it.happened")
"""
    )

    assert ours == {"event": "it.happened", "level": "warning", "process": "test", "trace_id": "5ba1"}
    assert ours == theirs == unusual


def test_lines_below_the_level_and_lines_that_quote_frames_are_omitted() -> None:
    logged = lines(
        """
log.debug("ours")
foreign.debug("theirs")
for name in ("aio_pika", "aiormq.connection", "asyncio"):
    logging.getLogger(name).error("a frame")
for name in ("httpx", "httpcore"):
    logging.getLogger(name).info("a request")
"""
    )

    assert logged == []


def test_an_error_is_named_without_its_text() -> None:
    logged = lines(
        """
try:
    raise ValueError("a customer")
except ValueError as error:
    log.exception("it.failed")
    log.error("it.failed", exc_info=error)
    foreign.exception("it.failed")
"""
    )

    assert logged == [
        {"event": "it.failed", "level": "error", "process": "test", "error": "ValueError"} for _ in range(3)
    ]


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(
    "statement",
    [
        "log.info('it.happened', value=type('Broken', (), {'__repr__': lambda self: 1 / 0})())",
        "log.info('it.happened', value={(1, 2): 1}, other=type('B', (), {'__repr__': lambda _: 1 / 0})())",
    ],
)
def test_a_line_that_cannot_be_rendered_disturbs_nothing(log_format: str, statement: str) -> None:
    text = written(statement, log_format)

    assert "it.happened" in text
    assert "ZeroDivisionError" in text or "TypeError" in text
    assert "went.on" in text


def test_a_line_of_a_library_that_cannot_be_formatted_disturbs_nothing() -> None:
    assert "went.on" in written("foreign.warning('%d', 'no number')")
