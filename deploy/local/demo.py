"""`make demo`: the product with both marketplaces and a webhook gateway simulated, in a few scenes."""

import asyncio
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from secrets import token_hex

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

GATEWAY_SCHEME = "hookdeck"
# So that an attempt that failed is repeated soon: the gateway's first step is a minute.
GATEWAY_TIME_SCALE = "0.01"


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
    ports = choose_ports(["marketplaces", "gateway"], {})
    marketplaces_url, gateway_url = (
        f"http://{LOOPBACK}:{ports[name]}" for name in ("marketplaces", "gateway")
    )
    settings = {
        **product_settings(services, remembered_secrets(state / "secrets.json"), {}),
        **{f"STOCKHOOK_{name}": value for name, value in client_settings(marketplaces_url).items()},
        "STOCKHOOK_REREQUEST_PICKUP": "first_slot",
        "STOCKHOOK_GATEWAY": GATEWAY_SCHEME,
        "STOCKHOOK_GATEWAY_SECRETS": token_hex(32),
        "STOCKHOOK_SPOOL_PATH": str(state / "spool/spool.sqlite3"),
    }
    (state / "log").mkdir(exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(empty_folder(state / "spool"))
        migrate(settings, announce, says_which=False)
        log = fresh_log(state / "log/stockhook.log")
        stack.enter_context(running_product(settings, announce, state=state, log=log))
        stack.enter_context(running_gateway(settings, ports["gateway"], state))
        stack.enter_context(running_marketplaces(settings, ports["marketplaces"], gateway_url, state))
        stage = Stage(console, settings, marketplaces_url, gateway_url)
        asyncio.run(play(stage))


@contextmanager
def empty_folder(folder: Path) -> Iterator[None]:
    """Events that an interrupted demo left here would appear in the next one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_gateway(settings: Mapping[str, str], port: int, state: Path) -> Iterator[None]:
    """Ready once it answers."""
    forwarding = ("--forward-to", ingest_url(settings), "--time-scale", GATEWAY_TIME_SCALE)
    with running("gateway", forwarding, settings, port, state, "/control/state"):
        yield


@contextmanager
def running_marketplaces(
    settings: Mapping[str, str], port: int, gateway_url: str, state: Path
) -> Iterator[None]:
    """Ready once it answers."""
    sending = ("--send-to", gateway_url, "--delay", WEBHOOK_DELAY)
    with running("marketplaces", sending, settings, port, state, "/control/requests"):
        yield


@contextmanager
def running(
    what: str, options: tuple[str, ...], settings: Mapping[str, str], port: int, state: Path, ready_path: str
) -> Iterator[None]:
    """`stockhook simulate …`; it is ready once it answers at `ready_path`."""
    record = state / f"{what}.pid"
    sweep(record, STOP_SECONDS)
    argv = (str(STOCKHOOK), "simulate", what, "--port", str(port), *options)
    command = Command(argv, {**os.environ, **settings}, folder=CHECKOUT)
    with ExitStack() as cleanup:
        spawner = Spawner()
        cleanup.callback(spawner.close)
        log = fresh_log(state / f"log/{what}.log")
        daemon = Daemon(f"the {what}", command, record=record, log=log, spawner=spawner)
        cleanup.callback(daemon.stop, STOP_SECONDS)
        daemon.start()
        daemon.wait_until_ready(lambda: answers(f"http://{LOOPBACK}:{port}{ready_path}"), READY_SECONDS)
        yield


def answers(url: str) -> bool:
    try:
        found = httpx.get(url, timeout=2, trust_env=False)
    except httpx.TransportError:
        return False
    return found.is_success
