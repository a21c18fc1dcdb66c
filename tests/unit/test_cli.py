"""The command line as a whole. Other files test the commands."""

import json
import os
import subprocess
import sys

import pytest

from worker.cli.app import COMMANDS, app, command_name
from worker.observability.exit_codes import MISCONFIGURED


def stockhook(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "worker", *arguments], capture_output=True, text=True, check=True
    ).stdout


def test_the_list_of_commands_describes_each() -> None:
    described = {columns[1] for line in stockhook().splitlines() if len(columns := line.split()) > 3}

    assert {name for name in app.resolved_commands() if not name.startswith("-")} <= described


@pytest.mark.parametrize(("target", "summary"), COMMANDS.items())
def test_a_summary_is_the_first_paragraph_of_its_docstring(target: str, summary: str) -> None:
    documented: str = app[command_name(target)].help

    assert summary == " ".join(documented.partition("\n\n")[0].split())


def test_help_before_a_command_is_the_help_of_the_command() -> None:
    assert stockhook("--help", "audit") == stockhook("audit", "--help")


def test_the_list_of_commands_loads_none() -> None:
    code = (
        "import atexit, sys; from worker.cli.app import main; sys.argv = ['stockhook', '--help']; "
        "atexit.register(lambda: print({'asyncpg', 'aio_pika', 'consumers'} & sys.modules.keys())); main()"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert printed.endswith("set()\n")


def test_doctor_says_which_settings_break_their_rules() -> None:
    """No other check can run then."""
    environment = {
        **os.environ,
        "STOCKHOOK_GATEWAY": "svix",
        "STOCKHOOK_GATEWAY_SECRETS": "plain-text-secret-0123456789",
        "STOCKHOOK_BODY_LIMIT": "many",
    }
    people, machines = (
        subprocess.run(
            [sys.executable, "-m", "worker", "doctor", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        for arguments in ((), ("--json",))
    )

    sentence = (
        "STOCKHOOK_GATEWAY_SECRETS: secret 1 must begin with whsec_, or with whpk_ for a public key; "
        "STOCKHOOK_BODY_LIMIT: Input should be a valid integer, unable to parse string as an integer "
        "(given: 'many')"
    )
    assert (people.returncode, people.stdout, people.stderr) == (
        MISCONFIGURED,
        "",
        f"stockhook: {sentence}\n",
    )
    assert (machines.returncode, machines.stderr) == (MISCONFIGURED, people.stderr)
    assert json.loads(machines.stdout)["findings"] == [
        {"level": "error", "subject": "settings", "what": sentence, "remedy": "correct them"}
    ]


WEB_SERVER = ("httptools", "worker.ingest")


@pytest.mark.parametrize(
    ("command", "unwanted"),
    [
        ("health", ("aio_pika", "uvloop", "consumers", "worker.simulator", *WEB_SERVER)),
        ("status", ("worker.simulator", *WEB_SERVER)),
        ("migrate", ("worker.simulator", *WEB_SERVER)),
    ],
)
def test_a_command_loads_no_more_than_it_needs(command: str, unwanted: tuple[str, ...]) -> None:
    code = (
        f"import sys; from worker.cli.app import app; app['{command}']; "
        f"print({set(unwanted)} & sys.modules.keys())"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert loaded.strip() == "set()"


def test_no_other_command_loads_the_web_framework() -> None:
    code = (
        "import sys; from worker.cli.app import COMMANDS, app, command_name; "
        "[app[command_name(target)] for target in COMMANDS]; "
        "print({'starlette', 'jinja2', 'uvicorn', 'worker.console'} & sys.modules.keys())"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert loaded.strip() == "set()"


def test_without_its_extra_the_console_says_what_to_install() -> None:
    code = (
        "import sys; from worker.cli.app import main; sys.modules['uvicorn'] = None; "
        "sys.argv = ['stockhook', 'console']; main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert ended.returncode == 78
    assert ended.stderr == (
        "stockhook: the console needs more packages (uvicorn is missing): install stockhook[console]\n"
    )
