"""`stockhook simulate`: the marketplaces on this machine, and a webhook gateway in front of an ingest."""

import asyncio
import signal
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from shlex import quote
from typing import Annotated

from cyclopts import App, Parameter

from worker.cli.context import fail, load_context
from worker.cli.terminal import say
from worker.observability.exit_codes import USAGE
from worker.observability.resolver import run_loop
from worker.observability.signals import stop_on_signals
from worker.simulator import buyback_api as buyback
from worker.simulator import ovoko_api as ovoko
from worker.simulator.buyback_api import PLACES, TradeIn
from worker.simulator.buyback_orders import Step
from worker.simulator.faults import WORDS
from worker.simulator.gateway import SimulatedGateway, running
from worker.simulator.gateway_behaviour import BEHAVIOURS
from worker.simulator.gateway_signing import signing_of
from worker.simulator.generator import PROVIDERS
from worker.simulator.http_client import Client
from worker.simulator.marketplace import Marketplace, Tell, told_to_nobody
from worker.simulator.ovoko_api import Ovoko
from worker.simulator.ovoko_stock import OrderStep, ReturnStep
from worker.simulator.router import Simulation
from worker.simulator.server import HOST, serving
from worker.simulator.webhook import Credentials
from worker.simulator.webhook_sender import Messenger, messenger

simulate = App(name="simulate", help="Stand in for the marketplaces, or for a webhook gateway.")

HELP = f"""Serve the APIs of both marketplaces on 127.0.0.1, and send their webhooks, until SIGTERM or Ctrl-C.

It prints the settings under which `stockhook` speaks to it. All is kept in memory, and begins anew with
each start. The trade-in platform knows the orders of the documents' events, those of --order, and any
whose id begins with `fault-`.

Faults are asked for at `/control/faults`: POST one as JSON, GET those that wait, DELETE all. A fault has a
`kind`, and may have a `method`, a `path` (what is to be in the path, such as an order's id), `times`
(without, for ever) and `seconds` (how late, how far apart, Retry-After). An order `fault-slow`, or
`fault-slow-2`, has its fault by itself. `/control/requests` tells what was answered.

What happens over there is asked for too, a step at a time, with POST:

* `/buyback/control/orders` begins an order (`{{"paymentType": "Cash"}}`), and
  `/buyback/control/orders/ID/STEP` has one of {", ".join(Step)} happen to it (`pass` and
  `fail` to its next item). What the API is asked for happens too: a pickup that is requested is scheduled,
  and its slot is taken until it is missed;
* `/buyback/control/submissions` has a customer submit an item and get an offer: two webhooks of types that
  no family takes, which the platform sends to the same address as those of orders;
* `/ovoko/control/parts/13/STATUS` changes a part, or begins one; `/ovoko/control/orders`
  (`{{"part_ids": [13]}}`) is a customer's order, `/ovoko/control/orders/ID/STEP` ({", ".join(OrderStep)}) and
  `/ovoko/control/returns/ID/STEP` ({", ".join(ReturnStep)}) what becomes of it.

With --send-to each of these is told by webhooks, and the APIs answer with that same state. A step that is not
documented is refused with 409.

Ovoko has no parts and no returns at first. For what no webhook reports: POST a JSON list of them to
`/ovoko/control/parts` or `/ovoko/control/returns`
(`[{{"id": 13, "status": 2, "updated_at": "2026-03-01T10:00:00Z"}}]`), which adds or replaces; DELETE forgets
all, or one (`/ovoko/control/parts/13`).

The kinds of faults:

{chr(10).join(f"* `{kind}`: {words}" for kind, words in WORDS.items())}
"""


@simulate.command(help=HELP)
def marketplaces(
    *,
    port: int = 8090,
    order: Annotated[tuple[str, ...], Parameter(negative_iterable=(), show_default=False)] = (),
    token_seconds: int = 3600,
    send_to: str | None = None,
    delay: float = 0.5,
    places: int = PLACES,
) -> None:
    """Serve both marketplaces.

    Parameters
    ----------
    port
        Where to listen; 0 lets the system choose.
    order
        Another order that the trade-in platform knows; may be given several times.
    token_seconds
        How long the trade-in platform's tokens last.
    send_to
        An ingest to send webhooks to, such as http://127.0.0.1:8080, with the secrets of the settings;
        again after 7 s, 35 s and 175 s where it does not take them.
    delay
        How many seconds a webhook comes after the event.
    places
        How many orders the courier takes in a slot.
    """
    if not 0 <= port <= 65_535 or token_seconds < 1:
        fail(USAGE, "--port must be at most 65535, --token-seconds at least 1")
    if not 0 <= delay <= 3600 or places < 1:
        fail(USAGE, "--delay must be between 0 and 3600, --places at least 1")
    settings = load_context("simulate")
    sending: AbstractAsyncContextManager[Messenger | None] = nullcontext()
    if send_to is not None:
        sending = messenger(send_to, Credentials.of(settings, PROVIDERS), timedelta(seconds=delay))

    def simulated(tell: Tell) -> Mapping[str, Marketplace]:
        lifetime = timedelta(seconds=token_seconds)
        return {"buyback": TradeIn(order, lifetime, tell=tell, places=places), "ovoko": Ovoko(tell=tell)}

    run_loop(_serve(simulated, sending, port))


