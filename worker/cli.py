"""The command line."""

import sys
from importlib.metadata import version

from cyclopts import App

app = App(
    name="stockhook",
    help="Takes marketplace webhooks in, never loses one, and keeps stock and orders in Postgres true.",
    version=lambda: version("stockhook"),
    version_flags=["--version"],
)
# Imported when they are called: a health check every few seconds must not load what an ingest needs.
app.command("worker.commands.run:run", name="run")
app.command("worker.commands.ingest:ingest", name="ingest")
app.command("worker.commands.consume:consume", name="consume")
app.command("worker.commands.migrate:migrate", name="migrate")
app.command("worker.commands.topology:topology", name="topology")
app.command("worker.commands.status:status", name="status")
app.command("worker.commands.audit:audit", name="audit")
app.command("worker.send.command:send", name="send")
app.command("worker.dead.command:dead", name="dead")
app.command("worker.unhandled.command:unhandled", name="unhandled")
app.command("worker.health:health", name="health")
app.command("worker.grants:grants", name="grants")
app.command("worker.doctor.command:doctor", name="doctor")
app.command("worker.actions.command:actions", name="actions")
app.command("worker.changes.command:changes", name="changes")
app.command("worker.explain.command:explain", name="explain")
app.command("worker.rebuild.command:rebuild", name="rebuild")
app.command("worker.reconcile.command:reconcile", name="reconcile")
app.command("worker.details.command:details", name="details")
app.command("worker.retention:retain_command", name="retain")
app.command("worker.seller.command:buyback", name="buyback")
app.command("worker.simulate.command:simulate", name="simulate")


def main() -> None:
    """Entry point; every expected failure is one sentence and an exit code."""
    if not sys.argv[1:] or sys.argv[1] in app.help_flags:
        # The list of commands says what each does.
        app.resolved_commands()
    from worker.terminal import prepare_streams

    prepare_streams()
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        # It knows the failures of everything, and so takes as long to load.
        from worker.ending import end

        end(error)
