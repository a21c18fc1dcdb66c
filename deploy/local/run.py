"""`make run`: the services, the product, and the addresses for a newcomer."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from rich.console import Console

from deploy.local.environment import (
    CONSOLE_USER,
    console_settings,
    product_settings,
    shell_lines,
    write_env,
)
from deploy.local.process import Command, Daemon, Spawner, StartFailed, sweep
from deploy.local.secrets import remembered_secrets
from deploy.local.services import CHECKOUT, DEV, Announce, local_services

STOCKHOOK = Path(sys.executable).with_name("stockhook")
READY_SECONDS = 60
STOP_SECONDS = 25

EXAMPLE = {
    "event_id": "101aa6a1-ed22-42f0-84ca-1f8a028a2d28",
    "event_type": "part.status.changed",
    "timestamp": "2023-01-12T14:17:20+02:00",
    "event_data": {"part_id": "13", "status": "sold", "id_bridge": "12345", "external_id": None},
}


class Stopped(BaseException):
    """Ctrl-C or SIGTERM."""


@contextmanager
def stop_signals() -> Iterator[None]:
    """Turns the first signal into Stopped and ignores later ones, because the clean-up has deadlines."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(*_: object) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped

    for number in numbers:
        signal.signal(number, stop)
    yield


def run_product(console: Console) -> int:
    """The exit code: 0 after a signal, 1 if the product ended on its own."""
    announce = progress(console)
    try:
        with ExitStack() as stack:
            stack.enter_context(stop_signals())
            services = stack.enter_context(local_services(DEV, durable=True, announce=announce))
            secrets = remembered_secrets(DEV / "secrets.json")
            settings = product_settings(services, secrets, os.environ)
            settings |= console_settings(settings, secrets, os.environ)
            write_env(DEV / "env", settings)
            migrate(settings, announce)
            product = stack.enter_context(running_product(settings, announce))
            stack.enter_context(running_console(settings, announce))
            login = secrets["console_password"] if has_own_login() else None
            console.print(summary(settings, login), soft_wrap=True, markup=True, highlight=False)
            code = wait_for_end(product)
            console.print(f"[red]stockhook ended with code {code}[/red]")
            return 1
    except Stopped:
        console.print("stopped")
        return 0


def progress(console: Console) -> Announce:
    begun = time.monotonic()

    def announce(line: str) -> None:
        console.print(
            f"[dim]{time.monotonic() - begun:5.1f} s[/dim]  {line}", highlight=False, soft_wrap=True
        )

    return announce


def migrate(settings: Mapping[str, str], announce: Announce, *, says_which: bool = True) -> None:
    announce("migrating the database")
    done = subprocess.run(
        [STOCKHOOK, "migrate"],
        cwd=CHECKOUT,
        env={**os.environ, **settings},
        stdout=None if says_which else subprocess.DEVNULL,
        check=False,
    )
    if done.returncode != 0:
        raise StartFailed(f"stockhook migrate ended with code {done.returncode}")


@contextmanager
def running_product(
    settings: Mapping[str, str], announce: Announce, *, state: Path = DEV, log: Path | None = None
) -> Iterator[Daemon]:
    """Ready once /readyz answers 200. Without `log` it writes its log to this terminal."""
    record = state / "stockhook.pid"
    sweep(record, STOP_SECONDS)
    announce("starting stockhook")
    with ExitStack() as cleanup:
        spawner = Spawner()
        cleanup.callback(spawner.close)
        command = Command((str(STOCKHOOK), "run"), {**os.environ, **settings}, folder=CHECKOUT)
        product = Daemon("stockhook", command, record=record, log=log, spawner=spawner)
        cleanup.callback(product.stop, STOP_SECONDS)
        product.start()
        product.wait_until_ready(lambda: is_ready(ingest_url(settings)), READY_SECONDS)
        yield product


@contextmanager
def running_console(settings: Mapping[str, str], announce: Announce) -> Iterator[Daemon]:
    """Ready once /livez answers 200."""
    record = DEV / "console.pid"
    sweep(record, STOP_SECONDS)
    announce("starting the console")
    with ExitStack() as cleanup:
        spawner = Spawner()
        cleanup.callback(spawner.close)
        command = Command((str(STOCKHOOK), "console"), {**os.environ, **settings}, folder=CHECKOUT)
        console = Daemon("console", command, record=record, log=None, spawner=spawner)
        cleanup.callback(console.stop, STOP_SECONDS)
        console.start()
        console.wait_until_ready(lambda: answers(f"{console_url(settings)}/livez"), READY_SECONDS)
        yield console


