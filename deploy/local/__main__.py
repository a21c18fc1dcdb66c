"""`python -m deploy.local`: the commands that the Makefile calls."""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from deploy.local.packages import POSTGRES as POSTGRES_PACKAGES
from deploy.local.packages import DownloadFailed
from deploy.local.ports import NoFreePort
from deploy.local.process import StartFailed
from deploy.local.programs import (
    PostgresPrograms,
    find_postgres,
    has_programs,
    installed_postgres,
    library_folders,
    with_libraries,
)
from deploy.local.run import run_product, run_services
from deploy.local.services import DEMO, DEV, PACKAGES, AlreadyRunning, Unavailable, is_running

REASONS = (AlreadyRunning, Unavailable, StartFailed, DownloadFailed, NoFreePort)


def main() -> int:
    arguments, rest = parser().parse_known_args()
    if rest and arguments.command != "psql":
        parser().error(f"unrecognized arguments: {' '.join(rest)}")
    console = Console(stderr=True)
    try:
        match arguments.command:
            case "run":
                return run_product(console)
            case "demo":
                # Imported here, because the product is slow to import and only the demo needs it.
                from deploy.local.demo import WIDTH, run_demo

                return run_demo(Console(width=None if sys.stdout.isatty() else WIDTH))
            case "services" if arguments.ephemeral:
                with tempfile.TemporaryDirectory(prefix="stockhook-") as folder:
                    return run_services(console, Path(folder), durable=False)
            case "services":
                return run_services(console, DEV, durable=True)
            case "psql":
                return run_psql(rest)
            case _:
                return clean()
    except REASONS as reason:
        console.print(f"stockhook: {reason}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="RabbitMQ, Postgres and the whole product, until Ctrl-C")
    commands.add_parser(
        "demo", help="a buyback order and a used part through the whole product, step by step"
    )
    services = commands.add_parser("services", help="RabbitMQ and Postgres only, until Ctrl-C")
    services.add_argument("--ephemeral", action="store_true", help="in a folder that is removed at the end")
    commands.add_parser("psql", help="psql, with STOCKHOOK_DATABASE_URL and the arguments that follow")
    commands.add_parser("clean", help="remove .dev with all its data")
    return parser


def run_psql(arguments: list[str]) -> int:
    """Replaces this process with psql, connected to STOCKHOOK_DATABASE_URL."""
    url = os.environ.get("STOCKHOOK_DATABASE_URL")
    if not url:
        raise Unavailable("nothing is running here yet: start it with `make run`")
    found = find_psql()
    if found is None:
        raise Unavailable("psql was not found: install postgresql-client")
    program, libraries = found
    os.execve(program, [str(program), url, *arguments], {**os.environ, **libraries})


def find_psql() -> tuple[Path, dict[str, str]] | None:
    unpacked = PACKAGES / POSTGRES_PACKAGES.package
    candidates: list[tuple[PostgresPrograms | None, Path]] = [
        (installed_postgres(), Path("/")),
        (find_postgres(unpacked), unpacked),
    ]
    for programs, root in candidates:
        if programs is not None and has_programs(programs.folder, "psql"):
            libraries = () if root == Path("/") else library_folders(root)
            return programs.folder / "psql", with_libraries(libraries)
    on_path = shutil.which("psql")
    return None if on_path is None else (Path(on_path), {})


def clean() -> int:
    for state, started_by in ((DEV, "make run"), (DEMO, "make demo")):
        if is_running(state):
            raise AlreadyRunning(f"`{started_by}` is running: stop it first")
    shutil.rmtree(DEV, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
