"""The reference of the commands, from worker/cli/."""

from worker.cli.app import app


def cli_reference() -> str:
    """Every command with its arguments, as its --help says."""
    # A part of the page: the title is the page's.
    text = app.generate_docs(output_format="markdown", recursive=True, heading_level=1)
    _, _, commands = text.partition("## stockhook run\n")
    return "\n".join(line.rstrip() for line in f"## stockhook run\n{commands}".splitlines()) + "\n"


def cli_summary() -> str:
    """One row per command, with a link to its section."""
    rows = []
    for name in app:
        if name.startswith("-"):
            continue
        summary = app[name].help.strip().partition("\n")[0]
        rows.append(f"| [`stockhook {name}`](#stockhook-{name}) | {summary} |")
    return "\n".join(["| command | what it does |", "| --- | --- |", *rows, ""])
