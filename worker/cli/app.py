"""The command line."""

from importlib.metadata import version

from cyclopts import App

# Where each command lives in this package, and the first paragraph of its help. A command is imported
# when it is called: a health check every few seconds must not load what an ingest needs. The list of commands
# loads none of them.
COMMANDS = {
    "run:run": "Run the ingest and all families, until SIGTERM or Ctrl-C.",
    "ingest:ingest": "Receive webhooks and publish them, until SIGTERM or Ctrl-C.",
    "consume:consume": "Apply the events of these families, until SIGTERM or Ctrl-C.",
    "console:console": "Show the pipeline and its failures in a browser, until SIGTERM or Ctrl-C.",
    "migrate:migrate": "Bring the database's tables up to date.",
    "topology:topology": "Declare exchanges, queues and bindings; safe to repeat.",
    "status:status": "Show broker, database, queues with their retry queues, and rows.",
    "pause:pause": "Pause a family: no event is taken from its queue until `stockhook resume`.",
    "pause:resume": "End the pause of a family; its consumers continue within 2 s.",
    "audit:audit": "Account for each accepted event: applied, duplicate, waiting, dead, or missing.",
    "audit_trail:audit_trail": "Show who did what, when, to what and why, the newest first.",
    "send:send": "Send the documented events, or those of a generated marketplace, to an ingest.",
    "dead_letters:dead": "Find, inspect, repair, replay and discard dead letters.",
    "unhandled:unhandled": "See which event types no family handles, and replay their events.",
    "health:health": "Request /livez from the ops port; exit code 0 if the process is healthy, otherwise 1.",
    "permissions:grants": (
        "Print the commands that grant each process the minimum of permissions. Changes nothing."
    ),
    "doctor:doctor": "Check broker, database, settings and spool, and show what to do.",
    "actions:actions": "Requests to marketplaces, by events and by people.",
    "changes:changes": "The change feed: what subscribers receive when stock or orders change.",
    "asyncapi:asyncapi": "Print the AsyncAPI documents: the change feed, and everything on the broker.",
    "explain:explain": (
        "Show the history of an entity: each of its events, its effect, and the rule that applied."
    ),
    "rebuild:rebuild": (
        "Rebuild a family's rows, findings and communications from the event log, beside the live ones."
    ),
    "reconcile:reconcile": (
        "Compare a marketplace's list with our tables, and apply the differences if requested."
    ),
    "enrich:enrich": "Request the details that a marketplace's events lack from its API.",
    "retention:retain": (
        "Delete months of the event log, handled dead letters, their jobs and unhandled events past their "
        "days."
    ),
    "buyback:buyback": (
        "Call the buyback platform as its seller: how an order is sent, and whom to pay for it."
    ),
    "simulate:simulate": "Simulate the marketplaces, or a webhook gateway, to test an ingest and clients.",
}


def command_line(*, listing: bool = False) -> App:
    """The command line. With `listing`, commands have only summaries, so that listing them imports none."""
    commands = App(
        name="stockhook",
        help=(
            "Receives marketplace webhooks, never loses one, and keeps stock and orders in Postgres correct."
        ),
        version=lambda: version("stockhook"),
        version_flags=["--version"],
    )
    for target, summary in COMMANDS.items():
        name = command_name(target)
        commands.command(f"worker.cli.{target}", name=name, **({"help": summary} if listing else {}))
    return commands


def command_name(target: str) -> str:
    """As users type it."""
    return target.partition(":")[2].replace("_", "-")


app = command_line()


def run_command_line(arguments: list[str]) -> None:
    """Run a command with its options."""
    lists_commands = arguments in ([], *([flag] for flag in app.help_flags))
    (command_line(listing=True) if lists_commands else app)(arguments)