GATEWAY_HELP = """Stand in for a webhook gateway on 127.0.0.1, until SIGTERM or Ctrl-C.

Whatever is posted to it is answered 200 at once, then signed as that gateway signs, forwarded to the same
path of the ingest, and sent again as that gateway retries, after delays that --time-scale shortens. It
prints the settings under which an ingest accepts its signatures. Have the marketplaces send to it:
`stockhook simulate marketplaces --send-to http://127.0.0.1:8091`.

It signs with the secrets of STOCKHOOK_GATEWAY_SECRETS, with those of --secrets-file, or makes one and prints
it. Requests to `/control/` steer it:

* GET `/control/state`: how many events were accepted, delivered or given up, how many wait, and all answers;
* POST `/control/rotate`: a new secret signs as well, from the next attempt on. Give it as JSON
  (`{"secret": "…"}`, with `"marketplace": "ovoko"` if it is for one alone), or the gateway makes one. The
  answer shows it;
* POST `/control/retire`: only the newest secret still signs.

All is kept in memory, 10,000 events or 64 MiB at most (503 beyond), and lost when it ends.

svix, standard-webhooks, outpost, eventbridge and svix-bridge forward none of the marketplace's headers, so
the ingest needs STOCKHOOK_GATEWAY_REQUIRE=gateway. svix-bridge never retries, as the HTTP output of Svix
Bridge: an answer of 503 loses the event.
"""


@simulate.command(help=GATEWAY_HELP)
def gateway(
    *,
    forward_to: str,
    scheme: str | None = None,
    port: int = 8091,
    secrets_file: Path | None = None,
    time_scale: float = 1.0,
    keep_request: bool | None = None,
) -> None:
    """Stand in for a webhook gateway.

    Parameters
    ----------
    forward_to
        The ingest, such as http://127.0.0.1:8080.
    scheme
        hookdeck, svix, standard-webhooks, convoy, outpost, eventbridge, svix-bridge, header, github, shopify,
        stripe or custom; by default that of STOCKHOOK_GATEWAY.
    port
        Where to listen; 0 lets the system choose.
    secrets_file
        A file with one secret per line, the newest first. A private ed25519 key (whsk_) is given only here.
    time_scale
        By what all delays between attempts are multiplied: 0.001 makes 1 hour 3.6 s.
    keep_request
        Forward the marketplace's own headers and bytes, or its JSON alone; by default as the gateway does.
    """
    if not 0 <= port <= 65_535 or not 0 <= time_scale <= 1000:
        fail(USAGE, "--port must be at most 65535, --time-scale between 0 and 1000")
    settings = load_context("gateway")
    behaviour = BEHAVIOURS.get(scheme or settings.gateway or "")
    if behaviour is None:
        fail(USAGE, f"--scheme must be one of {', '.join(BEHAVIOURS)}, or STOCKHOOK_GATEWAY be set")
    if keep_request is not None:
        behaviour = replace(behaviour, keeps_request=keep_request)
    signing = signing_of(settings, behaviour, secrets_file)
    simulated = SimulatedGateway(
        Client(forward_to, behaviour.timeout.total_seconds()),
        behaviour,
        signing.scheme,
        list(signing.keys),
        time_scale,
    )
    run_loop(_serve_gateway(simulated, signing.exported, port))


async def _serve_gateway(simulated: SimulatedGateway, exported: Mapping[str, str], port: int) -> None:
    """Raises: CannotListen."""
    stopping = stop_on_signals()
    async with simulated.client, running(simulated), serving(simulated, port) as taken:
        say(f"# send webhooks to http://{HOST}:{taken}, and start the ingest with:")
        for name, value in exported.items():
            say(f"export STOCKHOOK_{name}={quote(value)}")
        await stopping.wait()


async def _serve(
    simulated: Callable[[Tell], Mapping[str, Marketplace]],
    sending: AbstractAsyncContextManager[Messenger | None],
    port: int,
) -> None:
    """Raises: CannotListen, BadUrl."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with sending as messages:
        tell = told_to_nobody if messages is None else messages.tell
        await _until(stopping, Simulation(simulated(tell)), port)


async def _until(stopping: asyncio.Event, simulation: Simulation, port: int) -> None:
    async with serving(simulation, port) as taken:
        for name, value in client_settings(f"http://{HOST}:{taken}").items():
            say(f"export STOCKHOOK_{name}={value}")
        await stopping.wait()


def client_settings(url: str) -> dict[str, str]:
    """Under which a client on this machine speaks to it."""
    return {
        "BUYBACK_API_URL": f"{url}/buyback",
        "BUYBACK_STS_URL": f"{url}/buyback",
        "BUYBACK_CLIENT_ID": buyback.CLIENT_ID,
        "BUYBACK_CLIENT_SECRET": buyback.CLIENT_SECRET,
        "BUYBACK_SELLER_ID": buyback.SELLER_ID,
        "BUYBACK_REAL_IP": HOST,
        "OVOKO_API_URL": f"{url}/ovoko",
        "OVOKO_USERNAME": ovoko.USERNAME,
        "OVOKO_PASSWORD": ovoko.PASSWORD,
        "OVOKO_USER_TOKEN": ovoko.USER_TOKEN,
    }
