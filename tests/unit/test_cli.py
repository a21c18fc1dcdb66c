"""The command line as a whole; what each command does is tested where it lives."""

import subprocess
import sys

from worker.cli.app import app


def stockhook(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "worker", *arguments], capture_output=True, text=True, check=True
    ).stdout


def test_the_list_of_commands_says_what_each_does() -> None:
    described = {words[1] for line in stockhook().splitlines() if len(words := line.split()) > 3}

    assert {name for name in app.resolved_commands() if not name.startswith("-")} <= described


def test_a_health_check_loads_neither_the_broker_nor_the_families() -> None:
    code = (
        "import sys; from worker.cli.app import app; app['health']; "
        "print({'aio_pika', 'httptools', 'uvloop', 'consumers'} & sys.modules.keys())"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert loaded.strip() == "set()"
