"""One JSON object per line on standard error, or coloured text on a terminal."""

import logging
import sys
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from worker.observability.errors import safe_summary
from worker.observability.inert_text import json_text, visible
from worker.observability.stderr import install

log = structlog.get_logger(__name__)

Format = Literal["auto", "json", "console"]

# What these say at lower levels quotes frames, and with them bodies; what matters of it we say.
_QUOTING = ("aio_pika", "aiormq", "asyncio")


def configure(log_format: Format, level: str, process: str) -> None:
    """Set up structlog, and send what libraries log by the standard library the same way."""
    install(lambda lines: log.warning("log.lines_dropped", lines=lines, process=process))
    as_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    render: Processor = structlog.processors.JSONRenderer(serializer=_to_json) if as_json else _render_console
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _name_exception,
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for name in _QUOTING:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)


def _to_json(line: EventDict, **_: object) -> str:
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
