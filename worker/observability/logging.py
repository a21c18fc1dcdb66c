"""One JSON object per line on standard error, or coloured text on a terminal."""

import logging
import sys
from functools import partial
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, ProcessorReturnValue, WrappedLogger

from worker.observability.errors import safe_summary
from worker.observability.inert_text import json_text, visible
from worker.observability.stderr import install

log = structlog.get_logger(__name__)

Format = Literal["auto", "json", "console"]

# What these say at lower levels quotes frames, and with them bodies; what matters of it we say.
_QUOTING = ("aio_pika", "aiormq", "asyncio")

# The members of a line whose values are our own.
_ALWAYS_PRINTABLE = ("event", "level", "timestamp", "process", "trace_id", "span_id")


def configure(log_format: Format, level: str, process: str) -> None:
    """Set up structlog, and send what libraries log by the standard library the same way."""
    install(lambda lines: log.warning("log.lines_dropped", lines=lines, process=process))
    as_json = log_format == "json" or (log_format == "auto" and not (sys.stderr and sys.stderr.isatty()))
    render: Processor = _render_json if as_json else _render_console
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _name_exception,
            partial(_render_safely, render),
        ],
        logger_factory=_Output,
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    logging.basicConfig(handlers=[_ForwardingHandler()], level=level.upper(), force=True)
    for name in _QUOTING:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)


class _Output:
    """Writes the lines of structlog itself: through `logging`, a line takes three times as long."""

    def __init__(self, *_name: str) -> None:
        pass

    def write(self, line: str) -> None:
        # It is None if the descriptor was closed before the start.
        if sys.stderr is not None:
            sys.stderr.write(f"{line}\n")

    debug = info = warning = error = critical = write


class _ForwardingHandler(logging.Handler):
    """Passes the lines of libraries on to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # structlog has the standard levels alone.
            level = min(record.levelno // 10 * 10, logging.CRITICAL)
            log.log(level, record.getMessage(), exc_info=record.exc_info)
        except Exception:
            self.handleError(record)


def _render_safely(
    render: Processor, logger: WrappedLogger, method: str, line: EventDict
) -> ProcessorReturnValue:
    """A line that cannot be rendered does not disturb the work that it is about."""
    try:
        return render(logger, method, line)
    except Exception as error:
        printable = {name: line[name] for name in _ALWAYS_PRINTABLE if name in line}
        return render(logger, method, {**printable, "error": safe_summary(error)})


def _render_json(_logger: WrappedLogger, _method: str, line: EventDict) -> str:
    return json_text(line)


_console = structlog.dev.ConsoleRenderer()


def _render_console(logger: WrappedLogger, method: str, line: EventDict) -> str:
    """Foreign text among the values steers no terminal."""
    shown = {name: visible(value) if isinstance(value, str) else value for name, value in line.items()}
    return _console(logger, method, shown)


def _name_exception(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Say which exception it was and where, not its text: that may quote a customer's data."""
    given = line.pop("exc_info", None)
    if isinstance(given, tuple):
        given = given[1]
    elif given is True:
        given = sys.exc_info()[1]
    if isinstance(given, BaseException):
        line["error"] = safe_summary(given)
    return line
