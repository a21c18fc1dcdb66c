"""The entry point of `stockhook`."""

import sys


def main() -> None:
    """Run a command; every expected failure is one sentence and an exit code."""
    prepare_streams()
    try:
        _run(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        # It loads the Postgres driver, which `--help` does not need.
        from worker.cli.errors import exit_with

        exit_with(error)


def prepare_streams() -> None:
    """Write characters that the encoding of standard output lacks as escapes."""
    for stream in (sys.stdout, sys.stderr):
        # Missing if the stream is replaced, as in tests.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _run(arguments: list[str]) -> None:
    """Run one command. The processes that only receive and supervise do not load the command line.

    It stays in memory as long as a process runs.
    """
    match arguments:
        case ["ingest"]:
            _load_structlog()
            from worker.cli.ingest import ingest

            ingest()
        case ["run"]:
            _load_structlog()
            from worker.cli.run import run

            run()
        case _:
            from worker.cli.app import run_command_line

            run_command_line(arguments)


def _load_structlog() -> None:
    """Without rich, which structlog imports if it can, for tracebacks that no log of ours contains."""
    if "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # so that importing it fails
    import structlog  # noqa: F401

    del sys.modules["rich"]
