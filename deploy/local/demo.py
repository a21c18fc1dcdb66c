"""`make demo`: the product with both marketplaces simulated, in a few scenes."""

import asyncio
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from rich.console import Console

from deploy.local.environment import product_settings
from deploy.local.ports import LOOPBACK, choose_ports
from deploy.local.process import Command, Daemon, Spawner, sweep
from deploy.local.run import (
    READY_SECONDS,
    STOCKHOOK,
    STOP_SECONDS,
    Stopped,
    ingest_url,
    migrate,
    progress,
    running_product,
    stop_signals,
)
from deploy.local.scenes import WIDTH, SceneFailed, Stage, play
from deploy.local.secrets import remembered_secrets
from deploy.local.services import CHECKOUT, DEMO, Announce, Services, fresh_log, local_services
from worker.cli.simulate import client_settings

__all__ = ["WIDTH", "run_demo", "show"]

# Webhooks are sent soon, so that the demo is short.
WEBHOOK_DELAY = "0.2"


def run_demo(console: Console) -> int:
    """Runs with separate services, ports and data, and returns the exit code.

    Raises: As `local_services` and `show`.
    """
    forget_settings()
    try:
        with ExitStack() as stack:
            stack.enter_context(stop_signals())
            announce = progress(console)
            services = stack.enter_context(local_services(DEMO, durable=False, announce=announce))
            show(services, DEMO, console, announce)
    except Stopped:
        console.print("stopped")
        return 1
    except SceneFailed as failure:
        console.print(f"\nthe demo failed: {failure}", style="red", markup=False, highlight=False)
        console.print(f"the logs are in {(DEMO / 'log').relative_to(CHECKOUT)}/", highlight=False)
        return 1
    console.print(
        "\nEverything is stopped, and the data is deleted. To continue: `make run`.", highlight=False
    )
    return 0


def forget_settings() -> None:
    """A demo writes and deletes, so it must not use the caller's database."""
    for name in [name for name in os.environ if name.startswith("STOCKHOOK_")]:
        del os.environ[name]


def show(services: Services, state: Path, console: Console, announce: Announce) -> None:
    """Start the product and the marketplaces, play all scenes, and stop both.

    Raises:
        SceneFailed: An expected effect did not happen.
        StartFailed
    """
    port = choose_ports(["marketplaces"], {})["marketplaces"]
    marketplaces_url = f"http://{LOOPBACK}:{port}"
    settings = {
        **product_settings(services, remembered_secrets(state / "secrets.json"), {}),
        **{f"STOCKHOOK_{name}": value for name, value in client_settings(marketplaces_url).items()},
        "STOCKHOOK_REREQUEST_PICKUP": "first_slot",
        "STOCKHOOK_SPOOL_PATH": str(state / "spool/spool.sqlite3"),
    }
    (state / "log").mkdir(exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(empty_folder(state / "spool"))
        migrate(settings, announce, says_which=False)
        log = fresh_log(state / "log/stockhook.log")
        stack.enter_context(running_product(settings, announce, state=state, log=log))
        stack.enter_context(running_marketplaces(settings, port, state))
        stage = Stage(console, settings, marketplaces_url)
        asyncio.run(play(stage))


@contextmanager
def empty_folder(folder: Path) -> Iterator[None]:
    """Events that an interrupted demo left here would appear in the next one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_marketplaces(settings: Mapping[str, str], port: int, state: Path) -> Iterator[None]:
    """Ready once it answers."""
    record = state / "marketplaces.pid"
    sweep(record, STOP_SECONDS)
    sending = ("--port", str(port), "--send-to", ingest_url(settings), "--delay", WEBHOOK_DELAY)
    argv = (str(STOCKHOOK), "simulate", "marketplaces", *sending)
    command = Command(argv, {**os.environ, **settings}, folder=CHECKOUT)
    with ExitStack() as cleanup:
        spawner = Spawner()
        cleanup.callback(spawner.close)
        log = fresh_log(state / "log/marketplaces.log")
        daemon = Daemon("the marketplaces", command, record=record, log=log, spawner=spawner)
        cleanup.callback(daemon.stop, STOP_SECONDS)
        daemon.start()
        daemon.wait_until_ready(lambda: answers(port), READY_SECONDS)
        yield


def answers(port: int) -> bool:
    try:
        found = httpx.get(f"http://{LOOPBACK}:{port}/control/requests", timeout=2, trust_env=False)
    except httpx.TransportError:
        return False
    return found.is_success
