"""`stockhook simulate`: the marketplaces' APIs on this machine."""

import asyncio
import signal
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated

import uvloop
from cyclopts import App, Parameter

from worker.invocation import FAILED, USAGE, begin, fail, failing_on
from worker.simulate import buyback, ovoko
from worker.simulate.buyback import TradeIn
from worker.simulate.faults import WORDS
from worker.simulate.marketplace import Marketplace
from worker.simulate.ovoko import Ovoko
from worker.simulate.server import HOST, PortTaken, serving
from worker.simulate.simulation import Simulation

simulate = App(name="simulate", help="Stand in for the marketplaces' APIs, to try clients against.")

HELP = f"""Serve the APIs of both marketplaces on 127.0.0.1, until SIGTERM or Ctrl-C.

It prints the settings under which `stockhook` speaks to it. All is kept in memory, and begins anew with
each start. The trade-in platform knows the orders of the documents' events, those of --order, and any
whose id begins with `fault-`.

Faults are asked for at `/control/faults`: POST one as JSON, GET those that wait, DELETE all. A fault has a
`kind`, and may have a `method`, a `path` (what is to be in the path, such as an order's id), `times`
(without, for ever) and `seconds` (how late, how far apart, Retry-After). An order `fault-slow`, or
`fault-slow-2`, has its fault by itself. `/control/requests` tells what was answered.

Ovoko has no parts and no returns at first: POST a JSON list of them to `/ovoko/control/parts` or
`/ovoko/control/returns` (`[{{"id": 13, "status": 2, "updated_at": "2026-03-01T10:00:00Z"}}]`), which adds or
replaces; DELETE forgets all, or one (`/ovoko/control/parts/13`).

The kinds:

{chr(10).join(f"* `{kind}`: {words}" for kind, words in WORDS.items())}
"""


@simulate.command(help=HELP)
def marketplaces(
    *,
    port: int = 8090,
    order: Annotated[tuple[str, ...], Parameter(negative_iterable=(), show_default=False)] = (),
    token_seconds: int = 3600,
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
    """
    if not 0 <= port <= 65_535 or token_seconds < 1:
        fail(USAGE, "--port must be at most 65535, --token-seconds at least 1")
    begin("simulate")
    simulated: dict[str, Marketplace] = {
        "buyback": TradeIn(order, timedelta(seconds=token_seconds)),
        "ovoko": Ovoko(),
    }
    with failing_on(PortTaken, code=FAILED):
        uvloop.run(_serve(simulated, port))


async def _serve(simulated: Mapping[str, Marketplace], port: int) -> None:
    """Raises: PortTaken."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with serving(Simulation(simulated), port) as taken:
        for name, value in settings(f"http://{HOST}:{taken}").items():
            print(f"export STOCKHOOK_{name}={value}", flush=True)
        await stopping.wait()


def settings(url: str) -> dict[str, str]:
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
