"""The reference of the commands, from worker/cli/."""

import re

from worker.cli.app import COMMANDS, app, command_name

# cyclopts adds how Python was started (`python -m …`) to the usage of some commands.
_STARTED_AS = re.compile(r"^(stockhook(?: [a-z-]+)*) -m [\w.]+", re.MULTILINE)


def cli_reference() -> str:
    """Every command with its arguments, from its --help."""
    text = app.generate_docs(output_format="markdown", recursive=True)
    # The title and the list of commands are not part of the generated text.
    _, _, commands = text.partition("## stockhook run\n")
    commands = _STARTED_AS.sub(r"\1", f"## stockhook run\n{commands}")
    return "\n".join(line.rstrip() for line in commands.splitlines()) + "\n"


def cli_summary() -> str:
    """One row per command, with a link to its section."""
    rows = []
    for target, summary in COMMANDS.items():
        name = command_name(target)
        rows.append(f"| [`stockhook {name}`](#stockhook-{name}) | {summary} |")
    return "\n".join(["| command | what it does |", "| --- | --- |", *rows, ""])
