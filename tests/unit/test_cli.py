"""The command line as a whole; what each command does is tested where it lives."""

import subprocess
import sys

import pytest

from worker.cli.app import COMMANDS, app


def stockhook(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "worker", *arguments], capture_output=True, text=True, check=True
    ).stdout


def test_the_list_of_commands_says_what_each_does() -> None:
    described = {words[1] for line in stockhook().splitlines() if len(words := line.split()) > 3}

    assert {name for name in app.resolved_commands() if not name.startswith("-")} <= described


@pytest.mark.parametrize(("target", "summary"), COMMANDS.items())
def test_a_summary_is_the_first_paragraph_of_its_docstring(target: str, summary: str) -> None:
    documented: str = app[target.partition(":")[2]].help

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


def test_a_health_check_loads_neither_the_broker_nor_the_families() -> None:
    code = (
        "import sys; from worker.cli.app import COMMANDS, app; app['health']; "
        "print({'aio_pika', 'httptools', 'uvloop', 'consumers'} & sys.modules.keys())"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert loaded.strip() == "set()"


def test_no_other_command_loads_the_web_framework() -> None:
    code = (
        "import sys; from worker.cli.app import COMMANDS, app; "
        "[app[target.partition(':')[2]] for target in COMMANDS]; "
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
