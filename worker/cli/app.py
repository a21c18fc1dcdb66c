"""The command line."""

import sys
from importlib.metadata import version

from cyclopts import App

app = App(
    name="stockhook",
    help="Receives marketplace webhooks, never loses one, and keeps stock and orders in Postgres correct.",
    version=lambda: version("stockhook"),
    version_flags=["--version"],
)
# Imported when called: a health check every few seconds must not load what an ingest needs.
app.command("worker.cli.run:run", name="run")
app.command("worker.cli.ingest:ingest", name="ingest")
app.command("worker.cli.consume:consume", name="consume")
app.command("worker.cli.migrate:migrate", name="migrate")
app.command("worker.cli.topology:topology", name="topology")
app.command("worker.cli.status:status", name="status")
app.command("worker.cli.audit:audit", name="audit")
app.command("worker.cli.send:send", name="send")
app.command("worker.cli.dead_letters:dead", name="dead")
app.command("worker.cli.unhandled:unhandled", name="unhandled")
app.command("worker.cli.health:health", name="health")
app.command("worker.cli.permissions:grants", name="grants")
app.command("worker.cli.doctor:doctor", name="doctor")
app.command("worker.cli.actions:actions", name="actions")
app.command("worker.cli.changes:changes", name="changes")
app.command("worker.cli.explain:explain", name="explain")
app.command("worker.cli.rebuild:rebuild", name="rebuild")
app.command("worker.cli.reconcile:reconcile", name="reconcile")
app.command("worker.cli.enrich:enrich", name="enrich")
app.command("worker.cli.retention:retain", name="retain")
app.command("worker.cli.buyback:buyback", name="buyback")
app.command("worker.cli.simulate:simulate", name="simulate")


def main() -> None:
    """Entry point; every expected failure is one sentence and an exit code."""
    if not sys.argv[1:] or sys.argv[1] in app.help_flags:
        # The list of commands shows what each one does.
        app.resolved_commands()
    from worker.cli.terminal import prepare_streams

    prepare_streams()
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        # It loads the Postgres driver, which `--help` does not need.
        from worker.cli.errors import exit_with

        exit_with(error)
