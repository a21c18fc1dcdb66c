"""`stockhook simulate`: simulated marketplaces, and a simulated webhook gateway in front of an ingest."""

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

from worker.cli.context import fail
from worker.cli.startup import load_context
from worker.cli.terminal import say
from worker.observability.exit_codes import USAGE
from worker.observability.resolver import run_loop
from worker.observability.signals import stop_on_signals
from worker.simulator import buyback_api as buyback
from worker.simulator import ovoko_api as ovoko
from worker.simulator.buyback_api import PLACES, SimulatedBuyback
from worker.simulator.buyback_orders import Step
from worker.simulator.faults import DESCRIPTIONS
from worker.simulator.gateway import SimulatedGateway, running
from worker.simulator.gateway_behaviour import BEHAVIOURS
from worker.simulator.gateway_signing import signing_of
from worker.simulator.generator import PROVIDERS
from worker.simulator.http_client import Client
from worker.simulator.marketplace import SendEvents, SimulatedMarketplace, discard_events
from worker.simulator.ovoko_api import Ovoko
from worker.simulator.ovoko_stock import OrderStep, ReturnStep
from worker.simulator.router import Simulation
from worker.simulator.server import HOST, serving
from worker.simulator.webhook import Credentials
from worker.simulator.webhook_sender import Messenger, messenger

simulate = App(
    name="simulate", help="Simulate the marketplaces, or a webhook gateway, to test an ingest and clients."
)

HELP = f"""Serve the APIs of both marketplaces on 127.0.0.1, and send their webhooks, until SIGTERM or Ctrl-C.

It prints the settings that `stockhook` needs to call these APIs. The state is in memory; each start begins
with a new one. The buyback platform knows the orders of the documented events, those of --order, and all
whose id begins with `fault-`.

Set faults at `/control/faults`: POST one as JSON, GET the pending ones, DELETE all. A fault has a `kind`,
and may have a `method`, a `path` (a part of the request's path, such as an order's id), `times` (default:
until it is removed) and `seconds` (the delay, the interval, or Retry-After). Requests about an order
`fault-slow` or `fault-slow-2` always get this fault. `/control/requests` lists the answered requests.

These POST requests make the marketplaces do something:

* `/buyback/control/orders` creates an order (`{{"paymentType": "Cash"}}`).
  `/buyback/control/orders/ID/STEP` plays a step of it: {", ".join(Step)} (`pass` and `fail` apply to its
  next item). API requests have effects too: a requested pickup is scheduled, and its slot is booked until
  the pickup is missed;
* `/buyback/control/submissions`: a customer submits an item and gets an offer. The platform sends two
  webhooks of types that no family handles, to the same address as those of orders;
* `/ovoko/control/parts/13/STATUS` changes a part, or adds it. `/ovoko/control/orders`
  (`{{"part_ids": [13]}}`) creates a customer's order, `/ovoko/control/orders/ID/STEP` plays a step of the
  order ({", ".join(OrderStep)}), and `/ovoko/control/returns/ID/STEP` one of a return
  ({", ".join(ReturnStep)}).

With --send-to, webhooks report each step, and the APIs answer with the same state. An undocumented step gets
409.

Ovoko has no parts and no returns at first. To add or replace some without a webhook, POST a JSON list to
`/ovoko/control/parts` or `/ovoko/control/returns`
(`[{{"id": 13, "status": 2, "updated_at": "2026-03-01T10:00:00Z"}}]`). DELETE removes all, or one
(`/ovoko/control/parts/13`).

The kinds of faults:

{chr(10).join(f"* `{kind}`: {description}" for kind, description in DESCRIPTIONS.items())}
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
        Another order of the buyback platform; may be given several times.
    token_seconds
        How long the buyback platform's tokens are valid.
    send_to
        An ingest to send webhooks to, such as http://127.0.0.1:8080, with the secrets of the settings;
        again after 7 s, 35 s and 175 s if it does not accept them.
    delay
        How many seconds after the event its webhook is sent.
    places
        How many orders fit into a courier's slot.
    """
    if not 0 <= port <= 65_535 or token_seconds < 1:
        fail(USAGE, "--port must be at most 65535, --token-seconds at least 1")
    if not 0 <= delay <= 3600 or places < 1:
        fail(USAGE, "--delay must be between 0 and 3600, --places at least 1")
    settings = load_context("simulate")
    sending: AbstractAsyncContextManager[Messenger | None] = nullcontext()
    if send_to is not None:
        sending = messenger(send_to, Credentials.of(settings, PROVIDERS), timedelta(seconds=delay))

    def simulated(send_events: SendEvents) -> Mapping[str, SimulatedMarketplace]:
        lifetime = timedelta(seconds=token_seconds)
        return {
            "buyback": SimulatedBuyback(order, lifetime, send_events=send_events, places=places),
            "ovoko": Ovoko(send_events=send_events),
        }

    run_loop(_serve(simulated, sending, port))


GATEWAY_HELP = """Simulate a webhook gateway on 127.0.0.1, until SIGTERM or Ctrl-C.

It answers each POST with 200 at once, signs the request as the gateway does, forwards it to the same path of
the ingest, and retries as the gateway does, with delays that --time-scale shortens. It prints the settings
with which an ingest accepts its signatures. Let the simulated marketplaces send to it:
`stockhook simulate marketplaces --send-to http://127.0.0.1:8091`.

It signs with the secrets of STOCKHOOK_GATEWAY_SECRETS or of --secrets-file, or creates one and prints it.
Requests to `/control/` control it:

* GET `/control/state`: the numbers of accepted, delivered, given up and waiting events, and all answers;
* POST `/control/rotate`: sign with a new secret too, from the next attempt on. Give it as JSON
  (`{"secret": "…"}`, with `"marketplace": "ovoko"` if it is only for one), or the gateway creates one. The
  answer shows it;
* POST `/control/retire`: sign only with the newest secret.

Events are stored in memory, at most 10,000 or 64 MiB (503 beyond), and lost when it ends.

svix, standard-webhooks, outpost, eventbridge and svix-bridge forward none of the marketplace's headers, so
the ingest needs STOCKHOOK_GATEWAY_REQUIRE=gateway. svix-bridge never retries, like the HTTP output of Svix
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
    """Simulate a webhook gateway.

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
        Multiplies all delays between attempts: 0.001 makes 1 hour 3.6 s.
    keep_request
        Forward the marketplace's own headers and bytes, or only its JSON; by default as the gateway does.
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
    async with simulated.client, running(simulated), serving(simulated, port) as bound_port:
        say(f"# send webhooks to http://{HOST}:{bound_port}, and start the ingest with:")
        for name, value in exported.items():
            say(f"export STOCKHOOK_{name}={quote(value)}")
        await stopping.wait()


async def _serve(
    simulated: Callable[[SendEvents], Mapping[str, SimulatedMarketplace]],
    sending: AbstractAsyncContextManager[Messenger | None],
    port: int,
) -> None:
    """Raises: CannotListen, BadUrl."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with sending as messages:
        send_events = discard_events if messages is None else messages.send_events
        await _until(stopping, Simulation(simulated(send_events)), port)


async def _until(stopping: asyncio.Event, simulation: Simulation, port: int) -> None:
    async with serving(simulation, port) as bound_port:
        for name, value in client_settings(f"http://{HOST}:{bound_port}").items():
            say(f"export STOCKHOOK_{name}={value}")
        await stopping.wait()


def client_settings(url: str) -> dict[str, str]:
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
