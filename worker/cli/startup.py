"""What a command does first: read the settings, and start logs and traces."""

from contextlib import AbstractContextManager

from worker.config.settings import Settings, read_settings
from worker.observability.logging import configure
from worker.observability.tracing import tracing


def load_context(process: str) -> Settings:
    """Read the settings, and configure logging.

    Raises:
        BadSettings
    """
    settings = read_settings()
    configure(settings.log_format, settings.log_level, process)
    return settings


def traced(settings: Settings, process: str) -> AbstractContextManager[None]:
    """Export the traces of this process while the context lasts, with STOCKHOOK_TRACING.

    Raises:
        ExtraMissing
        BadTraceVariable
    """
    return tracing(settings.tracing, process, settings.batch_size + 1)