def console_url(settings: Mapping[str, str]) -> str:
    scheme = "https" if os.environ.get("STOCKHOOK_CONSOLE_CERTIFICATE_FILE") else "http"
    given = os.environ.get("STOCKHOOK_CONSOLE_HOST") or "127.0.0.1"
    host = "127.0.0.1" if given == "0.0.0.0" else given
    return (
        f"{scheme}://{host}:{settings.get('STOCKHOOK_CONSOLE_PORT') or os.environ['STOCKHOOK_CONSOLE_PORT']}"
    )


def has_own_login() -> bool:
    """Whether the console has the login of `make run`, and not users from the caller's environment."""
    names = ("STOCKHOOK_CONSOLE_USERS", "STOCKHOOK_CONSOLE_PROXY_USER_HEADER")
    return not any(os.environ.get(name) for name in names)


def ingest_url(settings: Mapping[str, str]) -> str:
    host = settings["STOCKHOOK_INGEST_HOST"]
    # What the caller set for the product reaches it through the environment.
    scheme = "https" if os.environ.get("STOCKHOOK_INGEST_CERTIFICATE_FILE") else "http"
    prefix = os.environ.get("STOCKHOOK_INGEST_PATH_PREFIX", "")
    address = "127.0.0.1" if host == "0.0.0.0" else host
    return f"{scheme}://{address}:{settings['STOCKHOOK_INGEST_PORT']}{prefix}"


def is_ready(url: str) -> bool:
    return answers(f"{url}/readyz")


def answers(url: str) -> bool:
    """Whether it answers 200."""
    try:
        # Its certificate is for another name.
        answer = httpx.get(url, timeout=2, trust_env=False, verify=False)
    except httpx.TransportError:
        return False
    return answer.status_code == httpx.codes.OK


def wait_for_end(product: Daemon) -> int | None:
    while product.running():
        time.sleep(0.2)
    return product.exit_code()


def summary(settings: Mapping[str, str], login: str | None) -> str:
    url = ingest_url(settings)
    user = f"\n              user {CONSOLE_USER}, password {login}" if login else ""
    return f"""
[bold green]Stockhook is running.[/bold green] Ctrl-C stops it and everything that was started with it.

  console     {console_url(settings)}/{user}
  webhooks    {url}/webhooks/ovoko
              {url}/webhooks/buyback
  operations  http://127.0.0.1:{settings["STOCKHOOK_OPS_PORT"]}/metrics
              {url}/readyz
              {url}/openapi.json
{dashboard_line(settings)}  settings    .dev/env (secrets and the addresses of RabbitMQ and Postgres)
  logs        of stockhook below; of RabbitMQ and Postgres in .dev/log/

Send a webhook that a part was sold:

  {curl_line(settings)}

In a second terminal:

  . .dev/env
  .venv/bin/stockhook send --documented   the documented events
  .venv/bin/stockhook status              queues, dead letters, rows
  make psql                               SELECT * FROM parts;
"""


def dashboard_line(settings: Mapping[str, str]) -> str:
    url = settings.get("STOCKHOOK_MANAGEMENT_URL")
    if url is None:
        return ""
    found = urlsplit(url)
    # For a cluster, use the first host.
    address = f"http://{found.netloc.rpartition('@')[2].partition(',')[0]}/"
    return (
        f"  queues      {address} (RabbitMQ's dashboard)\n"
        f"              user {found.username}, password {found.password}\n"
    )


def curl_line(settings: Mapping[str, str]) -> str:
    """A line to paste. It does not contain a secret from the caller's environment."""
    ours = "STOCKHOOK_OVOKO_SECRETS" not in os.environ
    secret = settings["STOCKHOOK_OVOKO_SECRETS"] if ours else "YOUR-SECRET"
    header = settings.get("STOCKHOOK_OVOKO_HEADER", "X-Webhook-Secret")
    body = json.dumps(EXAMPLE, separators=(",", ":"))
    parts = ["curl", "-i", f"{ingest_url(settings)}/webhooks/ovoko", "-H", f"{header}: {secret}", "-d", body]
    return shlex.join(parts)


def run_services(console: Console, state: Path, *, durable: bool) -> int:
    """Prints the addresses to standard output and waits for Ctrl-C."""
    try:
        with (
            stop_signals(),
            local_services(state, durable=durable, announce=progress(console)) as services,
        ):
            addresses = {
                "STOCKHOOK_AMQP_URL": services.amqp_url,
                "STOCKHOOK_DATABASE_URL": services.database_url,
            }
            print(shell_lines(addresses), end="", flush=True)
            while True:
                signal.pause()
    except Stopped:
        return 0
