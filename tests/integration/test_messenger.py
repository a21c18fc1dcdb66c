"""The simulated marketplaces' webhooks over real HTTP, to an ingest that is sometimes unavailable."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic

import orjson
import pytest
from structlog.testing import capture_logs

from schemas.registry import Provider
from worker.simulator.faults import Fault, Kind
from worker.simulator.lifecycle import GeneratedEvent
from worker.simulator.marketplace import Request, Response, now
from worker.simulator.ovoko_events import event
from worker.simulator.router import Simulation
from worker.simulator.server import serving
from worker.simulator.webhook import Credentials
from worker.simulator.webhook_sender import Messenger, messenger

CREDENTIALS = Credentials({Provider.OVOKO: "X-Secret"}, {Provider.OVOKO: "ours", Provider.BUYBACK: "theirs"})
SOON = timedelta(milliseconds=20)


@dataclass
class Ingest:
    """Accepts webhooks, and records their parts and secrets."""

    came: list[tuple[str, str]] = field(default_factory=list)

    async def handle(self, request: Request) -> Response:
        part_id = orjson.loads(request.body)["event_data"]["part_id"]
        self.came.append((part_id, request.headers["x-secret"]))
        return Response(200)


def sold(part_id: str, ahead: timedelta = timedelta(0)) -> GeneratedEvent:
    data = {"part_id": part_id, "status": "sold"}
    return event(f"id-{part_id}", "part.status.changed", now() + ahead, data)


@asynccontextmanager
async def sending(ingest: Ingest, *faults: Fault) -> AsyncIterator[Messenger]:
    simulation = Simulation({"webhooks": ingest})
    simulation.faults.pending.extend(faults)
    async with (
        serving(simulation) as port,
        messenger(f"http://127.0.0.1:{port}", CREDENTIALS, SOON, (SOON, SOON)) as simulator,
    ):
        yield simulator


async def until(count: int, ingest: Ingest) -> None:
    async with asyncio.timeout(30):
        while len(ingest.came) < count:
            await asyncio.sleep(0.005)


async def test_an_undelivered_webhook_is_sent_again_and_delays_no_other() -> None:
    ingest = Ingest()
    async with sending(ingest, Fault(kind=Kind.UNAVAILABLE, times=1)) as simulator:
        simulator.send_events([sold("11"), sold("12")])
        await until(2, ingest)

    assert sorted(ingest.came) == [("11", "ours"), ("12", "ours")]


async def test_an_undeliverable_webhook_is_dropped_and_logged() -> None:
    ingest = Ingest()
    with capture_logs() as lines:
        async with sending(ingest, Fault(kind=Kind.ERROR)) as simulator, asyncio.timeout(30):
            simulator.send_events([sold("11")])
            while not any(line["event"] == "webhook.given_up" for line in lines):
                await asyncio.sleep(0.005)

    assert ingest.came == []
    assert simulator.sender.tally.answers == {"500": 3}


async def test_a_webhook_is_sent_after_the_event_that_it_reports() -> None:
    ingest = Ingest()
    async with sending(ingest) as simulator:
        ahead = sold("11", timedelta(seconds=1.2))
        early = (ahead.occurred_at - now()).total_seconds()
        began = monotonic()
        simulator.send_events([ahead])
        await until(1, ingest)

    assert monotonic() - began >= early > 0


@pytest.mark.parametrize("wait", [0.0, 0.05])
async def test_webhooks_in_flight_at_shutdown_are_dropped(wait: float) -> None:
    ingest = Ingest()
    async with asyncio.timeout(30):
        async with sending(ingest, Fault(kind=Kind.SLOW, seconds=60)) as simulator:
            simulator.send_events([sold("11")])
            await asyncio.sleep(wait)
