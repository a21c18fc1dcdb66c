"""`stockhook simulate`: the marketplaces on this machine, their APIs and their webhooks."""

import asyncio
import signal
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import timedelta
from typing import Annotated

from cyclopts import App, Parameter

from worker.cli.context import fail, load_context
from worker.cli.terminal import say
from worker.observability.exit_codes import USAGE
from worker.observability.resolver import run_loop
from worker.simulator import buyback_api as buyback
from worker.simulator import ovoko_api as ovoko
from worker.simulator.buyback_api import PLACES, SimulatedBuyback
from worker.simulator.buyback_orders import Step
from worker.simulator.faults import DESCRIPTIONS
from worker.simulator.generator import PROVIDERS
from worker.simulator.marketplace import Marketplace, SendEvents, discard_events
from worker.simulator.ovoko_api import Ovoko
from worker.simulator.ovoko_stock import OrderStep, ReturnStep
from worker.simulator.router import Simulation
from worker.simulator.server import HOST, serving
from worker.simulator.webhook import Credentials
from worker.simulator.webhook_sender import Messenger, messenger

simulate = App(name="simulate", help="Stand in for the marketplaces, to try an ingest and clients against.")

HELP = f"""Serve the APIs of both marketplaces on 127.0.0.1, and send their webhooks, until SIGTERM or Ctrl-C.

It prints the settings under which `stockhook` speaks to it. The state is in memory, and is new after each
start. The buyback platform knows the orders of the documents' events, those of --order, and any whose id
begins with `fault-`.

Faults are set at `/control/faults`: POST one as JSON, GET the pending ones, DELETE all. A fault has a
`kind`, and may have a `method`, a `path` (what is to be in the path, such as an order's id), `times`
(without, for ever) and `seconds` (how late, how far apart, Retry-After). An order `fault-slow`, or
`fault-slow-2`, always has its fault. `/control/requests` lists the answered requests.

POST also makes something happen, one step at a time:

* `/buyback/control/orders` begins an order (`{{"paymentType": "Cash"}}`), and
  `/buyback/control/orders/ID/STEP` has one of {", ".join(Step)} happen to it (`pass` and
  `fail` to its next item). Requests to the API have effects too: a requested pickup is scheduled,
  and its slot is booked until it is missed;
* `/buyback/control/submissions` has a customer submit an item and get an offer: two webhooks of types that
  no family takes, which the platform sends to the same address as those of orders;
* `/ovoko/control/parts/13/STATUS` changes a part, or begins one; `/ovoko/control/orders`
  (`{{"part_ids": [13]}}`) is a customer's order, `/ovoko/control/orders/ID/STEP` ({", ".join(OrderStep)}) and
  `/ovoko/control/returns/ID/STEP` ({", ".join(ReturnStep)}) what becomes of it.

With --send-to, webhooks report each step, and the APIs answer with the same state. An undocumented step is
refused with 409.

Ovoko has no parts and no returns at first. For what no webhook reports: POST a JSON list of them to
`/ovoko/control/parts` or `/ovoko/control/returns`
(`[{{"id": 13, "status": 2, "updated_at": "2026-03-01T10:00:00Z"}}]`), which adds or replaces; DELETE forgets
all, or one (`/ovoko/control/parts/13`).

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

    def simulated(send_events: SendEvents) -> Mapping[str, Marketplace]:
        lifetime = timedelta(seconds=token_seconds)
        return {
            "buyback": SimulatedBuyback(order, lifetime, send_events=send_events, places=places),
            "ovoko": Ovoko(send_events=send_events),
        }

    run_loop(_serve(simulated, sending, port))


async def _serve(
    simulated: Callable[[SendEvents], Mapping[str, Marketplace]],
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
    """The settings of a client on this machine."""
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
