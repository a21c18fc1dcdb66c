"""The command line as a whole. Other files test the commands."""

import json
import os
import subprocess
import sys

import pytest

from worker.cli.app import COMMANDS, app, command_name
from worker.observability.exit_codes import MISCONFIGURED

EXTRA = ["starlette", "jinja2", "markupsafe", "uvicorn"]
"""The packages of the extra `console`."""


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
        "import atexit, sys; from worker.cli.entry_point import main; sys.argv = ['stockhook', '--help']; "
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


# What only other processes need.
HEAVY = {
    "asyncpg", "cyclopts", "httpcore", "httpx", "jinja2", "opentelemetry", "pygments", "rich", "starlette",
    "uvicorn", "worker.actions", "worker.change_feed", "worker.console", "worker.dead_letters",
    "worker.pipeline", "worker.postgres.pool", "worker.simulator", "worker.tools",
}  # fmt: skip


@pytest.mark.parametrize("command", ["ingest", "run"])
def test_a_process_that_needs_neither_database_nor_terminal_loads_neither(command: str) -> None:
    """What it loads stays in memory as long as it runs."""
    # It ends before it serves, since a setting cannot be read.
    code = f"""
import sys
from types import SimpleNamespace
from worker.cli.entry_point import main
sys.modules["worker.cli.errors"] = SimpleNamespace(
    exit_with=lambda error: print(error, *sys.modules, sep="\\n")
)
sys.argv = ["stockhook", "{command}"]
main()
"""
    started = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "STOCKHOOK_OPS_PORT": "none"},
    )

    error, *loaded = started.stdout.splitlines()
    assert error.startswith("STOCKHOOK_OPS_PORT")
    assert {f"worker.cli.{command}", "worker.config.settings"} <= set(loaded)
    assert not HEAVY & set(loaded)


def test_no_other_command_loads_the_web_framework() -> None:
    code = (
        "import sys; from worker.cli.app import COMMANDS, app, command_name; "
        "[app[command_name(target)] for target in COMMANDS]; "
        "print({'starlette', 'jinja2', 'uvicorn', 'worker.console'} & sys.modules.keys())"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert loaded.strip() == "set()"


def test_every_module_outside_the_console_works_without_the_extra() -> None:
    code = f"""
import sys, worker
from pathlib import Path
sys.modules.update(dict.fromkeys({EXTRA}))
folder = Path(worker.__path__[0])
for file in folder.rglob("*.py"):
    parts = file.relative_to(folder.parent).with_suffix("").parts
    if parts[1] not in ("console", "__main__"):
        __import__(".".join(parts).removesuffix(".__init__"))
print([name for name in sys.modules if name.startswith("worker.console")], len(sys.modules) > 200)
"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert loaded.stdout.strip() == "[] True", loaded.stderr


@pytest.mark.parametrize("package", EXTRA)
def test_without_its_extra_the_console_says_what_to_install(package: str) -> None:
    ended = without_extra([package], "console")

    assert ended.returncode == 78
    assert ended.stderr.startswith(f"stockhook: the console needs more packages ({package}")
    assert ended.stderr.endswith(" is missing): install stockhook[console]\n")


def test_without_the_extra_passwords_can_be_hashed() -> None:
    """On a machine that only prepares the settings."""
    hashed = without_extra(EXTRA, "console", "hash-password")

    assert hashed.returncode == 0, hashed.stderr
    assert hashed.stdout.startswith("scrypt.")


def without_extra(missing: list[str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `stockhook` where these packages cannot be imported."""
    code = (
        f"import sys; from worker.cli.entry_point import main; sys.modules.update(dict.fromkeys({missing})); "
        f"sys.argv = ['stockhook', *{list(arguments)}]; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        input="correct-horse-battery\n",
        capture_output=True,
        text=True,
        check=False,
    )
